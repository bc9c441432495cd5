"""The Python API: `CacheProvisionerImpl`, and the factory that makes one from a configuration and parts."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from preflight.engine.compiler import EngineCompiler
from preflight.errors import CallbackError, CoverageError, MissionError
from preflight.mission.config import Blocks, read_blocks
from preflight.mission.job import Job
from preflight.mission.request import job_of_request
from preflight.ports import C6TileMetadataStore, CacheProvisioner
from preflight.records import BackboneSpec, BuildReport, BuildRequest, EngineCacheEntry, HostCapabilities, PrecisionMode
from preflight.run.session import Observer, Session
from preflight.run.tile_access import TileAccess
from preflight.stages.descriptors import Progress
from preflight.stages.engines import COMPILE_VERSION
from preflight.stages.prepare_onnx import prepare_without_tiles
from preflight.store.atomic import atomic_write
from preflight.trace.digests import hash_file
from preflight.trace.record import BuildRecord, action_key, read_record, record_path
from preflight.wiring.assembly import Assembly, Parts, write_builtin
from preflight.wiring.factories import clock_of, is_builtin, specs_of
from preflight.wiring.libraries import precision_tools
from preflight.wiring.parts import DescriptorBatcher, ManifestBuilder
from preflight.wiring.surroundings import Options, Surroundings
from preflight.wiring.tile_stores import tile_access_of

Cancel = object
"""A callable that returns whether to stop, or an object with `is_set()` such as `threading.Event`."""


def build_cache_provisioner(
    config: object,
    *,
    engine_compiler: EngineCompiler,
    descriptor_batcher: DescriptorBatcher,
    manifest_builder: ManifestBuilder,
    tile_metadata_store: C6TileMetadataStore,
    host: HostCapabilities,
    precision: PrecisionMode | str,
    clock: object,
) -> CacheProvisionerImpl:
    """Returns the provisioner. The parts handed in are the parts used; one set serves several builds.

    Args:
        config: the configuration of the whole program.
        engine_compiler: compiles the corpus; from `build_engine_compiler`.
        descriptor_batcher: embeds the tiles; from `build_descriptor_batcher`.
        manifest_builder: signs; from `build_manifest_builder`.
        tile_metadata_store: C6's rows.
        host: the machine that builds. A build refuses to begin on another one.
        precision: for backbones whose configuration states none.
        clock: a callable that returns an aware datetime, or an object with `now()`.

    Raises:
        MissionError: the configuration is refused.
        ValueError: the clock does not give aware times, the precision is unknown, or a part was made from another
            configuration or with another tile store.
    """
    blocks = read_blocks(config, precision=PrecisionMode(getattr(precision, "value", precision)))
    here = Surroundings(clock_of(clock), os.environ, host)
    _check_parts(blocks, descriptor_batcher, manifest_builder, tile_metadata_store)
    return CacheProvisionerImpl(
        blocks, engine_compiler, descriptor_batcher, manifest_builder, tile_metadata_store, here
    )


def _check_parts(
    blocks: Blocks, batcher: DescriptorBatcher, manifest: ManifestBuilder, rows: C6TileMetadataStore
) -> None:
    """Raises ValueError if a part says something that the build would not do."""

    def deciding(of: Blocks) -> tuple[object, ...]:
        return of.provisioning.manifest, of.trust, of.signing_key

    if deciding(manifest.blocks) != deciding(blocks):
        raise ValueError(
            "manifest_builder: was made from another configuration of the manifest. Give both the same one"
        )
    if batcher.section != blocks.provisioning.descriptors:
        raise ValueError(
            "descriptor_batcher: was made from another configuration of the batcher. Give both the same one"
        )
    if batcher.tile_metadata_store is not rows and batcher.tile_metadata_store != rows:
        raise ValueError("descriptor_batcher: was made with another tile_metadata_store. Give both the same one")


class CacheProvisionerImpl(CacheProvisioner):
    """Builds caches as `doit provision` does: the same stages, the same up-to-date rule, the same lock."""

    def __init__(
        self,
        blocks: Blocks,
        engine_compiler: EngineCompiler,
        descriptor_batcher: DescriptorBatcher,
        manifest_builder: ManifestBuilder,
        tile_metadata_store: C6TileMetadataStore,
        surroundings: Surroundings,
    ) -> None:
        self._blocks = blocks
        self._compiler = engine_compiler
        self._batcher = descriptor_batcher
        self._manifest = manifest_builder
        self._rows = tile_metadata_store
        self._surroundings = surroundings
        self._folder: Path | None = None

    def build_cache_artifacts(
        self,
        request: BuildRequest,
        *,
        progress_callback: Progress | None = None,
        observer: Observer | None = None,
        cancel: Cancel | None = None,
        options: Options = Options(),  # noqa: B008 - immutable
    ) -> BuildReport:
        """Builds, verifies and publishes everything that is not current.

        Args:
            request: what to build. Text becomes a path, a tuple a box or a position, a plain enum its value.
            progress_callback: called with (done, total) each time a tenth of the descriptors is done.
            observer: called with (stage, event) when a stage begins and ends.
            cancel: a callable that returns whether to stop, or an object with `is_set()`. Checked between pieces of work.
            options: what a command line can set besides.

        Returns:
            The report: success, idempotent_no_op, or failure if tiles of the area are missing or too old.

        Raises:
            MissionError: the request breaks a rule of mission files, or the host is not this machine. Nothing was locked.
            BuildLockHeldError: another build runs.
            BuildCancelledError: the caller cancelled. The lock is free; the next build goes on from there.
            CallbackError: a callback raised; its error is the cause.
            PreflightError: any other failure, after its report was written to work/build_report.json.
        """
        options = replace(
            options,
            progress=None if progress_callback is None else _told("progress_callback", progress_callback),
            observer=None if observer is None else _told("observer", observer),
            cancelled=_cancelled(cancel),
        )
        session = self.session(request, options)
        try:
            return session.build()
        except CoverageError as error:
            return session.failure_report(error)

    def session(self, request: BuildRequest, options: Options = Options()) -> Session:  # noqa: B008 - immutable
        """Returns the run of a request. Takes no lock and writes nothing.

        Raises:
            MissionError: the request breaks a rule of mission files, or the host is not this machine.
        """
        problem = host_problem(self._surroundings.host, Surroundings.real().host)
        if problem is not None:
            raise MissionError("build_cache_artifacts", (problem,))
        root = self._rows.root if isinstance(self._rows, TileAccess) else None
        job = job_of_request(request, self._blocks, specs_of(self._blocks), root)
        return self._assembly(job, options).session()

    def _assembly(self, job: Job, options: Options) -> Assembly:
        pixels, clock = self._batcher.tile_store, self._surroundings.clock
        tiles = tile_access_of(self._rows, pixels, job, clock)
        kept = self._manifest.tile_metadata_store
        manifests = tiles if kept is self._rows else tile_access_of(kept, pixels, job, clock)
        embedder, rebuilder = self._batcher.embedder, self._batcher.rebuilder
        parts = Parts(self._compiler, tiles, embedder, rebuilder, manifests, self._manifest.clock)
        return Assembly(job, parts, self._surroundings, options, demo=False)

    def compile_engines_for_corpus(
        self, backbones: Sequence[BackboneSpec], folder: Path | None = None
    ) -> list[EngineCacheEntry]:
        """Compiles backbones outside any cache. This is a diagnostic and takes no lock.

        int8, and fp16 for TensorRT, are calibrated on random numbers: such an engine shows that it can be built, and is not
        for flight. An engine that is in the folder already is reused if everything that decides it is equal.

        folder: where the engines go; None: a temporary folder, which is removed with this object.

        Raises:
            BackboneError: an ONNX file does not match its spec.
            EngineBuildError: the runtime refuses.
        """
        if folder is None:
            folder = self._own_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="preflight-") as work:
            return [self._compile(_placed(spec, Path(work)), folder, Path(work)) for spec in backbones]

    def _own_folder(self) -> Path:
        """Returns the temporary folder of this object. It is removed with the object, or when the program ends."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="preflight-engines-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def _compile(self, spec: BackboneSpec, folder: Path, work: Path) -> EngineCacheEntry:
        target, began = folder / str(self._compiler.name(spec)), time.monotonic()
        summary = self._compiler.inspect(spec)
        files = (spec.onnx_path, *summary.external_data)
        model = {f"onnx {path.name}": hash_file(path) for path in files}
        components = self._compiler.components(spec, model)
        record = read_record(record_path(target))
        key = action_key(f"engine:{spec.model_name}", COMPILE_VERSION, components)
        current = record is not None and record.action_key == key and target.is_file()
        reused = current and record is not None and record.outputs.get(target.name) == hash_file(target)
        if not reused:
            self._compiler.compile(prepare_without_tiles(spec, self._compiler, precision_tools, work), target)
            made = BuildRecord(
                f"engine:{spec.model_name}", COMPILE_VERSION, key, components, {target.name: hash_file(target)}
            )
            atomic_write(record_path(target), made.encode())
        return EngineCacheEntry(spec.model_name, target, hash_file(target), reused, time.monotonic() - began)


