"""PyTorch in fp16, for descriptor backbones."""

from __future__ import annotations

from preflight.engine.runtime_choice import InstalledRuntime, RuntimeSetup
from preflight.ports import InferenceRuntime


def installed(setup: RuntimeSetup) -> InstalledRuntime:
    """Return the installed PyTorch, as `preflight.engine.runtime_choice` describes it. Raises EngineBuildError."""
    from preflight.adapters.pytorch.runtime import TorchRuntime, release  # noqa: PLC0415 - needed only to build

    version = release(setup.version("torch"))

    def make() -> InferenceRuntime:
        return TorchRuntime("cuda" if setup.gpu else "cpu")

    return InstalledRuntime(version, make)
