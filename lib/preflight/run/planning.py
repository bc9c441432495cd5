"""The dry run: which stages would run, how many bytes they would write, and how long they would take."""

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
    """What a build would do with one stage, and the reasons."""

    name: str
    status: StageStatus
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a build.

    Attributes:
        stages: the stages, in order.
        tiles_expected, tiles_present: the tiles that cover the area, and those in the tile store.
        units: the tiles, or the windows over them, that get a descriptor.
        units_to_embed: the units without a stored descriptor.
        bytes_needed: estimated bytes that the build writes, for the present tiles.
        bytes_free: free bytes on the disk of the cache root.
        seconds: estimated duration; None if the rate of a stage is unknown.
        tiles_to_import: tiles of the demonstration that would be imported into an empty store. Those in the area are
            counted in `units_to_embed`.
        at_most: `units` and `units_to_embed` are upper bounds, because something is missing or cannot be read.
    """

    stages: tuple[StagePlan, ...]
    tiles_expected: int
    tiles_present: int
    units: int
    units_to_embed: int
    bytes_needed: int
    bytes_free: int
    seconds: float | None
    tiles_to_import: int = 0
    at_most: bool = False

    @property
    def idle(self) -> bool:
        """Whether all stages are up to date."""
        return all(stage.status == "up to date" for stage in self.stages)


@dataclass(frozen=True)
class Planner:
    """Makes the plan of a build.

    Attributes:
        session: a run that is not begun.
        preview: reads the tiles of the area in their present state.
        forecast: counts tiles, units and units to embed of a preview. The second argument says whether the existing
            engine is up to date, so that its descriptors count.
        engine: the name of the step that compiles the descriptor engine.
        engine_bytes: estimates the bytes of all engines.
        dim: returns the length of a descriptor.
        m: the parameter M of the HNSW index.
        steps: the number of units that begin along a tile's side.
        demo: counts the tiles of the demonstration that would be imported first, and those of them in the area.
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
        """Return the plan. Writes nothing and takes no lock. Raises PreflightError as the ports do."""
        stages = self._stages()
        statuses = {stage.name: stage.status for stage in stages}
        expected, counts, at_most = self._tiles(statuses)
        to_import, demo_inside = self.demo() if counts.tiles == 0 else (0, 0)
        demo_units = demo_inside * self.steps**2
        counts = Forecast(counts.tiles, counts.units + demo_units, counts.to_embed + demo_units)
        return Plan(
            stages=stages,
            tiles_expected=expected,
            tiles_present=counts.tiles,
            units=counts.units,
            units_to_embed=counts.to_embed,
            bytes_needed=self._bytes(statuses, counts, demo_inside),
            bytes_free=shutil.disk_usage(_existing(self.session.layout.root)).free,
            seconds=self._seconds(statuses, counts.to_embed),
            tiles_to_import=to_import,
            # Fewer windows begin along a tile at the border of the tile set.
            at_most=at_most or (demo_units > 0 and self.steps > 1),
        )

    def _stages(self) -> tuple[StagePlan, ...]:
        not_current: set[str] = set()
        plans = []
        for name, stage in self.session.stages.items():
            explained = self.session.explain(name)
            upstream = [other for other in stage.after if other in not_current]
            reasons = tuple(
                f"{item.step}: {reason}"
                for item in explained
                if not item.verdict.current
                for reason in item.verdict.reasons
            )
            # A missing input may turn out equal to the last one. Any other reason holds whatever the stages before do.
            certain = [reason for reason in reasons if not reason.endswith(" is not there")]
            status: StageStatus = "up to date"
            if upstream and not certain and all(item.recorded for item in explained):
                status, reasons = "may be skipped", (f"after {', '.join(upstream)}",)
            elif upstream or reasons:
                status = "will run"
            if status != "up to date":
                not_current.add(name)
            plans.append(StagePlan(name, status, reasons))
        return tuple(plans)

    def _tiles(self, statuses: dict[str, StageStatus]) -> tuple[int, Forecast, bool]:
        """Return the number of expected tiles, the counts of the present ones, and whether these are upper bounds."""
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
            # The engine exists, but files of the stages before it do not. Its descriptors cannot be looked up.
            return preview.expected, self.forecast(preview, False), False
        except DescriptorBatchError:
            # A segment is damaged, and the build will remove it. Its rows are unknown, so no unit counts as embedded.
            return preview.expected, self.forecast(self.preview(), False), True

    def _bytes(self, statuses: dict[str, StageStatus], counts: Forecast, demo_inside: int) -> int:
        windows = None if self.steps == 1 else counts.units
        sizes = expected_sizes(counts.tiles + demo_inside, windows, self.dim(), self.m, self.engine_bytes())
        parts = {
            "tiles": sizes.inventory,
            "descriptors": counts.to_embed * sizes.descriptors // max(counts.units, 1),
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
    return next(folder for folder in (path, *path.parents) if folder.exists())
