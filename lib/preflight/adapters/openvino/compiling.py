"""Compiles a model with OpenVINO, in a process that was started for this model.

OpenVINO names the nodes that it creates with a counter. The counter runs for the whole process, and the names are in
the blob. So only the first model that a process reads gives reproducible bytes.
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
    """Return the beginning of each error message about this compilation."""
    return f"OpenVINO cannot compile {request.onnx_path} for {request.precision}"


def compile_here(order: Mapping[str, Any], target: Path) -> None:
    """Do the work that `OpenVinoRuntime.start` ordered, in the process that was started for it.

    Args:
        order: the order of `OpenVinoRuntime.start`.
        target: the file that gets the blob; it exists.

    Raises:
        EngineBuildError: OpenVINO cannot compile the model, or `target` cannot be written.
    """
    request = request_of(order)
    try:
        blob = _compiled(request).export_model()
        write_engine(target, blob if isinstance(blob, bytes) else blob.getvalue())
    except (EngineBuildError, OSError, RuntimeError, MemoryError) as error:
        raise EngineBuildError(f"{failure(request)}: {reason(error)}") from error


def _compiled(request: CompileRequest) -> Any:  # noqa: ANN401 - OpenVINO ships no types
    # A blob contains the preferred number of threads, which depends on the cores that this process may use. It is fixed
    # to 1, so that the bytes do not depend on the machine. A process that imports the blob still uses all its cores.
    core = library().Core()
    onnx = str(request.onnx_path)
    try:
        model = core.read_model(onnx)
    except RuntimeError as error:
        raise EngineBuildError(reason(error) + _unconverted(onnx)) from error
    compare_inputs([port.get_any_name() for port in model.inputs], request.inputs, onnx)
    if request.precision == "int8" and not any(op.get_type_name() == "FakeQuantize" for op in model.get_ops()):
        # OpenVINO would compile it, but the engine would compute in fp32.
        raise EngineBuildError("the file has no Q/DQ nodes. Quantise it, or set `precision` to fp32.")
    hint, _ = HINTS[request.precision]
    properties = {**FIXED, "INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": _EXPORT_THREADS}
    compiled = core.compile_model(model, "CPU", properties)
    compare_precision(compiled, hint, onnx)
    return compiled


def _unconverted(onnx: str) -> str:
    """Return a sentence that names the operators without a conversion and their nodes.

    It is empty if that is not the problem.
    """
    library()
    from openvino.frontend import FrontEndManager  # noqa: PLC0415 - only after `library`

    # Each object keeps a name. If OpenVINO's objects are freed in another order, the process crashes.
    manager = FrontEndManager()
    frontend = manager.load_by_framework("onnx")
    try:
        loaded = frontend.load(onnx)
        model = frontend.convert_partially(loaded)
        left = [op for op in model.get_ops() if "Framework" in op.get_type_name()]
    except RuntimeError:  # it is not an ONNX file, which the first error already says
        return ""
    nodes: dict[str, list[str]] = {}
    for op in left:
        known = op.get_attributes()
        kind = ".".join(part for part in (known.get("ONNX_META_domain"), known.get("ONNX_META_type")) if part)
        nodes.setdefault(kind or op.get_type_name(), []).append(op.get_friendly_name())
    listed = "; ".join(f"{kind} (node {', '.join(sorted(names)[:3])})" for kind, names in sorted(nodes.items()))
    if not listed:
        return ""
    return f" OpenVINO does not support: {listed}. Choose another runtime, or export the model without these operators."
