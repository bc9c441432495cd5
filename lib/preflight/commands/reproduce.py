"""`doit reproduce`: builds the mission again without reusing anything, and compares it with the current cache."""

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
from preflight.wiring import Assembly, Options, Surroundings, assemble_job, tile_access
from takeoff import envelope
from takeoff import manifest as format_
from takeoff.errors import VerificationError
from takeoff.layout import determined_files
from takeoff.names import ENVELOPE, MANIFEST, SUMS

MISSING = "missing in the current cache"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of one file of the cache with the file that was built again.

    note: how it was compared, or differs.
    """

    name: str
    equal: bool
    note: str


def reproduce(mission: Mission, surroundings: Surroundings, ask: Ask | None = None) -> list[Comparison]:
    """Build the mission in a new cache root in staging/, compare it with `current`, and remove the new root.

    Copies only the sample of tiles for the parity gate, because it is an input that is drawn once.

    Args:
        mission: the mission.
        surroundings: the host, the clock and the environment.
        ask: asks for the passphrase of an encrypted key; None if there is no terminal.

    Returns:
        One comparison for each file.

    Raises:
        CacheRootError: there is no current generation, or its manifest cannot be read.
        BuildLockHeldError: a build is running.
        PreflightError: as the stages raise.
    """
    layout = CacheLayout(mission.job.cache_root)
    current = Generations(layout, DigestCache(None)).current()
    if current is None:
        raise CacheRootError(f"{layout.root} has no current generation to compare with; run doit provision first")
    _published(current.path)  # if it cannot be read, fail before anything is built
    outer = assemble_job(mission.job, tile_access(mission.tile_root, mission.database), surroundings, Options())
    held = outer.session()
    # This run holds the lock. If it is killed, the next run removes what is left in staging/.
    folder = layout.staging / uuid.uuid4().hex
    try:
        held.hold()
        job = replace(mission.job, cache_root=folder / "cache")
        return _build_and_compare(job, mission, surroundings, current.path, ask)
    finally:
        if folder.exists():
            shutil.rmtree(folder)
        held.close()


def _build_and_compare(
    job: Job, mission: Mission, surroundings: Surroundings, current: Path, ask: Ask | None
) -> list[Comparison]:
    tiles = tile_access(mission.tile_root, mission.database)
    assembly = assemble_job(job, tiles, surroundings, Options(ask=ask))
    session = assembly.session()
    sample = CacheLayout(mission.job.cache_root).parity_sample.parent
    try:
        session.begin()
        if sample.exists():
            shutil.copytree(sample, CacheLayout(job.cache_root).parity_sample.parent)
        for name in session.stages:
            if name not in ("manifest", "publish"):
                session.run(name)
        # Both CPU runtimes give the same bytes again. Only other runtimes would need the cosine of the parity gate.
        statement = _statement(assembly, session)
        return compare(current, assembly.builder.artifacts(), statement, _signer(assembly, current), lambda _: None)
    finally:
        session.close()


def _statement(assembly: Assembly, session: Session) -> bytes:
    """Return the new manifest, signed or not."""
    try:
        session.run("manifest")
    except SignatureAwaitedError:
        # The key is on another machine. A comparison needs no new signature.
        return assembly.signer().waiting() or b""
    return assembly.layout.manifest.read_bytes()


def _signer(assembly: Assembly, current: Path) -> Signer:
    """Return the signer of the new manifest, which gets the times of the current one.

    If the key is on another machine, the signer returns the existing signature.
    """
    signer = assembly.signer()
    if isinstance(signer, OfflineSigner):
        with suppress(VerificationError, OSError, OfflineSigningError):
            # A signature that does not fit is reported as a difference.
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
    """Compare a published cache with files that were built again.

    Args:
        current: the folder of the published cache.
        artifacts: name -> the new file.
        statement: the new manifest. It is compared after it has received the number and times of the current one.
        signer: signs the changed manifest.
        parity_of: returns the cosine of the parity gate for an engine whose bytes differ in each build; None for
            others.

    Returns:
        One comparison for each file.

    Raises:
        CacheRootError: the current manifest cannot be read.
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
        # With other engine bytes, the manifest differs as well. So nothing is left to compare.
        return found
    return [*found, *_signed(current, published, statement, signer)]


def _published(current: Path) -> format_.Manifest:
    file = read_manifest(current)
    if file.manifest is not None:
        return file.manifest
    if file.other_schema is None:
        raise CacheRootError(
            f"the manifest of {current.name} {file.fault}. Run doit provision repair=1, then doit reproduce again"
        )
    raise CacheRootError(
        f"the manifest of {current.name} {file.fault}. Run doit provision, which publishes the mission in schema {WRITTEN}, "
        "then doit reproduce again. Or run doit reproduce with the release of preflight that made it"
    )


def _artifact(name: str, old: Path, new: Path | None, parity: str | None) -> Comparison:
    if new is None or not new.is_file():
        return Comparison(name, False, "not built by this mission")
    if not old.is_file():
        return Comparison(name, False, MISSING)
    if hash_file(old) == hash_file(new):
        return Comparison(name, True, "byte by byte")
    if parity is not None:
        return Comparison(name, True, f"by parity, because its bytes differ in each build: cosine {parity}")
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
        return b""  # differs from every envelope: the existing signature is for other bytes


def reproduce_text(found: list[Comparison]) -> str:
    """Return one line for each file and then the verdict, for people."""
    lines = [f"{'equal  ' if item.equal else 'DIFFERS'}  {item.name}  ({item.note})" for item in found]
    different = sum(not item.equal for item in found)
    verdict = "reproduced" if not different else f"not reproduced: {different} of {len(found)} files differ"
    return "\n".join([*lines, verdict])


def reproduce_json(found: list[Comparison]) -> str:
    """Return the comparisons as a JSON object on one line, for programs."""
    files = [{"name": item.name, "equal": item.equal, "note": item.note} for item in found]
    return json.dumps({"reproduced": all(item.equal for item in found), "files": files})
