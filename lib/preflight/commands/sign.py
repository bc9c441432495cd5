"""`doit sign`: exports a statement, signs it on the machine with the key, and imports the signature."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from preflight.commands.key_management import CommandResult
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
_HOW_TO_SIGN = "doit sign --export=FILE, sign FILE on the machine with the key, then doit sign --import=FILE.sig"
_OUTDATED = "the signed statement is outdated: the mission or one of its inputs has changed since the export"


@dataclass(frozen=True, slots=True)
class Awaited:
    """A statement that waits for a signature from another machine.

    facts: the content of the statement; empty if it cannot be read.
    signed: whether its signature has been imported.
    problem: why it must not be published; None if it may be.
    next: what the operator should do.
    """

    facts: Mapping[str, str]
    signed: bool
    problem: str | None
    next: str


def awaited(job: Job, assemble: Callable[[], Assembly]) -> Awaited | None:
    """Return the statement that waits for a signature. Takes no lock and changes nothing.

    Args:
        job: the job of the mission.
        assemble: makes the parts of the mission. It is called only if a statement waits. If it or the key raises an
            error, the error becomes the problem of the statement.

    Returns:
        The statement; None if nothing waits, or if the mission signs on this machine.
    """
    request = SigningRequest(CacheLayout(job.cache_root).signing)
    if job.config.manifest.signing == "here" or not request.statement.exists():
        return None
    try:
        assembly = assemble()
        try:
            return _state(assembly, _offline(assembly.signer()))
        finally:
            assembly.tiles.close()
    except PreflightError as error:
        return Awaited(
            {},
            False,
            f"a statement waits for its signature, but cannot be checked: {error}",
            "correct that, then doit provision",
        )


def _state(assembly: Assembly, signer: OfflineSigner) -> Awaited | None:
    statement = _unpublished(assembly, signer)
    if statement is None:
        return None
    signed, maker = signer.signed(statement), _maker(signer, statement)
    try:
        facts = {"signer": signer.fingerprint, **summary(_waiting(assembly, signer))}
    except OfflineSigningError as error:
        return Awaited({}, signed, str(error), maker)
    return Awaited(facts, signed, None, f"{maker}, which publishes it" if signed else _HOW_TO_SIGN)


def export(assembly: Assembly, target: Path) -> CommandResult:
    """Write the bytes to sign to a file, and a readable summary to a JSON file beside it.

    Args:
        assembly: the parts of the mission.
        target: the file to write. The summary gets the name of this file with `.json` added.

    Raises:
        OfflineSigningError: nothing waits, the statement must not be published, or `target` exists and is no export.
    """
    signer = _offline(assembly.signer())
    statement = _waiting(assembly, signer)
    if target.exists() and not _is_export(target):
        raise OfflineSigningError(f"{target} exists and is not an earlier export; name another file")
    facts = {"signer": signer.fingerprint, **summary(statement)}
    readable = target.with_name(f"{target.name}.json")
    try:
        atomic.atomic_write(target, export_bytes(statement))
        atomic.atomic_write(readable, json.dumps(facts, indent=2).encode() + b"\n")
    except OSError as error:
        raise OfflineSigningError(f"{target} cannot be written: {error.strerror}") from error
    text = (
        f"{_lines(facts)}\nwritten              {target} (the bytes to sign), {readable.name} (their meaning)\n"
        f"next                 on the machine with the key: doit sign --key=KEY {target.name}, or openssl pkeyutl -sign -rawin "
        f"-inkey KEY -in {target.name} -out {target.name}{SUFFIX}; then on this machine: doit sign --import={target}{SUFFIX}"
    )
    return CommandResult("c10.signing.exported", text, {**facts, "path": str(target)})


def sign(path: Path, unlock: Callable[[], SigningKey], show: Callable[[str], None]) -> CommandResult:
    """Sign an export with a key on this machine, and write the signature to `FILE.sig` beside it. Needs no mission.

    Args:
        path: the export.
        unlock: loads the key, and may ask for its passphrase.
        show: displays what will be signed. It is called before `unlock`.

    Raises:
        OfflineSigningError: the file is no export, or there is another signature.
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
                f"{target} exists and contains another signature; remove it, or sign a copy of the export in another folder"
            )
        atomic.atomic_write(target, signature)
    except OSError as error:
        raise OfflineSigningError(f"{target} cannot be written: {error.strerror}") from error
    text = (
        f"signed by            {key.fingerprint}\n"
        f"written              {target}; copy it to the machine with the mission, then there: doit sign --import={target.name}"
    )
    return CommandResult("c10.signing.signed", text, {**facts, "signer": key.fingerprint, "path": str(target)})


