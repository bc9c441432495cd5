"""One run: its parts, and how they are connected."""

# ruff: noqa: PLC0415 - heavy libraries are imported by the functions that need them
from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from preflight.descriptors.batcher import EngineBatcher
from preflight.engine.compiler import EngineCompiler
from preflight.errors import BuildCancelledError, TrustDirectoryError
from preflight.evaluation.backbone_card import WEIGHT_FREE_VPR, BackboneCard, card_without_shifts
from preflight.mission.job import Job
from preflight.mission.loading import Mission
from preflight.ports import BackboneEmbedder, Clock, DescriptorIndexRebuilder, Engine, Signer
from preflight.records import (
    PREPROCESSING_VERSION,
    BackboneSpec,
    __version__,
)
from preflight.report.run_log import RunLog
from preflight.run.session import Hooks, Session, Stage
from preflight.run.tile_access import TileAccess
from preflight.signing import make_dev_key
from preflight.stages.corpus import corpus_step
from preflight.stages.descriptors import DescriptorStage
from preflight.stages.embedding import CallerEmbedding, Embedding, EngineEmbedding
from preflight.stages.engines import (
    builtin_step,
    compile_step,
    descriptor_dim,
    inspect_step,
)
from preflight.stages.index import hand_over_step, index_step
from preflight.stages.manifest import ManifestStage, manifest_step
from preflight.stages.parity_gate import parity_step
from preflight.stages.prepare_onnx import Preparation
from preflight.stages.provenance import provenance_step
from preflight.stages.publish import Publisher, reconcile
from preflight.stages.samples import calibration_sample_step, sample_step
from preflight.stages.selftest import SelftestStage
from preflight.stages.tiles import SealStage
from preflight.stages.units import steps_of, units_step
from preflight.store.atomic import atomic_write
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import Generations
from preflight.store.lock import BuildLock
from preflight.trace.digests import DigestCache
from preflight.trace.rule import Step, Tracer
from preflight.wiring import libraries
from preflight.wiring.factories import engine_compiler, is_builtin, placed_builtins
from preflight.wiring.imports import import_demo
from preflight.wiring.libraries import image_codec, onnxruntime_version
from preflight.wiring.outlook import Outlook
from preflight.wiring.parts import C7EngineBackboneEmbedder
from preflight.wiring.signing import signer_of
from preflight.wiring.surroundings import Options, Surroundings
from preflight.wiring.verifying import tile_access


def assemble(mission: Mission, surroundings: Surroundings, options: Options) -> Assembly:
    """Returns the parts of a mission's run, for commands that need more than a session. Raises EngineBuildError."""
    tiles = tile_access(mission.tile_root, mission.database)
    return assemble_job(mission.job, tiles, surroundings, options, demo=mission.demo)


def assemble_job(
    job: Job, tiles: TileAccess, surroundings: Surroundings, options: Options, *, demo: bool = False
) -> Assembly:
    """Returns the parts of a job's run over our own tile store. demo: import the demo landscape into an empty store.

    Raises:
        EngineBuildError: the runtime or FAISS is not installed.
    """
    timings = CacheLayout(job.cache_root).work / "timings"
    compiler = engine_compiler(job.config, surroundings.host, surroundings.environment, timings, surroundings.runtimes)
    parts = Parts(compiler, tiles, C7EngineBackboneEmbedder(), None, tiles, surroundings.clock)
    return Assembly(job, parts, surroundings, options, demo=demo)


@dataclass(frozen=True)
class Parts:
    """What one run is made of.

    rebuilder: gets the descriptors after the index file was written. manifests: the store of the `manifests` rows.
    clock: the clock of the manifest.
    """

    compiler: EngineCompiler
    tiles: TileAccess
    embedder: BackboneEmbedder | C7EngineBackboneEmbedder
    rebuilder: DescriptorIndexRebuilder | None
    manifests: TileAccess
    clock: Clock


