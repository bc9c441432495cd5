"""Computes which Web Mercator tiles a georeferenced image covers, and refuses images that cannot be resampled.

`rendering` then resamples the image.
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
MAX_BLOCK = 400_000_000  # pixels of one block, which a decoder holds at once
MERCATOR = "EPSG:3857"
_CACHE_BYTES = 64 << 20
_DATES = ("ACQUISITIONDATETIME", "EXIF_DateTimeOriginal", "EXIF_DateTimeDigitized", "TIFFTAG_DATETIME")
_TERMS = ("TIFFTAG_COPYRIGHT", "EXIF_Copyright")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an image lies.

    crs: its coordinate reference system. transform: from pixel (column, row) to coordinates in the crs.
    """

    crs: Any
    transform: Affine


@dataclass(frozen=True, slots=True)
class Grid:
    """A rectangle of tiles of one zoom. x and y are closed ranges: (first, last)."""

    zoom: int
    x: tuple[int, int]
    y: tuple[int, int]

    @property
    def count(self) -> int:
        """The number of tiles."""
        return (self.x[1] - self.x[0] + 1) * (self.y[1] - self.y[0] + 1)


@contextmanager
def raster_errors(path: Path) -> Iterator[None]:
    """Turn errors of GDAL into ImportSourceError."""
    try:
        yield
    except (RasterioError, OSError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        raise ImportSourceError(f"{path} cannot be read: {reason}{cause}. Copy or export it again") from error


def check_image(path: Path, dataset: Any) -> None:  # noqa: ANN401 - rasterio's dataset is untyped
    """Refuse an image whose pixels have no certain 8-bit colour, or whose blocks do not fit in memory.

    Raises:
        ImportSourceError: the image does not have 8 bits, has a colour table, or its blocks are too large.
    """
    if any(kind != "uint8" for kind in dataset.dtypes):
        raise ImportSourceError(
            f"{path} has {dataset.dtypes[0]} pixels, but tiles have 8 bits. Convert it: gdal_translate -ot Byte -scale"
        )
    if ColorInterp.palette in dataset.colorinterp:
        raise ImportSourceError(f"{path} has a colour table. Convert it: gdal_translate -expand rgb")
    height, width = max(dataset.block_shapes)
    if height * width > MAX_BLOCK:
        raise ImportSourceError(
            f"{path} has blocks of {width:,} x {height:,} pixels, too large to decode at once. "
            "Convert it: gdal_translate -of COG"
        )


def date_of(dataset: Any) -> datetime | None:  # noqa: ANN401 - as above
    """Return the capture date from the metadata of an image, timezone-aware; None if it states none."""
    tags = {**dataset.tags(), **dataset.tags(ns="EXIF"), **dataset.tags(ns="IMAGERY")}
    return next((date for date in (read_date(tags.get(name)) for name in _DATES) if date), None)


def terms_of(dataset: Any) -> str | None:  # noqa: ANN401 - as above
    """Return the copyright from the metadata of an image; None if it states none."""
    tags = {**dataset.tags(), **dataset.tags(ns="EXIF")}
    return next((text for text in (plain_text(tags.get(name)) for name in _TERMS) if text), None)


def grids_of(path: Path, dataset: Any, placement: Placement, zooms: Zooms | None) -> tuple[Grid, ...]:  # noqa: ANN401 - as above
    """Compute the tiles that an image covers, one grid for each zoom.

    Args:
        path: the image file, for messages.
        dataset: the open image.
        placement: where the image lies.
        zooms: the first and last zoom; None for the zoom nearest to the resolution of the image.

    Returns:
        One grid for each zoom, ascending.

    Raises:
        ImportSourceError: the image lies outside the Web Mercator map, crosses the 180th meridian, or would give too
            many tiles.
    """
    with raster_errors(path):
        bounds = _outline(dataset, placement)
        west, _, east, _ = transform_bounds(placement.crs, "EPSG:4326", *bounds)
        left, bottom, right, top = transform_bounds(placement.crs, MERCATOR, *bounds)
        resolution = _resolution(dataset, placement)
    if not all(math.isfinite(value) for value in (left, bottom, right, top, resolution)) or resolution <= 0:
        raise ImportSourceError(f"{path} lies outside the Web Mercator map. Check its georeference")
    if west > east or right - left > WORLD_M:
        raise ImportSourceError(f"{path} crosses the 180th meridian. Cut it in two there")
    first, last = zooms or (native_zoom(resolution),) * 2
    grids = tuple(_grid(zoom, left, bottom, right, top) for zoom in range(first, last + 1))
    if (count := sum(grid.count for grid in grids)) > MAX_TILES:
        raise ImportSourceError(
            f"{path} would give {count:,} tiles at zooms {first} to {last}, more than {MAX_TILES:,}. "
            "Give lower zooms (--zoom)"
        )
    return grids


def native_zoom(metres_per_pixel: float) -> int:
    """Return the zoom whose pixels are nearest in size. metres_per_pixel: in metres of EPSG:3857."""
    return max(0, min(MAX_ZOOM, round(math.log2(WORLD_M / TILE / metres_per_pixel))))


def _outline(dataset: Any, placement: Placement) -> tuple[float, float, float, float]:  # noqa: ANN401 - as above
    """Return (left, bottom, right, top) of all four corners, because the image may be rotated."""
    a, b, c, d, e, f = placement.transform[:6]
    corners = [(x, y) for x in (0, dataset.width) for y in (0, dataset.height)]
    xs = [a * x + b * y + c for x, y in corners]
    ys = [d * x + e * y + f for x, y in corners]
    return min(xs), min(ys), max(xs), max(ys)


def _resolution(dataset: Any, placement: Placement) -> float:  # noqa: ANN401 - as above
    """Return the side, in metres of EPSG:3857, of a square with the area of the central pixel."""
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
    # An image that only touches the border of a tile does not cover it.
    x = max(0, math.floor(low)), min(tiles - 1, math.ceil(high) - 1)
    y = max(0, math.floor(north)), min(tiles - 1, math.ceil(south) - 1)
    return Grid(zoom, (x[0], max(x)), (y[0], max(y)))


@contextmanager
def open_raster(path: Path, driver: str) -> Iterator[Any]:
    """Open an image with one driver only. So GDAL follows no other format, and no reference to a network.

    Args:
        path: the image file.
        driver: GDAL's name of the driver.

    Yields:
        The open dataset.

    Raises:
        ImportSourceError: the image cannot be read.
    """
    # The cache holds the blocks that neighbouring tiles share. GDAL's default is 5 % of the machine's memory.
    # rasterio always reads this value as bytes; GDAL itself reads a small number as megabytes.
    with raster_errors(path), rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_CACHEMAX=_CACHE_BYTES):
        with warnings.catch_warnings():
            # The caller has another georeference, or refuses the image with its own message.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(path, driver=driver)
        with dataset:
            yield dataset
