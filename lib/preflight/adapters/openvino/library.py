"""OpenVINO itself, what it says, and what compiling a blob and importing it must agree on.

Its Python package reports each import to a server on the network. The package that does so is optional; `library` declares it
absent before the first import.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from preflight.errors import EngineBuildError
from preflight.ports import CompileRequest

__all__ = ["FIXED", "HINTS", "checked_hint", "compare_inputs", "compare_precision", "library", "reason", "release"]

# The hint of a precision, and the capability a CPU must list for it.
HINTS = {
    "fp32": ("f32", "FP32"),
    "bf16": ("bf16", "BF16"),
    "fp16": ("f16", "FP16"),
    "int8": ("f32", "INT8"),  # int8 is in the file, as Q/DQ nodes; this is for the rest
}
# Everything that would otherwise follow the machine or its load, and so change the bytes of a blob.
FIXED = {
    "PERFORMANCE_HINT": "LATENCY",
    "EXECUTION_MODE_HINT": "PERFORMANCE",
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,
}


def library() -> Any:  # noqa: ANN401 - OpenVINO ships no types
    """OpenVINO, imported without its reporter."""
    if "openvino" not in sys.modules:
        # None makes `import openvino_telemetry` fail; OpenVINO then takes its own stub.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is documented for this
    import openvino  # noqa: PLC0415 - only after the line above

    return openvino


def release(version: str) -> str:
    """The numbers a version begins with. Raises EngineBuildError."""
    found = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    if found is None:
        raise EngineBuildError(f"OpenVINO calls its version {version!r}, which does not begin with a number.")
    return found.group()


def checked_hint(core: Any, request: CompileRequest) -> str:  # noqa: ANN401 - OpenVINO ships no types
    """The precision hint of a request. Raises EngineBuildError where this CPU cannot do it."""
    hint, capability = HINTS[request.precision]
    offered = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if capability not in offered:
        raise EngineBuildError(
            f"{request.onnx_path}: this CPU does not compute in {request.precision} (OpenVINO offers "
            f"{', '.join(sorted(offered))}). Set `precision` to fp32, or build on a CPU that has it."
        )
    return hint


def compare_precision(compiled: Any, hint: str, label: str) -> None:  # noqa: ANN401 - OpenVINO ships no types
    """Hold a compiled model to its hint. Raises EngineBuildError, which begins with the label."""
    actual = compiled.get_property("INFERENCE_PRECISION_HINT")
    if actual != getattr(library().Type, hint):
        raise EngineBuildError(
            f"{label}: OpenVINO was asked for {hint} but runs {actual.get_type_name()}. Set `precision` to what this "
            "CPU computes in."
        )


def compare_inputs(found: list[str], asked: Mapping[str, object] | list[str], label: str) -> None:
    """Hold a model to the inputs of its request. Raises EngineBuildError, which begins with the label."""
    if sorted(found) != sorted(asked):
        raise EngineBuildError(f"{label} takes the inputs {sorted(found)}, but {sorted(asked)} were asked for.")


def reason(error: BaseException) -> str:
    """OpenVINO's message without the lines that name its own source files."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join(said or [line for line in lines if line] or [type(error).__name__])
