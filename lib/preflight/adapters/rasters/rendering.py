"""One georeferenced picture resampled into Web-Mercator tiles. The same file gives the same bytes, by any number of threads.

A tile is 256 x 256 pixels, PNG, RGB or grey; with an alpha channel where the picture does not fill it. GDAL warps through a
virtual raster laid on the tile grid of a zoom, so that memory holds a few rows of blocks whatever the picture's size.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from preflight.adapters.rasters.tile_grid import MERCATOR, TILE, WORLD_M, Grid, Placement, raster_errors
from preflight.tile_import.source import OfferedTile

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["MIN_COVERAGE", "render"]

MIN_COVERAGE = 0.5
"""A tile of which the picture fills less is left out."""
_THREADS = 4
_RUN = 64  # tiles at most
_SHARES = 4  # runs of a small grid for each thread
_AHEAD = 2  # runs that wait for each thread


class _Run(NamedTuple):
    """Neighbouring tiles, counted from the grid's north-western one: some rows, or a part of one.

    The rows of a picture's file that two tiles share are decoded once in a run, and once more in the next.
    """

    grid: Grid
    rows: range
    columns: range

    @property
    def places(self) -> Iterator[tuple[int, int]]:
        """(row, column), row by row."""
        return product(self.rows, self.columns)


def render(
    path: Path,
    opened: Callable[[], AbstractContextManager[Any]],
    placement: Placement,
    grids: Sequence[Grid],
    min_coverage: float = MIN_COVERAGE,
    *,
    threads: int | None = None,
) -> Iterator[OfferedTile]:
    """The tiles, by grid, then row by row. opened: the picture, opened anew. threads: None is one a core, at most 4.

    Threads work ahead of what is taken by a few runs of tiles each. Raises ImportSourceError.
    """
    count = threads or min(_THREADS, len(os.sched_getaffinity(0)))
    waiting: deque[Future[list[OfferedTile]]] = deque()
    with ExitStack() as stack:
        lanes = [stack.enter_context(_Lane(path, opened, placement, min_coverage)) for _ in range(count)]
        try:
            for run in _runs(grids, count):
                # Not in turn: of runs that differ, one lane might always have the larger.
                waiting.append(min(lanes, key=lambda lane: lane.tiles).submit(run))
                if len(waiting) > _AHEAD * count:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _runs(grids: Sequence[Grid], lanes: int) -> Iterator[_Run]:
    for grid in grids:
        width, height = grid.x[1] - grid.x[0] + 1, grid.y[1] - grid.y[0] + 1
        size = max(2, min(_RUN, grid.count // (_SHARES * lanes)))
        high, wide = max(1, size // width), math.ceil(width / math.ceil(width / size))
        wide += wide % 2  # two tiles share a block of the virtual raster
        for top, left in product(range(0, height, high), range(0, width, wide)):
            yield _Run(grid, range(top, min(top + high, height)), range(left, min(left + wide, width)))


class _Lane:
    """A thread with the picture opened for itself: a dataset of GDAL's serves one thread."""

    def __init__(
        self, path: Path, opened: Callable[[], AbstractContextManager[Any]], placement: Placement, min_coverage: float
    ) -> None:
        self._path = path
        self._opened = opened
        self._placement = placement
        self._least = max(1, min_coverage * TILE * TILE)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="render")
        self._held = ExitStack()
        self._warped: tuple[Grid, Any] | None = None
        self.tiles = 0
        """How many it was given."""

    def __enter__(self) -> _Lane:
        """Open the picture. One lane after the other: that changes Python's filters of warnings for a moment."""
        try:
            self._dataset = self._thread.submit(lambda: self._held.enter_context(self._opened())).result()
        except BaseException:
            self._thread.shutdown()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Where it was opened: rasterio keeps GDAL's settings by thread.
        with self._thread:
            self._thread.submit(self._close).result()

    def submit(self, run: _Run) -> Future[list[OfferedTile]]:
        """The tiles of a run, once the lane comes to it. Raises ImportSourceError in there."""
        self.tiles += len(run.rows) * len(run.columns)
        return self._thread.submit(self._render, run)

    def _close(self) -> None:
        if self._warped is not None:
            self._warped[1].close()
        self._held.close()

    def _render(self, run: _Run) -> list[OfferedTile]:
        tiles = []
        with raster_errors(self._path):
            bands, warped = _bands(self._dataset), self._warp_to(run.grid)
            for row, column in run.places:
                window = Window(column * TILE, row * TILE, TILE, TILE)
                mask = warped.dataset_mask(window=window)
                if np.count_nonzero(mask) < self._least:
                    continue
                content = _png(warped.read(bands, window=window), mask)
                place = run.grid.zoom, run.grid.x[0] + column, run.grid.y[0] + row
                tiles.append(OfferedTile(*place, content, ".png"))
        return tiles

    def _warp_to(self, grid: Grid) -> Any:  # noqa: ANN401 - rasterio's dataset is untyped
        if self._warped is None or self._warped[0] != grid:
            if self._warped is not None:
                self._warped[1].close()
                self._warped = None
            self._warped = grid, WarpedVRT(self._dataset, **_warp(self._dataset, self._placement, grid))
        return self._warped[1]


