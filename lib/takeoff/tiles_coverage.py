"""`tiles_coverage_sha256`: one digest over a whole tile set, for the build and for the verification."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

TileHash = tuple[int, float, float, str, str]
"""(zoom, lat, lon, source, sha256) of a tile's row. lat and lon: degrees, the row's doubles. sha256: hex digits."""


class Aggregate(NamedTuple):
    """The number of tiles and their digest, 64 hex digits."""

    tile_count: int
    sha256: str


def aggregate(tiles: Iterable[TileHash]) -> Aggregate:
    """Returns the SHA-256 over one line for each tile: `zoom|lat|lon|source|sha256` and a line feed, in UTF-8.

    lat and lon are written by `repr`. The lines ascend by (zoom, lat, lon, source), source by code points. The tiles
    may come in any order; they are sorted in memory. Raises ValueError if two tiles agree in all four.
    """
    digest, count, last = hashlib.sha256(), 0, None
    # float(): NumPy's doubles print differently, and a whole number may come as an int.
    for zoom, lat, lon, source, sha256 in sorted(tiles):
        if (zoom, lat, lon, source) == last:
            raise ValueError(f"tile {last} comes twice")
        last = (zoom, lat, lon, source)
        count += 1
        digest.update(f"{zoom}|{float(lat)!r}|{float(lon)!r}|{source}|{sha256}\n".encode())
    return Aggregate(count, digest.hexdigest())
