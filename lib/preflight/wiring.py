"""The composition root: the one place that knows which adapter stands behind which port.

Heavy libraries are imported by the functions that need them, when they are needed.
"""

# ruff: noqa: PLC0415 - see above
from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from preflight import __version__
from preflight.area import Area, area_from_bbox, cover
from preflight.batcher import DescriptorBatcher
from preflight.cards import WEIGHT_FREE_VPR, BackboneCard, card_without_shifts
from preflight.errors import BackboneError, EngineBuildError, ImportSourceError, MissionError
from preflight.estimate import bytes_below, check_space, expected_sizes, still_needed
from preflight.importing import (
    BadTile,
    ImportProgress,
    ImportReport,
    ImportRequest,
    OfferedTile,
    TileSource,
    import_tiles,
)
from preflight.job import BUILTIN, Job, check_job
from preflight.journal import Journal
from preflight.mission import Mission
from preflight.mission_schema import ProvisioningConfig
from preflight.planning import Planner
from preflight.ports import (
    Clock,
    DescriptorIndexFactory,
    Engine,
    ImageCodec,
    InferenceRuntime,
    OnnxModels,
    Signer,
    TileMetadataStore,
    TilePixelStore,
)
from preflight.provisioner import CacheProvisioner
from preflight.records import (
    PREPROCESSING_VERSION,
    BackboneSpec,
    BuildRequest,
    HostCapabilities,
    ModelSummary,
    TileHashRecord,
)
from preflight.session import Hooks, Session, Stage
from preflight.signing import check_signing_mode, load_signing_key, make_dev_key, sign_statement
from preflight.stages.descriptors import DescriptorStage, Progress
from preflight.stages.engines import (
    EngineCompiler,
    RuntimeChoice,
    builtin_step,
    compile_step,
    descriptor_dim,
    inspect_step,
    parity_step,
)
from preflight.stages.index import index_step
from preflight.stages.manifest import ManifestBuilder, corpus_step, manifest_step
from preflight.stages.publish import Publisher, reconcile
from preflight.stages.selftest import SelftestStage
from preflight.stages.tiles import Preview, SealStage, sample_step
from preflight.store.atomic import atomic_write
from preflight.store.generations import Generations
from preflight.store.layout import CacheLayout
from preflight.store.lock import BuildLock
from preflight.tile_access import EMBEDDED, TileAccess
from preflight.trace.digests import DigestCache
from preflight.trace.rule import Step, Tracer

if TYPE_CHECKING:
    from takeoff.manifest import Manifest
    from takeoff.verify import ManifestVerifier

TileHashes = Callable[["Manifest"], Iterable[TileHashRecord]]
"""The tile store's rows for the area and zooms of a manifest."""

PASSPHRASE = "PREFLIGHT_SIGNING_PASSPHRASE"  # noqa: S105 - the name of a variable
DEMO_SEED = 1
# The SIMD level FAISS is held to, by machine: other levels give other bytes (preflight.adapters.faiss enforces it).
_SIMD = {"x86_64": "AVX2", "aarch64": "ARM_NEON"}


def wall_clock() -> datetime:
    """Now, UTC."""
    return datetime.now(timezone.utc)


@dataclass(frozen=True, slots=True)
class Options:
    """How a run differs from the usual one."""

    repair: bool = False
    recalibrate: bool = False
    wait: float = 0.0  # seconds for the holder of the lock to end
    progress: Progress | None = None


@dataclass(frozen=True)
class Surroundings:
    """What a run is handed of the world."""

    clock: Clock
    environment: Mapping[str, str]
    host: HostCapabilities

    @classmethod
    def real(cls) -> Surroundings:
        """This machine, now."""
        from preflight.adapters.host import probe_host

        return cls(wall_clock, os.environ, probe_host())


# Adapters behind ports


