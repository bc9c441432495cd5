"""The inference runtimes that a mission can name: one row each in `RUNTIMES`.

Everything that depends on the set of runtimes is derived from the rows: which names and precisions a mission may use, the
tags in engine file names, the choice of an adapter, and the messages that name a runtime or the extra to install.

To add a runtime, write a package in `preflight.adapters` that has a function `installed`, as
`preflight.engine.runtime_choice` describes it, and add one row here. An incomplete row is refused when this module is
imported. `tests/contracts/runtime` checks the adapter of every row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from preflight.errors import EngineBuildError
from preflight.records import HostCapabilities, Precision

__all__ = ["DEFAULT_RUNTIME", "RUNTIMES", "TAG", "OnCuda", "Place", "Runtime", "RuntimeTable", "either"]

Place = Literal["cpu", "gpu", "gpu if any"]
"""Where a runtime computes: on the CPU, on the GPU, or on the GPU where the host has one."""

TAG = r"[a-z](?:[a-z0-9]*[a-z])?"
"""The form of a tag. It ends with a letter, so that the version after it begins where the tag ends."""

_NAME = r"[a-z0-9]+(?:_[a-z0-9]+)*"
# Field -> the form of its text.
_FORMS = {
    "name": re.compile(_NAME),
    "tag": re.compile(TAG),
    "adapter": re.compile(r"[a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*)*"),
    "extra": re.compile(r"[a-z0-9]+(?:,[a-z0-9]+)*"),
    "gate": re.compile(r"BUILD_[A-Z0-9_]+"),
    "title": re.compile(r"\S(?:.*\S)?"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OnCuda:
    """How a runtime differs if the mission says `device: cuda`.

    Attributes:
        extra: as `Runtime.extra`.
        precisions: as `Runtime.precisions`.
    """

    extra: str
    precisions: tuple[Precision, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The facts about a runtime that are known without its library.

    Attributes:
        name: its name in mission files and manifests.
        title: the name of its library in messages.
        tag: its part of an engine file name, before the version: `trt` in `trt10.3`.
        adapter: the package with the function `installed`, such as `preflight.adapters.openvino`.
        extra: the EXTRA in `pip install -e '.[EXTRA]'` that installs it. Commas separate several.
        place: where it computes, unless `cuda` is given.
        precisions: the precisions that it builds. Some of them may need a CPU that supports them.
        prepared: the precisions that it reads from the ONNX file. They must be written into the file before.
        cuda: given for a runtime that takes the mission's `device`. Without a device it computes on the CPU.
        gate: the environment variable that forbids it when set to 0; None if nothing forbids it.
        signed_int8: whether int8 values are symmetric around zero. Otherwise they are unsigned, with a zero point.
        fp16_layers: whether single layers of an int8 model can run in fp16.
        concurrent: whether it is a `ports.ConcurrentRuntime`.
        one_file: whether it cannot read weights from files beside the ONNX file.

    Raises:
        ValueError: a field does not have its form, or two fields contradict each other.
    """

    name: str
    title: str
    tag: str
    adapter: str
    extra: str
    place: Place
    precisions: tuple[Precision, ...]
    prepared: tuple[Precision, ...] = ()
    cuda: OnCuda | None = None
    gate: str | None = None
    signed_int8: bool = False
    fp16_layers: bool = False
    concurrent: bool = False
    one_file: bool = False

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise ValueError(f"The runtime {self.name!r} cannot be in the table: {problem}")

    def on_gpu(self, host: HostCapabilities | None, device: str | None = None) -> bool:
        """Returns whether its engines are for a GPU.

        Args:
            host: the host that builds them; None for a host without a GPU.
            device: the mission's device; None if it gives none.
        """
        if self.cuda is not None:
            return device == "cuda"
        if self.place == "gpu if any":
            return host is not None and host.sm is not None
        return self.place == "gpu"

    def precisions_on(self, device: str | None) -> tuple[Precision, ...]:
        """Returns the precisions that it builds for the mission's `device`."""
        return self.cuda.precisions if self.cuda is not None and device == "cuda" else self.precisions

    def install_command(self, *, gpu: bool = False) -> str:
        """Returns the command that installs its library. gpu: for engines of a GPU."""
        return f"pip install -e '.[{self.cuda.extra if self.cuda is not None and gpu else self.extra}]'"


