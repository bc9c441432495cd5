"""Estimates a build before it begins: tiles, descriptors, bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from preflight.area.area import area_from_bbox, cover
from preflight.engine.compiler import EngineCompiler
from preflight.errors import BackboneError
from preflight.evaluation.backbone_card import BackboneCard
from preflight.mission.job import Job
from preflight.records import BackboneSpec
from preflight.run.estimate import WINDOW_ROW, bytes_below, check_space, expected_sizes, still_needed
from preflight.run.planning import Planner
from preflight.run.session import Session
from preflight.run.tile_access import TileAccess
from preflight.stages.descriptors import DescriptorStage
from preflight.stages.tiles import Preview, SealStage
from preflight.stages.units import steps_of
from preflight.store.cache_layout import CacheLayout
from preflight.trace.record import read_record, record_path


@dataclass(frozen=True)
class Outlook:
    """Estimates a run from its parts. Builds nothing.

    card: as `Assembly.card`. demo: whether the demonstration is imported into an empty tile store.
    """

    job: Job
    layout: CacheLayout
    tiles: TileAccess
    compiler: EngineCompiler
    seal: SealStage
    descriptors: DescriptorStage
    card: Callable[[BackboneSpec], BackboneCard]
    demo: bool

    def planner(self, session: Session) -> Planner:
        """Returns the planner of the dry run."""
        job = self.job

        def preview() -> Preview:
            # Opening an embedded tile store that is not there would make one.
            return self.seal.preview() if self.tiles.exists() else Preview(len(cover(job.area, job.zoom_levels)), 0, ())

        return Planner(
            session=session,
            preview=preview,
            forecast=lambda preview, embedded: self.descriptors.forecast(preview, embedded=embedded),
            engine=f"engine:{job.descriptor.model_name}",
            engine_bytes=self.engine_bytes,
            dim=self.dim,
            m=job.config.index.m,
            steps=steps_of(job),
            demo=self.demo_tiles,
        )

    def demo_tiles(self) -> tuple[int, int]:
        """Returns how many demo tiles a build would import first, and how many of them lie in the area. Raises DatabaseError."""
        # Opening an embedded tile store that is not there would make one.
        if not self.demo or (self.tiles.exists() and self.tiles.metadata().count() > 0):
            return 0, 0
        from preflight.adapters.demo import landscape  # noqa: PLC0415 - for the demonstration alone

        area = cover(self.job.area, self.job.zoom_levels)
        drawn = cover(area_from_bbox(landscape.DEMO_BBOX), landscape.DEMO_ZOOMS)
        return landscape.DEMO_TILE_COUNT, sum(tile in area for tile in drawn)

    def dim(self) -> int:
        """Returns the length of a descriptor; 0 if the ONNX file cannot be read. The stage that reads it reports why."""
        spec = self.job.descriptor
        try:
            return self.card(spec).descriptor_dim
        except FileNotFoundError:
            pass
        try:
            shapes = list(self.compiler.inspect(spec).outputs.values())
        except BackboneError:
            return 0
        return (shapes[0][-1] or 0) if shapes and shapes[0] else 0

    def engine_bytes(self) -> int:
        """Returns the expected bytes of all engines: those of their ONNX files and weights, or of existing engines if larger."""
        files = [path for spec in self.job.backbones for path in (spec.onnx_path, Path(f"{spec.onnx_path}.data"))]
        names = [self.layout.engines / str(self.compiler.name(spec)) for spec in self.job.backbones]
        return max(bytes_below(files), bytes_below(names))

    def check_space(self) -> None:
        """Refuses a build that does not fit, before anything is written. Raises CacheRootError with the figures."""
        job, layout = self.job, self.layout
        there = bytes_below([layout.descriptors, layout.index, layout.engines, layout.inventory, layout.windows])
        tiles = self._tile_count()
        sizes = expected_sizes(tiles, self._window_count(tiles), self.dim(), job.config.index.m, self.engine_bytes())
        check_space(layout.root, still_needed(sizes, there), shutil.disk_usage(layout.root).free)

    def _tile_count(self) -> int:
        """Returns the number of tiles: those present, if an area of this size was sealed before, else all of the area."""
        expected = len(cover(self.job.area, self.job.zoom_levels))
        try:
            sealed = json.loads(self.layout.coverage.read_bytes())
            return int(sealed["present"]) if sealed["expected"] == expected else expected
        except (OSError, ValueError, KeyError, TypeError):
            return expected  # not sealed yet, or damaged: this run seals it

    def _window_count(self, tiles: int) -> int | None:
        """Returns the number of windows over so many tiles, or an upper bound; None if tiles are embedded whole."""
        steps, path = steps_of(self.job), self.layout.windows
        if steps == 1:
            return None
        record = read_record(record_path(path))
        overlap = str(self.job.config.descriptors.overlap)
        if record is None or record.components.get("overlap") != overlap or not path.is_file():
            return tiles * steps**2
        return path.stat().st_size // WINDOW_ROW
