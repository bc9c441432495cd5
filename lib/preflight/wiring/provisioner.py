"""The Python API: `CacheProvisioner`, and the factory that makes one from a configuration and a tile store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from preflight.area.area import Area, area_from_bbox
from preflight.engine.compiler import EngineCompiler
from preflight.errors import CoverageError, MissionError
from preflight.mission.job import Job, check_job
from preflight.mission.schema import ProvisioningConfig
from preflight.records import BackboneSpec, BuildReport, BuildRequest, EngineCacheEntry
from preflight.run.session import Session
from preflight.run.tile_access import TileAccess
from preflight.stages.prepare_onnx import prepare_without_tiles
from preflight.trace.digests import hash_file
from preflight.wiring.assembly import open_session
from preflight.wiring.factories import build_engine_compiler
from preflight.wiring.libraries import precision_tools
from preflight.wiring.surroundings import Options, Surroundings


class CacheProvisioner:
    """Builds caches as `doit provision` does: the same stages, the same up-to-date rule, the same lock."""

    def __init__(
        self,
        job_of: Callable[[BuildRequest], Job],
        open_session: Callable[[Job], Session],
        compiler: EngineCompiler,
        prepare: Callable[[BackboneSpec, Path], BackboneSpec] = lambda spec, _: spec,
    ) -> None:
        """Stores the parts. prepare: writes a spec's precision into an ONNX file in a folder, if the runtime needs that."""
        self._job_of = job_of
        self._open_session = open_session
        self._compiler = compiler
        self._prepare = prepare

    def build_cache_artifacts(self, request: BuildRequest) -> BuildReport:
        """Builds, verifies and publishes everything that is not current.

        Returns the report: success, idempotent_no_op, or failure if tiles of the area are missing or too old.

        Raises:
            MissionError: the request breaks a rule of mission files, such as an empty box. Nothing was locked.
            BuildLockHeldError: another build runs.
            PreflightError: any other failure, after its report was written to work/build_report.json.
        """
        session = self._open_session(self._job_of(request))
        try:
            return session.build()
        except CoverageError as error:
            return session.failure_report(error)

    def compile_engines_for_corpus(self, backbones: Sequence[BackboneSpec], folder: Path) -> list[EngineCacheEntry]:
        """Compiles backbones into a folder of the caller. This is a diagnostic and takes no lock.

        Every ONNX path must be a file. No cache root is read or written. int8, and fp16 for TensorRT, are calibrated on random
        numbers: such an engine shows that it can be built, and is not for flight.

        Raises:
            BackboneError: an ONNX file does not match its spec.
            EngineBuildError: the runtime refuses.
        """
        return [self._compile(spec, folder) for spec in backbones]

    def _compile(self, spec: BackboneSpec, place: Path) -> EngineCacheEntry:
        target = place / str(self._compiler.name(spec))
        began = time.monotonic()
        self._compiler.inspect(spec)
        with TemporaryDirectory(prefix="preflight-") as folder:
            self._compiler.compile(self._prepare(spec, Path(folder)), target)
        return EngineCacheEntry(
            spec.model_name, target, hash_file(target), reused=False, seconds=time.monotonic() - began
        )


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
    """Returns the Python API over a configuration and a tile store. Requests obey the rules of mission files."""

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
        problems += [f"{at}: {problem}" for at, problem in check_job(job, _place(tiles.root), surroundings.runtimes)]
        if problems:
            raise MissionError("BuildRequest", tuple(problems))
        return job

    compiler = build_engine_compiler(
        config, surroundings.host, surroundings.environment, runtimes=surroundings.runtimes
    )
    return CacheProvisioner(
        job_of,
        lambda job: open_session(job, tiles, surroundings, options),
        compiler,
        lambda spec, folder: prepare_without_tiles(spec, compiler, precision_tools, folder),
    )


def _area_of(request: BuildRequest) -> tuple[Area, list[str]]:
    """Returns the area of a request, and the problems of its box. With problems the area is empty."""
    try:
        return area_from_bbox(request.bbox), []
    except MissionError as error:
        return Area(None), [f"bbox: {problem}" for problem in error.problems]


def _place(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))
