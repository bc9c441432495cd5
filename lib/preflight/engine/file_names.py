"""Engine file names that describe themselves (D-C10-7).

GPU: `<model>__sm<SM>_jp<JetPack>_<runtime><version>_<precision>.engine`,
     such as `ultra_vpr__sm87_jp6.2_trt10.3_fp16.engine`; `jpnone` where there is no JetPack.
CPU: `<model>__cpu-<isa>_<runtime><version>_<precision>.engine`,
     such as `weight_free_vpr__cpu-avx2_openvino2026.4.1_fp32.engine`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast, get_args

from preflight.engine.runtimes import RUNTIMES, TAG, Runtime, RuntimeTable
from preflight.errors import EngineBuildError
from preflight.records import HostCapabilities, Precision, PrecisionMode

__all__ = ["EngineFilenameSchema", "EngineName", "model_name_problem"]

_PRECISIONS: tuple[str, ...] = get_args(Precision)
_LONGEST_MODEL = 100  # with the other parts and ".sha256" a name stays below 255 bytes, the limit of file systems

# Letters, digits and single underscores. A double underscore is the separator.
_MODEL = r"[a-z0-9]+(?:_[a-z0-9]+)*"
_VERSION = r"[0-9]+(?:\.[0-9]+)*"
_FIELDS = {
    "model": re.compile(_MODEL),
    "version": re.compile(_VERSION),
    "isa": re.compile(r"[a-z0-9]+(?:\.[a-z0-9]+)*"),
    "sm": re.compile(r"[0-9]+"),
    "jetpack": re.compile(_VERSION),
}
_NAME = re.compile(
    rf"(?P<model>{_MODEL})__"
    rf"(?:sm(?P<sm>[0-9]+)_jp(?P<jetpack>none|{_VERSION})|cpu-(?P<isa>{_FIELDS['isa'].pattern}))"
    rf"_(?P<tag>{TAG})(?P<version>{_VERSION})_(?P<precision>{'|'.join(_PRECISIONS)})\.engine"
)


@dataclass(frozen=True, slots=True)
class EngineName:
    """The parts of an engine's file name. It has either isa, or sm with jetpack (None: no JetPack).

    Raises:
        EngineBuildError: the file name cannot carry a field.
    """

    model: str
    runtime: Runtime
    version: str
    precision: Precision
    isa: str | None = None
    sm: str | None = None
    jetpack: str | None = None

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem is not None:
            raise EngineBuildError(f"No engine file name can be made: {problem}.")

    @classmethod
    def on_host(
        cls,
        model: str,
        host: HostCapabilities,
        runtime: Runtime,
        version: str,
        precision: Precision,
        *,
        gpu: bool,
    ) -> EngineName:
        """Returns the name of an engine built on `host`: the GPU form for an engine of its GPU, else the CPU form.

        gpu: whether it is an engine for the GPU, as `Runtime.on_gpu` says.

        Raises:
            EngineBuildError: the file name cannot carry a field, or the engine is for a GPU and the host has none.
        """
        if not gpu:
            return cls(model, runtime, version, precision, isa=host.isa)
        return cls(model, runtime, version, precision, sm=host.sm, jetpack=host.jetpack)

    def __str__(self) -> str:
        where = f"cpu-{self.isa}" if self.isa is not None else f"sm{self.sm}_jp{self.jetpack or 'none'}"
        return f"{self.model}__{where}_{self.runtime.tag}{self.version}_{self.precision}.engine"

    @classmethod
    def parse(cls, name: str, runtimes: RuntimeTable = RUNTIMES) -> EngineName:
        """Parses a name. The result prints as the same name.

        runtimes: the runtimes whose engines are known.

        Raises:
            EngineBuildError: the name does not follow this schema.
        """
        found = _NAME.fullmatch(name)
        runtime = None if found is None else runtimes.tagged(found["tag"])
        if found is None or runtime is None:
            raise EngineBuildError(
                f"{name!r} is not an engine file name. Examples: ultra_vpr__sm87_jp6.2_trt10.3_fp16.engine or "
                "weight_free_vpr__cpu-avx2_openvino2026.4.1_fp32.engine."
            )
        jetpack = found["jetpack"]
        return cls(
            model=found["model"],
            runtime=runtime,
            version=found["version"],
            precision=cast("Precision", found["precision"]),  # the pattern lists them
            isa=found["isa"],
            sm=found["sm"],
            jetpack=None if jetpack == "none" else jetpack,
        )


@dataclass(frozen=True, slots=True)
class EngineFilenameSchema:
    """Prints and parses the names of engine files (D-C10-7).

    runtimes: the runtimes whose engines are known.
    """

    runtimes: RuntimeTable = RUNTIMES

    def print(
        self,
        model_name: str,
        *,
        host: HostCapabilities,
        runtime: str,
        version: str,
        precision: PrecisionMode | Precision,
    ) -> str:
        """Returns the file name of an engine.

        Args:
            model_name: of the backbone.
            host: the machine that the engine is built on.
            runtime: the name of the runtime, such as `openvino` or `tensorrt`.
            version: the version of the runtime: numbers with dots.
            precision: the number format of the engine.

        Raises:
            EngineBuildError: the runtime is unknown, or the file name cannot carry a field.
        """
        row = self.runtimes.named(runtime)
        text = cast("Precision", getattr(precision, "value", precision))  # EngineName checks it
        return str(EngineName.on_host(model_name, host, row, version, text, gpu=row.on_gpu(host)))

    def parse(self, name: str) -> EngineName:
        """Returns the parts of a file name. They print as the same name.

        Raises:
            EngineBuildError: the name does not follow this schema.
        """
        return EngineName.parse(name, self.runtimes)


def model_name_problem(name: str) -> str | None:
    """Returns why a model_name cannot be part of an engine's file name; None if it can."""
    if _FIELDS["model"].fullmatch(name) is None:
        return f"model_name {name!r} may hold only a-z, 0-9 and single underscores between them"
    if len(name) > _LONGEST_MODEL:
        return f"model_name {name!r} is longer than {_LONGEST_MODEL} characters"
    return None


def _problem(name: EngineName) -> str | None:
    if name.precision not in _PRECISIONS:
        return f"precision {name.precision!r} is not one of {', '.join(_PRECISIONS)}"
    if (name.isa is None) == (name.sm is None) or (name.isa is not None and name.jetpack is not None):
        return f"{name.model} needs either a CPU's vector extension or a GPU's compute capability"
    for field in ("version", "isa", "sm", "jetpack"):
        value = getattr(name, field)
        if value is not None and _FIELDS[field].fullmatch(value) is None:
            return f"{field} {value!r} does not have the form that the file name needs"
    return model_name_problem(name.model)
