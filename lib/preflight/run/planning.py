"""The transitive dry run: what would be built, how much it would write, how long it would take."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from preflight.errors import DescriptorBatchError
from preflight.run.estimate import expected_sizes
from preflight.run.rates import read_rates
from preflight.run.session import Session
from preflight.stages.descriptors import DescriptorSet, Forecast
from preflight.stages.tiles import Preview

StageStatus = Literal["up to date", "will run", "may be skipped"]


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What becomes of one stage, and why."""

    name: str
    status: StageStatus
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole plan. Bytes are estimates for the tiles that are there; seconds None where no rate is known.

    units: what gets a descriptor, the tiles that are there or windows over them. at_most: units and units_to_embed are upper
    bounds: what is not there yet, or cannot be read, was not looked at.
    """

    stages: tuple[StagePlan, ...]
    tiles_expected: int
    tiles_present: int
    units: int
    units_to_embed: int
    bytes_needed: int
    bytes_free: int
    seconds: float | None
    tiles_to_import: int = 0  # the demo's, into an empty store; those in the area are among units_to_embed
    at_most: bool = False

    @property
    def idle(self) -> bool:
        """Whether nothing would run."""
        return all(stage.status == "up to date" for stage in self.stages)


@dataclass(frozen=True)
class Planner:
    """Reads what a plan needs.

    preview: the area's tiles as they are now; forecast: what they come to, and whether the engine that is there made the
    descriptors that are; engine: the step that compiles it; engine_bytes: what all engines come to; steps: units along a
    tile's side; demo: tiles of the demo that would be imported first, and how many of them lie in the area.
    """

    session: Session
    preview: Callable[[], Preview]
    forecast: Callable[[Preview, bool], Forecast]
    engine: str
    engine_bytes: Callable[[], int]
    dim: Callable[[], int]
    m: int
    steps: int
    demo: Callable[[], tuple[int, int]] = lambda: (0, 0)

    def plan(self) -> Plan:
        """Nothing is written and no lock is taken. Raises PreflightError as the ports do."""
        stages = self._stages()
        statuses = {stage.name: stage.status for stage in stages}
        expected, found, at_most = self._tiles(statuses)
        to_import, inside = self.demo() if found.tiles == 0 else (0, 0)
        fresh = inside * self.steps**2
        found = Forecast(found.tiles, found.units + fresh, found.to_embed + fresh)
        return Plan(
            stages=stages,
            tiles_expected=expected,
            tiles_present=found.tiles,
            units=found.units,
            units_to_embed=found.to_embed,
            bytes_needed=self._bytes(statuses, found, inside),
            bytes_free=shutil.disk_usage(_existing(self.session.layout.root)).free,
            seconds=self._seconds(statuses, found.to_embed),
            tiles_to_import=to_import,
            # At the borders of the map there are fewer windows a tile.
            at_most=at_most or (fresh > 0 and self.steps > 1),
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
            status: StageStatus = "up to date"
            if upstream and not certain and all(item.recorded for item in explained):
                status, reasons = "may be skipped", (f"after {', '.join(upstream)}",)
            elif upstream or reasons:
                status = "will run"
            if status != "up to date":
                moving.add(name)
            found.append(StagePlan(name, status, reasons))
        return tuple(found)

    def _tiles(self, statuses: dict[str, StageStatus]) -> tuple[int, Forecast, bool]:
        """Tiles expected, what those that are there come to, and whether that is only an upper bound."""
        session = self.session
        if statuses["tiles"] == statuses["descriptors"] == "up to date":
            coverage = json.loads(session.layout.coverage.read_bytes())
            units = DescriptorSet.read(session.layout.descriptor_set).count
            return coverage["expected"], Forecast(coverage["present"], units, 0), False
        preview = self.preview()
        explained = [item for name in session.stages if name.startswith("engine:") for item in session.explain(name)]
        try:
            current = all(item.verdict.current for item in explained if item.step == self.engine)
            return preview.expected, self.forecast(preview, current), False
        except FileNotFoundError:
            # The engine is there, the stages before it are not: as if it were not.
            return preview.expected, self.forecast(preview, False), False
        except DescriptorBatchError:
            # A damaged segment, which the build removes: what it holds is not known, so all counts as not embedded.
            return preview.expected, self.forecast(self.preview(), False), True

    def _bytes(self, statuses: dict[str, StageStatus], found: Forecast, inside: int) -> int:
        windows = None if self.steps == 1 else found.units
        sizes = expected_sizes(found.tiles + inside, windows, self.dim(), self.m, self.engine_bytes())
        parts = {
            "tiles": sizes.inventory,
            "descriptors": found.to_embed * sizes.descriptors // max(found.units, 1),
            "index": sizes.index,
            "publish": sizes.generation,
        }
        engines = [status for name, status in statuses.items() if name.startswith("engine:")]
        built = sum(status == "will run" for status in engines) * sizes.engines // len(engines)
        return built + sum(part for name, part in parts.items() if statuses[name] != "up to date")

    def _seconds(self, statuses: dict[str, StageStatus], to_embed: int) -> float | None:
        rates = read_rates(self.session.layout)
        running = [name for name, status in statuses.items() if status != "up to date"]
        if not all(name in rates for name in running):
            return None
        units = {"descriptors": to_embed}
        return sum(rates[name]["seconds"] / rates[name]["units"] * units.get(name, 1) for name in running)


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())