@dataclass(frozen=True, slots=True)
class RuntimeTable:
    """A table of runtimes with distinct names and tags. Messages list them in this order.

    Raises:
        ValueError: there is no row, or two rows have the same name or tag.
    """

    rows: tuple[Runtime, ...]

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("The table has no runtime")
        for field in ("name", "tag"):
            value, count = Counter(getattr(row, field) for row in self.rows).most_common(1)[0]
            if count > 1:
                raise ValueError(f"{count} runtimes have the {field} {value!r}: give each one of its own")

    def __iter__(self) -> Iterator[Runtime]:
        return iter(self.rows)

    def get(self, name: str) -> Runtime | None:
        """Returns the runtime with this name; None if there is none."""
        return next((row for row in self.rows if row.name == name), None)

    def tagged(self, tag: str) -> Runtime | None:
        """Returns the runtime with this tag; None if there is none."""
        return next((row for row in self.rows if row.tag == tag), None)

    def named(self, name: str) -> Runtime:
        """Returns the runtime with this name. Raises EngineBuildError, which lists the known names."""
        row = self.get(name)
        if row is None:
            raise EngineBuildError(f"runtime {name} is unknown; set runtime to {either(self.names)}")
        return row

    @property
    def names(self) -> tuple[str, ...]:
        """All names."""
        return tuple(row.name for row in self.rows)


def either(names: Sequence[str]) -> str:
    """Joins names as a message lists them: `a, b or c`."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def _problems(row: Runtime) -> Iterator[str]:
    for field, form in _FORMS.items():
        value = getattr(row, field)
        if value is not None and form.fullmatch(value) is None:
            yield f"its {field} is {value!r}, which does not match {form.pattern}"
    if row.place not in get_args(Place):
        yield f"its place is {row.place!r}, which is none of {', '.join(get_args(Place))}"
    if not row.precisions:
        yield "it has no precisions"
    if unknown := set(row.precisions) - set(get_args(Precision)):
        yield f"it has the unknown precisions {', '.join(sorted(unknown))}"
    if extra := set(row.prepared) - set(row.precisions):
        yield f"it prepares {', '.join(sorted(extra))}, which it does not build"
    if row.fp16_layers and "int8" not in row.prepared:
        yield "it runs layers of an int8 model in fp16, but prepares no int8"
    if row.cuda is not None:
        yield from _cuda_problems(row, row.cuda)


def _cuda_problems(row: Runtime, cuda: OnCuda) -> Iterator[str]:
    if row.place != "cpu":
        yield f"it takes the mission's device, so that its place is cpu, not {row.place}"
    if _FORMS["extra"].fullmatch(cuda.extra) is None:
        yield f"its extra on CUDA is {cuda.extra!r}, which does not match {_FORMS['extra'].pattern}"
    if not cuda.precisions or set(cuda.precisions) - set(row.precisions):
        yield "on CUDA it builds other precisions than on the CPU, or none"


RUNTIMES = RuntimeTable(
    (
        Runtime(
            name="openvino",
            title="OpenVINO",
            tag="openvino",
            adapter="preflight.adapters.openvino",
            extra="cpu",
            place="cpu",
            # bf16 and fp16 where the CPU computes in them.
            precisions=("fp32", "fp16", "bf16", "int8"),
            # Unsigned: it runs convolutions of signed values differently from ONNX's definition, and half of the levels
            # are lost after Relu.
            prepared=("int8",),
            concurrent=True,
        ),
        Runtime(
            name="onnxruntime",
            title="ONNX Runtime",
            tag="onnxruntime",
            adapter="preflight.adapters.onnxruntime",
            extra="cpu",
            place="cpu",
            precisions=("fp32", "int8"),
            prepared=("int8",),
            # On CUDA it computes int8 models in fp32.
            cuda=OnCuda(extra="gpu", precisions=("fp32",)),
            concurrent=True,
            one_file=True,
        ),
        Runtime(
            name="tensorrt",
            title="TensorRT",
            tag="trt",
            adapter="preflight.adapters.tensorrt",
            extra="gpu,tensorrt",
            place="gpu",
            # bf16 only if the file is bf16 already.
            precisions=("fp32", "fp16", "bf16", "int8"),
            prepared=("fp16", "int8"),
            gate="BUILD_TENSORRT_RUNTIME",
            signed_int8=True,  # it reads no other
            fp16_layers=True,
        ),
        Runtime(
            name="pytorch_fp16",
            title="PyTorch",
            tag="torch",
            adapter="preflight.adapters.pytorch",
            extra="cpu,torch",
            place="gpu if any",
            precisions=("fp16",),
            gate="BUILD_PYTORCH_FP16_RUNTIME",
            concurrent=True,
        ),
    )
)
"""Every runtime of this version."""

DEFAULT_RUNTIME = RUNTIMES.named("openvino").name
"""What a mission uses that names no runtime."""
