"""A procedural landscape for the demo: an aerial image of a fictional place, cut into XYZ tiles.

One seed gives relief, fields with crop rows, roads, villages, a river, lakes and woods. The landscape lies in the open
Atlantic, so that nobody mistakes it for a map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from preflight.adapters.demo.landscape_paint import paint
from preflight.records import BoundingBox
from takeoff.position import LatLonAlt

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["DEMO_BBOX", "DEMO_SOURCE", "DEMO_TAKEOFF", "DEMO_TILE_COUNT", "DEMO_ZOOMS", "DemoTile", "generate"]

DEMO_SOURCE = "demo-landscape"
DEMO_ZOOMS = (17, 18)
DEMO_BBOX = BoundingBox(lat_min=45.98193, lon_min=-30.00057, lat_max=46.00054, lon_max=-29.96830)
DEMO_TAKEOFF = LatLonAlt(lat=45.9910, lon=-29.9860, alt=120.0)

_TILE = 256
_COLUMNS, _ROWS = 24, 20  # tiles at the deeper zoom
_X0, _Y0 = 109226, 93260  # the north-west tile at the deeper zoom; both numbers are even
_QUALITY = 88  # of the JPEG files

DEMO_TILE_COUNT = _COLUMNS * _ROWS + _COLUMNS * _ROWS // 4


@dataclass(frozen=True, slots=True)
class DemoTile:
    """A tile of the landscape. content: a JPEG of 256 x 256 pixels."""

    zoom: int
    x: int
    y: int
    content: bytes


def generate(seed: int, columns: int = _COLUMNS, rows: int = _ROWS) -> Iterator[DemoTile]:
    """Paint the landscape and yield its tiles: the deeper zoom first, each zoom row by row from the north-west.

    A tile of the shallower zoom is the average of 2 x 2 pixels of its four children, before JPEG compression. With the
    same versions of Pillow and numpy, the same seed gives the same bytes.

    Args:
        seed: the seed of all random draws.
        columns: number of tile columns at the deeper zoom; even.
        rows: number of tile rows at the deeper zoom; even. A smaller landscape has the same north-west corner, but is
            another landscape and not a part of the large one.

    Raises:
        ValueError: the number of columns or rows is odd or not positive.
    """
    if columns < 2 or rows < 2 or columns % 2 or rows % 2:
        msg = f"the landscape needs an even, positive number of columns and rows, not {columns} x {rows}"
        raise ValueError(msg)
    mosaic = paint(seed, columns * _TILE, rows * _TILE)
    shallow, deep = DEMO_ZOOMS
    yield from _cut(mosaic, deep, _X0, _Y0)
    yield from _cut(mosaic.reduce(2), shallow, _X0 // 2, _Y0 // 2)


def _cut(mosaic: Image.Image, zoom: int, x0: int, y0: int) -> Iterator[DemoTile]:
    for top in range(0, mosaic.height, _TILE):
        for left in range(0, mosaic.width, _TILE):
            tile = mosaic.crop((left, top, left + _TILE, top + _TILE))
            buffer = BytesIO()
            tile.save(buffer, "JPEG", quality=_QUALITY)
            yield DemoTile(zoom, x0 + left // _TILE, y0 + top // _TILE, buffer.getvalue())
