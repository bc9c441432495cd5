"""The transitive dry run: what would be built, how much it would write, how long it would take."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from preflight.estimate import expected_sizes
from preflight.records import TileRow
from preflight.session import Session, read_rates
from preflight.stages.tiles import Preview

Fate = Literal["up to date", "will run", "may be cut off early"]


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What becomes of one stage, and why."""

    name: str
    fate: Fate
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole plan. Bytes are estimates for the tiles that are there; seconds None where no rate is known."""

    stages: tuple[StagePlan, ...]
    tiles_expected: int
    tiles_present: int
    tiles_to_embed: int
    bytes_needed: int
    bytes_free: int
    seconds: float | None
    tiles_to_import: int = 0  # the demo's, into an empty store; those in the area are among tiles_to_embed

    @property
    def idle(self) -> bool:
        """Whether nothing would run."""
        return all(stage.fate == "up to date" for stage in self.stages)


@dataclass(frozen=True)
class Planner:
    """Reads what a plan needs.

    preview: the area's tiles as they are now; missing: how many of some rows are not embedded with the engine that is there;
    engine: the step that compiles it; engine_bytes: what all engines come to; demo: tiles of the demo that would be imported
    first, and how many of them lie in the area.
    """

    session: Session
    preview: Callable[[], Preview]
    missing: Callable[[Iterable[TileRow]], int]
    engine: str
    engine_bytes: Callable[[], int]
    dim: Callable[[], int]
    m: int
    demo: Callable[[], tuple[int, int]] = lambda: (0, 0)

    def plan(self) -> Plan:
        """Nothing is written and no lock is taken. Raises PreflightError as the ports do."""
        stages = self._stages()
        fates = {stage.name: stage.fate for stage in stages}
        expected, present, to_embed = self._tiles(fates)
        to_import, inside = self.demo() if present == 0 else (0, 0)
        to_embed += inside
        return Plan(
            stages=stages,
            tiles_expected=expected,
            tiles_present=present,
            tiles_to_embed=to_embed,
            bytes_needed=self._bytes(fates, present + inside, to_embed),
            bytes_free=shutil.disk_usage(_existing(self.session.layout.root)).free,
            seconds=self._seconds(fates, to_embed),
            tiles_to_import=to_import,
        )

    def _stages(self) -> tuple[StagePlan, ...]:
        moving: set[str] = set()
        found = []
        for name, stage in self.session.stages.items():
            explained = self.session.explain(name)
            upstream = [other for other in stage.after if other in moving]
            reasons = tuple(
                f"{item.step}: {reason}"
                for item in explained
                if not item.verdict.current
                for reason in item.verdict.reasons
            )
            # What an input that is not there would bring is not known; any other reason stands whatever comes before.
            certain = [reason for reason in reasons if not reason.endswith(" is not there")]
            fate: Fate = "up to date"
            if upstream and not certain and all(item.recorded for item in explained):
                fate, reasons = "may be cut off early", (f"after {', '.join(upstream)}",)
            elif upstream or reasons:
                fate = "will run"
            if fate != "up to date":
                moving.add(name)
            found.append(StagePlan(name, fate, reasons))
        return tuple(found)

    def _tiles(self, fates: dict[str, Fate]) -> tuple[int, int, int]:
        """Tiles expected, present, and to embed."""
        if fates["tiles"] == fates["descriptors"] == "up to date":
            coverage = json.loads(self.session.layout.coverage.read_bytes())
            return coverage["expected"], coverage["present"], 0
        preview = self.preview()
        counted = _Counted(preview.rows)
        missing = self._missing(counted)
        present = counted.count if preview.present is None else preview.present
        return preview.expected, present, present if missing is None else missing

    def _missing(self, rows: _Counted) -> int | None:
        """How many of the rows are not embedded; None: the engine will be another, so no tile is."""
        stages = self.session.stages
        explained = [item for name in stages if name.startswith("engine:") for item in self.session.explain(name)]
        try:
            if all(item.verdict.current for item in explained if item.step == self.engine):
                return self.missing(rows)
        except FileNotFoundError:
            pass  # the engine is there, the stages before it are not: as if it were not
        rows.finish()
        return None

    def _bytes(self, fates: dict[str, Fate], present: int, to_embed: int) -> int:
        sizes = expected_sizes(present, self.dim(), self.m, self.engine_bytes())
        parts = {
            "tiles": sizes.inventory,
            "descriptors": to_embed * sizes.descriptors // max(present, 1),
            "index": sizes.index,
            "publish": sizes.generation,
        }
        engines = [fate for name, fate in fates.items() if name.startswith("engine:")]
        built = sum(fate == "will run" for fate in engines) * sizes.engines // len(engines)
        return built + sum(part for name, part in parts.items() if fates[name] != "up to date")

    def _seconds(self, fates: dict[str, Fate], to_embed: int) -> float | None:
        rates = read_rates(self.session.layout)
        running = [name for name, fate in fates.items() if fate != "up to date"]
        if not all(name in rates for name in running):
            return None
        units = {"descriptors": to_embed}
        return sum(rates[name]["seconds"] / rates[name]["units"] * units.get(name, 1) for name in running)


class _Counted:
    """Rows, counted as they pass."""

    def __init__(self, rows: Iterable[TileRow]) -> None:
        self._rows = iter(rows)
        self.count = 0

    def __iter__(self) -> Iterator[TileRow]:
        for row in self._rows:
            self.count += 1
            yield row

    def finish(self) -> None:
        """Let the rest pass."""
        for _ in self:
            pass


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())
