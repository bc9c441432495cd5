"""What an area lacks: tiles that are missing or too old, found before anything is built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from preflight.area import Area, Cover
from preflight.errors import CoverageError
from preflight.records import BoundingBox, TileRow

__all__ = ["CoverageReport", "CoverageWalk", "check"]

_NAMED = 5
_REMEDY = "Run the C11 TileDownloader for this area, or `doit import SOURCE`, then provision again"


@dataclass(frozen=True, slots=True)
class CoverageReport:
    """Counts of tiles. first_missing, first_stale: the first few (zoom, x, y). sources: name and tiles, by name."""

    expected: int
    present: int
    missing: int
    stale: int
    first_missing: tuple[tuple[int, int, int], ...]
    first_stale: tuple[tuple[int, int, int], ...]
    sources: tuple[tuple[str, int], ...]

    @property
    def missing_share(self) -> float:
        """Missing tiles by expected tiles, 0 to 1."""
        return self.missing / self.expected if self.expected else 0.0


class CoverageWalk:
    """Counts the rows of a tile set as they stream by; memory is one byte a tile of the cover.

    oldest: the earliest capture time that is not stale, aware UTC: now less the sector class's max_tile_age_days.
    """

    def __init__(self, cover: Cover, *, now: datetime, max_age: timedelta) -> None:
        self._cover = cover
        self._oldest = now - max_age
        self._seen = bytearray(len(cover))
        self._stale = 0
        self._first_stale: list[tuple[int, int, int]] = []
        self._sources: Counter[str] = Counter()

    def through(self, rows: Iterable[TileRow]) -> Iterator[TileRow]:
        """Hand on every row inside the cover, counted; rows outside it are left out. One row a tile is expected."""
        for row in rows:
            position = self._cover.position(row.zoom, row.x, row.y)
            if position is None:
                continue
            self._seen[position] = 1
            self._sources[row.source] += 1
            if row.captured_at < self._oldest:
                self._stale += 1
                if len(self._first_stale) < _NAMED:
                    self._first_stale.append((row.zoom, row.x, row.y))
            yield row

    def report(self) -> CoverageReport:
        """What has been counted so far."""
        present = self._seen.count(1)
        return CoverageReport(
            expected=len(self._cover),
            present=present,
            missing=len(self._cover) - present,
            stale=self._stale,
            first_missing=tuple(self._cover.tile(position) for position in self._absent()),
            first_stale=tuple(self._first_stale),
            sources=tuple(sorted(self._sources.items())),
        )

    def _absent(self) -> Iterator[int]:
        at = -1
        for _ in range(_NAMED):
            at = self._seen.find(0, at + 1)
            if at < 0:
                return
            yield at


def check(
    report: CoverageReport, area: Area, zooms: Iterable[int], *, allow_missing: float, max_age: timedelta
) -> None:
    """Refuse a tile set with more missing than the share allowed, with stale tiles, or with no tiles at all.

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
    if report.stale:
        problems.append(
            f"{report.stale} of {report.present} tiles were captured more than {max_age.days} days ago, such as "
            f"{_names(report.first_stale)}"
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
