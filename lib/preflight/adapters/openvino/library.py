"""The OpenVINO library: its import, its messages, and the settings that compilation and import of a blob share.

OpenVINO's Python package reports each import to a server on the network. An optional package does this. `library` marks
that package as absent before the first import.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from preflight.errors import EngineBuildError
from preflight.ports import CompileRequest

__all__ = ["FIXED", "HINTS", "checked_hint", "compare_inputs", "compare_precision", "library", "reason", "release"]

# precision -> the hint for OpenVINO, and the capability that the CPU must have.
HINTS = {
    "fp32": ("f32", "FP32"),
    "bf16": ("bf16", "BF16"),
    "fp16": ("f16", "FP16"),
    "int8": ("f32", "INT8"),  # Q/DQ nodes in the file make it int8; the hint is for the rest
}
# Without these, the machine or its load would decide, and the bytes of a blob would change.
FIXED = {
    "PERFORMANCE_HINT": "LATENCY",
    "EXECUTION_MODE_HINT": "PERFORMANCE",
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,
}


def library() -> Any:  # noqa: ANN401 - OpenVINO ships no types
    """Return the module `openvino`, imported without its telemetry."""
    if "openvino" not in sys.modules:
        # None makes `import openvino_telemetry` fail. OpenVINO then uses its own stub.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is documented for this
    import openvino  # noqa: PLC0415 - only after the line above

    return openvino


def release(version: str) -> str:
    """Return the numbers at the start of a version. Raises EngineBuildError if there are none."""
    found = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    if found is None:
        raise EngineBuildError(
            f"OpenVINO's version {version!r} does not begin with a number. Install a released version."
        )
    return found.group()


def checked_hint(core: Any, request: CompileRequest) -> str:  # noqa: ANN401 - OpenVINO ships no types
    """Return the precision hint of a request. Raises EngineBuildError if this CPU does not support the precision."""
    hint, capability = HINTS[request.precision]
    offered = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if capability not in offered:
        raise EngineBuildError(
            f"{request.onnx_path}: this CPU does not compute in {request.precision} (OpenVINO offers "
            f"{', '.join(sorted(offered))}). Set `precision` to fp32, or build on a CPU that supports it."
        )
    return hint


def compare_precision(compiled: Any, hint: str, label: str) -> None:  # noqa: ANN401 - OpenVINO ships no types
    """Check that a compiled model has the precision of its hint.

    Raises EngineBuildError; label: how its message begins.
    """
    actual = compiled.get_property("INFERENCE_PRECISION_HINT")
    if actual != getattr(library().Type, hint):
        raise EngineBuildError(
            f"{label}: OpenVINO was asked for {hint}, but it computes in {actual.get_type_name()}. Set `precision` to one "
            "that this CPU supports."
        )


def compare_inputs(found: list[str], asked: Mapping[str, object] | list[str], label: str) -> None:
    """Check that a model has the inputs of its request. Raises EngineBuildError; label: how its message begins."""
    if sorted(found) != sorted(asked):
        raise EngineBuildError(
            f"{label} has the inputs {sorted(found)}, but the request has {sorted(asked)}. Correct the mission."
        )


def reason(error: BaseException) -> str:
    """Return OpenVINO's message without the lines that name its own source files."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join(said or [line for line in lines if line] or [type(error).__name__])
