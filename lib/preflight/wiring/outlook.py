"""What a build will come to, known before it begins: tiles, descriptors, bytes."""

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
    """Looks at a run's parts, and builds nothing.

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
        """Looks ahead without building."""
        job = self.job

        def preview() -> Preview:
            # Opening an embedded tile store that is not there would make one.
            return (
                self.seal.preview()
                if self.tiles.root.is_dir()
                else Preview(len(cover(job.area, job.zoom_levels)), 0, ())
            )

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
        """The demo's tiles a build would import first, and how many of them lie in the area. Raises DatabaseError."""
        # Opening an embedded tile store that is not there would make one.
        if not self.demo or (self.tiles.root.is_dir() and self.tiles.metadata().count() > 0):
            return 0, 0
        from preflight.adapters.demo import landscape  # noqa: PLC0415 - for the demonstration alone

        area = cover(self.job.area, self.job.zoom_levels)
        drawn = cover(area_from_bbox(landscape.DEMO_BBOX), landscape.DEMO_ZOOMS)
        return landscape.DEMO_TILE_COUNT, sum(tile in area for tile in drawn)

    def dim(self) -> int:
        """The descriptors' length; 0 while the ONNX file cannot be read: the stage that reads it says why."""
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
        """What the engines come to: about as much as their ONNX files and weights, or as they are where they are larger."""
        files = [path for spec in self.job.backbones for path in (spec.onnx_path, Path(f"{spec.onnx_path}.data"))]
        names = [self.layout.engines / str(self.compiler.name(spec)) for spec in self.job.backbones]
        return max(bytes_below(files), bytes_below(names))

    def check_space(self) -> None:
        """Refuse, before anything is written, a build that would not fit. Raises CacheRootError with the figures."""
        job, layout = self.job, self.layout
        there = bytes_below([layout.descriptors, layout.index, layout.engines, layout.inventory, layout.windows])
        tiles = self._tile_count()
        sizes = expected_sizes(tiles, self._window_count(tiles), self.dim(), job.config.index.m, self.engine_bytes())
        check_space(layout.root, still_needed(sizes, there), shutil.disk_usage(layout.root).free)

    def _tile_count(self) -> int:
        """Tiles of the area; those that were there, where an area of this size was sealed before."""
        expected = len(cover(self.job.area, self.job.zoom_levels))
        try:
            sealed = json.loads(self.layout.coverage.read_bytes())
            return int(sealed["present"]) if sealed["expected"] == expected else expected
        except (OSError, ValueError, KeyError, TypeError):
            return expected  # not sealed yet, or damaged: sealed anew by this run

    def _window_count(self, tiles: int) -> int | None:
        """Windows over so many tiles: as many as were cut last, else at most these. None where tiles are embedded whole."""
        steps, path = steps_of(self.job), self.layout.windows
        if steps == 1:
            return None
        record = read_record(record_path(path))
        overlap = str(self.job.config.descriptors.overlap)
        if record is None or record.components.get("overlap") != overlap or not path.is_file():
            return tiles * steps**2
        return path.stat().st_size // WINDOW_ROW
