"""One georeferenced picture resampled into Web-Mercator tiles. The same file gives the same bytes.

A tile is 256 x 256 pixels, PNG, RGB or grey; with an alpha channel where the picture does not fill it. GDAL warps through a
virtual raster laid on the tile grid of a zoom, so that memory holds a few rows of blocks whatever the picture's size.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform, transform_bounds
from rasterio.windows import Window

from preflight.errors import ImportSourceError
from preflight.geometry import MAX_ZOOM
from preflight.tile_offers import OfferedTile, Zooms, plain_text, read_date

TILE = 256
WORLD_M = 2 * math.pi * 6378137.0  # EPSG:3857: WGS84's equatorial radius
MIN_COVERAGE = 0.5
"""A tile of which the picture fills less is left out."""
MAX_TILES = 4_000_000
MAX_BLOCK = 400_000_000  # pixels that a decoder must hold at once
_MERCATOR = "EPSG:3857"
_DATES = ("ACQUISITIONDATETIME", "EXIF_DateTimeOriginal", "EXIF_DateTimeDigitized", "TIFFTAG_DATETIME")
_TERMS = ("TIFFTAG_COPYRIGHT", "EXIF_Copyright")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a picture lies: its reference system and pixel (column, row) -> coordinates in it."""

    crs: Any
    transform: Affine


@dataclass(frozen=True, slots=True)
class Grid:
    """Tiles of one zoom, ranges closed."""

    zoom: int
    x: tuple[int, int]
    y: tuple[int, int]

    @property
    def count(self) -> int:
        """Tiles in it."""
        return (self.x[1] - self.x[0] + 1) * (self.y[1] - self.y[0] + 1)


