"""The last of SPEC.md's factories: the Python API over a configuration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from preflight.area.area import Area, area_from_bbox
from preflight.errors import MissionError
from preflight.mission.job import Job, check_job
from preflight.mission.schema import ProvisioningConfig
from preflight.records import (
    BackboneSpec,
    BuildRequest,
)
from preflight.run.tile_access import TileAccess
from preflight.stages.precision import prepare_without_tiles
from preflight.wiring.assembly import open_session
from preflight.wiring.factories import build_engine_compiler
from preflight.wiring.parts import Options, Surroundings, precision_tools
from preflight.wiring.provisioner import CacheProvisioner


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

    def job_of(request: BuildRequest) -> Job:
        area, problems = _area_of(request)
        job = Job(
            cache_root=_place(request.cache_root),
            area=area,
            area_file=None,
            allow_missing=allow_missing,
            zoom_levels=tuple(sorted(request.zoom_levels)),
            sector_class=request.sector_class,
            source_order=tuple(source_order),
            calibration=_place(request.calibration_path),
            takeoff_origin=request.takeoff_origin,
            flight_id=request.flight_id,
            trust=_place(trust),
            signing_key=_place(signing_key),
            backbones=tuple(backbones),
            config=config,
        )
        problems += [f"{at}: {problem}" for at, problem in check_job(job, _place(tiles.root))]
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


def _area_of(request: BuildRequest) -> tuple[Area, list[str]]:
    """The area of a request, and what is wrong with its box: then the area is empty."""
    try:
        return area_from_bbox(request.bbox), []
    except MissionError as error:
        return Area(None), [f"bbox: {problem}" for problem in error.problems]


def _place(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))
