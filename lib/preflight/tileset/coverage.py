"""What an area lacks: tiles that are missing, too old or corrupt, found before anything is built; and findings on the others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from preflight.area.area import Area, Cover
from preflight.area.web_mercator import tile_bounds
from preflight.errors import CoverageError
from preflight.records import MOST_AHEAD, BoundingBox, TileRow
from preflight.tileset.findings import FindingCollector, Findings

__all__ = ["CoverageReport", "CoverageWalk", "Lack", "check", "lacks_geojson"]

Reason = Literal["missing", "stale", "corrupt"]

_NAMED = 5
_ABSENT, _FRESH, _STALE, _CORRUPT = 0, 1, 2, 3
_REASONS: dict[int, Reason] = {_ABSENT: "missing", _STALE: "stale", _CORRUPT: "corrupt"}
_REMEDY = (
    "Run the C11 TileDownloader for this area (`doit plan --missing=FILE` writes these tiles as GeoJSON for it), "
    "or `doit import SOURCE` (with --update where tiles are there but bad), then provision again"
)

Lack = tuple[Reason, int, int, int]
"""Why a tile is wanted, and its zoom, x and y."""


@dataclass(frozen=True, slots=True)
class CoverageReport:
    """Counts of tiles. first_...: the first few (zoom, x, y). sources: name and tiles, by name.

    stale: captured too long ago, or in the future, so that nobody knows how long; ahead: the latter alone, and not in
    first_stale. corrupt: their files are not there, or hold other bytes than their rows say. A tile may be stale and corrupt.
    """

    expected: int
    present: int
    missing: int
    stale: int
    ahead: int
    corrupt: int
    first_missing: tuple[tuple[int, int, int], ...]
    first_stale: tuple[tuple[int, int, int], ...]
    first_ahead: tuple[tuple[int, int, int], ...]
    first_corrupt: tuple[tuple[int, int, int], ...]
    sources: tuple[tuple[str, int], ...]

    @property
    def missing_share(self) -> float:
        """Missing tiles by expected tiles, 0 to 1."""
        return self.missing / self.expected if self.expected else 0.0


class CoverageWalk:
    """Counts the rows of a tile set as they stream by; memory is one byte a tile of the cover.

    now: aware UTC. Stale is what was captured more than max_age before it, or more than MOST_AHEAD after it.
    """

    def __init__(self, cover: Cover, *, now: datetime, max_age: timedelta) -> None:
        self._cover = cover
        self._oldest, self._newest = now - max_age, now + MOST_AHEAD
        self._seen = bytearray(len(cover))
        self._stale = 0
        self._ahead = 0
        self._first_stale: list[tuple[int, int, int]] = []
        self._first_ahead: list[tuple[int, int, int]] = []
        self._corrupt: list[tuple[int, int, int]] = []
        self._taker = FindingCollector()
        self._sources: Counter[str] = Counter()

    def through(self, rows: Iterable[TileRow]) -> Iterator[TileRow]:
        """Hand on every row inside the cover, counted; rows outside it are left out. One row a tile is expected."""
        for row in rows:
            position = self._cover.position(row.zoom, row.x, row.y)
            if position is None:
                continue
            self._seen[position] = _FRESH
            self._sources[row.source] += 1
            self._taker.sealed(row)
            if not self._oldest <= row.captured_at <= self._newest:
                self._seen[position] = _STALE
                self._count_stale(row)
            yield row

    def _count_stale(self, row: TileRow) -> None:
        ahead = row.captured_at > self._newest
        self._stale += 1
        self._ahead += ahead
        first = self._first_ahead if ahead else self._first_stale
        if len(first) < _NAMED:
            first.append((row.zoom, row.x, row.y))

    def passed_over(self, row: TileRow) -> None:
        """A row of the cover that is not sealed, because another source's is."""
        self._taker.passed_over(row)

    def corrupt(self, tile: tuple[int, int, int]) -> None:
        """A tile that went through and turned out not to be what its row says."""
        position = self._cover.position(*tile)
        if position is not None:
            self._seen[position] = _CORRUPT
            self._corrupt.append(tile)

    def findings(self) -> Findings:
        """On the tiles that went through so far."""
        return self._taker.findings()

    def report(self) -> CoverageReport:
        """What has been counted so far."""
        present = len(self._seen) - self._seen.count(_ABSENT)
        return CoverageReport(
            expected=len(self._cover),
            present=present,
            missing=len(self._cover) - present,
            stale=self._stale,
            ahead=self._ahead,
            corrupt=len(self._corrupt),
            first_missing=tuple(self._cover.tile(position) for position in self._absent()),
            first_stale=tuple(self._first_stale),
            first_ahead=tuple(self._first_ahead),
            first_corrupt=tuple(self._corrupt[:_NAMED]),
            sources=tuple(sorted(self._sources.items())),
        )

    def lacks(self) -> Iterator[Lack]:
        """Every tile that was missing, stale or corrupt so far, in the order of the cover."""
        for tile, seen in zip(self._cover, self._seen, strict=True):
            if seen != _FRESH:
                yield (_REASONS[seen], *tile)

    def _absent(self) -> Iterator[int]:
        at = -1
        for _ in range(_NAMED):
            at = self._seen.find(_ABSENT, at + 1)
            if at < 0:
                return
            yield at