class Assembly:
    """The parts of one run, and how they are connected."""

    def __init__(self, job: Job, parts: Parts, surroundings: Surroundings, options: Options, *, demo: bool) -> None:
        self.layout = CacheLayout(job.cache_root)
        self.builtin = frozenset(spec.model_name for spec in job.backbones if is_builtin(spec))
        self.job = replace(job, backbones=placed_builtins(job.backbones, self.layout))
        self.surroundings, self.options, self.demo = surroundings, options, demo
        self.compiler, self.tiles, self.rebuilder = parts.compiler, parts.tiles, parts.rebuilder
        self.manifests, self.manifest_clock = parts.manifests, parts.clock
        tiles = parts.tiles
        self.run_log = RunLog(checkpoint=_checkpoint(options.cancelled))
        self.digests = DigestCache(self.layout.digests)
        self.generations = Generations(self.layout, self.digests)
        self._signing: Signer | None = None
        self.builder = self.manifest_stage()
        self.embedding: Embedding = (
            EngineEmbedding(self.job.descriptor, self.layout, self.compiler)
            if isinstance(parts.embedder, C7EngineBackboneEmbedder)
            else CallerEmbedding(parts.embedder, self.job.descriptor)
        )
        self.seal = SealStage(
            self.job, self.layout, tiles.metadata, tiles.pixels, surroundings.clock, self.digests, self.run_log
        )
        self.publisher = Publisher(
            self.job,
            self.layout,
            self.builder,
            self.generations,
            self.digests,
            parts.manifests.metadata,
            parts.clock,
            self.run_log.checkpoint,
        )
        self.descriptors = DescriptorStage(
            self.job, self.layout, self.embedding, self.digests, tiles.pixels, image_codec, self.batcher, self.run_log
        )
        self.outlook = Outlook(
            self.job, self.layout, tiles, self.compiler, self.seal, self.descriptors, self.card, demo=demo
        )

    def manifest_stage(self) -> ManifestStage:
        """Returns the stage that makes and signs the statement."""
        versions = {runtime.name: runtime.version for runtime in self.compiler.runtimes()}
        builder = {"preflight": __version__, **versions, **libraries.index_identity()}
        return ManifestStage(
            self.job,
            self.layout,
            self.compiler,
            self.digests,
            self.generations,
            self.manifest_clock,
            self.signer,
            builder,
        )

    def signer(self) -> Signer:
        """Returns the signer. Loads the key once. Raises SigningKeyError."""
        if self._signing is None:
            environment, ask = self.surroundings.environment, self.options.ask
            self._signing = signer_of(self.job, self.layout.signing, self.run_log, environment, ask)
        return self._signing

    def session(self) -> Session:
        """Returns the run."""
        return Session(
            layout=self.layout,
            stages=self.stages(),
            tracer=Tracer(self.digests, atomic_write, self.layout.history),
            generations=self.generations,
            lock=BuildLock(self.layout.lock, pid=os.getpid(), host=socket.gethostname()),
            run_log=self.run_log,
            clock=self.surroundings.clock,
            hooks=Hooks(self.prepare, self.close, self.manifest_hash, self.options.observer),
            repair=self.options.repair,
            wait=self.options.wait,
        )

    def stages(self) -> tuple[Stage, ...]:
        """Returns the table of stages: the steps of each, and the stages before it."""
        job, layout, tiles = self.job, self.layout, self.tiles
        engines = [self.engine_stage(spec) for spec in job.backbones]
        descriptors = self.descriptors
        selftest = SelftestStage(
            job,
            layout,
            self.embedding,
            lambda: self.card(job.descriptor),
            descriptors.store,
            libraries.index_factory,
            libraries.index_identity(),
            tiles.pixels,
            image_codec,
            self.run_log.checkpoint,
        )
        draw = {"recalibrate": self.options.recalibrate}
        samples = [sample_step(layout, tiles.pixels, image_codec, **draw)]
        if any(self.compiler.reads_precision(spec) for spec in job.backbones):
            samples.append(calibration_sample_step(layout, tiles.pixels, image_codec, **draw))
        index = index_step(
            job,
            layout,
            descriptors.store,
            libraries.index_factory,
            libraries.index_identity(),
            self.digests,
            self.run_log,
        )
        rebuilt = () if self.rebuilder is None else (hand_over_step(job, layout, descriptors.store, self.rebuilder),)
        windows = () if steps_of(job) == 1 else (units_step(job, layout),)
        corpus = corpus_step(job, layout, self.compiler, self.card_fields)
        return (
            Stage("tiles", (), (self.seal.step(), *windows, *samples)),
            *engines,
            Stage("descriptors", (f"engine:{job.descriptor.model_name}",), (descriptors.step(),)),
            Stage("index", ("descriptors",), (index, *rebuilt)),
            Stage("selftest", ("index",), (selftest.step(),)),
            Stage(
                "manifest",
                ("selftest", *(stage.name for stage in engines)),
                (corpus, provenance_step(layout, tiles.metadata), manifest_step(self.builder, layout)),
            ),
            Stage("publish", ("manifest",), (self.publisher.step(),)),
        )

    def engine_stage(self, spec: BackboneSpec) -> Stage:
        """Returns the stage of one backbone: inspect, write the precision into the ONNX file if needed, compile, check parity."""
        layout, digests = self.layout, self.digests
        preparation = Preparation(
            spec,
            layout,
            self.compiler,
            digests,
            image_codec,
            libraries.precision_tools,
            libraries.precision_versions(),
            recalibrate=self.options.recalibrate,
        )
        steps: tuple[Step, ...] = (
            inspect_step(spec, layout, self.compiler, digests),
            *preparation.steps(),
            compile_step(spec, layout, self.compiler, digests, self.run_log),
            parity_step(spec, layout, self.compiler, digests, image_codec, onnxruntime_version()),
        )
        if spec.model_name in self.builtin:
            steps = (builtin_step(spec, write_builtin), *steps)
        return Stage(f"engine:{spec.model_name}", ("tiles",), steps)

    def batcher(self, engine: Engine, dim: int) -> EngineBatcher:
        """Returns the batcher for the descriptor backbone. dim: length of a descriptor."""
        section, codec, embedding = self.job.config.descriptors, image_codec(), self.embedding
        return EngineBatcher(
            engine,
            input_name=embedding.input_name,
            dim=dim,
            batch_size=section.batch_size,
            preprocess=lambda image: embedding.batch(image[None], codec)[0],
            max_oom_retries=section.max_oom_retries,
            progress_callback=self.options.progress,
        )

    def card(self, spec: BackboneSpec) -> BackboneCard:
        """Returns the card of a descriptor backbone. Raises FileNotFoundError before its ONNX file was inspected.

        An embedder of the caller's replaces the backbone, so the backbone's own card does not describe its descriptors.
        """
        if isinstance(self.embedding, CallerEmbedding):
            return card_without_shifts(spec.model_name, self.embedding.dim())
        if spec.model_name in self.builtin:
            return WEIGHT_FREE_VPR
        return card_without_shifts(spec.model_name, descriptor_dim(spec, self.layout))

    def card_fields(self, spec: BackboneSpec) -> dict[str, object]:
        """Returns the card as corpus.json has it."""
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
        """Runs under the lock, before any stage is judged."""
        self.outlook.check_space()
        self.prepare_keys()
        if self.demo and self.tiles.metadata().count() == 0:
            import_demo(self.tiles, self.surroundings.clock)
        self.prepare_database()

    def close(self) -> None:
        """Stops engines that are still being compiled, and closes the tile store. Raises DatabaseError."""
        with ExitStack() as stack:
            stack.callback(self.tiles.close)
            stack.callback(self.manifests.close)
            self.compiler.stop()

    def prepare_database(self) -> None:
        """Makes the `manifests` rows agree with the file system. Raises DatabaseError."""
        metadata = self.manifests.metadata()
        rows = metadata.manifests(str(self.layout.root))
        for row in reconcile(rows, self.generations, self.publisher.active_row()):
            metadata.record_manifest(row)

    def prepare_keys(self) -> None:
        """Loads the key. In dev mode, makes a key and a trust directory if neither exists.

        Raises:
            TrustDirectoryError: the path of the trust directory is something else.
            SigningKeyError: the key cannot be made or read.
        """
        job = self.job
        if job.trust.exists() and not job.trust.is_dir():
            raise TrustDirectoryError(
                f"the trust directory {job.trust} is not a directory: move it away, or set `trust` in the mission"
            )
        section = job.config.manifest
        here = section.signing_mode == "dev" and section.signing == "here"
        if not here or job.trust.exists() or job.signing_key.exists():
            # Load it now: a wrong passphrase must not show after an hour of work.
            self.signer()
            return
        key = make_dev_key(job.signing_key, job.trust)
        self.run_log.warn(
            "c10.signing.dev_key_made",
            f"made a development key {job.signing_key} and a trust directory {job.trust} that allows it: "
            "not for flight. Sign operator caches with your own key",
            fingerprint=key.fingerprint,
        )

    def manifest_hash(self) -> str | None:
        """Returns the manifest hash of the current generation."""
        published = self.builder.published()
        return None if published is None or published.manifest is None else published.manifest.manifest_hash


def write_builtin(path: Path) -> None:
    """Writes the ONNX file of the built-in backbone."""
    from preflight.adapters.demo import weight_free_vpr

    weight_free_vpr.write(path)


def _checkpoint(cancelled: Callable[[], bool]) -> Callable[[], None]:
    def check() -> None:
        if cancelled():
            raise BuildCancelledError("the build was cancelled; run it again to go on from here")

    return check
