"""The inference runtime (C7) with PyTorch in fp16, for descriptor backbones, on a CPU or on the CUDA device.

`graph` converts ONNX to PyTorch operators, which are exported as a program. `archive` writes the program as an archive
that contains only data. Products are computed in fp16 only. Any other request is refused, and the result is checked
operator by operator. An archive can be moved to another machine with the same PyTorch version, but not between CPU and
CUDA.

Imports are absolute: `torch` below is PyTorch, never a module of this package.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflight.engine.compile_process import CompilingProcess, request_of, request_value, write_engine
from preflight.engine.static_batch import run_in_slices
from preflight.errors import EngineBuildError
from preflight.ports import Compilation, CompileRequest, Engine, OutOfDeviceMemory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from preflight.adapters.pytorch.graph import GraphModule

__all__ = ["TorchRuntime", "release"]

log = logging.getLogger("c10_provisioning.engine")

_OUT_OF_MEMORY = re.compile(r"can't allocate memory|bad_alloc|[Oo]ut of memory|[Cc]annot allocate memory", re.ASCII)
_FAILURES = (
    RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError, OSError, EOFError,
)  # fmt: skip
# The operators that take most of an engine's time; their precision is checked. ATen's names, without the overload.
_PRODUCTS = re.compile(r"aten\.(conv[123]d|matmul|linear|layer_norm|batch_norm|instance_norm|einsum)\.")
_SAMPLES = 2  # the batch size for tracing; 0 or 1 would become a constant


class TorchRuntime:
    """The `InferenceRuntime` of PyTorch, for fp16 only.

    device: `cpu` or `cuda`, as found on the host; there is no fallback to another device. threads: the number of
    threads of a run on a CPU; 0 leaves it to PyTorch.
    """

    def __init__(self, device: str = "cpu", threads: int = 0) -> None:
        self._device = device
        self._threads = threads

    @property
    def name(self) -> str:
        """The name in mission files."""
        return "pytorch_fp16"

    @property
    def version(self) -> str:
        """PyTorch's release, such as 2.13.0, without its build."""
        return release(str(_library().__version__))

    def compile(self, request: CompileRequest, target: Path) -> None:
        """Export an ONNX file as a program in its own process and write it to `target`.

        The same file, version and device give the same bytes.

        Raises:
            EngineBuildError: the precision is not fp16, the device does not exist, an operator is not supported (the
                message names it and its nodes), the inputs are not those of the request, or `target` cannot be written.
        """
        self.start(request, target, slot=0).wait()

    def start(self, request: CompileRequest, target: Path, *, slot: int) -> Compilation:
        """Start a compilation, as `ports.ConcurrentRuntime` describes.

        Each slot has its own core if there are enough.
        """
        _require_fp16(request)
        if self._device == "cpu":
            log.warning(
                f"{request.onnx_path.name}: fp16 is about forty times slower than fp32 on a CPU without fp16 arithmetic"
            )
        return CompilingProcess(
            __name__,
            {**request_value(request), "device": self._device},
            target,
            failure=f"PyTorch cannot convert {request.onnx_path}",
            slot=slot,
        )

    def export(self, request: CompileRequest, target: Path) -> None:
        """Do the work that `start` ordered, in this process. Raises EngineBuildError."""
        self._check(request)
        from preflight.adapters.pytorch.archive import pack  # noqa: PLC0415 - imports PyTorch
        from preflight.adapters.pytorch.graph import read_graph  # noqa: PLC0415 - imports PyTorch

        module = read_graph(request.onnx_path, _library().float16)
        _compare_inputs(module, request)
        with _translated(f"PyTorch cannot convert {request.onnx_path}"):
            content = pack(self._exported(module, request), _signature(module, request, self._device))
        try:
            write_engine(target, content)
        except OSError as error:
            raise EngineBuildError(f"The engine {target} cannot be written: {error.strerror}.") from error
        self.load(target, request).close()

    def load(self, engine: Path, request: CompileRequest) -> Engine:
        """Load an exported program. Nothing in it is unpickled or evaluated.

        Raises:
            EngineBuildError: the precision is not fp16; the file is absent, damaged or not such a program; its inputs
                are not those of the request; or it computes in another precision or on another device.
        """
        self._check(request)
        from preflight.adapters.pytorch.archive import unpack  # noqa: PLC0415 - imports PyTorch

        try:
            content = engine.read_bytes()
        except OSError as error:
            raise EngineBuildError(f"The engine {engine} cannot be read: {error}. Build it again.") from error
        with _translated(f"PyTorch {self.version} cannot load the engine {engine}"):
            program, signature = unpack(content, str(engine))
            _compare_precision(program, self._device, str(engine))
            if sorted(signature["inputs"]) != sorted(request.inputs):
                raise EngineBuildError(
                    f"{engine} has the inputs {sorted(signature['inputs'])}, but the request has {sorted(request.inputs)}."
                )
            return _TorchEngine(program.module(), signature, engine.name, self._device, self._threads)

    def _check(self, request: CompileRequest) -> None:
        _require_fp16(request)
        if self._device == "cuda" and not _library().cuda.is_available():
            raise EngineBuildError(
                f"{request.onnx_path}: this machine has a GPU, but its PyTorch {_library().__version__} cannot use it. "
                "Install the PyTorch build for its driver (on a Jetson, NVIDIA's), or choose another runtime."
            )

    def _exported(self, module: GraphModule, request: CompileRequest) -> Any:  # noqa: ANN401 - an ExportedProgram
        torch = _library()
        module = module.to(self._device)
        examples, dynamic = [], []
        for name, port in module.ports.items():
            first = port.shape[0] if port.shape else 1
            sizes = [_SAMPLES if first is None else first, *request.inputs[name][1:]]
            examples.append(torch.zeros(sizes, dtype=getattr(torch, port.dtype), device=self._device))
            dynamic.append({0: torch.export.Dim("batch")} if first is None else {})
        with torch.no_grad():
            return torch.export.export(module, tuple(examples), dynamic_shapes={"inputs": tuple(dynamic)}, strict=False)


