"""Where a georeferenced picture lies on the grid of Web-Mercator tiles, and whether it can be cut into them.

The tiles themselves come from `_rendering`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import rasterio
from affine import Affine
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.warp import transform, transform_bounds

from preflight.area.web_mercator import MAX_ZOOM
from preflight.errors import ImportSourceError
from preflight.tile_import.source import Zooms, plain_text, read_date

TILE = 256
WORLD_M = 2 * math.pi * 6378137.0  # EPSG:3857: WGS84's equatorial radius
MAX_TILES = 4_000_000
MAX_BLOCK = 400_000_000  # pixels that a decoder must hold at once
MERCATOR = "EPSG:3857"
_CACHE_BYTES = 64 << 20
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
        left, bottom, right, top = transform_bounds(placement.crs, MERCATOR, *bounds)
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
    (x0, x1, x2), (y0, y1, y2) = transform(placement.crs, MERCATOR, xs, ys)
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


@contextmanager
def open_raster(path: Path, driver: str) -> Iterator[Any]:
    """A dataset by one named driver: no other format, and so no reference to a network, is followed."""
    # Enough for the blocks that neighbouring tiles share; by default 5 % of the machine's memory. Unlike GDAL, rasterio
    # counts it in bytes, always.
    with raster_errors(path), rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_CACHEMAX=_CACHE_BYTES):
        with warnings.catch_warnings():
            # A missing georeference is the caller's affair: given otherwise, or refused with a sentence of our own.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(path, driver=driver)
        with dataset:
            yield dataset
