"""ONNX Runtime: the fp32 reference, and a runtime for CPUs and CUDA."""

from __future__ import annotations

import os

from preflight.engine.runtime_choice import InstalledRuntime, RuntimeSetup, is_installed
from preflight.errors import EngineBuildError
from preflight.ports import InferenceRuntime

_WITH_CUDA = "onnxruntime-gpu"

PACKAGES = (_WITH_CUDA, "onnxruntime")
"""The packages that contain the module `onnxruntime`.

If both are installed, the files are those of the one with CUDA.
"""


def installed(setup: RuntimeSetup) -> InstalledRuntime:
    """Return the installed ONNX Runtime, as `preflight.engine.runtime_choice` describes it. Raises EngineBuildError."""
    if setup.gpu and not is_installed(_WITH_CUDA):
        raise EngineBuildError(
            f"the runtime {setup.row.name} with device cuda needs the package {_WITH_CUDA}, which replaces onnxruntime: "
            f"remove onnxruntime, then run {setup.install_command}; or set device to cpu"
        )

    def make() -> InferenceRuntime:
        from preflight.adapters.onnxruntime.runtime import OnnxRuntime  # noqa: PLC0415 - needed only to build

        return OnnxRuntime(threads=os.cpu_count() or 1, cuda=setup.gpu)

    return InstalledRuntime(setup.version(*PACKAGES), make)
