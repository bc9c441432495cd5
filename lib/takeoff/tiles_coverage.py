"""`tiles_coverage_sha256`: one digest over a whole tile set, the same on both sides of the signature."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

TileHash = tuple[int, float, float, str, str]
"""(zoom, lat, lon, source, sha256): a tile's row, lat and lon the row's doubles in degrees, sha256 in hex digits."""


class Aggregate(NamedTuple):
    """The number of tiles, and their digest, 64 hex digits."""

    tile_count: int
    sha256: str


def aggregate(tiles: Iterable[TileHash]) -> Aggregate:
    """SHA-256 over one line a tile, `zoom|lat|lon|source|sha256` and a line feed, in UTF-8, lat and lon by `repr`.

    The lines are in ascending (zoom, lat, lon, source) order, source by code points; the tiles come in any order and are
    sorted in memory. Raises ValueError where two agree in all four.
    """
    digest, count, last = hashlib.sha256(), 0, None
    # float(): NumPy's doubles print differently, and a whole number may arrive as an int.
    for zoom, lat, lon, source, sha256 in sorted(tiles):
        if (zoom, lat, lon, source) == last:
            raise ValueError(f"tile {last} comes twice")
        last = (zoom, lat, lon, source)
        count += 1
        digest.update(f"{zoom}|{float(lat)!r}|{float(lon)!r}|{source}|{sha256}\n".encode())
    return Aggregate(count, digest.hexdigest())
