"""`doit sign`: the statement goes out, is signed where the key is, and its signature comes back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from preflight.commands.key_management import Said
from preflight.commands.rollback import roll_back
from preflight.errors import OfflineSigningError, PreflightError, SignatureAwaitedError
from preflight.mission.job import Job
from preflight.ports import Signer
from preflight.records import BuildReport
from preflight.run.session import Session
from preflight.signing import (
    OfflineSigner,
    SigningKey,
    SigningRequest,
    export_bytes,
    load_public_key,
    read_export,
    read_signature,
    sign_export,
    summary,
)
from preflight.store import atomic
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import Generation
from preflight.store.manifests import parse_manifest
from preflight.wiring import Assembly
from takeoff import keys

_EXPORT_START = b"DSSEv1 "
SUFFIX = ".sig"
_WAY = "doit sign --export=FILE, sign FILE where the key is, then doit sign --import=FILE.sig"
_MOVED_ON = "what was signed is no more what is to be published: something it is made of has changed since the export"


@dataclass(frozen=True, slots=True)
class Awaited:
    """A statement that is laid out to be signed elsewhere.

    facts: what it says; none where it cannot be read. signed: its signature has come back. problem: why it may no more be
    published, else None. next: what to do.
    """

    facts: Mapping[str, str]
    signed: bool
    problem: str | None
    next: str


def awaited(job: Job, assemble: Callable[[], Assembly]) -> Awaited | None:
    """What waits, without the lock and changing nothing; None where nothing does, or the key lies here.

    assemble: called where a statement waits. What it or the key raises is told as the statement's problem.
    """
    request = SigningRequest(CacheLayout(job.cache_root).signing)
    if job.config.manifest.signing == "here" or not request.statement.exists():
        return None
    try:
        assembly = assemble()
        try:
            return _judged(assembly, _offline(assembly.signer()))
        finally:
            assembly.tiles.close()
    except PreflightError as error:
        return Awaited(
            {},
            False,
            f"a statement lies out to be signed, and cannot be judged: {error}",
            "mend that, then doit provision",
        )


def _judged(assembly: Assembly, signer: OfflineSigner) -> Awaited | None:
    statement = _laid_out(assembly, signer)
    if statement is None:
        return None
    signed, maker = signer.signed(statement), _maker(signer, statement)
    try:
        facts = {"signer": signer.fingerprint, **summary(_waiting(assembly, signer))}
    except OfflineSigningError as error:
        return Awaited({}, signed, str(error), maker)
    return Awaited(facts, signed, None, f"{maker}, which publishes it" if signed else _WAY)


def export(assembly: Assembly, target: Path) -> Said:
    """Write the bytes to sign, and beside them a JSON file that says what they are.

    Raises:
        OfflineSigningError: nothing waits, it may no more be published, or `target` is another file.
    """
    signer = _offline(assembly.signer())
    statement = _waiting(assembly, signer)
    if target.exists() and not _is_export(target):
        raise OfflineSigningError(f"{target} is there and no earlier export; name another file")
    facts = {"signer": signer.fingerprint, **summary(statement)}
    told = target.with_name(f"{target.name}.json")
    try:
        atomic.atomic_write(target, export_bytes(statement))
        atomic.atomic_write(told, json.dumps(facts, indent=2).encode() + b"\n")
    except OSError as error:
        raise OfflineSigningError(f"{target} cannot be written: {error.strerror}") from error
    text = (
        f"{_lines(facts)}\nwritten              {target} (what is signed), {told.name} (what it says)\n"
        f"next                 where the key is: doit sign --key=KEY {target.name}, or openssl pkeyutl -sign -rawin "
        f"-inkey KEY -in {target.name} -out {target.name}{SUFFIX}; then here: doit sign --import={target}{SUFFIX}"
    )
    return Said("signature_requested", text, {**facts, "path": str(target)})


def sign(path: Path, unlock: Callable[[], SigningKey], show: Callable[[str], None]) -> Said:
    """Sign an export with a key that lies on this machine; `FILE.sig` is written beside it. Needs no mission.

    show: told what is signed before `unlock` loads the key, and may ask for its passphrase.

    Raises:
        OfflineSigningError: it is no export, or another signature is there.
        SigningKeyError: as `unlock` raises.
    """
    statement = read_export(path)
    facts = summary(statement)
    show(_lines(facts))
    key = unlock()
    signature = sign_export(statement, key)
    target = path.with_name(path.name + SUFFIX)
    try:
        if target.exists() and target.read_bytes() != signature:
            raise OfflineSigningError(
                f"{target} is there and holds another signature; remove it, or sign a copy elsewhere"
            )
        atomic.atomic_write(target, signature)
    except OSError as error:
        raise OfflineSigningError(f"{target} cannot be written: {error.strerror}") from error
    text = (
        f"signed by            {key.fingerprint}\n"
        f"written              {target}; carry it back, then there: doit sign --import={target.name}"
    )
    return Said("signed", text, {**facts, "signer": key.fingerprint, "path": str(target)})


def bring_back(
    assembly: Assembly, session: Session, signature: Path, public_key: Path | None
) -> BuildReport | Generation:
    """Take a signature and go on to the published cache; what was built before is not built again.

    Returns the report of the build, or the generation that a rollback published.

    public_key: whose it is; must be the mission's own. The verifier that flies judges the cache before it is published.

    Raises:
        OfflineSigningError: it does not fit what waits, or that may no more be published.
        PreflightError: as a provision raises.
    """
    try:
        signer = _offline(assembly.signer())
        if public_key is not None:
            _same_key(load_public_key(public_key), signer, public_key)
        statement = _waiting(assembly, signer)
        signer.accept(statement, read_signature(signature))
    except BaseException:
        session.close()
        raise
    try:
        done = _roll_back(assembly, session) if signer.is_rollback(statement) else session.build()
    except SignatureAwaitedError as error:
        raise OfflineSigningError(f"{_MOVED_ON}, and a new statement waits: run doit sign --export=FILE") from error
    if _published(assembly) != statement:
        raise OfflineSigningError(f"{_MOVED_ON}; doit provision says whether there is anything to do")
    return done


def _roll_back(assembly: Assembly, session: Session) -> Generation:
    try:
        session.hold()
        return roll_back(assembly)
    finally:
        session.close()


def _offline(signer: Signer) -> OfflineSigner:
    if not isinstance(signer, OfflineSigner):
        raise OfflineSigningError(
            "this mission signs with a key that lies here: for signing elsewhere set signing: offline and signing_key: the "
            "public key in components.c10_provisioning.manifest, then run doit provision"
        )
    return signer


def _waiting(assembly: Assembly, signer: OfflineSigner) -> bytes:
    """The statement that waits. Raises OfflineSigningError."""
    statement = _laid_out(assembly, signer)
    if statement is None:
        raise OfflineSigningError("nothing waits for a signature; doit provision says whether there is anything to do")
    file = parse_manifest(statement)
    if file.manifest is None or file.other_schema is not None:
        raise OfflineSigningError(
            f"the statement that waits for its signature {file.fault}: run {_maker(signer, statement)}, which writes a new "
            "one, then doit sign --export=FILE again"
        )
    overtaken = assembly.builder.overtaken(file.manifest)
    if overtaken is not None:
        raise OfflineSigningError(
            f"the statement that waits may no more be published: {overtaken}; run {_maker(signer, statement)}, which writes a "
            "new one, then doit sign --export=FILE again"
        )
    return statement


def _laid_out(assembly: Assembly, signer: OfflineSigner) -> bytes | None:
    """The statement that waits; None where it was published."""
    statement = signer.waiting()
    return None if statement is None or _published(assembly) == statement else statement


def _maker(signer: OfflineSigner, statement: bytes) -> str:
    """The command that wrote a statement, and takes its signature."""
    return "doit rollback" if signer.is_rollback(statement) else "doit provision"


def _published(assembly: Assembly) -> bytes | None:
    """The current generation's statement; None when there is none."""
    published = assembly.builder.published()
    return None if published is None else published.content


def _same_key(public_key: bytes, signer: OfflineSigner, path: Path) -> None:
    if keys.fingerprint(public_key) != signer.fingerprint:
        raise OfflineSigningError(
            f"{path} is the key {keys.fingerprint(public_key)}, and the mission names {signer.fingerprint} as its "
            "signing_key: correct one of the two"
        )


def _is_export(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_EXPORT_START)) == _EXPORT_START
    except OSError as error:
        raise OfflineSigningError(f"{path} cannot be read: {error.strerror}") from error


def _lines(facts: dict[str, str]) -> str:
    return "\n".join(f"{name.replace('_', ' '):<21}{value}" for name, value in facts.items())