def tile_access(root: Path, database: str) -> TileAccess:
    """The tile store at `root`: rows in an embedded Postgres or behind a URL, pixels in files."""

    def open_metadata(stack: ExitStack) -> TileMetadataStore:
        from preflight.adapters.postgres import PostgresTileStore

        address = database
        if database == EMBEDDED:
            from preflight.adapters.embedded_postgres import EmbeddedPostgres

            address = stack.enter_context(EmbeddedPostgres(root))
        return stack.enter_context(PostgresTileStore(address))

    def open_pixels(root: Path) -> TilePixelStore:
        from preflight.adapters.tile_files import TileFiles

        return TileFiles(root)

    return TileAccess(root, open_metadata, open_pixels)


def image_codec() -> ImageCodec:
    """Pillow."""
    from preflight.adapters import images

    return images


def runtime_choice(name: str) -> RuntimeChoice:
    """A runtime by its name in the mission; its version is read without importing it.

    Raises:
        EngineBuildError: it is not installed, or not part of this version.
    """
    if name == "openvino":
        return RuntimeChoice(name, _installed("openvino", "cpu"), _openvino)
    if name == "onnxruntime":
        return RuntimeChoice(name, _installed("onnxruntime", "cpu"), _onnxruntime)
    raise EngineBuildError(f"runtime {name} is not in this version; set runtime to openvino or onnxruntime")


def _openvino() -> InferenceRuntime:
    from preflight.adapters.openvino import OpenVinoRuntime

    return OpenVinoRuntime()


def _onnxruntime() -> InferenceRuntime:
    from preflight.adapters.onnxruntime import OnnxRuntime

    return OnnxRuntime(threads=os.cpu_count() or 1)


def _installed(distribution: str, extra: str) -> str:
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError as error:
        raise EngineBuildError(f"{distribution} is not installed: run pip install -e '.[{extra}]'") from error
    return version


class _OnnxModels:
    """OnnxModels by the onnx package and ONNX Runtime."""

    def inspect(self, spec: BackboneSpec) -> ModelSummary:
        from preflight.adapters.onnx_models import inspect

        model = inspect(spec.onnx_path)
        model.check_against(spec)
        return ModelSummary(model.outputs, model.external_data, model.opset)

    def reference(self, onnx: Path) -> Engine:
        from preflight.adapters.onnxruntime import OnnxRuntime

        return OnnxRuntime(threads=os.cpu_count() or 1).reference(onnx)


def onnx_models() -> OnnxModels:
    """The reader of ONNX files."""
    return _OnnxModels()


def index_factory() -> DescriptorIndexFactory:
    """FAISS."""
    from preflight.adapters.faiss import FaissIndexFactory

    return FaissIndexFactory()


