"""The last of SPEC.md's factories: the Python API over a configuration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from preflight.area import Area, area_from_bbox
from preflight.errors import MissionError
from preflight.job import Job, check_job
from preflight.mission_schema import ProvisioningConfig
from preflight.provisioner import CacheProvisioner
from preflight.records import (
    BackboneSpec,
    BuildRequest,
)
from preflight.stages.calibration import prepare_without_tiles
from preflight.tile_access import TileAccess
from preflight.wiring.assembly import open_session
from preflight.wiring.factories import build_engine_compiler
from preflight.wiring.parts import Options, Surroundings, precision_tools


def build_cache_provisioner(
    config: ProvisioningConfig,
    *,
    tiles: TileAccess,
    trust: Path,
    signing_key: Path,
    surroundings: Surroundings,
    backbones: Sequence[BackboneSpec],
    source_order: Sequence[str] = (),
    allow_missing: float = 0.0,
    options: Options = Options(),  # noqa: B008 - immutable
) -> CacheProvisioner:
    """The Python API over a configuration and the stores it is handed. A request is held to the rules of a mission file."""

    def place(path: Path) -> Path:
        return Path(os.path.normpath(path.absolute()))

    def job_of(request: BuildRequest) -> Job:
        problems: list[str] = []
        try:
            area = area_from_bbox(request.bbox)
        except MissionError as error:
            area = Area(None)
            problems = [f"bbox: {problem}" for problem in error.problems]
        job = Job(
            cache_root=place(request.cache_root),
            area=area,
            area_file=None,
            allow_missing=allow_missing,
            zoom_levels=tuple(sorted(request.zoom_levels)),
            sector_class=request.sector_class,
            source_order=tuple(source_order),
            calibration=place(request.calibration_path),
            takeoff_origin=request.takeoff_origin,
            flight_id=request.flight_id,
            trust=place(trust),
            signing_key=place(signing_key),
            backbones=tuple(backbones),
            config=config,
        )
        problems += [f"{at}: {problem}" for at, problem in check_job(job, place(tiles.root))]
        if problems:
            raise MissionError("BuildRequest", tuple(problems))
        return job

    compiler = build_engine_compiler(config, surroundings.host, surroundings.environment)
    return CacheProvisioner(
        job_of,
        lambda job: open_session(job, tiles, surroundings, options),
        compiler,
        lambda spec, folder: prepare_without_tiles(spec, compiler, precision_tools, folder),
    )
