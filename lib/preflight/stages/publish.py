"""Publishes a cache: stages it, lets the shipped verifier judge it, and makes it current in one rename."""

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
from preflight.ports import Clock, ManifestRow, TileMetadataStore
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
# The verifier that flies, at the time of the build's clock: that clock may replay a flight log. On an aircraft it reads the
# machine's clock and nothing else.
_VERIFIER = """
import os, sys, time
now = float(sys.argv[1])
time.time = lambda: now
from takeoff.command_line import main
os._exit(main(sys.argv[2:]))
"""


class Publisher:
    """Replaces the current generation by a signed manifest and its artifacts."""

    def __init__(
        self,
        job: Job,
        layout: CacheLayout,
        builder: ManifestStage,
        generations: Generations,
        digests: DigestCache,
        store: Callable[[], TileMetadataStore],
        clock: Clock,
        checkpoint: Callable[[], None] = lambda: None,
    ) -> None:
        self._job = job
        self._layout = layout
        self._builder = builder
        self._generations = generations
        self._digests = digests
        self._store = store
        self._clock = clock
        self._checkpoint = checkpoint

    @property
    def receipt(self) -> Path:
        """The file that names the generation published last."""
        return self._layout.work / "publish" / "published.json"

    def components(self) -> Mapping[str, str]:
        """Returns the components of the action key: what is to be published."""
        return {
            "manifest": self._digests.sha256(self._layout.manifest),
            "envelope": self._digests.sha256(self._layout.envelope),
        }

    def rerun_reason(self) -> str | None:
        """Returns why to publish again: `current` is not what was signed last."""
        published = self._builder.published()
        if published is not None and published.fault is not None:
            return f"the manifest of the current generation {published.fault}"
        if published is None or published.sha256 != self._digests.sha256(self._layout.manifest):
            return "current is not what was signed last"
        return None

    def build(self) -> Iterable[Path]:
        """Stages, checks the files, verifies, renames, replaces `current`, and notes it in the database.

        Raises:
            ManifestCoverageError: the staged cache is not exactly what the manifest names, or the verifier refuses it.
            ManifestWriteError, CacheRootError, DatabaseError: as the parts raise them.
        """
        content = self._layout.manifest.read_bytes()
        manifest = signed_here(content)
        current = self._generations.current()
        if current is not None and self.rerun_reason() is None:
            # An earlier run replaced `current` and ended before it wrote its receipt.
            self._after(current, manifest, self._row(manifest, content))
        else:
            self.publish(content, self._layout.envelope.read_bytes(), self._builder.artifacts())
        return ()

    def publish(self, content: bytes, envelope: bytes, sources: Mapping[str, Path]) -> Generation:
        """Makes a signed manifest and its artifacts current. sources: artifact name -> path of its bytes.

        Raises as `build` does.
        """
        manifest = signed_here(content)
        row = self._row(manifest, content)
        small = {**determined_files(manifest, row.manifest_sha256), MANIFEST: content, ENVELOPE: envelope}
        artifacts = {name: (sources[name], sha256) for name, sha256 in manifest.subjects.items()}
        staging = self._generations.stage(artifacts, small)
        try:
            self._checkpoint()
            coverage_walk(staging, expected_files(manifest))
            self.verify(staging, manifest.target.sm)
            self._checkpoint()
            self._store().record_manifest(row)
            generation = self._generations.publish(staging, manifest.generation, manifest.manifest_hash)
        finally:
            if staging.exists():
                atomic.remove_tree(staging)
        self._after(generation, manifest, row)
        return generation

    def verify(self, place: Path, sm: str | None) -> None:
        """Lets the shipped verifier judge a cache in a process of its own. Raises ManifestCoverageError.

        sm: of the GPU that the engines need. They ran on it when they were measured; the verifier cannot ask a driver for it.
        """
        now = repr(self._clock().timestamp())
        command = [sys.executable, "-I", "-c", _VERIFIER, now, str(place), "--trust", str(self._job.trust)]
        command += [] if sm is None else ["--expect-sm", sm]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stdout + done.stderr).strip()
            raise ManifestCoverageError(
                f"the verifier refuses {place.name} before it is published (status {done.returncode}): {said}; "
                "the last good cache is untouched"
            )

    def active_row(self) -> ManifestRow | None:
        """Returns the row of the current generation; None if it cannot be read."""
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
        """Returns the step for the up-to-date rule."""
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
    """Returns the rows to write, so that the database agrees with the file system. active: the row of the current generation."""
    current = generations.current()
    changed = []
    seen = set()
    for row in rows:
        seen.add(row.generation)
        # A pending row of a run that died before it replaced `current` was never published: it is retired too.
        status = "active" if current is not None and row.generation == current.number else "retired"
        if status != row.status:
            changed.append(replace(row, status=status))
    if active is not None and active.generation not in seen:
        # The cache root was moved, or the database is new.
        changed.append(active)
    return changed
