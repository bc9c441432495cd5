"""`doit reproduce`: is the current cache what its mission builds, byte by byte, with nothing reused?"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from preflight.errors import CacheRootError, OfflineSigningError, SignatureAwaitedError
from preflight.mission.job import Job
from preflight.mission.loading import Mission
from preflight.ports import Signer
from preflight.run.session import Session
from preflight.signing import Ask, OfflineSigner
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import Generations
from preflight.store.manifests import WRITTEN, read_manifest, signed_here
from preflight.trace.digests import DigestCache, hash_file
from preflight.wiring import Assembly, Options, Surroundings, tile_access
from takeoff import envelope
from takeoff import manifest as format_
from takeoff.errors import VerificationError
from takeoff.layout import determined_files
from takeoff.names import ENVELOPE, MANIFEST, SUMS

MISSING = "missing in the current cache"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One file of the cache, as it is and as it was built again."""

    name: str
    equal: bool
    note: str


def reproduce(mission: Mission, surroundings: Surroundings, ask: Ask | None = None) -> list[Comparison]:
    """Build the mission in a fresh root in staging/, compare with `current`, remove the fresh root.

    The gates' sample is an input, drawn once: it is taken over. Nothing else is. ask: for the passphrase of an encrypted key.

    Raises:
        CacheRootError: there is no current generation.
        BuildLockHeldError: a build runs.
        PreflightError: as the stages do.
    """
    layout = CacheLayout(mission.job.cache_root)
    current = Generations(layout, DigestCache(None)).current()
    if current is None:
        raise CacheRootError(f"{layout.root} has no current generation to compare with; run doit provision first")
    _published(current.path)  # where it cannot be read, nothing needs to be built to say so
    outer = Assembly(mission.job, tile_access(mission.tile_root, mission.database), surroundings, Options(), demo=False)
    held = outer.session()
    # Under staging/, with the lock: what a kill leaves there, the next run sweeps.
    room = layout.staging / uuid.uuid4().hex
    try:
        held.hold()
        job = replace(mission.job, cache_root=room / "cache")
        return _build_and_compare(job, mission, surroundings, current.path, ask)
    finally:
        if room.exists():
            shutil.rmtree(room)
        held.close()


def _build_and_compare(
    job: Job, mission: Mission, surroundings: Surroundings, current: Path, ask: Ask | None
) -> list[Comparison]:
    tiles = tile_access(mission.tile_root, mission.database)
    assembly = Assembly(job, tiles, surroundings, Options(ask=ask), demo=False)
    session = assembly.session()
    sample = CacheLayout(mission.job.cache_root).parity_sample.parent
    try:
        session.begin()
        if sample.exists():
            shutil.copytree(sample, CacheLayout(job.cache_root).parity_sample.parent)
        for name in session.stages:
            if name not in ("manifest", "publish"):
                session.run(name)
        # Both CPU runtimes repeat their bytes; the gate's figure is for those that do not.
        statement = _statement(assembly, session)
        return compare(current, assembly.builder.artifacts(), statement, _signer(assembly, current), lambda _: None)
    finally:
        session.close()


def _statement(assembly: Assembly, session: Session) -> bytes:
    """The fresh manifest, signed or not."""
    try:
        session.run("manifest")
    except SignatureAwaitedError:
        # The key lies elsewhere, and a comparison needs no new signature.
        return assembly.signer().waiting() or b""
    return assembly.layout.manifest.read_bytes()


def _signer(assembly: Assembly, current: Path) -> Signer:
    """Who signs the fresh manifest once its times are the current one's; offline, the signature that is there already."""
    signer = assembly.signer()
    if isinstance(signer, OfflineSigner):
        with suppress(VerificationError, OSError, OfflineSigningError):
            # What does not fit is a difference, and is told as one.
            signed = envelope.decode((current / ENVELOPE).read_bytes(), format_.MAX_BYTES * 2)
            signer.lay_out(signed.payload)
            signer.accept(signed.payload, signed.signature)
    return signer


def compare(
    current: Path,
    artifacts: Mapping[str, Path],
    statement: bytes,
    signer: Signer,
    parity_of: Callable[[str], str | None],
) -> list[Comparison]:
    """Compare a published cache with what was built again.

    artifacts: name -> the fresh file. statement: the fresh manifest, which is compared after it was given the current one's
    number and times. parity_of: for an engine whose bytes no build repeats, what its parity gate found; None for any other.

    Raises CacheRootError: the current manifest cannot be read.
    """
    published = _published(current)
    found = [
        _artifact(name, current / name, artifacts.get(name), parity_of(name)) for name in sorted(published.subjects)
    ]
    found += [
        Comparison(name, False, "built now, not in the current cache")
        for name in sorted(artifacts.keys() - published.subjects.keys())
    ]
    if any(item.note.startswith("by parity") for item in found):
        # Other engine bytes, other manifest: what can be compared has been.
        return found
    return [*found, *_signed(current, published, statement, signer)]


def _published(current: Path) -> format_.Manifest:
    file = read_manifest(current)
    if file.manifest is not None:
        return file.manifest
    if file.other_schema is None:
        raise CacheRootError(
            f"the manifest of {current.name} {file.fault}: run doit provision repair=1, then doit reproduce again"
        )
    raise CacheRootError(
        f"the manifest of {current.name} {file.fault}: run doit provision, which publishes the mission in schema {WRITTEN}, "
        "then doit reproduce again; or run doit reproduce with the release of preflight that made it"
    )


def _artifact(name: str, old: Path, new: Path | None, parity: str | None) -> Comparison:
    if new is None or not new.is_file():
        return Comparison(name, False, "not built by this mission")
    if not old.is_file():
        return Comparison(name, False, MISSING)
    if hash_file(old) == hash_file(new):
        return Comparison(name, True, "byte by byte")
    if parity is not None:
        return Comparison(name, True, f"by parity, since no build repeats its bytes: cosine {parity}")
    return Comparison(name, False, "bytes differ")


def _signed(current: Path, published: format_.Manifest, statement: bytes, signer: Signer) -> Iterator[Comparison]:
    fresh = signed_here(statement)._replace(
        generation=published.generation,
        issued_at=published.issued_at,
        valid_from=published.valid_from,
        valid_until=published.valid_until,
    )
    content = format_.encode(fresh)
    digest = hashlib.sha256(content).hexdigest()
    expected = {
        MANIFEST: content,
        ENVELOPE: _envelope(signer, content),
        SUMS: determined_files(fresh, digest)[SUMS],
    }
    for name, value in expected.items():
        there = (current / name).is_file()
        equal = there and (current / name).read_bytes() == value
        differing = "bytes differ" if there else MISSING
        yield Comparison(name, equal, "byte by byte, number and times set equal" if equal else differing)


def _envelope(signer: Signer, content: bytes) -> bytes:
    try:
        return signer.sign(content)
    except SignatureAwaitedError:
        return b""  # equal to none: the signature that is there is over other bytes


def reproduce_text(found: list[Comparison]) -> str:
    """For people: a line a file, then the verdict."""
    lines = [f"{'equal  ' if item.equal else 'DIFFERS'}  {item.name}  ({item.note})" for item in found]
    different = sum(not item.equal for item in found)
    verdict = "reproduced" if not different else f"not reproduced: {different} of {len(found)} files differ"
    return "\n".join([*lines, verdict])


def reproduce_json(found: list[Comparison]) -> str:
    """For programs: one JSON object on one line."""
    files = [{"name": item.name, "equal": item.equal, "note": item.note} for item in found]
    return json.dumps({"reproduced": all(item.equal for item in found), "files": files})