def index_identity() -> dict[str, str]:
    """What decides an index's bytes, known without loading FAISS."""
    for name in ("faiss-cpu", "faiss-gpu"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return {"faiss": version, "simd": _SIMD.get(platform.machine(), "NONE")}
    raise EngineBuildError("FAISS is not installed: run pip install -e '.[cpu]'")


class _Signer:
    """A key loaded when first needed, held to the signing mode."""

    def __init__(self, job: Job, passphrase: bytes | None, journal: Journal) -> None:
        section = job.config.manifest
        self._key = load_signing_key(job.signing_key, passphrase)
        warning = check_signing_mode(section.signing_mode, self._key.fingerprint, section.allowed_operator_fingerprints)
        if warning is not None:
            journal.warn("dev_signing_with_operator_key", warning)

    @property
    def fingerprint(self) -> str:
        return self._key.fingerprint

    def sign(self, statement: bytes) -> bytes:
        return sign_statement(statement, self._key)


# The six factories of SPEC.md


def build_engine_compiler(config: ProvisioningConfig, host: HostCapabilities) -> EngineCompiler:
    """Compiles backbones with the configured runtime. Raises EngineBuildError when it is not installed."""
    return EngineCompiler(
        runtime_choice(config.runtime),
        host,
        onnx_models(),
        workspace_mb=config.workspace_mb,
        batch_size=config.descriptors.batch_size,
    )


def build_backbone_specs(job: Job) -> tuple[BackboneSpec, ...]:
    """The corpus, with the built-in backbone's path in the cache root."""
    layout = CacheLayout(job.cache_root)
    return tuple(
        replace(spec, onnx_path=layout.onnx / f"{spec.model_name}.onnx") if is_builtin(spec) else spec
        for spec in job.backbones
    )


def is_builtin(spec: BackboneSpec) -> bool:
    """Whether the backbone's ONNX file is written by this package."""
    return str(spec.onnx_path).startswith(BUILTIN)


def build_descriptor_batcher(
    config: ProvisioningConfig,
    spec: BackboneSpec,
    engine: Engine,
    dim: int,
    images: ImageCodec,
    progress: Progress | None = None,
) -> DescriptorBatcher:
    """Embeds images of the backbone's size through an engine, `dim` numbers each."""
    section = config.descriptors
    return DescriptorBatcher(
        engine,
        input_name=next(iter(spec.inputs)),
        dim=dim,
        batch_size=section.batch_size,
        preprocess=lambda image: images.to_batch(image[None], spec.preprocessing)[0],
        max_oom_retries=section.max_oom_retries,
        progress_callback=progress,
    )


def build_manifest_builder(
    job: Job,
    compiler: EngineCompiler,
    digests: DigestCache,
    generations: Generations,
    clock: Clock,
    signer: Callable[[], Signer],
) -> ManifestBuilder:
    """Makes and signs the statement of a job."""
    layout = CacheLayout(job.cache_root)
    builder = {"preflight": __version__, compiler.runtime.name: compiler.runtime.version, **index_identity()}
    return ManifestBuilder(job, layout, compiler, digests, generations, clock, signer, builder)


def build_manifest_verifier(
    trust: Path,
    clock: Clock,
    *,
    mode: str = "airborne",
    floor: Path | None = None,
    tiles: TileHashes | None = None,
) -> ManifestVerifier:
    """The shipped verifier. Raises ValueError in operator mode without a tile store; in airborne mode one is ignored."""
    from takeoff.verify import ManifestVerifier

    return ManifestVerifier(
        trust=trust, now=clock, mode=mode, floor=floor, tiles=None if tiles is None else _tiles_of(tiles)
    )


def _tiles_of(tiles: TileHashes) -> Callable[[Manifest], Iterator[tuple[int, float, float, str, str]]]:
    """The tile rows of a manifest's area, as the verifier's operator mode compares them."""

    def fetch(manifest: Manifest) -> Iterator[tuple[int, float, float, str, str]]:
        for record in tiles(manifest):
            yield record.zoom, record.lat, record.lon, record.source, record.sha256_hex

    return fetch


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
    options: Options = Options(),
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

    return CacheProvisioner(
        job_of,
        lambda job: open_session(job, tiles, surroundings, options),
        build_engine_compiler(config, surroundings.host),
    )


# One run


def open_session(job: Job, tiles: TileAccess, surroundings: Surroundings, options: Options) -> Session:
    """Puts the stages of a job together; nothing is read or written yet.

    Raises:
        EngineBuildError: the runtime or FAISS is not installed.
    """
    return Assembly(job, tiles, surroundings, options, demo=False).session()


def assemble(mission: Mission, surroundings: Surroundings, options: Options) -> Assembly:
    """The parts of a mission's run, for commands that need more of them than a session. Raises EngineBuildError."""
    tiles = tile_access(mission.tile_root, mission.database)
    return Assembly(mission.job, tiles, surroundings, options, demo=mission.demo)


class Assembly:
    """The parts of one run, and how they fit."""

    def __init__(
        self, job: Job, tiles: TileAccess, surroundings: Surroundings, options: Options, *, demo: bool
    ) -> None:
        self.builtin = frozenset(spec.model_name for spec in job.backbones if is_builtin(spec))
        self.job = replace(job, backbones=build_backbone_specs(job))
        self.tiles, self.surroundings, self.options, self.demo = tiles, surroundings, options, demo
        self.layout = CacheLayout(job.cache_root)
        self.journal = Journal()
        self.digests = DigestCache(self.layout.digests)
        self.generations = Generations(self.layout, self.digests)
        self.compiler = build_engine_compiler(job.config, surroundings.host)
        self._signing: Signer | None = None
        self.builder = build_manifest_builder(
            self.job, self.compiler, self.digests, self.generations, surroundings.clock, self.signer
        )

        self.seal = SealStage(self.job, self.layout, tiles.metadata, surroundings.clock, self.digests, self.journal)
        self.publisher = Publisher(self.job, self.layout, self.builder, self.generations, self.digests, tiles.metadata)

        self.descriptors = DescriptorStage(
            self.job, self.layout, self.compiler, self.digests, tiles.pixels, image_codec, self.batcher, self.journal
        )

    def signer(self) -> Signer:
        """The signing key, loaded once. Raises SigningKeyError."""
        if self._signing is None:
            passphrase = self.surroundings.environment.get(PASSPHRASE)
            self._signing = _Signer(self.job, passphrase.encode() if passphrase else None, self.journal)
        return self._signing

    def session(self) -> Session:
        """The run."""
        return Session(
            layout=self.layout,
            stages=self.stages(),
            tracer=Tracer(self.digests, atomic_write, self.layout.history),
            generations=self.generations,
            lock=BuildLock(self.layout.lock, pid=os.getpid(), host=socket.gethostname()),
            journal=self.journal,
            clock=self.surroundings.clock,
            hooks=Hooks(self.prepare, self.tiles.close, self.manifest_hash),
            repair=self.options.repair,
            wait=self.options.wait,
        )

    def stages(self) -> tuple[Stage, ...]:
        """The table of stages: what each is made of, and what it comes after."""
        job, layout, tiles = self.job, self.layout, self.tiles
        engines = [self.engine_stage(spec) for spec in job.backbones]
        descriptors = self.descriptors
        selftest = SelftestStage(
            job,
            layout,
            self.compiler,
            lambda: self.card(job.descriptor),
            descriptors.store,
            index_factory,
            index_identity(),
            tiles.pixels,
            image_codec,
        )
        sample = sample_step(layout, tiles.pixels, image_codec, recalibrate=self.options.recalibrate)
        index = index_step(job, layout, descriptors.store, index_factory, index_identity(), self.digests, self.journal)
        corpus = corpus_step(job, layout, self.compiler, self.card_fields)
        return (
            Stage("tiles", (), (self.seal.step(), sample)),
            *engines,
            Stage("descriptors", (f"engine:{job.descriptor.model_name}",), (descriptors.step(),)),
            Stage("index", ("descriptors",), (index,)),
            Stage("selftest", ("index",), (selftest.step(),)),
            Stage(
                "manifest",
                ("selftest", *(stage.name for stage in engines)),
                (corpus, manifest_step(self.builder, layout)),
            ),
            Stage("publish", ("manifest",), (self.publisher.step(),)),
        )

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
            missing=self.descriptors.count_missing,
            engine=f"engine:{job.descriptor.model_name}",
            engine_bytes=self.engine_bytes,
            dim=self.dim,
            m=job.config.index.m,
            demo=self.demo_tiles,
        )

    def demo_tiles(self) -> tuple[int, int]:
        """The demo's tiles a build would import first, and how many of them lie in the area. Raises DatabaseError."""
        # Opening an embedded tile store that is not there would make one.
        if not self.demo or (self.tiles.root.is_dir() and self.tiles.metadata().count() > 0):
            return 0, 0
        from preflight.adapters import landscape

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
        there = bytes_below([layout.descriptors, layout.index, layout.engines, layout.inventory])
        sizes = expected_sizes(self._tile_count(), self.dim(), job.config.index.m, self.engine_bytes())
        check_space(layout.root, still_needed(sizes, there), shutil.disk_usage(layout.root).free)

    def _tile_count(self) -> int:
        """Tiles of the area; those that were there, where an area of this size was sealed before."""
        expected = len(cover(self.job.area, self.job.zoom_levels))
        try:
            sealed = json.loads(self.layout.coverage.read_bytes())
            return int(sealed["present"]) if sealed["expected"] == expected else expected
        except (OSError, ValueError, KeyError, TypeError):
            return expected  # not sealed yet, or damaged: sealed anew by this run

    def engine_stage(self, spec: BackboneSpec) -> Stage:
        """Inspect, compile, gate."""
        layout, digests = self.layout, self.digests
        steps: tuple[Step, ...] = (
            inspect_step(spec, layout, self.compiler, digests),
            compile_step(spec, layout, self.compiler, digests, self.journal),
            parity_step(spec, layout, self.compiler, digests, image_codec, _installed("onnxruntime", "cpu")),
        )
        if spec.model_name in self.builtin:
            steps = (builtin_step(spec, _write_weight_free_vpr), *steps)
        return Stage(f"engine:{spec.model_name}", ("tiles",), steps)

    def batcher(self, engine: Engine, dim: int) -> DescriptorBatcher:
        """For the descriptor backbone."""
        return build_descriptor_batcher(
            self.job.config, self.job.descriptor, engine, dim, image_codec(), self.options.progress
        )

    def card(self, spec: BackboneSpec) -> BackboneCard:
        """What is known of a descriptor backbone. Raises FileNotFoundError before its ONNX file was read."""
        if spec.model_name in self.builtin:
            return WEIGHT_FREE_VPR
        return card_without_shifts(spec.model_name, descriptor_dim(spec, self.layout))

    def card_fields(self, spec: BackboneSpec) -> dict[str, object]:
        """The card as corpus.json carries it."""
        if spec.role != "descriptor":
            return {}
        card = self.card(spec)
        return {
            "description": card.description,
            "descriptor_dim": card.descriptor_dim,
            "shift_count": card.shift_count,
            "preprocessing_version": PREPROCESSING_VERSION,
        }

    def prepare(self) -> None:
        """Under the lock, before anything is judged."""
        self.check_space()
        self.prepare_keys()
        if self.demo and self.tiles.metadata().count() == 0:
            import_demo(self.tiles, self.surroundings.clock)
        self.prepare_database()

    def prepare_database(self) -> None:
        """Make the `manifests` rows say what the file system shows. Raises DatabaseError."""
        metadata = self.tiles.metadata()
        rows = metadata.manifests(str(self.layout.root))
        for row in reconcile(rows, self.generations, self.publisher.active_row()):
            metadata.record_manifest(row)

    def prepare_keys(self) -> None:
        """In dev mode, where neither is there: a key and a trust directory. Raises SigningKeyError."""
        job = self.job
        if job.config.manifest.signing_mode != "dev" or job.trust.exists() or job.signing_key.exists():
            return
        key = make_dev_key(job.signing_key, job.trust)
        self.journal.warn(
            "dev_key_made",
            f"made a development key {job.signing_key} and a trust directory {job.trust} that allows it: "
            "not for flight; sign operator caches with a key of your own",
            fingerprint=key.fingerprint,
        )

    def manifest_hash(self) -> str | None:
        """The current generation's."""
        published = self.builder.published()
        return None if published is None else published.manifest.manifest_hash


