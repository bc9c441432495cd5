"""Manifest: gathers what was built, checks the quality gate, and signs."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from preflight.errors import ManifestWriteError, QualityGateError, SigningKeyError
from preflight.mission import Job
from preflight.ports import Clock, Signer
from preflight.records import BackboneSpec, HostCapabilities
from preflight.stages.engines import EngineCompiler, parity_path
from preflight.stages.units import steps_of
from preflight.store.atomic import atomic_write
from preflight.store.generations import Generations
from preflight.store.layout import CacheLayout
from preflight.tileset import read_header
from preflight.trace.digests import DigestCache
from preflight.trace.record import canonical_json, record_of
from preflight.trace.rule import Step
from takeoff import keys
from takeoff import manifest as format_
from takeoff.errors import ManifestFormatError, VerificationError
from takeoff.layout import determined_files
from takeoff.names import ENVELOPE, MANIFEST

log = logging.getLogger("preflight.manifest")

CORPUS_VERSION = 1
MANIFEST_VERSION = 1
DAY = 86400
MOVED_ON = "current holds other content, rolled back or another mission's: moving forward to this mission's own"

INDEX_NAME = "descriptors.faiss"
INVENTORY_NAME = "tiles.inventory"
WINDOWS_NAME = "windows.inventory"
CALIBRATION_NAME = "calibration.json"
SELFTEST_NAME = "selftest.json"
CORPUS_NAME = "corpus.json"
PROVENANCE_NAME = "provenance.json"


@dataclass(frozen=True, slots=True)
class Published:
    """The manifest of the current generation."""

    number: int
    manifest: format_.Manifest
    sha256: str


def past_half(manifest: format_.Manifest, now: float) -> bool:
    """Whether less than half of the validity is left: time to sign anew."""
    return now >= manifest.valid_from + (manifest.valid_until - manifest.valid_from) / 2


def _out_of_time(manifest: format_.Manifest, now: float) -> str | None:
    """Why a manifest must be signed anew for the clock's sake, or None."""
    if now < manifest.valid_from:
        return "its validity has not begun: it was signed under a clock that ran ahead"
    return "more than half of its validity has passed" if past_half(manifest, now) else None


def settled(
    fresh: format_.Manifest, waiting: bytes | None, overtaken: Callable[[format_.Manifest], str | None]
) -> bytes:
    """What is to be signed: the statement that waits, while it says the same and is not overtaken; else the fresh one.

    Its number and times stay as they were handed out: somebody may be signing them. Raises ManifestFormatError.
    """
    if waiting is None:
        return format_.encode(fresh)
    try:
        old = format_.decode(waiting)
    except VerificationError:
        return format_.encode(fresh)  # damaged on the desk: no signature over it would be accepted
    period = fresh.valid_until - fresh.valid_from
    same = fresh._replace(
        generation=old.generation,
        issued_at=old.issued_at,
        valid_from=old.valid_from,
        valid_until=old.valid_from + period,
    )
    return waiting if same == old and overtaken(old) is None else format_.encode(fresh)


