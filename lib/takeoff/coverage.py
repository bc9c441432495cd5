"""`tiles_coverage_sha256`: one digest over a whole tile set, the same on both sides of the signature."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

TileHash = tuple[int, float, float, str, str]
"""(zoom, lat, lon, source, sha256): a tile's row, lat and lon the row's doubles in degrees, sha256 in hex digits."""


class CoverageAggregate:
    """SHA-256 over one line a tile, `zoom|lat|lon|source|sha256` and a line feed, in UTF-8.

    lat and lon are printed by `repr` of the row's double. Tiles are added in ascending (zoom, lat, lon, source) order,
    source by code points; constant memory, so a million tiles can be streamed.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._last: tuple[int, float, float, str] | None = None
        self.count = 0

    def add(self, zoom: int, lat: float, lon: float, source: str, sha256: str) -> None:
        """Add the next tile. Raises ValueError when it does not come after the one before."""
        # float(): NumPy's doubles print differently, and a whole number may arrive as an int.
        key = (int(zoom), float(lat), float(lon), source)
        if self._last is not None and not self._last < key:
            raise ValueError(f"tile {key} does not come after {self._last} in (zoom, lat, lon, source) order")
        self._last = key
        self.count += 1
        self._hash.update(f"{key[0]}|{key[1]!r}|{key[2]!r}|{source}|{sha256}\n".encode())

    def hexdigest(self) -> str:
        """The aggregate of the tiles added so far, 64 hex digits."""
        return self._hash.hexdigest()


def aggregate(tiles: Iterable[TileHash]) -> CoverageAggregate:
    """The aggregate over `TileHash` rows in any order; sorts them in memory. Raises ValueError for a tile given twice."""
    total = CoverageAggregate()
    for tile in sorted(tiles):
        total.add(*tile)
    return total
