"""`doit rollback`: publishes the content of the previous generation again, as a new generation."""

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
    """Publish the previous content of the mission's cache root again. The caller must hold the lock.

    Returns:
        The new generation.

    Raises:
        DatabaseError: the tile store does not answer.
        PreflightError: as `republish_previous` raises.
    """
    previous(assembly.generations)
    signer = assembly.signer()
    assembly.prepare_database()
    section = assembly.job.config.manifest
    return republish_previous(
        assembly.generations,
        assembly.publisher,
        signer,
        assembly.surroundings.clock,
        judge=lambda generation, manifest: _verify(generation, manifest, assembly.job.trust),
        signing_mode=section.signing_mode,
        valid_for_days=section.valid_for_days,
        overtaken=assembly.builder.overtaken,
    )


def previous(generations: Generations) -> Generation:
    """Return the generation to publish again. Raises CacheRootError if there is none."""
    found = generations.previous()
    if found is None or generations.current() is None:
        raise CacheRootError("there is no previous generation to go back to; doit status shows all generations")
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
    """Sign the previous generation's content again, with the next number and a later time, and make it current.

    The old manifest must never be published again, because the aircraft's rollback floor compares issued_at. The caller
    must hold the lock.

    Args:
        generations: the generations of the cache root.
        publisher: writes the new generation.
        signer: signs the new manifest.
        clock: gives the start of the new validity.
        judge: raises ManifestCoverageError if a generation must not be published again.
        signing_mode: the mode for the new manifest.
        valid_for_days: the length of the new validity, in days.
        overtaken: returns why a statement that waits for its signature must not be published, or None.

    Returns:
        The new generation.

    Raises:
        CacheRootError: there is no previous generation.
        ManifestWriteError: this release cannot read the previous manifest. It need not be able to read the current one.
        ManifestCoverageError: the verifier refuses the previous generation.
        SignatureAwaitedError: the key is on another machine. `doit sign --import` continues here.
    """
    old_generation = previous(generations)
    old = _manifest(old_generation)
    judge(old_generation, old)
    now = int(clock().timestamp())
    renewed = old._replace(
        generation=generations.next_number(),
        # This may be later than the clock if builds follow within a second. The start of the validity must not be.
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


def _verify(generation: Generation, manifest: format_.Manifest, trust: Path) -> None:
    """Verify a generation at the start of its validity. An expired generation may be published again."""
    result = verify_manifest(generation.path, trust=trust, now=lambda: manifest.valid_from)
    if result.failures:
        reasons = "; ".join(result.fail_reasons)
        raise ManifestCoverageError(
            f"the verifier refuses {generation.path.name}: {reasons}. It is not published again, and current does not change. "
            "Run doit provision to publish what the mission describes"
        )


def _manifest(generation: Generation) -> format_.Manifest:
    file = read_manifest(generation.path)
    if file.manifest is not None:
        return file.manifest
    advice = (
        "set the mission back to its state at that time and run doit provision, which builds only what is not in work/"
    )
    if file.other_schema is not None:
        advice += "; or run doit rollback with the release of preflight that made it"
    raise ManifestWriteError(
        f"the previous generation {generation.path.name} cannot be published again: its manifest {file.fault}. current does "
        f"not change. To get that content back, {advice}"
    )
