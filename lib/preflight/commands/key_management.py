"""`doit keygen` and `doit trust`: make operators' keys, and manage the keys that an aircraft trusts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from preflight.errors import CommandLineError
from preflight.signing import (
    Ask,
    TrustListing,
    add_key,
    given_passphrase,
    list_trust,
    load_public_key,
    make_key,
    new_passphrase,
    public_path,
    revoke_key,
)
from takeoff import keys


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The result of a command: an event with its name and fields for programs, and a text for people."""

    event: str
    text: str
    fields: dict[str, object]


def keygen(
    path: Path, *, passphrase_file: Path | None, variable: str | None, ask: Ask | None, unencrypted: bool
) -> CommandResult:
    """Make a key pair.

    Args:
        path: the file of the private key.
        passphrase_file: a file with the passphrase, or None.
        variable: the value of the environment variable for the passphrase, or None.
        ask: asks for the passphrase on the terminal; None if there is no terminal.
        unencrypted: write the private key without encryption.

    Raises:
        CommandLineError: both a passphrase file and no encryption were requested.
        SigningKeyError: the key cannot be made. Nothing was overwritten.
    """
    if unencrypted and passphrase_file is not None:
        raise CommandLineError("--unencrypted and --passphrase-file exclude each other; give one of them")
    passphrase = None if unencrypted else new_passphrase(given_passphrase(passphrase_file, variable), ask)
    key = make_key(path, passphrase)
    public = public_path(path)
    kind = "not encrypted" if unencrypted else "encrypted"
    text = (
        f"private key  {path} ({kind}, mode 0600)\npublic key   {public}\nfingerprint  {key.fingerprint}\n"
        f"next         doit trust add {public}; for signing_mode operator, add the fingerprint to "
        "allowed_operator_fingerprints"
    )
    fields = {"private_key": str(path), "public_key": str(public), "encrypted": not unencrypted}
    return CommandResult("c10.key.made", text, {**fields, "fingerprint": key.fingerprint})


def trust(directory: Path, arguments: Sequence[str], now: datetime) -> CommandResult:
    """Run `doit trust ...`: `add KEY`, `revoke FINGERPRINT` (or KEY), or `list`.

    Args:
        directory: the trust directory.
        arguments: the words after `doit trust`.
        now: the time to record for a revocation.

    Raises:
        CommandLineError: the arguments are none of these.
        SigningKeyError: the key is invalid. Nothing was changed.
        TrustDirectoryError: the directory is invalid. Nothing was changed.
    """
    match list(arguments):
        case ["add", name]:
            return _add(directory, Path(name))
        case ["revoke", name]:
            return _revoke(directory, name, now)
        case ["list"]:
            return _list(directory)
        case _:
            raise CommandLineError("give `add KEY`, `revoke FINGERPRINT` (or KEY), or `list`; see doit help trust")


def _add(directory: Path, path: Path) -> CommandResult:
    label = path.name.removesuffix(".pem").removesuffix(".pub")
    fingerprint, name = add_key(directory, load_public_key(path), label)
    text = (
        f"{directory} trusts {fingerprint} already"
        if name is None
        else f"{directory} now trusts {fingerprint}, in the file {name}. Copy the directory to every aircraft that shall trust it"
    )
    return CommandResult("c10.key.trusted", text, {"fingerprint": fingerprint, "file": name, "trust": str(directory)})


def _revoke(directory: Path, name: str, now: datetime) -> CommandResult:
    path = Path(name)
    fingerprint = keys.fingerprint(load_public_key(path)) if path.is_file() else name.lower()
    new = revoke_key(directory, fingerprint, now)
    text = (
        f"{fingerprint} is now revoked in {directory}. Copy the directory to every aircraft: until then they accept what the "
        "key signed"
        if new
        else f"{fingerprint} is revoked in {directory} already"
    )
    return CommandResult("c10.key.revoked", text, {"fingerprint": fingerprint, "new": new, "trust": str(directory)})


def _list(directory: Path) -> CommandResult:
    listing = list_trust(directory)
    fields: dict[str, object] = {
        "trust": str(directory),
        "allow_dev": listing.allow_dev,
        "keys": [asdict(key) for key in listing.keys],
    }
    return CommandResult("c10.key.listed", _table(directory, listing), fields)


def _table(directory: Path, listing: TrustListing) -> str:
    lines = [
        f"{key.fingerprint}  {'REVOKED' if key.revoked else 'trusted'}  {key.file}".rstrip() for key in listing.keys
    ]
    dev = (
        "allow_dev is present: the verifier accepts caches signed in dev mode"
        if listing.allow_dev
        else "allow_dev is absent: the verifier accepts only caches signed by an operator"
    )
    return "\n".join([f"{directory}", *lines, dev])