def _write_weight_free_vpr(path: Path) -> None:
    from preflight.adapters import weight_free_vpr

    weight_free_vpr.write(path)


def import_demo(
    tiles: TileAccess, clock: Clock, progress: Callable[[ImportProgress], None] | None = None
) -> ImportReport:
    """Draw the demo landscape, as old as its import, into the tile store. Raises ImportSourceError, DatabaseError."""
    from preflight.adapters import landscape

    offered = (OfferedTile(tile.zoom, tile.x, tile.y, tile.content, ".jpg") for tile in landscape.generate(DEMO_SEED))
    request = ImportRequest(
        Path("demo"), landscape.DEMO_SOURCE, captured_at=clock(), terms="made up by this program; free of rights"
    )
    return _import(tiles, offered, request, clock, "demo", landscape.DEMO_TILE_COUNT, progress)


def import_folder(
    tiles: TileAccess,
    folder: Path,
    source: str,
    captured_at: datetime | None,
    clock: Clock,
    *,
    replace_tiles: bool,
) -> ImportReport:
    """Put a z/x/y folder into the tile store. Raises ImportSourceError, DatabaseError."""
    request = ImportRequest(folder, source, captured_at=captured_at, update=replace_tiles)
    return import_source(tiles, request, clock)


def import_source(
    tiles: TileAccess,
    request: ImportRequest,
    clock: Clock,
    progress: Callable[[ImportProgress], None] | None = None,
) -> ImportReport:
    """Put a folder, MBTiles, PMTiles, GeoTIFF or picture with corners into the tile store.

    A date and terms given go before those the source states.

    Raises:
        ImportSourceError: it is refused, whole or for a tile.
        DatabaseError: the store does not answer.
    """
    offered = _open_source(request)
    given, stated = request.captured_at, offered.captured_at
    if given is not None and stated is not None and abs(given - stated) > timedelta(days=1):
        logging.getLogger(__name__).warning(
            f"{request.path} says it was captured {stated:%Y-%m-%d %H:%M}; {given:%Y-%m-%d %H:%M} is taken, as given"
        )
    request = replace(request, captured_at=given or stated)
    # A path may hold bytes that are no text.
    origin = os.fsencode(request.path.resolve()).decode(errors="backslashreplace")
    return _import(tiles, offered, request, clock, origin, len(offered), progress, offered.terms)