def bring_back(
    assembly: Assembly, session: Session, signature: Path, public_key: Path | None
) -> BuildReport | Generation:
    """Import a signature, and continue until the cache is published. Finished steps are not built again.

    The shipped verifier checks the cache before it is published.

    Args:
        assembly: the parts of the mission.
        session: its session; it is closed in any case.
        signature: the file with the signature.
        public_key: the public key of the signature, which must be that of the mission; None to skip this check.

    Returns:
        The report of the build, or the generation that a rollback published.

    Raises:
        OfflineSigningError: the signature does not fit the waiting statement, or that must not be published.
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
        raise OfflineSigningError(f"{_OUTDATED}. A new statement waits: run doit sign --export=FILE") from error
    if _published(assembly) != statement:
        raise OfflineSigningError(f"{_OUTDATED}. Run doit provision to see whether there is anything to do")
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
            "this mission signs with a key on this machine. To sign on another machine, set signing: offline and "
            "signing_key: the public key in components.c10_provisioning.manifest, then run doit provision"
        )
    return signer


def _waiting(assembly: Assembly, signer: OfflineSigner) -> bytes:
    """Return the statement that waits for its signature. Raises OfflineSigningError."""
    statement = _unpublished(assembly, signer)
    if statement is None:
        raise OfflineSigningError(
            "nothing waits for a signature. Run doit provision to see whether there is anything to do"
        )
    file = parse_manifest(statement)
    if file.manifest is None or file.other_schema is not None:
        raise OfflineSigningError(
            f"the statement that waits for its signature {file.fault}. Run {_maker(signer, statement)}, which writes a new "
            "one, then doit sign --export=FILE again"
        )
    overtaken = assembly.builder.overtaken(file.manifest)
    if overtaken is not None:
        raise OfflineSigningError(
            f"the statement that waits for its signature is outdated: {overtaken}. Run {_maker(signer, statement)}, which writes "
            "a new one, then doit sign --export=FILE again"
        )
    return statement


def _unpublished(assembly: Assembly, signer: OfflineSigner) -> bytes | None:
    """Return the statement that waits for its signature; None if there is none or it was published."""
    statement = signer.waiting()
    return None if statement is None or _published(assembly) == statement else statement


def _maker(signer: OfflineSigner, statement: bytes) -> str:
    """Return the command that wrote a statement and publishes it."""
    return "doit rollback" if signer.is_rollback(statement) else "doit provision"


def _published(assembly: Assembly) -> bytes | None:
    """Return the statement of the current generation; None if there is no current generation."""
    published = assembly.builder.published()
    return None if published is None else published.content


def _same_key(public_key: bytes, signer: OfflineSigner, path: Path) -> None:
    if keys.fingerprint(public_key) != signer.fingerprint:
        raise OfflineSigningError(
            f"{path} is the key {keys.fingerprint(public_key)}, but signing_key in the mission is {signer.fingerprint}. Correct "
            "one of them"
        )


def _is_export(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_EXPORT_START)) == _EXPORT_START
    except OSError as error:
        raise OfflineSigningError(f"{path} cannot be read: {error.strerror}") from error


def _lines(facts: dict[str, str]) -> str:
    return "\n".join(f"{name.replace('_', ' '):<21}{value}" for name, value in facts.items())
