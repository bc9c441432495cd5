"""Tiles offered by a PNG or JPEG whose corners are known: resampled to the tile grid at the zooms asked for.

The corners stand in a CSV file beside the picture, of the same name (`field.jpg`, `field.csv`), UTF-8, four lines and a header:

    corner,lat,lon
    top_left,0.3520,32.5880
    top_right,0.3520,32.6000
    bottom_right,0.3460,32.6000
    bottom_left,0.3460,32.5880

Latitude and longitude are WGS84 degrees of the picture's outer corners, not of the middle of its corner pixels. In between,
the picture is taken to be even in Web Mercator, so the corners must form a parallelogram there.
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
    check_picture,
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
MAX_PIXELS = 400_000_000  # such a picture may have to be decoded whole
_MAX_CSV = 10_000
_MAX_MISFIT = 0.005  # of the longer side

Point = tuple[float, float]


class CornerImage:
    """A TileSource over a picture and its corners, by zoom, then row by row from the north."""

    def __init__(self, path: Path, zooms: Zooms | None = None, *, min_coverage: float = MIN_COVERAGE) -> None:
        """Read the corners and the picture's header. zooms: None is the one nearest to the picture's own resolution.

        Raises:
            ImportSourceError: the CSV is not there or is not as described above, the corners form no parallelogram, or
                the picture does not read, is not of 8 bits or too large.
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
            check_picture(path, dataset)
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
            raise ImportSourceError(f"{self._path} is neither PNG nor JPEG. Convert it")
        with open_raster(self._path, driver) as dataset:
            yield dataset


def read_corners(path: Path) -> dict[str, Point]:
    """Corner -> (lat, lon). Raises ImportSourceError."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(_MAX_CSV + 1)
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
    except FileNotFoundError as error:
        raise ImportSourceError(
            f"{path} is not there. A PNG or JPEG needs its corners: a header corner,lat,lon and a line each for "
            f"{', '.join(CORNERS)}"
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImportSourceError(f"{path} is no readable CSV file: {error}. Write it as UTF-8") from error
    if len(text) > _MAX_CSV or len(rows) != len(CORNERS) or set(rows[0]) != {"corner", "lat", "lon"}:
        raise ImportSourceError(f"{path} must have the header corner,lat,lon and four lines: {', '.join(CORNERS)}")
    found = {str(row["corner"]).strip(): _point(path, row) for row in rows}
    if set(found) != set(CORNERS):
        raise ImportSourceError(f"{path} must name each of {', '.join(CORNERS)} once, not {', '.join(map(str, found))}")
    return found


def _point(path: Path, row: dict[str, str]) -> Point:
    try:
        lat, lon = float(row["lat"]), float(row["lon"])
    except (TypeError, ValueError) as error:
        raise ImportSourceError(f"{path}: corner {row['corner']} has no numbers for lat and lon. Correct it") from error
    if not (-MAX_LATITUDE <= lat <= MAX_LATITUDE and -180.0 <= lon <= 180.0):
        raise ImportSourceError(
            f"{path}: corner {row['corner']} at lat {lat}, lon {lon} is off the map; are lat and lon swapped?"
        )
    return lat, lon


def corner_transform(path: Path, corners: dict[str, Point], width: int, height: int) -> Affine:
    """(column, row) -> metres in EPSG:3857, by least squares over the four corners.

    Raises:
        ImportSourceError: they are mirrored, span nothing or half the world, or form no parallelogram.
    """
    top_left, top_right, bottom_right, bottom_left = (_mercator(*corners[name]) for name in CORNERS)
    along = (top_right - top_left + bottom_right - bottom_left) / 2
    down = (bottom_left - top_left + bottom_right - top_right) / 2
    middle = (top_left + top_right + bottom_right + bottom_left) / 4
    longer = max(abs(along), abs(down))
    area = along.real * down.imag - along.imag * down.real
    # Down the picture is a right turn from along it, on a map whose north is up.
    if area >= 0:
        raise ImportSourceError(
            f"{path}: these corners show the picture mirrored, or as a line. Are two of them, or lat and lon, swapped?"
        )
    if max(abs(along.real), abs(down.real)) > WORLD_M / 2:
        raise ImportSourceError(f"{path}: the corners span half the world. Cut a picture in two at the 180th meridian")
    misfit = abs(top_left - top_right + bottom_right - bottom_left) / 4
    if misfit > _MAX_MISFIT * longer:
        raise ImportSourceError(
            f"{path}: the corners miss a parallelogram by {misfit:,.1f} m of {longer:,.1f} m. Correct them, or rectify the "
            "picture into a GeoTIFF"
        )
    origin = middle - along / 2 - down / 2
    return Affine(
        along.real / width, down.real / height, origin.real, along.imag / width, down.imag / height, origin.imag
    )


def _mercator(lat: float, lon: float) -> complex:
    """EPSG:3857 as x + iy, metres."""
    radius = WORLD_M / (2 * math.pi)
    return complex(radius * math.radians(lon), radius * math.asinh(math.tan(math.radians(lat))))