@contextmanager
def raster_errors(path: Path) -> Iterator[None]:
    """GDAL's failures as ours. Raises ImportSourceError."""
    try:
        yield
    except (RasterioError, OSError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise ImportSourceError(f"{path} does not read: {reason}{cause}. Copy or export it again") from error


def check_picture(path: Path, dataset: Any) -> None:  # noqa: ANN401 - rasterio's dataset is untyped
    """Refuse what would have to be guessed at, or could not be held. Raises ImportSourceError."""
    if any(kind != "uint8" for kind in dataset.dtypes):
        raise ImportSourceError(
            f"{path} has {dataset.dtypes[0]} pixels; tiles have 8 bits. Convert it: gdal_translate -ot Byte -scale"
        )
    if ColorInterp.palette in dataset.colorinterp:
        raise ImportSourceError(f"{path} has a colour table. Convert it: gdal_translate -expand rgb")
    height, width = max(dataset.block_shapes)
    if height * width > MAX_BLOCK:
        raise ImportSourceError(
            f"{path} must be decoded {width:,} x {height:,} pixels at once. Convert it: gdal_translate -of COG"
        )


def date_of(dataset: Any) -> datetime | None:  # noqa: ANN401 - as above
    """When the picture was taken, as its metadata says."""
    tags = {**dataset.tags(), **dataset.tags(ns="EXIF"), **dataset.tags(ns="IMAGERY")}
    return next((date for date in (read_date(tags.get(name)) for name in _DATES) if date), None)


def terms_of(dataset: Any) -> str | None:  # noqa: ANN401 - as above
    """The copyright its metadata states."""
    tags = {**dataset.tags(), **dataset.tags(ns="EXIF")}
    return next((text for text in (plain_text(tags.get(name)) for name in _TERMS) if text), None)


def grids_of(path: Path, dataset: Any, placement: Placement, zooms: Zooms | None) -> tuple[Grid, ...]:  # noqa: ANN401 - as above
    """The tiles under a picture at each zoom; without zooms, at the one nearest to its own resolution.

    Raises:
        ImportSourceError: the picture lies off the map, crosses the 180th meridian, or would give too many tiles.
    """
    with raster_errors(path):
        bounds = _outline(dataset, placement)
        west, _, east, _ = transform_bounds(placement.crs, "EPSG:4326", *bounds)
        left, bottom, right, top = transform_bounds(placement.crs, _MERCATOR, *bounds)
        resolution = _resolution(dataset, placement)
    if not all(math.isfinite(value) for value in (left, bottom, right, top, resolution)) or resolution <= 0:
        raise ImportSourceError(f"{path} lies off the Web-Mercator map. Check its georeference")
    if west > east or right - left > WORLD_M:
        raise ImportSourceError(f"{path} crosses the 180th meridian. Cut it in two there")
    first, last = zooms or (native_zoom(resolution),) * 2
    grids = tuple(_grid(zoom, left, bottom, right, top) for zoom in range(first, last + 1))
    if (count := sum(grid.count for grid in grids)) > MAX_TILES:
        raise ImportSourceError(
            f"{path} would give {count:,} tiles at zooms {first} to {last}, more than {MAX_TILES:,}. Give a smaller --zoom"
        )
    return grids


def native_zoom(metres_per_pixel: float) -> int:
    """The zoom whose pixels are nearest in size, in EPSG:3857's metres."""
    return max(0, min(MAX_ZOOM, round(math.log2(WORLD_M / TILE / metres_per_pixel))))


def _outline(dataset: Any, placement: Placement) -> tuple[float, float, float, float]:  # noqa: ANN401 - as above
    """(left, bottom, right, top) of all four corners: a picture may be turned."""
    a, b, c, d, e, f = placement.transform[:6]
    corners = [(x, y) for x in (0, dataset.width) for y in (0, dataset.height)]
    xs = [a * x + b * y + c for x, y in corners]
    ys = [d * x + e * y + f for x, y in corners]
    return min(xs), min(ys), max(xs), max(ys)


def _resolution(dataset: Any, placement: Placement) -> float:  # noqa: ANN401 - as above
    """The side of the picture's middle pixel, as a square in EPSG:3857's metres."""
    a, b, c, d, e, f = placement.transform[:6]
    column, row = dataset.width / 2, dataset.height / 2
    points = [(column, row), (column + 1, row), (column, row + 1)]
    xs = [a * x + b * y + c for x, y in points]
    ys = [d * x + e * y + f for x, y in points]
    (x0, x1, x2), (y0, y1, y2) = transform(placement.crs, _MERCATOR, xs, ys)
    return math.sqrt(abs((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)))


def _grid(zoom: int, left: float, bottom: float, right: float, top: float) -> Grid:
    tiles = 1 << zoom
    scale = tiles / WORLD_M
    low, high = (left * scale + tiles / 2, right * scale + tiles / 2)
    north, south = (tiles / 2 - top * scale, tiles / 2 - bottom * scale)
    # A border that only touches a tile adds none: the picture would not fill it.
    x = max(0, math.floor(low)), min(tiles - 1, math.ceil(high) - 1)
    y = max(0, math.floor(north)), min(tiles - 1, math.ceil(south) - 1)
    return Grid(zoom, (x[0], max(x)), (y[0], max(y)))


def render(
    path: Path,
    dataset: Any,  # noqa: ANN401 - as above
    placement: Placement,
    grids: Sequence[Grid],
    min_coverage: float = MIN_COVERAGE,
) -> Iterator[OfferedTile]:
    """The tiles, row by row. Raises ImportSourceError."""
    bands = _bands(dataset)
    with raster_errors(path):
        for grid in grids:
            with WarpedVRT(dataset, **_warp(dataset, placement, grid)) as warped:
                for row in range(grid.y[1] - grid.y[0] + 1):
                    for column in range(grid.x[1] - grid.x[0] + 1):
                        window = Window(column * TILE, row * TILE, TILE, TILE)
                        mask = warped.dataset_mask(window=window)
                        if np.count_nonzero(mask) < max(1, min_coverage * TILE * TILE):
                            continue
                        pixels = warped.read(bands, window=window)
                        yield OfferedTile(grid.zoom, grid.x[0] + column, grid.y[0] + row, _png(pixels, mask), ".png")


def _warp(dataset: Any, placement: Placement, grid: Grid) -> dict[str, Any]:  # noqa: ANN401 - as above
    size = WORLD_M / (TILE << grid.zoom)
    left, top = (grid.x[0] * TILE * size - WORLD_M / 2, WORLD_M / 2 - grid.y[0] * TILE * size)
    options: dict[str, Any] = {
        "src_crs": placement.crs,
        "src_transform": placement.transform,
        "crs": _MERCATOR,
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
    profile: dict[str, Any] = {"driver": "PNG", "width": TILE, "height": TILE, "count": len(pixels), "dtype": "uint8"}
    profile["zlevel"] = 3  # measured on an orthophoto: 2 % larger than 6 in a third of the time
    with MemoryFile() as memory:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a tile's place is its name
            target = memory.open(**profile)
        with target:
            target.write(pixels)
        return bytes(memory.read())


@contextmanager
def open_raster(path: Path, driver: str) -> Iterator[Any]:
    """A dataset by one named driver: no other format, and so no reference to a network, is followed."""
    # A window is read once: blocks of the file kept for longer only cost memory (5 % of the machine's by default).
    with raster_errors(path), rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_CACHEMAX=64):
        with warnings.catch_warnings():
            # A missing georeference is the caller's affair: given otherwise, or refused with a sentence of our own.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(path, driver=driver)
        with dataset:
            yield dataset