class ManifestBuilder:
    """Makes the statement of one job from what lies in work/, and signs it."""

    def __init__(
        self,
        job: Job,
        layout: CacheLayout,
        compiler: EngineCompiler,
        digests: DigestCache,
        generations: Generations,
        clock: Clock,
        signer: Callable[[], Signer],
        builder: Mapping[str, str],
    ) -> None:
        self._job = job
        self._layout = layout
        self._compiler = compiler
        self._digests = digests
        self._generations = generations
        self._clock = clock
        self._signer = signer
        self._builder = dict(builder)

    def artifacts(self) -> dict[str, Path]:
        """Artifact name -> where its bytes lie before they are published."""
        layout = self._layout
        engines = [str(self._compiler.name(spec)) for spec in self._job.backbones]
        return {
            **{f"engines/{name}": layout.engines / name for name in engines},
            INDEX_NAME: layout.index,
            INVENTORY_NAME: layout.inventory,
            **({} if steps_of(self._job) == 1 else {WINDOWS_NAME: layout.windows}),
            CALIBRATION_NAME: self._job.calibration,
            SELFTEST_NAME: layout.selftest,
            CORPUS_NAME: layout.corpus,
            PROVENANCE_NAME: layout.provenance,
        }

    def identity(self) -> format_.Identity:
        """What decides the content of this cache (D-C10-1)."""
        job, layout = self._job, self._layout
        header = read_header(layout.inventory)
        coverage = json.loads(layout.coverage.read_bytes())
        origin = job.takeoff_origin
        return format_.Identity(
            models=tuple(self._model(spec) for spec in job.backbones),
            calibration_sha256=self._digests.sha256(job.calibration),
            corpus=format_.Corpus(
                tiles_coverage_sha256=header.aggregate,
                tile_count=header.count,
                zoom_levels=job.zoom_levels,
                area_sha256=job.area.digest(),
                covered=tuple(
                    (repr(box.lat_min), repr(box.lon_min), repr(box.lat_max), repr(box.lon_max))
                    for box in job.area.boxes()
                ),
                allow_missing=repr(float(job.allow_missing)),
                missing=coverage["missing"],
            ),
            sector_class=job.sector_class,
            takeoff_origin=None
            if origin is None
            else format_.Origin(repr(float(origin.lat)), repr(float(origin.lon)), repr(float(origin.alt))),
            flight_id=None if job.flight_id is None else str(job.flight_id),
            action_keys={
                "descriptors": record_of(layout.descriptor_set).action_key,
                "index": record_of(layout.index).action_key,
                "selftest": record_of(layout.selftest).action_key,
            },
        )

    def _model(self, spec: BackboneSpec) -> format_.Model:
        name = str(self._compiler.name(spec))
        runtime = self._compiler.runtime_of(spec)
        return format_.Model(
            model_name=spec.model_name,
            role=spec.role,
            onnx_sha256=self._digests.sha256(spec.onnx_path),
            precision=spec.precision,
            runtime=runtime.name,
            runtime_version=runtime.version,
            engine=f"engines/{name}",
            action_key=record_of(self._layout.engines / name).action_key,
        )

    def published(self) -> Published | None:
        """The current generation's manifest; None when there is none that can be read."""
        current = self._generations.current()
        if current is None:
            return None
        try:
            content = (current.path / MANIFEST).read_bytes()
            manifest = format_.decode(content)
        except (OSError, VerificationError):
            return None
        return Published(current.number, manifest, self._digests.sha256(current.path / MANIFEST))

    def signer_fingerprint(self) -> str:
        """SHA-256 of the signing key's SPKI DER, hex."""
        return self._signer().fingerprint

    def components(self) -> dict[str, str]:
        """Everything that decides the manifest but the time and the generation's number."""
        section = self._job.config.manifest
        return {
            **{f"artifact {name}": self._digests.sha256(path) for name, path in self.artifacts().items()},
            **{
                f"parity {spec.model_name}": self._digests.sha256(parity_path(spec, self._layout))
                for spec in self._job.backbones
            },
            **_flat(self.identity()),
            "signer": self._signer().fingerprint,
            "signing_mode": section.signing_mode,
            "valid_for_days": str(section.valid_for_days),
            "margin_over_thumbnail": repr(self._job.config.selftest.margin_over_thumbnail),
            "builder": canonical_json(self._builder).decode(),
        }

    def doubt(self) -> str | None:
        """Why a manifest of equal content must be signed anew, or None."""
        if self._layout.refused.is_file():
            return "the current cache was refused by doit verify"
        if (distrust := self.distrust()) is not None:
            return distrust
        manifest = format_.decode(self._layout.manifest.read_bytes())
        return _out_of_time(manifest, self._clock().timestamp()) or self._unlike_current(manifest)

    def _unlike_current(self, manifest: format_.Manifest) -> str | None:
        """What is wrong with `current`, if it is this manifest's; or why this manifest can no more become it."""
        current = self._generations.current()
        if current is None:
            return None if manifest.generation >= self._generations.next_number() - 1 else "its number is taken"
        published = self.published()
        if published is None:
            return f"the manifest of {current.path.name} cannot be read"
        if published.sha256 != self._digests.sha256(self._layout.manifest):
            return None if manifest.generation > current.number else MOVED_ON
        small = determined_files(manifest, published.sha256)
        expected = {
            **manifest.subjects,
            **{name: _sha256(content) for name, content in small.items()},
            MANIFEST: published.sha256,
            ENVELOPE: self._digests.sha256(self._layout.envelope),
        }
        return self._generations.fault(current, expected)

    def distrust(self) -> str | None:
        """Why the verifier would refuse this mission's signature, whatever it signs; None when it would not."""
        section, fingerprint = self._job.config.manifest, self._signer().fingerprint
        try:
            trust = keys.load_trust(self._job.trust)
        except VerificationError as error:
            return f"the trust directory {self._job.trust} cannot be used: {error}"
        if fingerprint in trust.revoked:
            return f"the signing key {fingerprint} is revoked in {self._job.trust}"
        if fingerprint not in trust.keys:
            return f"the signing key {fingerprint} is not in the trust directory {self._job.trust}"
        if section.signing_mode == "dev" and not trust.allow_dev:
            return f"signing_mode is dev, and {self._job.trust} holds no allow_dev"
        return None

    def build(self) -> Iterable[Path]:
        """Check the gate, write manifest.json and its envelope.

        Raises:
            QualityGateError: the self-test's margin is below the mission's.
            ManifestWriteError: the statement would not be read back.
            SigningKeyError: the key may not sign.
            SignatureAwaitedError: it is signed elsewhere; the statement was handed out, or still is.
        """
        self._check_gate()
        if (distrust := self.distrust()) is not None:
            raise SigningKeyError(
                f"{distrust}: no aircraft would accept this cache; correct the mission's trust or key"
            )
        if self._moves_on():
            log.warning(MOVED_ON, extra={"event": "moving_forward", "fields": {}})
        try:
            content = self._to_be_signed()
        except ManifestFormatError as error:
            raise ManifestWriteError(f"the manifest cannot be written: {error}") from error
        envelope = self._signer().sign(content)
        atomic_write(self._layout.manifest, content)
        atomic_write(self._layout.envelope, envelope)
        return ()

    def _moves_on(self) -> bool:
        """Whether `current` holds something else than what was signed here last. A damaged manifest in work/ cannot say."""
        try:
            return self.doubt() == MOVED_ON
        except (FileNotFoundError, VerificationError):
            return False

    def _to_be_signed(self) -> bytes:
        return settled(self._statement(), self._signer().waiting(), self.overtaken)

    def overtaken(self, manifest: format_.Manifest) -> str | None:
        """Why a statement written earlier, whose number and times are fixed, can no more be published; None when it can."""
        published = self.published()
        if published is not None and published.manifest.issued_at >= manifest.issued_at:
            return f"generation {published.number} was published after it was written"
        if manifest.generation < self._generations.next_number():
            return f"its number, {manifest.generation}, was given to another generation"
        return _out_of_time(manifest, self._clock().timestamp())

    def _statement(self) -> format_.Manifest:
        identity = self.identity()
        published = self.published()
        now = issued = int(self._clock().timestamp())
        if published is not None:
            # Strictly increasing for a cache root: the aircraft's floor compares it. It may so run ahead of the clock by a
            # second for each build within the same one; the validity must not, or the verifier would refuse what is new.
            issued = max(now, published.manifest.issued_at + 1)
        section, host = self._job.config.manifest, self._compiler.host
        artifacts = self.artifacts()
        return format_.Manifest(
            subjects={name: self._digests.sha256(path) for name, path in artifacts.items()},
            manifest_hash=format_.identity_hash(identity),
            generation=self._generations.next_number(),
            issued_at=issued,
            valid_from=now,
            valid_until=now + section.valid_for_days * DAY,
            signing_mode=section.signing_mode,
            identity=identity,
            sizes={name: path.stat().st_size for name, path in artifacts.items()},
            target=self._target(host),
            builder=self._builder,
            quality=format_.Quality(
                parity=tuple(self._parity(spec) for spec in self._job.backbones), selftest=self._selftest()
            ),
        )

    def _target(self, host: HostCapabilities) -> format_.Target:
        """The host the engines need: engines of a CPU need no GPU, also where they were built beside one."""
        on_gpu = any(self._compiler.name(spec).sm is not None for spec in self._job.backbones)
        return format_.Target(host.arch, host.isa, host.sm if on_gpu else None, host.jetpack)

    def _parity(self, spec: BackboneSpec) -> format_.Parity:
        report = json.loads(parity_path(spec, self._layout).read_bytes())
        return format_.Parity(
            engine=f"engines/{self._compiler.name(spec)}",
            sample_sha256=self._digests.sha256(self._layout.parity_sample),
            cosine_min=report["cosine_min"],
            threshold=report["threshold"],
        )

    def _selftest(self) -> dict[str, str]:
        result = json.loads(self._layout.selftest.read_bytes())
        known, unknown = result["heading_known"], result["heading_unknown"]
        return {
            "queries": str(result["queries"]),
            "recall_at_1_heading_known": str(known["index"]["recall"]["1"]),
            "recall_at_1_heading_unknown": str(unknown["index"]["recall"]["1"]),
            "margin_over_thumbnail": str(result["margin_over_thumbnail"]),
        }

    def _check_gate(self) -> None:
        margin = float(self._selftest()["margin_over_thumbnail"])
        least = self._job.config.selftest.margin_over_thumbnail
        if margin < least:
            raise QualityGateError(
                f"the self-test's recall@1 is {margin:+.3f} over the thumbnail baseline, the mission asks for "
                f"{least:+.3f} (components.c10_provisioning.selftest.margin_over_thumbnail): nothing is signed; "
                f"read {self._layout.selftest}, then use a better backbone or map, or lower the margin knowingly"
            )