def _open_source(request: ImportRequest) -> TileSource:
    """By what the file begins with, not by its name."""
    path = request.path
    if path.is_dir() or not path.exists():
        from preflight.adapters.tile_folder import TileFolder

        return TileFolder(path, request.zooms, request.scheme)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise ImportSourceError(f"{path} cannot be read: {error}. Make it readable") from error
    if head.startswith(b"SQLite format 3\0"):
        from preflight.adapters.mbtiles import MbTiles

        return MbTiles(path, request.zooms, request.scheme)
    if request.scheme is not None:
        raise ImportSourceError(f"--scheme is for folders and MBTiles files; {path} states its own")
    if head.startswith(b"PMTiles"):
        from preflight.adapters.pmtiles import PmTiles

        return PmTiles(path, request.zooms)
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        from preflight.adapters.geotiff import GeoTiff

        return GeoTiff(path, request.zooms)
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        from preflight.adapters.corners import CornerImage

        return CornerImage(path, request.zooms)
    raise ImportSourceError(
        f"{path} is no source of tiles: neither a folder, MBTiles, PMTiles, GeoTIFF, nor a PNG or JPEG with a CSV of its "
        "corners. If it should be one, copy or export it again"
    )


def _import(
    tiles: TileAccess,
    offered: Iterable[OfferedTile | BadTile],
    request: ImportRequest,
    clock: Clock,
    origin: str,
    total: int,
    progress: Callable[[ImportProgress], None] | None = None,
    stated_terms: str | None = None,
) -> ImportReport:
    images = image_codec()

    def check_image(content: bytes) -> tuple[int, int]:
        height, width, _ = images.decode_rgb(content).shape
        return width, height

    return import_tiles(
        offered,
        source=request.source,
        captured_at=request.captured_at,
        metadata=tiles.metadata(),
        pixels=tiles.pixels(),
        check_image=check_image,
        clock=clock,
        replace=request.update,
        skip_bad=request.skip_bad,
        origin=origin,
        terms=request.terms,
        stated_terms=stated_terms,
        total=total,
        progress=progress,
    )
