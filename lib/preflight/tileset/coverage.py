"""Checks whether the tiles of an area suffice for a build: finds missing, stale and corrupt tiles, and other findings.

The check runs before anything is built.
"""

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

_MOST_NAMED = 5
_MISSING, _FRESH, _STALE, _CORRUPT = 0, 1, 2, 3
_REASONS: dict[int, Reason] = {_MISSING: "missing", _STALE: "stale", _CORRUPT: "corrupt"}
_REMEDY = (
    "Run the C11 TileDownloader for this area (`doit plan --missing=FILE` writes these tiles as GeoJSON for it), or "
    "import the tiles with `doit import SOURCE` (add --update to replace stale or corrupt ones). Then run `doit "
    "provision` again"
)

Lack = tuple[Reason, int, int, int]
"""A tile that the build needs: the reason, and the tile's zoom, x and y."""


@dataclass(frozen=True, slots=True)
class CoverageReport:
    """Counts of the tiles of an area.

    Attributes:
        expected: the tiles that cover the area.
        present, missing: the expected tiles with a row and without one.
        stale: the tiles that were captured too long ago, and those in `ahead`.
        ahead: the tiles that are dated in the future; their age is unknown.
        corrupt: the tiles whose file is missing or differs from the hash in the row. A tile may be stale and corrupt.
        first_missing, first_stale, first_ahead, first_corrupt: (zoom, x, y) of the first few tiles of each kind.
            `first_stale` does not name the tiles in `ahead`.
        sources: name and number of tiles of each source, by name.
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
        """The missing tiles as a share of the expected ones, 0 to 1."""
        return self.missing / self.expected if self.expected else 0.0


class CoverageWalk:
    """Counts the rows of a tile set as they stream by. It needs one byte of memory for each tile of the cover.

    A tile is stale if it was captured more than max_age before `now`, or more than MOST_AHEAD after it. `now` is aware
    UTC.
    """

    def __init__(self, cover: Cover, *, now: datetime, max_age: timedelta) -> None:
        self._cover = cover
        self._oldest, self._newest = now - max_age, now + MOST_AHEAD
        self._states = bytearray(len(cover))
        self._stale = 0
        self._ahead = 0
        self._first_stale: list[tuple[int, int, int]] = []
        self._first_ahead: list[tuple[int, int, int]] = []
        self._corrupt: list[tuple[int, int, int]] = []
        self._collector = FindingCollector()
        self._sources: Counter[str] = Counter()

    def through(self, rows: Iterable[TileRow]) -> Iterator[TileRow]:
        """Yield the rows inside the cover and count them. Rows outside the cover are dropped.

        The rows must contain each tile at most once.
        """
        for row in rows:
            position = self._cover.position(row.zoom, row.x, row.y)
            if position is None:
                continue
            self._states[position] = _FRESH
            self._sources[row.source] += 1
            self._collector.sealed(row)
            if not self._oldest <= row.captured_at <= self._newest:
                self._states[position] = _STALE
                self._count_stale(row)
            yield row

    def _count_stale(self, row: TileRow) -> None:
        ahead = row.captured_at > self._newest
        self._stale += 1
        self._ahead += ahead
        named = self._first_ahead if ahead else self._first_stale
        if len(named) < _MOST_NAMED:
            named.append((row.zoom, row.x, row.y))

    def passed_over(self, row: TileRow) -> None:
        """Note a row of the cover that is not sealed because the row of another source is."""
        self._collector.passed_over(row)

    def corrupt(self, tile: tuple[int, int, int]) -> None:
        """Mark a counted tile (zoom, x, y) as corrupt: its file is missing or differs from the hash in its row."""
        position = self._cover.position(*tile)
        if position is not None:
            self._states[position] = _CORRUPT
            self._corrupt.append(tile)

    def findings(self) -> Findings:
        """Return the findings on the tiles that were counted so far."""
        return self._collector.findings()

    def report(self) -> CoverageReport:
        """Return the counts so far."""
        present = len(self._states) - self._states.count(_MISSING)
        return CoverageReport(
            expected=len(self._cover),
            present=present,
            missing=len(self._cover) - present,
            stale=self._stale,
            ahead=self._ahead,
            corrupt=len(self._corrupt),
            first_missing=tuple(self._cover.tile(position) for position in self._first_missing()),
            first_stale=tuple(self._first_stale),
            first_ahead=tuple(self._first_ahead),
            first_corrupt=tuple(self._corrupt[:_MOST_NAMED]),
            sources=tuple(sorted(self._sources.items())),
        )

    def lacks(self) -> Iterator[Lack]:
        """Yield every tile that is missing, stale or corrupt so far, in the order of the cover."""
        for tile, state in zip(self._cover, self._states, strict=True):
            if state != _FRESH:
                yield (_REASONS[state], *tile)

    def _first_missing(self) -> Iterator[int]:
        position = -1
        for _ in range(_MOST_NAMED):
            position = self._states.find(_MISSING, position + 1)
            if position < 0:
                return
            yield position


def lacks_geojson(lacks: Iterable[Lack]) -> Iterator[str]:
    """Yield the text of a GeoJSON FeatureCollection (RFC 7946) in parts. Each tile is one Polygon in degrees.

    The properties of a feature are zoom, x and y in the XYZ scheme, and `reason`: missing, stale or corrupt.
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
    """Check the counts of a tile set against the limits of the mission.

    Args:
        report: the counts.
        area: the area, for the message.
        zooms: the zoom levels, for the message.
        allow_missing: the allowed share of missing tiles, 0 to 1.
        max_age: the allowed age of a tile, for the message.

    Raises:
        CoverageError: too many tiles are missing, no tile is present, or a tile is stale or corrupt. The message counts
            all reasons and names the area, the zooms and the remedy.
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
            f"{report.stale - report.ahead} of {report.present} tiles were captured more than {max_age.days} days ago, "
            f"such as {_names(report.first_stale)}"
        )
    if report.ahead:
        problems.append(
            f"{report.ahead} of {report.present} tiles are dated in the future, such as {_names(report.first_ahead)}, "
            "so their age is unknown (set this computer's clock, or import them with --update and the real "
            "--captured-at)"
        )
    if report.corrupt:
        problems.append(
            f"{report.corrupt} of {report.present} tiles are corrupt (the file is missing or differs from the import), "
            f"such as {_names(report.first_corrupt)}"
        )
    if problems:
        where = f"{_area_text(area)} at zoom {', '.join(map(str, sorted(set(zooms))))}"
        raise CoverageError(f"{where}: {'; '.join(problems)}. {_REMEDY}")


def _names(tiles: Iterable[tuple[int, int, int]]) -> str:
    return ", ".join("/".join(map(str, tile)) for tile in tiles)


def _area_text(area: Area) -> str:
    boxes = area.boxes()
    shown = ", ".join(_box_text(box) for box in boxes[:3])
    return f"area {shown}" + (f" and {len(boxes) - 3} more parts" if len(boxes) > 3 else "")


def _box_text(box: BoundingBox) -> str:
    return f"lat {box.lat_min:.6f}..{box.lat_max:.6f} lon {box.lon_min:.6f}..{box.lon_max:.6f}"
