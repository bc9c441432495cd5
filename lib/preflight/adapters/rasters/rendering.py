"""Resamples a georeferenced image into Web Mercator tiles. The number of threads does not change their bytes.

A tile is a PNG of 256 x 256 pixels, RGB or grey. A tile that the image does not fill has an alpha channel. GDAL warps
the image through a virtual raster on the tile grid of a zoom. So memory holds a few rows of blocks, for an image of any
size.
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
"""The share of its pixels that an image must fill in a tile; tiles with less are left out."""
_THREADS = 4
_RUN = 64  # the most tiles in one run
_SHARES = 4  # a small grid is divided into this many runs for each thread
_AHEAD = 2  # runs in the queue for each thread


class _Run(NamedTuple):
    """Neighbouring tiles: several rows of a grid, or a part of one row. Numbers count from the north-west corner.

    Tiles of one run share decoded rows of the image file. The next run decodes the rows at its border again.
    """

    grid: Grid
    rows: range
    columns: range

    @property
    def cells(self) -> Iterator[tuple[int, int]]:
        """(row, column) of each tile, row by row."""
        return product(self.rows, self.columns)


def render(
    path: Path,
    open_image: Callable[[], AbstractContextManager[Any]],
    placement: Placement,
    grids: Sequence[Grid],
    min_coverage: float = MIN_COVERAGE,
    *,
    threads: int | None = None,
) -> Iterator[OfferedTile]:
    """Render the tiles of an image, grid by grid, then row by row.

    Each thread works at most a few runs of tiles ahead of the consumer.

    Args:
        path: the image file, for messages.
        open_image: opens the image; each thread calls it once.
        placement: where the image lies.
        grids: the tiles to render.
        min_coverage: the share of a tile's pixels that the image must fill; tiles with less are left out.
        threads: the number of threads; None for one for each core, at most 4.

    Yields:
        The tiles that the image fills enough.

    Raises:
        ImportSourceError: the image cannot be read.
    """
    count = threads or min(_THREADS, len(os.sched_getaffinity(0)))
    pending: deque[Future[list[OfferedTile]]] = deque()
    with ExitStack() as stack:
        workers = [stack.enter_context(_Worker(path, open_image, placement, min_coverage)) for _ in range(count)]
        try:
            for run in _runs(grids, count):
                # Not round-robin: runs differ in size, and one worker might always get the larger ones.
                pending.append(min(workers, key=lambda worker: worker.tiles).submit(run))
                if len(pending) > _AHEAD * count:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _runs(grids: Sequence[Grid], threads: int) -> Iterator[_Run]:
    for grid in grids:
        width, height = grid.x[1] - grid.x[0] + 1, grid.y[1] - grid.y[0] + 1
        size = max(2, min(_RUN, grid.count // (_SHARES * threads)))
        high, wide = max(1, size // width), math.ceil(width / math.ceil(width / size))
        wide += wide % 2  # a block of the virtual raster is two tiles wide
        for top, left in product(range(0, height, high), range(0, width, wide)):
            yield _Run(grid, range(top, min(top + high, height)), range(left, min(left + wide, width)))


class _Worker:
    """A thread with its own open image. GDAL does not allow several threads to share one dataset."""

    def __init__(
        self,
        path: Path,
        open_image: Callable[[], AbstractContextManager[Any]],
        placement: Placement,
        min_coverage: float,
    ) -> None:
        self._path = path
        self._open_image = open_image
        self._placement = placement
        self._min_pixels = max(1, min_coverage * TILE * TILE)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="render")
        self._resources = ExitStack()
        self._warped: tuple[Grid, Any] | None = None
        self.tiles = 0
        """The number of tiles submitted to this worker."""

    def __enter__(self) -> _Worker:
        """Open the image. Waits for it, because opening changes Python's warning filters, which all threads share."""
        try:
            self._dataset = self._thread.submit(lambda: self._resources.enter_context(self._open_image())).result()
        except BaseException:
            self._thread.shutdown()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Close in the thread that opened it: rasterio keeps GDAL's settings for each thread.
        with self._thread:
            self._thread.submit(self._close).result()

    def submit(self, run: _Run) -> Future[list[OfferedTile]]:
        """Queue a run. The future gives its tiles, or raises ImportSourceError."""
        self.tiles += len(run.rows) * len(run.columns)
        return self._thread.submit(self._render, run)

    def _close(self) -> None:
        if self._warped is not None:
            self._warped[1].close()
        self._resources.close()

    def _render(self, run: _Run) -> list[OfferedTile]:
        tiles = []
        with raster_errors(self._path):
            bands, warped = _bands(self._dataset), self._warp_to(run.grid)
            for row, column in run.cells:
                window = Window(column * TILE, row * TILE, TILE, TILE)
                mask = warped.dataset_mask(window=window)
                if np.count_nonzero(mask) < self._min_pixels:
                    continue
                content = _png(warped.read(bands, window=window), mask)
                x, y = run.grid.x[0] + column, run.grid.y[0] + row
                tiles.append(OfferedTile(run.grid.zoom, x, y, content, ".png"))
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
        # GDAL widens its kernel when it shrinks an image, so bilinear also averages.
        "resampling": Resampling.bilinear,
    }
    if dataset.nodata is not None:
        return {**options, "src_nodata": dataset.nodata, "nodata": dataset.nodata}
    return options if _has_alpha(dataset) else {**options, "add_alpha": True}


def _has_alpha(dataset: Any) -> bool:  # noqa: ANN401 - as above
    return MaskFlags.alpha in dataset.mask_flag_enums[0] or ColorInterp.alpha in dataset.colorinterp


def _bands(dataset: Any) -> list[int]:  # noqa: ANN401 - as above
    """Return the numbers of the red, green and blue bands; without them, the first three bands, or the first one."""
    colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    bands = list(dataset.colorinterp)
    if all(colour in bands for colour in colours):
        return [bands.index(colour) + 1 for colour in colours]
    opaque = [number for number, band in enumerate(bands, 1) if band is not ColorInterp.alpha]
    return opaque[:3] if len(opaque) >= 3 else opaque[:1]


def _png(pixels: Any, mask: Any) -> bytes:  # noqa: ANN401 - arrays of GDAL
    """Encode a tile as PNG.

    Transparent pixels become black, so that the bytes do not depend on the colours that they had.

    Args:
        pixels: (bands, 256, 256) uint8.
        mask: (256, 256) uint8; 0 is transparent.
    """
    if not mask.all() or (mask < 255).any():
        pixels = np.concatenate([np.where(mask, pixels, 0), mask[np.newaxis]])
    # Without a transform rasterio would warn that there is no georeference. The PNG does not contain it.
    profile = {"width": TILE, "height": TILE, "count": len(pixels), "dtype": "uint8", "transform": Affine.scale(2.0)}
    with MemoryFile(ext=".png") as memory:
        with rasterio.open("tile", "w", driver="MEM", **profile) as tile:
            tile.write(pixels)
            # Copying to a PNG gives the same bytes as writing one, but lets other threads run meanwhile.
            # Measured on an orthophoto: zlevel 3 takes a third of the time of zlevel 6 and gives 2 % more bytes.
            rasterio.shutil.copy(tile, memory.name, driver="PNG", zlevel=3)
        return bytes(memory.read())
