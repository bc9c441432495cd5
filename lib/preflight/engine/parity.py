"""The parity gate: an engine must compute what the fp32 ONNX reference computes.

It compares the cosine between both outputs for one sample, flattened. Thresholds: fp16 and bf16 0.999, int8 0.99, fp32
0.99999. Two fp32 implementations differ only in the order of their sums (1 - cosine was at most 1e-6). An engine that
computes in bf16 without saying so reaches 0.99995 to 0.99997 and must not pass as fp32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from preflight.errors import ParityError
from preflight.records import Precision

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Run = Callable[[Mapping[str, NDArray[np.generic]]], dict[str, NDArray[np.float32]]]

__all__ = ["THRESHOLDS", "ParityReport", "check_parity", "cosines", "synthetic_inputs"]

THRESHOLDS: Mapping[Precision, float] = {"fp32": 0.99999, "fp16": 0.999, "bf16": 0.999, "int8": 0.99}

# ONNX element types for which samples can be made -> numpy type.
_FLOATS = {"FLOAT": "float32", "FLOAT16": "float16", "DOUBLE": "float64"}
_NUMPY = {**_FLOATS, "INT64": "int64", "INT32": "int32", "INT8": "int8", "UINT8": "uint8", "BOOL": "bool"}


@dataclass(frozen=True, slots=True)
class ParityReport:
    """The result: the lowest cosine of all outputs and samples, and the output that had it."""

    cosine_min: float
    threshold: float
    sample_count: int
    worst_output: str


def check_parity(
    engine_name: str,
    engine: Run,
    reference: Run,
    inputs: Mapping[str, NDArray[np.generic]],
    *,
    precision: Precision,
    batch_size: int,
    threshold: float | None = None,
) -> ParityReport:
    """Compares an engine with the reference on a sample.

    Args:
        engine_name: the engine's file name, for messages.
        engine: the `run` of the engine.
        reference: the `run` of the reference.
        inputs: input name -> (N, ...), batch first.
        precision: the engine's precision, which has a threshold.
        batch_size: samples in a batch; the last batch may be smaller.
        threshold: replaces the threshold of the precision.

    Raises:
        ParityError: an output is missing, has another shape, is not finite, or lies below the threshold.
    """
    limit = THRESHOLDS[precision] if threshold is None else threshold
    total = len(next(iter(inputs.values())))
    if total == 0:
        raise ParityError(f"{engine_name} was compared on no sample. Give at least one.")
    worst, worst_output = float("inf"), ""
    for at in range(0, total, batch_size):
        batch = {name: array[at : at + batch_size] for name, array in inputs.items()}
        for output, least in _least_cosines(engine_name, engine(batch), reference(batch)).items():
            if not least >= limit:  # written this way, NaN fails
                raise ParityError(_failure(engine_name, output, least, limit))
            if least < worst:
                worst, worst_output = least, output
    return ParityReport(worst, limit, total, worst_output)


def cosines(found: NDArray[np.generic], expected: NDArray[np.generic]) -> NDArray[np.float64]:
    """Returns the cosine of each sample: (N, ...) and (N, ...) -> (N,) float64.

    Two outputs that are all zero agree (1). If only one is all zero, they do not (0). NaN if either is not finite.
    """
    import numpy as np  # noqa: PLC0415 - heavy

    a = found.reshape(len(found), -1).astype(np.float64)
    b = expected.reshape(len(expected), -1).astype(np.float64)
    result = np.full(len(a), np.nan)
    finite = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    scale_a, scale_b = (np.abs(x[finite]).max(axis=1, initial=0.0) for x in (a, b))
    # Divide by the largest value first, so that no square overflows or underflows.
    unit_a = a[finite] / np.where(scale_a > 0, scale_a, 1.0)[:, None]
    unit_b = b[finite] / np.where(scale_b > 0, scale_b, 1.0)[:, None]
    norms = np.linalg.norm(unit_a, axis=1) * np.linalg.norm(unit_b, axis=1)
    dots = (unit_a * unit_b).sum(axis=1)
    both_zero = (scale_a == 0) & (scale_b == 0)
    result[finite] = np.where(both_zero, 1.0, dots / np.where(norms > 0, norms, 1.0))
    return result


def synthetic_inputs(
    inputs: Mapping[str, tuple[int, ...]], sample_count: int, seed: int, types: Mapping[str, str] | None = None
) -> dict[str, NDArray[np.generic]]:
    """Returns random samples with a fixed seed, for models that take no image. Dimension 0 becomes `sample_count`.

    types: input name -> ONNX element type; FLOAT if absent. Floats lie in [0, 1). Integers are 0 or 1, which are valid
    indices too.

    Raises:
        ParityError: no sample can be made for the type of an input.
    """
    import numpy as np  # noqa: PLC0415 - heavy

    random = np.random.Generator(np.random.PCG64(seed))
    made: dict[str, NDArray[np.generic]] = {}
    for name in sorted(inputs):  # the numbers must not depend on the order in the mission
        kind = (types or {}).get(name, "FLOAT")
        if kind not in _NUMPY:
            raise ParityError(f"Input {name} is of ONNX type {kind}: the parity gate cannot make samples of this type.")
        drawn = random.random((sample_count, *inputs[name][1:]), dtype=np.float32)
        made[name] = (drawn if kind in _FLOATS else np.rint(drawn)).astype(_NUMPY[kind])
    return made


def _least_cosines(
    engine_name: str, found: Mapping[str, NDArray[np.float32]], expected: Mapping[str, NDArray[np.float32]]
) -> dict[str, float]:
    if set(found) != set(expected):
        raise ParityError(f"{engine_name} has the outputs {sorted(found)}, its ONNX reference {sorted(expected)}.")
    for output in found:
        if found[output].shape != expected[output].shape:
            raise ParityError(
                f"{engine_name}, output {output}: shape {found[output].shape}, but the ONNX reference gives "
                f"{expected[output].shape}."
            )
    # numpy's min() propagates NaN, as the gate needs.
    return {output: float(cosines(found[output], expected[output]).min()) for output in sorted(found)}


def _failure(engine_name: str, output: str, least: float, limit: float) -> str:
    figure = "values that are not finite" if math.isnan(least) else f"cosine {least:.6f}"
    return (
        f"{engine_name}, output {output}: {figure} against the fp32 ONNX reference; at least {limit} is needed. The "
        "engine is not used. Choose a higher precision for this backbone, or another runtime."
    )