class _TorchEngine:
    """An engine with one exported program."""

    def __init__(self, module: Any, signature: Mapping[str, Any], label: str, device: str, threads: int) -> None:  # noqa: ANN401
        self._module, self._label, self._device, self._threads = module, label, device, threads
        self._inputs: dict[str, dict[str, Any]] = signature["inputs"]
        self._order: list[str] = signature["order"]
        self._outputs: list[str] = signature["outputs"]
        batches = {entry["shape"][0] for entry in self._inputs.values() if entry["shape"]}
        self._slice = batches.pop() if len(batches) == 1 and None not in batches else None

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Run one forward pass. The returned arrays belong to the caller.

        Raises:
            OutOfDeviceMemory: the batch did not fit into memory.
            EngineBuildError: the engine is closed, an input has another name, type or shape, or PyTorch failed.
        """
        if self._module is None:
            raise EngineBuildError(f"The engine {self._label} is closed.")
        found = {name: {"dtype": str(array.dtype), "shape": list(array.shape)} for name, array in inputs.items()}
        if set(found) != set(self._inputs) or not all(_fits(self._inputs[name], found[name]) for name in found):
            raise EngineBuildError(f"The engine {self._label} takes {self._inputs}, but was given {found}.")
        return self._infer(inputs) if self._slice is None else run_in_slices(self._infer, inputs, self._slice)

    def close(self) -> None:
        """Release the engine's memory. Idempotent."""
        self._module = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _infer(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        import numpy as np  # noqa: PLC0415 - slow to import, and needed only to run

        torch = _library()
        before = torch.get_num_threads()
        if self._threads:
            torch.set_num_threads(self._threads)
        try:
            # PyTorch warns about every array that is not writable.
            arrays = [np.require(inputs[name], requirements=["C", "W"]) for name in self._order]
            with torch.inference_mode():
                results = self._module(*(torch.from_numpy(array).to(self._device) for array in arrays))
                return {name: tensor.cpu().numpy().copy() for name, tensor in zip(self._outputs, results, strict=True)}
        except MemoryError as error:
            raise OutOfDeviceMemory(str(error)) from error
        except _FAILURES as error:
            if isinstance(error, torch.OutOfMemoryError) or _OUT_OF_MEMORY.search(str(error)):
                raise OutOfDeviceMemory(str(error)) from error
            raise EngineBuildError(f"The engine {self._label} failed: {error}") from error
        finally:
            torch.set_num_threads(before)


def release(version: str) -> str:
    """Return the release of a build. Raises EngineBuildError if the version does not begin with a number.

    Examples: 2.13.0 for 2.13.0+cpu; 2.8.0 for NVIDIA's 2.8.0a0+34c6.nv25.08.
    """
    found = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    if found is None:
        raise EngineBuildError(
            f"PyTorch's version {version!r} does not begin with a number. Install a released version."
        )
    return found.group()


def _library() -> Any:  # noqa: ANN401 - PyTorch is optional: its types are not read
    try:
        import torch  # noqa: PLC0415 - heavy, and optional
    except ImportError as error:
        raise EngineBuildError("PyTorch is not installed: run pip install -e '.[cpu,torch]'") from error
    return torch


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Raise PyTorch's failures as EngineBuildError. PyTorch's warnings about its own internals are dropped."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except EngineBuildError as error:
        if not str(error).startswith("operator "):
            raise
        raise EngineBuildError(f"{what}: {error}. Choose another runtime for this model.") from error
    except (*_FAILURES, MemoryError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise EngineBuildError(f"{what}: {said[0]}") from error


def _signature(module: GraphModule, request: CompileRequest, device: str) -> dict[str, Any]:
    """Return what an engine must know about itself: its inputs and outputs."""
    ports = {
        name: {"dtype": port.dtype, "shape": [port.shape[0], *request.inputs[name][1:]] if port.shape else []}
        for name, port in module.ports.items()
    }
    return {
        "inputs": ports,
        "order": list(module.ports),
        "outputs": module.outputs,
        "device": device,
        "precision": "fp16",
    }


def _require_fp16(request: CompileRequest) -> None:
    if request.precision != "fp16":
        raise EngineBuildError(
            f"{request.onnx_path}: the runtime pytorch_fp16 builds fp16 engines, not {request.precision}. Set `precision` "
            "to fp16, or choose the runtime openvino or onnxruntime for fp32."
        )


def _fits(port: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Return whether an array has the type and the shape that the engine needs. The batch size may differ."""
    shape = port["shape"]
    return bool(
        port["dtype"] == found["dtype"] and len(shape) == len(found["shape"]) and shape[1:] == found["shape"][1:]
    )


def _compare_inputs(module: GraphModule, request: CompileRequest) -> None:
    if sorted(module.ports) != sorted(request.inputs):
        raise EngineBuildError(
            f"{request.onnx_path} has the inputs {sorted(module.ports)}, but the request has {sorted(request.inputs)}."
        )
    for name, port in module.ports.items():
        asked = request.inputs[name]
        sizes = zip(port.shape[1:], asked[1:], strict=False)
        if len(port.shape) != len(asked) or any(own not in {None, size} for own, size in sizes):
            raise EngineBuildError(
                f"{request.onnx_path}: input {name} has the shape {port.shape}, but the request has {asked}."
            )


def _compare_precision(program: Any, device: str, label: str) -> None:  # noqa: ANN401 - an ExportedProgram
    """Check the type and the device of the weights and of every product."""
    half = _library().float16
    tensors = dict(program.state_dict)
    tensors |= {
        node.name: node.meta["val"]
        for node in program.graph.nodes
        if node.op == "call_function" and _PRODUCTS.match(str(node.target))
    }
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype != half:
            raise EngineBuildError(f"{label}: {name} is {tensor.dtype}, not fp16 as requested. Build it again.")
        if tensor.device.type != device:
            raise EngineBuildError(
                f"{label}: {name} is on {tensor.device.type}, not on {device}. Build it on this machine."
            )


def compile_here(order: Mapping[str, Any], target: Path) -> None:
    """Do the work that `TorchRuntime.start` ordered, in the process that was started for it.

    Raises EngineBuildError.
    """
    TorchRuntime(order["device"]).export(request_of(order), target)
