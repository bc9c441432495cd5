"""The Python API of SPEC.md: what C12 calls. Made by `wiring.build_cache_provisioner`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from preflight.engine.compiler import EngineCompiler
from preflight.errors import CoverageError
from preflight.mission.job import Job
from preflight.records import BackboneSpec, BuildReport, BuildRequest, EngineCacheEntry
from preflight.run.session import Session
from preflight.trace.digests import hash_file


class CacheProvisioner:
    """Builds caches as `doit provision` does: the same stages, the same up-to-date rule, the same lock."""

    def __init__(
        self,
        job_of: Callable[[BuildRequest], Job],
        open_session: Callable[[Job], Session],
        compiler: EngineCompiler,
        prepare: Callable[[BackboneSpec, Path], BackboneSpec] = lambda spec, _: spec,
    ) -> None:
        """prepare: a spec with its ONNX file brought to its precision in a folder; as it is, where it needs nothing."""
        self._job_of = job_of
        self._open_session = open_session
        self._compiler = compiler
        self._prepare = prepare

    def build_cache_artifacts(self, request: BuildRequest) -> BuildReport:
        """Build, verify and publish what is not current.

        Returns the report: success, idempotent_no_op, or failure when the area's tiles are missing or too old.

        Raises:
            MissionError: the request breaks a rule of mission files, such as a box that is no area; nothing was locked.
            BuildLockHeldError: another build runs.
            PreflightError: any other failure, after its report was written to work/build_report.json.
        """
        session = self._open_session(self._job_of(request))
        try:
            return session.build()
        except CoverageError as error:
            return session.failure_report(error)

    def compile_engines_for_corpus(self, backbones: Sequence[BackboneSpec], folder: Path) -> list[EngineCacheEntry]:
        """Compile backbones into a folder of the caller's: a diagnostic that takes no lock.

        Every ONNX path must be a file. Nothing in a cache root is read or written: int8, and fp16 for TensorRT, are calibrated on
        numbers that are made up. Such an engine tells that it can be built; it is not to fly with.

        Raises:
            BackboneError: an ONNX file is not what its spec says.
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
