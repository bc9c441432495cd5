"""Cuts overlapping windows out of neighbouring tiles. Reads and decodes each tile once for all the windows on it.

The pixels go one way: `read` gives a tile, `Mosaic.window` returns a window. `windows` says which tiles lie under it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from preflight.tileset.windows import SealedTiles, parts_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Mosaic", "window_mosaic"]

ReadTile = Callable[[int], "NDArray[np.uint8]"]
"""Row number of a tile -> its pixels, (height, width, 3) uint8 RGB."""
Resize = Callable[["NDArray[np.uint8]", tuple[int, int]], "NDArray[np.uint8]"]
"""Pixels and a (height, width) -> the pixels at that size."""


def window_mosaic(
    tiles: SealedTiles, rows: NDArray[np.void], steps: int, read: ReadTile, resize: Resize
) -> tuple[NDArray[np.int64], Mosaic]:
    """Returns the order in which to cut windows, and the mosaic that cuts them in that order.

    The order goes from row to row of tiles over the whole map. So the mosaic decodes each tile once and holds one row
    of tiles.

    Args:
        tiles: the sealed tiles.
        rows: (M,) rows of `windows.inventory`, in any order.
        steps: windows along a tile's side.
        read: gives the pixels of a tile by its row number in `tiles`.
        resize: brings tiles of different sizes to one size.

    Raises:
        TileContentError: a window does not belong to this tile set.
    """
    right, down = rows["x"] % steps, rows["y"] % steps
    order = np.lexsort((right, down, rows["x"] // steps, rows["y"] // steps, rows["zoom"]))
    offsets = np.stack([right, down], axis=1)[order].astype(np.int64)
    return order, Mosaic(parts_of(tiles, rows[order], steps), offsets, steps, read, resize)


class Mosaic:
    """Cuts windows in a given order. From north to south and west to east, it holds one row of tiles at a time."""

    def __init__(
        self, parts: NDArray[np.int32], offsets: NDArray[np.integer], steps: int, read: ReadTile, resize: Resize
    ) -> None:
        """Takes the windows in the order in which they will be cut.

        Args:
            parts: (M, 4) row numbers of the tiles under each window: its own tile, then the tiles east, south and
                south-east of it; -1 where no tile is needed.
            offsets: (M, 2) start of each window in its own tile, east and south, in units of tile side / steps.
            steps: windows along a tile's side.
            read: gives the pixels of a tile.
            resize: brings tiles of different sizes to one size.
        """
        self._parts = parts
        self._offsets = offsets
        self._steps = steps
        self._read = read
        self._resize = resize
        self._held: dict[int, NDArray[np.uint8]] = {}
        self._last_use = _last_uses(parts)

    @property
    def held(self) -> int:
        """The number of tiles in memory now."""
        return len(self._held)

    def window(self, position: int) -> NDArray[np.uint8]:
        """Returns the window at a position of the order: (height, width, 3) uint8, as large as the largest tile under it.

        Ask for each position once, in ascending order. Raises what `read` raises.
        """
        numbers: list[int] = self._parts[position].tolist()
        tiles = [self._tile(number) for number in numbers]
        image = self._cut(tiles, *self._offsets[position].tolist())
        for number in numbers:
            if number >= 0 and self._last_use[number] <= position:
                self._held.pop(number, None)
        return image

    def _tile(self, number: int) -> NDArray[np.uint8] | None:
        if number < 0:
            return None
        tile = self._held.get(number)
        if tile is None:
            tile = self._held[number] = self._read(number)
        return tile

    def _cut(self, tiles: list[NDArray[np.uint8] | None], right: int, down: int) -> NDArray[np.uint8]:
        shapes = [tile.shape for tile in tiles if tile is not None]
        height, width = max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)
        resized = [None if tile is None else self._resize(tile, (height, width)) for tile in tiles]
        own, east, south, south_east = resized
        if east is None and south is None and own is not None:
            return own
        x, y = right * width // self._steps, down * height // self._steps
        window = np.empty((height, width, 3), np.uint8)
        corners = (
            (own, window[: height - y, : width - x], slice(y, None), slice(x, None)),
            (east, window[: height - y, width - x :], slice(y, None), slice(None, x)),
            (south, window[height - y :, : width - x], slice(None, y), slice(x, None)),
            (south_east, window[height - y :, width - x :], slice(None, y), slice(None, x)),
        )
        for tile, corner, rows, columns in corners:
            if tile is not None:
                corner[:] = tile[rows, columns]
        return window


def _last_uses(parts: NDArray[np.int32]) -> NDArray[np.int64]:
    """For each tile, the position of the last window that it lies under; -1 for a tile under none."""
    last = np.full(int(parts.max(initial=-1)) + 1, -1, np.int64)
    positions = np.arange(len(parts), dtype=np.int64)
    for column in parts.T:
        used = column >= 0
        np.maximum.at(last, column[used], positions[used])
    return last
