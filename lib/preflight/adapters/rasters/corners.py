"""A source of tiles: a PNG or JPEG with known corners, resampled to the tile grid at the requested zooms.

A CSV file beside the image gives the corners. It has the name of the image (`field.jpg`, `field.csv`), is UTF-8, and
has a header and four lines:

    corner,lat,lon
    top_left,0.3520,32.5880
    top_right,0.3520,32.6000
    bottom_right,0.3460,32.6000
    bottom_left,0.3460,32.5880

Latitude and longitude are WGS84 degrees of the outer corners of the image, not of the centres of its corner pixels.
Pixels between the corners are interpolated linearly in Web Mercator, so the corners must form a parallelogram there.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from affine import Affine

from preflight.adapters.rasters.rendering import MIN_COVERAGE, render
from preflight.adapters.rasters.tile_grid import (
    WORLD_M,
    Placement,
    check_image,
    date_of,
    grids_of,
    open_raster,
    terms_of,
)
from preflight.area.web_mercator import MAX_LATITUDE
from preflight.errors import ImportSourceError
from preflight.tile_import.source import OfferedTile, Zooms

__all__ = ["CORNERS", "SIGNATURES", "CornerImage", "corner_transform", "read_corners"]

SIGNATURES = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
CORNERS = ("top_left", "top_right", "bottom_right", "bottom_left")
MAX_PIXELS = 400_000_000  # a decoder may need all pixels in memory at once
_MAX_CSV = 10_000  # characters
_MAX_MISFIT = 0.005  # as a share of the longer side

Point = tuple[float, float]


class CornerImage:
    """A TileSource over an image with known corners. Yields tiles by zoom, then row by row from the north."""

    def __init__(self, path: Path, zooms: Zooms | None = None, *, min_coverage: float = MIN_COVERAGE) -> None:
        """Read the corners and the header of the image.

        Args:
            path: the PNG or JPEG file.
            zooms: the first and last zoom; None for the zoom nearest to the resolution of the image.
            min_coverage: the share of a tile's pixels that the image must fill; tiles with less are left out.

        Raises:
            ImportSourceError: the CSV file is missing or not as described above, the corners form no parallelogram, or
                the image cannot be read, does not have 8 bits, or is too large.
        """
        self._path = path
        self._min_coverage = min_coverage
        corners = read_corners(path.with_suffix(".csv"))
        with self._open() as dataset:
            if dataset.width * dataset.height > MAX_PIXELS:
                raise ImportSourceError(
                    f"{path} claims {dataset.width:,} x {dataset.height:,} pixels, more than {MAX_PIXELS:,}. "
                    "Convert it to a GeoTIFF"
                )
            check_image(path, dataset)
            transform = corner_transform(path, corners, dataset.width, dataset.height)
            self._placement = Placement("EPSG:3857", transform)
            self._grids = grids_of(path, dataset, self._placement, zooms)
            self.captured_at = date_of(dataset)
            self.terms = terms_of(dataset)

    def __len__(self) -> int:
        return sum(grid.count for grid in self._grids)

    def __iter__(self) -> Iterator[OfferedTile]:
        yield from render(self._path, self._open, self._placement, self._grids, self._min_coverage)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            with self._path.open("rb") as file:
                head = file.read(8)
        except OSError as error:
            raise ImportSourceError(f"{self._path} cannot be read: {error}. Make it readable") from error
        driver = next((name for sign, name in SIGNATURES.items() if head.startswith(sign)), None)
        if driver is None:
            raise ImportSourceError(f"{self._path} is neither PNG nor JPEG. Convert it to one of them")
        with open_raster(self._path, driver) as dataset:
            yield dataset


def read_corners(path: Path) -> dict[str, Point]:
    """Read a CSV file of corners.

    Returns (lat, lon) in WGS84 degrees for each name in CORNERS. Raises ImportSourceError if the file is missing or
    wrong.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(_MAX_CSV + 1)
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
    except FileNotFoundError as error:
        raise ImportSourceError(
            f"{path} does not exist, but a PNG or JPEG needs the positions of its corners. Write the file with the "
            f"header corner,lat,lon and one line each for {', '.join(CORNERS)}"
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImportSourceError(f"{path} is not a readable CSV file: {error}. Write it as UTF-8 text") from error
    if len(text) > _MAX_CSV or len(rows) != len(CORNERS) or set(rows[0]) != {"corner", "lat", "lon"}:
        raise ImportSourceError(f"{path} must have the header corner,lat,lon and four lines: {', '.join(CORNERS)}")
    corners = {str(row["corner"]).strip(): _point(path, row) for row in rows}
    if set(corners) != set(CORNERS):
        raise ImportSourceError(
            f"{path} must name each of {', '.join(CORNERS)} once, but it names {', '.join(corners)}"
        )
    return corners


def _point(path: Path, row: dict[str, str]) -> Point:
    try:
        lat, lon = float(row["lat"]), float(row["lon"])
    except (TypeError, ValueError) as error:
        raise ImportSourceError(
            f"{path}: lat or lon of corner {row['corner']} is not a number. Write decimal degrees"
        ) from error
    if not (-MAX_LATITUDE <= lat <= MAX_LATITUDE and -180.0 <= lon <= 180.0):
        raise ImportSourceError(
            f"{path}: corner {row['corner']} at lat {lat}, lon {lon} is outside the Web Mercator map. Correct it; lat "
            "and lon may be swapped"
        )
    return lat, lon


def corner_transform(path: Path, corners: dict[str, Point], width: int, height: int) -> Affine:
    """Fit the affine transform of an image to its four corners, by least squares.

    Args:
        path: the CSV file, for messages.
        corners: (lat, lon) in WGS84 degrees for each name in CORNERS.
        width: width of the image in pixels.
        height: height of the image in pixels.

    Returns:
        The transform from (column, row) to metres in EPSG:3857.

    Raises:
        ImportSourceError: the corners are mirrored, lie on one line, span half the world, or form no parallelogram.
    """
    top_left, top_right, bottom_right, bottom_left = (_mercator(*corners[name]) for name in CORNERS)
    along = (top_right - top_left + bottom_right - bottom_left) / 2
    down = (bottom_left - top_left + bottom_right - top_right) / 2
    middle = (top_left + top_right + bottom_right + bottom_left) / 4
    longer = max(abs(along), abs(down))
    area = along.real * down.imag - along.imag * down.real
    # On a map with north up, the direction down the image is a right turn from the direction along it.
    if area >= 0:
        raise ImportSourceError(
            f"{path}: the corners show the image mirrored, or as a line. Correct them; two corners, or lat and lon, "
            "may be swapped"
        )
    if max(abs(along.real), abs(down.real)) > WORLD_M / 2:
        raise ImportSourceError(
            f"{path}: the corners span half the world. If the image crosses the 180th meridian, cut it in two there"
        )
    misfit = abs(top_left - top_right + bottom_right - bottom_left) / 4
    if misfit > _MAX_MISFIT * longer:
        raise ImportSourceError(
            f"{path}: the corners form no parallelogram: they miss one by {misfit:,.1f} m, with a side of "
            f"{longer:,.1f} m. Correct them, or rectify the image into a GeoTIFF"
        )
    origin = middle - along / 2 - down / 2
    return Affine(
        along.real / width, down.real / height, origin.real, along.imag / width, down.imag / height, origin.imag
    )


def _mercator(lat: float, lon: float) -> complex:
    """Project a point to EPSG:3857, in metres, as x + iy."""
    radius = WORLD_M / (2 * math.pi)
    return complex(radius * math.radians(lon), radius * math.asinh(math.tan(math.radians(lat))))