def lacks_geojson(lacks: Iterable[Lack]) -> Iterator[str]:
    """The text of a GeoJSON FeatureCollection (RFC 7946), in parts: one Polygon a tile, its borders in degrees.

    properties: zoom, x and y of the XYZ scheme, and `reason`: missing, stale or corrupt.
    """
    yield '{"type":"FeatureCollection","features":['
    comma = "\n"
    for reason, zoom, x, y in lacks:
        box = tile_bounds(zoom, x, y)
        west, east, south, north = box.lon_min, box.lon_max, box.lat_min, box.lat_max
        feature = {
            "type": "Feature",
            "properties": {"zoom": zoom, "x": x, "y": y, "reason": reason},
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[west, south], [east, south], [east, north], [west, north], [west, south]]],
            },
        }
        yield comma + json.dumps(feature, separators=(",", ":"))
        comma = ",\n"
    yield "\n]}\n"


def check(
    report: CoverageReport, area: Area, zooms: Iterable[int], *, allow_missing: float, max_age: timedelta
) -> None:
    """Refuse a tile set with more missing than the share allowed, with stale or corrupt tiles, or with no tiles at all.

    Raises:
        CoverageError: every reason at once, counted, with the area, the zooms and what to do.
    """
    problems = []
    if report.present == 0:
        problems.append(f"none of the {report.expected} tiles is in the tile store")
    elif report.missing > allow_missing * report.expected:
        problems.append(
            f"{report.missing} of {report.expected} tiles are missing ({report.missing_share:.2%}, allowed "
            f"{allow_missing:.2%}), such as {_names(report.first_missing)}"
        )
    if report.stale > report.ahead:
        problems.append(
            f"{report.stale - report.ahead} of {report.present} tiles were captured more than {max_age.days} days ago, such as "
            f"{_names(report.first_stale)}"
        )
    if report.ahead:
        problems.append(
            f"{report.ahead} of {report.present} tiles are dated in the future, such as {_names(report.first_ahead)}, so that "
            "their age is unknown (set this computer's clock, or import them with --update and the real --captured-at)"
        )
    if report.corrupt:
        problems.append(
            f"{report.corrupt} of {report.present} tiles have no file or one that is not what was imported, such as "
            f"{_names(report.first_corrupt)}"
        )
    if problems:
        where = f"{_place(area)} at zoom {', '.join(map(str, sorted(set(zooms))))}"
        raise CoverageError(f"{where}: {'; '.join(problems)}. {_REMEDY}")


def _names(tiles: Iterable[tuple[int, int, int]]) -> str:
    return ", ".join("/".join(map(str, tile)) for tile in tiles)


def _place(area: Area) -> str:
    boxes = area.boxes()
    shown = ", ".join(_box(box) for box in boxes[:3])
    return f"area {shown}" + (f" and {len(boxes) - 3} more parts" if len(boxes) > 3 else "")


def _box(box: BoundingBox) -> str:
    return f"lat {box.lat_min:.6f}..{box.lat_max:.6f} lon {box.lon_min:.6f}..{box.lon_max:.6f}"
