"""Rows of a mapped file, looked at without keeping its pages: those a process has looked at count as its memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["columns_of", "row_blocks"]

_BLOCK_ROWS = 1 << 14  # about 1 MB


def row_blocks(rows: NDArray[np.void]) -> Iterator[tuple[int, NDArray[np.void]]]:
    """Rows a few thousand at a time, with the number of the first.

    Where they lie in a mapped file, only these stay mapped: pages of a file that a process has looked at count as its memory.
    """
    mapped = _file_of(rows)
    for at in range(0, len(rows), _BLOCK_ROWS):
        yield at, rows[at : at + _BLOCK_ROWS]
        if mapped is not None:
            # Looked at once more they are there again, most likely from the kernel's cache.
            mapped.madvise(mmap.MADV_DONTNEED)


def columns_of(rows: NDArray[np.void], *names: str) -> list[NDArray[Any]]:
    """Copies of these fields of all rows, in the order named, taken as `row_blocks` gives them."""
    import numpy as np  # noqa: PLC0415 - heavy

    found = [np.empty(len(rows), rows.dtype[name]) for name in names]
    for at, block in row_blocks(rows):
        for name, column in zip(names, found, strict=True):
            column[at : at + len(block)] = block[name]
    return found


def _file_of(rows: NDArray[np.void]) -> mmap.mmap | None:
    """The mapped file an array is a view of; None where it is of none, or may be written through."""
    import numpy as np  # noqa: PLC0415 - heavy

    base: object = rows
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, mmap.mmap) and not rows.flags.writeable else None
