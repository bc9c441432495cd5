"""A model compiled by OpenVINO, in the process that was made for it.

OpenVINO names the nodes it makes by a counter that runs for the whole process, and the names are in the blob: only the first
model a process reads gives reproducible bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preflight.adapters.openvino.library import FIXED, HINTS, compare_inputs, compare_precision, library, reason
from preflight.engine.compile_process import request_of, write_engine
from preflight.errors import EngineBuildError
from preflight.ports import CompileRequest

__all__ = ["compile_here", "failure"]

_EXPORT_THREADS = 1


def failure(request: CompileRequest) -> str:
    """What an error of compiling begins with."""
    return f"OpenVINO cannot compile {request.onnx_path} for {request.precision}"


def compile_here(order: Mapping[str, Any], target: Path) -> None:
    """What `OpenVinoRuntime.start` orders, in the process made for it. Raises EngineBuildError."""
    request = request_of(order)
    try:
        blob = _compiled(request).export_model()
        write_engine(target, blob if isinstance(blob, bytes) else blob.getvalue())
    except (EngineBuildError, OSError, RuntimeError, MemoryError) as error:
        raise EngineBuildError(f"{failure(request)}: {reason(error)}") from error


def _compiled(request: CompileRequest) -> Any:  # noqa: ANN401 - OpenVINO ships no types
    # A blob notes how many threads its model prefers, counted over the cores this process may use: here it is one, so that
    # the bytes do not follow the machine's load rules; a process that imports it uses all the cores it has.
    core = library().Core()
    onnx = str(request.onnx_path)
    try:
        model = core.read_model(onnx)
    except RuntimeError as error:
        raise EngineBuildError(reason(error) + _unconverted(onnx)) from error
    compare_inputs([port.get_any_name() for port in model.inputs], request.inputs, onnx)
    if request.precision == "int8" and not any(op.get_type_name() == "FakeQuantize" for op in model.get_ops()):
        # Compiled all the same, it would compute in fp32.
        raise EngineBuildError("it holds no Q/DQ nodes. Quantise it, or set `precision` to fp32.")
    hint, _ = HINTS[request.precision]
    properties = {**FIXED, "INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": _EXPORT_THREADS}
    compiled = core.compile_model(model, "CPU", properties)
    compare_precision(compiled, hint, onnx)
    return compiled


def _unconverted(onnx: str) -> str:
    """The operators OpenVINO has no conversion for, with their nodes; empty where that is not what failed."""
    library()
    from openvino.frontend import FrontEndManager  # noqa: PLC0415 - only after `library`

    # Each held by a name: freed in another order, OpenVINO's objects take the process with them.
    manager = FrontEndManager()
    frontend = manager.load_by_framework("onnx")
    try:
        loaded = frontend.load(onnx)
        model = frontend.convert_partially(loaded)
        left = [op for op in model.get_ops() if "Framework" in op.get_type_name()]
    except RuntimeError:  # no file of ONNX at all: the first failure says so
        return ""
    nodes: dict[str, list[str]] = {}
    for op in left:
        known = op.get_attributes()
        kind = ".".join(part for part in (known.get("ONNX_META_domain"), known.get("ONNX_META_type")) if part)
        nodes.setdefault(kind or op.get_type_name(), []).append(op.get_friendly_name())
    listed = "; ".join(f"{kind} (node {', '.join(sorted(names)[:3])})" for kind, names in sorted(nodes.items()))
    return (
        f" Not known to OpenVINO: {listed}. Choose another runtime, or export the model without them." if listed else ""
    )
