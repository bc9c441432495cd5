"""Publish: assembles the cache, lets the shipped verifier judge it, and makes it current in one step."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from preflight.errors import ManifestCoverageError
from preflight.mission.job import Job
from preflight.ports import ManifestRow, TileMetadataStore
from preflight.stages.manifest import ManifestStage
from preflight.store import atomic
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import Generation, Generations, coverage_walk
from preflight.store.manifests import signed_here
from preflight.trace.digests import DigestCache
from preflight.trace.record import canonical_json
from preflight.trace.rule import Step
from takeoff import manifest as format_
from takeoff.layout import determined_files, expected_files
from takeoff.names import ENVELOPE, MANIFEST

log = logging.getLogger("c10_provisioning.provisioner")

PUBLISH_VERSION = 1


class Publisher:
    """Puts a signed manifest and its artifacts in the place of the current generation."""

    def __init__(
        self,
        job: Job,
        layout: CacheLayout,
        builder: ManifestStage,
        generations: Generations,
        digests: DigestCache,
        store: Callable[[], TileMetadataStore],
    ) -> None:
        self._job = job
        self._layout = layout
        self._builder = builder
        self._generations = generations
        self._digests = digests
        self._store = store

    @property
    def receipt(self) -> Path:
        """What was published last."""
        return self._layout.work / "publish" / "published.json"

    def components(self) -> Mapping[str, str]:
        """What is to be published."""
        return {
            "manifest": self._digests.sha256(self._layout.manifest),
            "envelope": self._digests.sha256(self._layout.envelope),
        }

    def rerun_reason(self) -> str | None:
        """Whether `current` is something else than what was signed last."""
        published = self._builder.published()
        if published is not None and published.fault is not None:
            return f"the manifest of the current generation {published.fault}"
        if published is None or published.sha256 != self._digests.sha256(self._layout.manifest):
            return "current is not what was signed last"
        return None

    def build(self) -> Iterable[Path]:
        """Stage, walk, verify, rename, flip, note in the database.

        Raises:
            ManifestCoverageError: the staged cache is not exactly what the manifest names, or the verifier refuses it.
            ManifestWriteError, CacheRootError, DatabaseError: as the parts raise them.
        """
        content = self._layout.manifest.read_bytes()
        manifest = signed_here(content)
        current = self._generations.current()
        if current is not None and self.rerun_reason() is None:
            # Flipped by a run that ended before its receipt was written.
            self._after(current, manifest, self._row(manifest, content))
        else:
            self.publish(content, self._layout.envelope.read_bytes(), self._builder.artifacts())
        return ()

    def publish(self, content: bytes, envelope: bytes, sources: Mapping[str, Path]) -> Generation:
        """Make a signed manifest and its artifacts current; sources: artifact name -> where its bytes lie.

        Raises as `build`.
        """
        manifest = signed_here(content)
        row = self._row(manifest, content)
        small = {**determined_files(manifest, row.manifest_sha256), MANIFEST: content, ENVELOPE: envelope}
        artifacts = {name: (sources[name], sha256) for name, sha256 in manifest.subjects.items()}
        staging = self._generations.stage(artifacts, small)
        try:
            coverage_walk(staging, expected_files(manifest))
            self.verify(staging, manifest.target.sm)
            self._store().record_manifest(row)
            generation = self._generations.publish(staging, manifest.generation, manifest.manifest_hash)
        finally:
            if staging.exists():
                atomic.remove_tree(staging)
        self._after(generation, manifest, row)
        return generation

    def verify(self, place: Path, sm: str | None) -> None:
        """Let the shipped verifier judge a cache in a process of its own. Raises ManifestCoverageError.

        sm: of the GPU its engines need. They ran on it to be measured; the verifier cannot ask a driver which it is.
        """
        command = [sys.executable, "-I", "-m", "takeoff", str(place), "--trust", str(self._job.trust)]
        command += [] if sm is None else ["--expect-sm", sm]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stdout + done.stderr).strip()
            raise ManifestCoverageError(
                f"the verifier refuses {place.name} before it is published (status {done.returncode}): {said}; "
                "the last good cache is untouched"
            )

    def active_row(self) -> ManifestRow | None:
        """The row of the current generation; None when there is none that can be read."""
        published = self._builder.published()
        if published is None or published.manifest is None:
            return None
        return replace(self._row(published.manifest, published.content), status="active")

    def _row(self, manifest: format_.Manifest, content: bytes) -> ManifestRow:
        return ManifestRow(
            cache_root=str(self._layout.root),
            generation=manifest.generation,
            manifest_hash=manifest.manifest_hash,
            manifest_sha256=hashlib.sha256(content).hexdigest(),
            flight_id=manifest.identity.flight_id,
            signer=self._builder.signer_fingerprint(),
            issued_at=datetime.fromtimestamp(manifest.issued_at, timezone.utc),
            valid_until=datetime.fromtimestamp(manifest.valid_until, timezone.utc),
            status="pending",
        )

    def _after(self, generation: Generation, manifest: format_.Manifest, row: ManifestRow) -> None:
        store = self._store()
        for other in store.manifests(row.cache_root):
            if other.status == "active" and other.generation != row.generation:
                store.record_manifest(replace(other, status="retired"))
        store.record_manifest(replace(row, status="active"))
        keep = self._job.config.provisioner.keep_generations
        for removed in self._generations.prune(keep):
            log.info(
                f"removed {removed.path.name}: the newest {keep} generations are kept",
                extra={"event": "c10.generation.removed", "fields": {"generation": removed.path.name}},
            )
        self._generations.adopt(generation, {**manifest.subjects, MANIFEST: row.manifest_sha256})
        if self._layout.refused.is_file():
            atomic.remove_file(self._layout.refused)
        atomic.atomic_write(
            self.receipt, canonical_json({"generation": generation.path.name, "manifest": row.manifest_sha256})
        )

    def step(self) -> Step:
        """As the rule judges it."""
        return Step(
            "publish",
            PUBLISH_VERSION,
            (self._layout.manifest, self._layout.envelope),
            self.components,
            (self.receipt,),
            self.build,
            self.rerun_reason,
        )


def reconcile(rows: Iterable[ManifestRow], generations: Generations, active: ManifestRow | None) -> list[ManifestRow]:
    """The rows to write so that the database says what the file system shows. active: the current generation's own row."""
    current = generations.current()
    changed = []
    seen = set()
    for row in rows:
        seen.add(row.generation)
        # A pending row of a run that died before the flip was never published: retired, too.
        status = "active" if current is not None and row.generation == current.number else "retired"
        if status != row.status:
            changed.append(replace(row, status=status))
    if active is not None and active.generation not in seen:
        # The cache root was moved, or the database made anew.
        changed.append(active)
    return changed