def _placed(spec: BackboneSpec, work: Path) -> BackboneSpec:
    """Returns the spec; a built-in is written into `work` first."""
    if not is_builtin(spec):
        return spec
    path = work / f"{spec.model_name}.onnx"
    write_builtin(path)
    return replace(spec, onnx_path=path)


def _cancelled(cancel: object) -> Callable[[], bool]:
    if cancel is None:
        return lambda: False
    is_set = getattr(cancel, "is_set", None)
    if callable(is_set):
        return lambda: bool(is_set())
    if callable(cancel):
        return lambda: bool(cancel())
    raise MissionError("build_cache_artifacts", ("cancel: is neither a callable nor an object with is_set()",))


def _told(name: str, callback: Callable[..., object]) -> Callable[..., None]:
    """Returns a callback whose own error ends the run as CallbackError, with that error as its cause."""

    def tell(*arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception as error:
            raise CallbackError(f"{name} raised {type(error).__name__}: {error}") from error

    return tell


def host_problem(host: HostCapabilities, here: HostCapabilities) -> str | None:
    """Returns how a host differs from this machine in what decides engines; None if it does not."""
    names = ("arch", "isa", "sm", "jetpack")
    differing = [name for name in names if getattr(host, name) != getattr(here, name)]
    said = ", ".join(f"{name} {getattr(host, name)} instead of {getattr(here, name)}" for name in differing)
    return f"host: is not this machine: {said}" if differing else None


__all__ = ["CacheProvisionerImpl", "build_cache_provisioner", "host_problem"]
