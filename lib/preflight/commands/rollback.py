"""`doit rollback`: the previous content, published again as a new generation."""

from __future__ import annotations

from preflight.errors import CacheRootError, ManifestWriteError
from preflight.ports import Clock, Signer
from preflight.stages.publish import Publisher
from preflight.store.generations import Generation, Generations
from preflight.wiring import Assembly
from takeoff import manifest as format_
from takeoff.errors import VerificationError
from takeoff.names import MANIFEST

DAY = 86400


def roll_back(assembly: Assembly) -> Generation:
    """Roll the mission's cache root back. The caller holds the lock. Raises as `republish_previous`, and DatabaseError."""
    assembly.prepare_database()
    days = assembly.job.config.manifest.valid_for_days
    return republish_previous(
        assembly.generations, assembly.publisher, assembly.signer(), assembly.surroundings.clock, valid_for_days=days
    )


def republish_previous(
    generations: Generations, publisher: Publisher, signer: Signer, clock: Clock, *, valid_for_days: int
) -> Generation:
    """Sign the previous generation's content anew, with the next number and a later time, and make it current.

    The aircraft's rollback floor compares issued_at, so the old manifest itself must never come back. The caller holds the lock.

    Raises:
        CacheRootError: there is no previous generation.
        ManifestCoverageError: the verifier refuses it.
    """
    previous, current = generations.previous(), generations.current()
    if previous is None or current is None:
        raise CacheRootError("there is no previous generation to go back to; doit status shows what there is")
    publisher.verify(previous.path)
    old = _manifest(previous)
    now = int(clock().timestamp())
    # It may run ahead of the clock when builds follow within a second; the validity must not, or the verifier would refuse it.
    issued = max(now, old.issued_at + 1, _manifest(current).issued_at + 1)
    renewed = old._replace(
        generation=generations.next_number(),
        issued_at=issued,
        valid_from=now,
        valid_until=now + valid_for_days * DAY,
    )
    content = format_.encode(renewed)
    sources = {name: previous.path / name for name in renewed.subjects}
    return publisher.publish(content, signer.sign(content), sources)


def _manifest(generation: Generation) -> format_.Manifest:
    try:
        return format_.decode((generation.path / MANIFEST).read_bytes())
    except (OSError, VerificationError) as error:
        raise ManifestWriteError(
            f"the manifest of {generation.path.name} cannot be read ({error}); run doit provision repair=1"
        ) from error