def _warp(dataset: Any, placement: Placement, grid: Grid) -> dict[str, Any]:  # noqa: ANN401 - as above
    size = WORLD_M / (TILE << grid.zoom)
    left, top = (grid.x[0] * TILE * size - WORLD_M / 2, WORLD_M / 2 - grid.y[0] * TILE * size)
    options: dict[str, Any] = {
        "src_crs": placement.crs,
        "src_transform": placement.transform,
        "crs": MERCATOR,
        "transform": Affine(size, 0.0, left, 0.0, -size, top),
        "width": (grid.x[1] - grid.x[0] + 1) * TILE,
        "height": (grid.y[1] - grid.y[0] + 1) * TILE,
        # GDAL's kernel widens when it shrinks, so this also averages.
        "resampling": Resampling.bilinear,
    }
    if dataset.nodata is not None:
        return {**options, "src_nodata": dataset.nodata, "nodata": dataset.nodata}
    return options if _has_alpha(dataset) else {**options, "add_alpha": True}


def _has_alpha(dataset: Any) -> bool:  # noqa: ANN401 - as above
    return MaskFlags.alpha in dataset.mask_flag_enums[0] or ColorInterp.alpha in dataset.colorinterp


def _bands(dataset: Any) -> list[int]:  # noqa: ANN401 - as above
    """Red, green and blue by their meaning; else the first three; else the only one."""
    colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    meaning = list(dataset.colorinterp)
    if all(colour in meaning for colour in colours):
        return [meaning.index(colour) + 1 for colour in colours]
    plain = [number for number, one in enumerate(meaning, 1) if one is not ColorInterp.alpha]
    return plain[:3] if len(plain) >= 3 else plain[:1]


def _png(pixels: Any, mask: Any) -> bytes:  # noqa: ANN401 - arrays of GDAL
    """(bands, 256, 256) and (256, 256) uint8 -> PNG; transparent pixels are black, so that what lies there says nothing."""
    if not mask.all() or (mask < 255).any():
        pixels = np.concatenate([np.where(mask, pixels, 0), mask[np.newaxis]])
    # A place of its own keeps rasterio from warning of none; none of it is in the PNG.
    grid = {"width": TILE, "height": TILE, "count": len(pixels), "dtype": "uint8", "transform": Affine.scale(2.0)}
    with MemoryFile(ext=".png") as memory:
        with rasterio.open("tile", "w", driver="MEM", **grid) as plain:
            plain.write(pixels)
            # A copy, unlike writing a PNG, lets other threads run meanwhile; the bytes are the same.
            # Measured on an orthophoto: zlevel 3 is 2 % larger than 6 in a third of the time.
            rasterio.shutil.copy(plain, memory.name, driver="PNG", zlevel=3)
        return bytes(memory.read())
