"""Runs any number of samples through an engine whose graph fixes the batch size, slice by slice.

Rewriting the graph would give wrong results without an error if a Reshape inside it has the batch size as a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from preflight.errors import EngineBuildError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["run_in_slices"]


def run_in_slices(
    run: Callable[[Mapping[str, NDArray[np.generic]]], dict[str, NDArray[np.float32]]],
    inputs: Mapping[str, NDArray[np.generic]],
    size: int,
) -> dict[str, NDArray[np.float32]]:
    """Runs batch-first arrays through an engine that takes exactly `size` samples at a time.

    Raises:
        EngineBuildError: the number of samples is no multiple of `size`, or differs between the inputs.
    """
    counts = {name: array.shape[0] if array.ndim else 0 for name, array in inputs.items()}
    total = max(counts.values(), default=0)
    if set(counts.values()) == {size}:
        return run(inputs)
    if total == 0 or total % size or set(counts.values()) != {total}:
        raise EngineBuildError(
            f"The graph takes {size} samples at a time, but was given {counts}. Give a multiple of {size}, or export "
            "the ONNX with a dynamic batch dimension."
        )
    import numpy as np  # noqa: PLC0415 - heavy: only who runs an engine pays for it

    parts = [run({name: array[at : at + size] for name, array in inputs.items()}) for at in range(0, total, size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
