"""`doit rollback`: the previous content, published again as a new generation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from preflight.errors import CacheRootError, ManifestCoverageError, ManifestWriteError
from preflight.ports import Clock, Signer
from preflight.signing import OfflineSigner
from preflight.stages.manifest import settled
from preflight.stages.publish import Publisher
from preflight.store.generations import Generation, Generations
from preflight.store.manifests import newest_issue, read_manifest
from preflight.wiring import Assembly
from takeoff import manifest as format_
from takeoff.verify import verify_manifest

DAY = 86400


def roll_back(assembly: Assembly) -> Generation:
    """Roll the mission's cache root back. The caller holds the lock. Raises as `republish_previous`, and DatabaseError."""
    previous(assembly.generations)
    signer = assembly.signer()
    assembly.prepare_database()
    section = assembly.job.config.manifest
    return republish_previous(
        assembly.generations,
        assembly.publisher,
        signer,
        assembly.surroundings.clock,
        judge=lambda generation, manifest: _judge(generation, manifest, assembly.job.trust),
        signing_mode=section.signing_mode,
        valid_for_days=section.valid_for_days,
        overtaken=assembly.builder.overtaken,
    )


def previous(generations: Generations) -> Generation:
    """The generation to go back to. Raises CacheRootError when there is none."""
    found = generations.previous()
    if found is None or generations.current() is None:
        raise CacheRootError("there is no previous generation to go back to; doit status shows what there is")
    return found


def republish_previous(
    generations: Generations,
    publisher: Publisher,
    signer: Signer,
    clock: Clock,
    *,
    judge: Callable[[Generation, format_.Manifest], None],
    signing_mode: str,
    valid_for_days: int,
    overtaken: Callable[[format_.Manifest], str | None] = lambda _: None,
) -> Generation:
    """Sign the previous generation's content anew, with the next number and a later time, and make it current.

    The aircraft's rollback floor compares issued_at, so the old manifest itself must never come back. It states the mode it is
    now signed in. The caller holds the lock.

    judge: raises ManifestCoverageError for a generation that may not come back. overtaken: why a statement that waits for its
    signature may no more be published, or None.

    Raises:
        CacheRootError: there is no previous generation.
        ManifestWriteError: this release cannot read its manifest. It does not matter whether it can read the current one.
        ManifestCoverageError: the verifier refuses it.
        SignatureAwaitedError: it is signed elsewhere; `doit sign --import` goes on here.
    """
    old_generation = previous(generations)
    old = _manifest(old_generation)
    judge(old_generation, old)
    now = int(clock().timestamp())
    renewed = old._replace(
        generation=generations.next_number(),
        # It may run ahead of the clock when builds follow within a second; the validity must not.
        issued_at=max(now, newest_issue(generations) + 1),
        valid_from=now,
        valid_until=now + valid_for_days * DAY,
        signing_mode=signing_mode,
    )
    content = settled(renewed, signer.waiting(), overtaken)
    if isinstance(signer, OfflineSigner):
        signer.mark_rollback(content)
    sources = {name: old_generation.path / name for name in renewed.subjects}
    return publisher.publish(content, signer.sign(content), sources)


def _judge(generation: Generation, manifest: format_.Manifest, trust: Path) -> None:
    """The verifier's verdict at the time it was signed: its content may come back although its validity has passed."""
    result = verify_manifest(generation.path, trust=trust, now=lambda: manifest.valid_from)
    if result.failures:
        reasons = "; ".join(result.fail_reasons)
        raise ManifestCoverageError(
            f"the verifier refuses {generation.path.name}: {reasons}; it is not published again, and current stays as it is"
        )


def _manifest(generation: Generation) -> format_.Manifest:
    file = read_manifest(generation.path)
    if file.manifest is not None:
        return file.manifest
    way = "set the mission back to what it was then and run doit provision, which builds only what is not in work/"
    if file.other_schema is not None:
        way += "; or run doit rollback with the release of preflight that made it"
    raise ManifestWriteError(
        f"the previous generation {generation.path.name} cannot be published again: its manifest {file.fault}; current stays "
        f"as it is. To get that content back, {way}"
    )
