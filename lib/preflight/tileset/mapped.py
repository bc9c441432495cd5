"""Reads the rows of a memory-mapped file and releases its pages, which otherwise count as memory of the process."""

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
    """Yield the rows in blocks of 16,384, each with the index of its first row.

    If the rows lie in a memory-mapped file, its pages are released after each block.
    """
    mapped = _mapping_of(rows)
    for first in range(0, len(rows), _BLOCK_ROWS):
        yield first, rows[first : first + _BLOCK_ROWS]
        if mapped is not None:
            # The next access maps the pages again, most likely from the page cache.
            mapped.madvise(mmap.MADV_DONTNEED)


def columns_of(rows: NDArray[np.void], *names: str) -> list[NDArray[Any]]:
    """Copy these fields of all rows, in the order of `names`, block by block as `row_blocks`."""
    import numpy as np  # noqa: PLC0415 - heavy

    columns = [np.empty(len(rows), rows.dtype[name]) for name in names]
    for first, block in row_blocks(rows):
        for name, column in zip(names, columns, strict=True):
            column[first : first + len(block)] = block[name]
    return columns


def _mapping_of(rows: NDArray[np.void]) -> mmap.mmap | None:
    """Return the mapping that the array is a read-only view of; None if it is no such view."""
    import numpy as np  # noqa: PLC0415 - heavy

    base: object = rows
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, mmap.mmap) and not rows.flags.writeable else None
