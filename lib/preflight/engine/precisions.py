"""Precisions of single layers: which precision a node runs in, and which overrides a runtime supports."""

from __future__ import annotations

from fnmatch import fnmatchcase

from preflight.engine.runtimes import RUNTIMES, Runtime, RuntimeTable
from preflight.records import BackboneSpec, Precision

__all__ = ["QUANTISED", "chosen_precision", "override_problem"]

QUANTISED = frozenset({"Conv", "MatMul"})
"""The operators that run in int8: the others cost little, and lose more than they gain."""


def chosen_precision(spec: BackboneSpec, node: str, kind: str) -> Precision:
    """Returns the precision of a node: the first override that matches, else the spec's; fp32 if int8 is impossible.

    node, kind: the node's name and operator. An override to int8 skips operators that cannot run in int8.
    """
    for pattern, precision in spec.precision_overrides:
        if fnmatchcase(node, pattern) and (precision != "int8" or kind in QUANTISED):
            return precision
    return "fp32" if spec.precision == "int8" and kind not in QUANTISED else spec.precision


def override_problem(runtime: Runtime, spec: BackboneSpec, runtimes: RuntimeTable = RUNTIMES) -> str | None:
    """Returns why a runtime cannot apply a backbone's overrides; None if it can, or if there are none.

    runtimes: the runtimes that the message may name instead.
    """
    asked = {precision for _, precision in spec.precision_overrides}
    if not asked:
        return None
    if spec.precision not in runtime.prepared:
        return f"the runtime {runtime.name} computes all of a model in {spec.precision}; leave precision_overrides out"
    if "int8" in asked and spec.precision != "int8":
        return "a layer in int8 makes it an int8 engine: set precision to int8, and other layers to fp16 or fp32 here"
    if "bf16" in asked:
        return "a single layer is set to fp32, fp16 or int8"
    if "fp16" in asked and not runtime.fp16_layers:
        able = [row.name for row in runtimes if row.fp16_layers]
        only = f"only {' and '.join(able)} can run single layers in fp16" if able else "set them to fp32 or int8"
        return f"the runtime {runtime.name} runs what is not int8 in fp32; {only}"
    return None
