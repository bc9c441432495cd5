"""The manifest: decides whether and when the statement is signed again, checks the quality gate, and signs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from preflight.engine.compiler import EngineCompiler
from preflight.errors import ManifestWriteError, QualityGateError, SigningKeyError
from preflight.mission.job import Job
from preflight.ports import Clock, Signer
from preflight.stages.artifacts import artifact_paths
from preflight.stages.statement import Facts
from preflight.store.atomic import atomic_write
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import Generations
from preflight.store.manifests import (
    WRITTEN,
    ManifestFile,
    current_manifest,
    newest_issue,
    parse_manifest,
    read_manifest,
)
from preflight.trace.digests import DigestCache
from preflight.trace.rule import Step
from takeoff import keys
from takeoff import manifest as format_
from takeoff.errors import ManifestFormatError, VerificationError
from takeoff.layout import determined_files
from takeoff.names import ENVELOPE, MANIFEST

log = logging.getLogger("c10_provisioning.manifest")

MANIFEST_VERSION = 1
MOVED_ON = "current holds other content, after a rollback or from another mission: this build publishes the mission's own content"


def past_half(manifest: format_.Manifest, now: float) -> bool:
    """Returns whether less than half of the validity is left. Then it is time to sign again."""
    return now >= manifest.valid_from + (manifest.valid_until - manifest.valid_from) / 2


def _out_of_time(manifest: format_.Manifest, now: float) -> str | None:
    """Returns why the clock makes a new signature necessary; None if it does not."""
    if now < manifest.valid_from:
        return "its validity has not begun: it was signed under a clock that ran ahead"
    return "more than half of its validity has passed" if past_half(manifest, now) else None


def settled(
    fresh: format_.Manifest, waiting: bytes | None, overtaken: Callable[[format_.Manifest], str | None]
) -> bytes:
    """Returns the statement to sign: the waiting one if it states the same and can still be published, else the fresh one.

    A waiting statement keeps its number and times, because somebody may be signing it. Raises ManifestFormatError.
    """
    file = None if waiting is None else parse_manifest(waiting)
    if file is None or file.manifest is None or file.other_schema is not None:
        return format_.encode(fresh)  # damaged, or of another schema: the verifier would accept no signature over it
    old = file.manifest
    period = fresh.valid_until - fresh.valid_from
    same = fresh._replace(
        generation=old.generation,
        issued_at=old.issued_at,
        valid_from=old.valid_from,
        valid_until=old.valid_from + period,
    )
    return file.content if same == old and overtaken(old) is None else format_.encode(fresh)


class ManifestStage:
    """Makes the statement of one job from the files in work/, and signs it."""

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
        self._facts = Facts(job, layout, compiler, digests, dict(builder))

    def artifacts(self) -> dict[str, Path]:
        """Returns artifact name -> path of its bytes before they are published."""
        return artifact_paths(self._job, self._layout, self._compiler)

    def published(self) -> ManifestFile | None:
        """Returns the manifest of the current generation, whatever its schema and state; None before the first generation."""
        return current_manifest(self._generations)

    def signer_fingerprint(self) -> str:
        """SHA-256 of the signing key's SPKI DER, hex."""
        return self._signer().fingerprint

    def components(self) -> dict[str, str]:
        """Returns everything that decides the manifest, except the time and the generation number."""
        return {**self._facts.components(), "signer": self._signer().fingerprint}

    def rerun_reason(self) -> str | None:
        """Returns why a manifest with equal content must be signed again; None if it need not."""
        if self._layout.refused.is_file():
            return "the current cache was refused by doit verify"
        if (distrust := self.distrust()) is not None:
            return distrust
        signed = read_manifest(self._layout.manifest.parent)
        if signed.manifest is None or signed.other_schema is not None:
            return f"the manifest signed last {signed.fault}"
        return _out_of_time(signed.manifest, self._clock().timestamp()) or self._unlike_current(signed.manifest)

    def _unlike_current(self, manifest: format_.Manifest) -> str | None:
        """Returns what is wrong with `current` if it holds this manifest, or why this manifest cannot become current."""
        current, published = self._generations.current(), self.published()
        if current is None or published is None:
            return None if manifest.generation >= self._generations.next_number() - 1 else "its number is taken"
        if published.fault is not None:
            return f"the manifest of {current.path.name} {published.fault}"
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
        """Returns why the verifier would refuse any signature of this mission; None if it would not."""
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
        """Checks the gate, then writes manifest.json and its envelope.

        Raises:
            QualityGateError: the margin of the self-test is below the mission's.
            ManifestWriteError: the statement could not be read back.
            SigningKeyError: the key may not sign.
            SignatureAwaitedError: the key is elsewhere. The statement was handed out and waits for its signature.
        """
        self._check_gate()
        if (distrust := self.distrust()) is not None:
            raise SigningKeyError(
                f"{distrust}: no aircraft would accept this cache; correct the mission's trust or key"
            )
        self._announce()
        try:
            content = self._to_be_signed()
        except ManifestFormatError as error:
            raise ManifestWriteError(f"the manifest cannot be written: {error}") from error
        envelope = self._signer().sign(content)
        atomic_write(self._layout.manifest, content)
        atomic_write(self._layout.envelope, envelope)
        written = parse_manifest(content).manifest
        fields = {
            "generation": None if written is None else written.generation,
            "manifest_hash": None if written is None else written.manifest_hash,
            "signer": self.signer_fingerprint(),
        }
        log.info(
            f"manifest of generation {fields['generation']} signed",
            extra={"event": "c10.manifest.written", "fields": fields},
        )
        return ()

    def _announce(self) -> None:
        """Warns if `current` has another schema, or other content than what was signed here last."""
        published = self.published()
        if published is not None and published.other_schema is not None:
            log.warning(
                f"the manifest of the current generation {published.fault}: this build publishes a new one in schema {WRITTEN}. "
                f"An aircraft accepts it only with a takeoff that reads {WRITTEN}; install that there first",
                extra={
                    "event": "c10.manifest.schema_changed",
                    "fields": {"old": published.other_schema, "new": WRITTEN},
                },
            )
        elif self._moves_on():
            log.warning(MOVED_ON, extra={"event": "c10.manifest.moving_forward", "fields": {}})

    def _moves_on(self) -> bool:
        """Returns whether `current` holds other content than what was signed here last; False without a signed manifest."""
        try:
            return self.rerun_reason() == MOVED_ON
        except FileNotFoundError:
            return False

    def _to_be_signed(self) -> bytes:
        return settled(self._statement(), self._signer().waiting(), self.overtaken)

    def overtaken(self, manifest: format_.Manifest) -> str | None:
        """Returns why an earlier statement, with fixed number and times, cannot be published any more; None if it can."""
        if newest_issue(self._generations) >= manifest.issued_at:
            return f"generation {self._generations.next_number() - 1} was published after it was written"
        if manifest.generation < self._generations.next_number():
            return f"its number, {manifest.generation}, was given to another generation"
        return _out_of_time(manifest, self._clock().timestamp())

    def _statement(self) -> format_.Manifest:
        now = int(self._clock().timestamp())
        # Strictly increasing for a cache root, because the aircraft's floor compares it. It may run ahead of the clock by a
        # second for each build within one second. The validity must not, or the verifier would refuse the new cache.
        issued = max(now, newest_issue(self._generations) + 1)
        return self._facts.stated(generation=self._generations.next_number(), issued_at=issued, valid_from=now)

    def _check_gate(self) -> None:
        margin = float(self._facts.selftest()["margin_over_thumbnail"])
        least = self._job.config.selftest.margin_over_thumbnail
        if margin < least:
            raise QualityGateError(
                f"the self-test's recall@1 is {margin:+.3f} over the thumbnail baseline, the mission asks for "
                f"{least:+.3f} (components.c10_provisioning.selftest.margin_over_thumbnail): nothing is signed; "
                f"read {self._layout.selftest}, then use a better backbone or map, or lower the margin knowingly"
            )


def manifest_step(builder: ManifestStage, layout: CacheLayout) -> Step:
    """Returns the step that signs. The result stays in work/ until it is published."""
    return Step(
        "manifest",
        MANIFEST_VERSION,
        tuple(builder.artifacts().values()),
        builder.components,
        (layout.manifest, layout.envelope),
        builder.build,
        builder.rerun_reason,
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