def corpus_step(
    job: Job, layout: CacheLayout, compiler: EngineCompiler, cards: Callable[[BackboneSpec], Mapping[str, object]]
) -> Step:
    """corpus.json: what a flight must know to use the engines and the index beside their bytes."""

    def content() -> bytes:
        section = job.config.index
        backbones = [
            {
                "model_name": spec.model_name,
                "role": spec.role,
                "engine": f"engines/{compiler.name(spec)}",
                "inputs": {name: list(shape) for name, shape in spec.inputs.items()},
                "precision": spec.precision,
                "preprocessing": {"mean": list(spec.preprocessing.mean), "std": list(spec.preprocessing.std)},
                **cards(spec),
            }
            for spec in job.backbones
        ]
        index = {"file": INDEX_NAME, "metric": section.metric, "m": section.m, "ef_search": section.ef_search}
        # Where the position of an id of the index is written.
        units = {
            "file": INVENTORY_NAME if steps_of(job) == 1 else WINDOWS_NAME,
            "overlap": job.config.descriptors.overlap,
        }
        return canonical_json({"backbones": backbones, "index": index, "units": units}) + b"\n"

    def build() -> Iterable[Path]:
        atomic_write(layout.corpus, content())
        return ()

    return Step("corpus", CORPUS_VERSION, (), lambda: {"content": content().decode()}, (layout.corpus,), build)


def manifest_step(builder: ManifestBuilder, layout: CacheLayout) -> Step:
    """The signed statement, in work/ until it is published."""
    return Step(
        "manifest",
        MANIFEST_VERSION,
        tuple(builder.artifacts().values()),
        builder.components,
        (layout.manifest, layout.envelope),
        builder.build,
        builder.doubt,
    )


def _flat(identity: format_.Identity) -> dict[str, str]:
    """The identity field by field, so that `doit why manifest` names what changed."""
    corpus = {f"corpus {name}": value for name, value in identity.corpus._asdict().items()}
    keys = {f"action key of {name}": value for name, value in identity.action_keys.items()}
    models = {f"model {model.model_name}": list(model) for model in identity.models}
    rest = {
        "calibration": identity.calibration_sha256,
        "sector_class": identity.sector_class,
        "takeoff_origin": identity.takeoff_origin,
        "flight_id": identity.flight_id,
    }
    merged = {**corpus, **keys, **models, **rest}
    return {name: value if isinstance(value, str) else canonical_json(value).decode() for name, value in merged.items()}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
