"""`doit keygen` and `doit trust`: keys for operators, and whom an aircraft trusts."""

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
class Said:
    """The outcome of a command: the event's name and fields for programs, a text for people."""

    event: str
    text: str
    fields: dict[str, object]


def keygen(
    path: Path, *, passphrase_file: Path | None, variable: str | None, ask: Ask | None, unencrypted: bool
) -> Said:
    """Make a key pair.

    variable: the value of the passphrase's environment variable, or None. ask: asks on a terminal; None where there is none.

    Raises:
        CommandLineError: both a passphrase file and no encryption are asked for.
        SigningKeyError: the key cannot be made; nothing was overwritten.
    """
    if unencrypted and passphrase_file is not None:
        raise CommandLineError("--unencrypted and --passphrase-file exclude each other")
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
    return Said("key_made", text, {**fields, "fingerprint": key.fingerprint})


def trust(directory: Path, arguments: Sequence[str], now: datetime) -> Said:
    """`doit trust ...`: add KEY, revoke FINGERPRINT or KEY, list.

    Raises:
        CommandLineError: the arguments are none of these.
        SigningKeyError, TrustDirectoryError: the key or the directory is refused; nothing was changed.
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


def _add(directory: Path, path: Path) -> Said:
    label = path.name.removesuffix(".pem").removesuffix(".pub")
    fingerprint, name = add_key(directory, load_public_key(path), label)
    text = f"{fingerprint} is trusted by {directory}"
    text += " already" if name is None else f": {name}; copy the directory to every aircraft that is to trust it"
    return Said("key_trusted", text, {"fingerprint": fingerprint, "file": name, "trust": str(directory)})


def _revoke(directory: Path, name: str, now: datetime) -> Said:
    path = Path(name)
    fingerprint = keys.fingerprint(load_public_key(path)) if path.is_file() else name.lower()
    new = revoke_key(directory, fingerprint, now)
    text = f"{fingerprint} is revoked in {directory}" + (
        "; copy the directory to every aircraft: until then they accept what the key signed" if new else " already"
    )
    return Said("key_revoked", text, {"fingerprint": fingerprint, "new": new, "trust": str(directory)})


def _list(directory: Path) -> Said:
    listing = list_trust(directory)
    fields: dict[str, object] = {
        "trust": str(directory),
        "allow_dev": listing.allow_dev,
        "keys": [asdict(key) for key in listing.keys],
    }
    return Said("trust_listed", _table(directory, listing), fields)


def _table(directory: Path, listing: TrustListing) -> str:
    lines = [
        f"{key.fingerprint}  {'REVOKED' if key.revoked else 'trusted'}  {key.file}".rstrip() for key in listing.keys
    ]
    dev = (
        "allow_dev: caches signed in dev mode pass" if listing.allow_dev else "no allow_dev: only operator caches pass"
    )
    return "\n".join([f"{directory}", *lines, dev])
