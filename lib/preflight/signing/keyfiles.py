"""Ed25519 keys on disk: read, made, and their passphrases.

Private keys are PKCS#8 PEM files or OpenSSH's own; public keys are PEM files or OpenSSH's one line. What a public key is worth
is decided by `takeoff.keys` alone.
"""

# ruff: noqa: PLC0415 - cryptography is imported where a key is used, not by every `doit list`
from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from preflight.errors import SigningKeyError
from preflight.store import atomic
from takeoff import keys
from takeoff.errors import TrustError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Ask = Callable[[str], str]
"""Asks a person for a secret: the prompt in, what was typed out. Only who has a terminal hands one over."""

PASSPHRASE_VARIABLE = "PREFLIGHT_SIGNING_PASSPHRASE"  # noqa: S105 - the name of a variable
PRIVATE_MODE, PUBLIC_MODE = 0o600, 0o644
_MAX_BYTES = 1 << 20
_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_PUBLIC = b"-----BEGIN PUBLIC KEY-----"
_OPENSSH_PUBLIC = b"ssh-ed25519 "


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 private key and the fingerprint of its public half (SHA-256 of the SPKI DER, hex)."""

    private: Ed25519PrivateKey
    public_key: bytes
    fingerprint: str


def load_signing_key(path: Path, passphrase: bytes | None = None, ask: Ask | None = None) -> SigningKey:
    """Read a PKCS#8 PEM file or an OpenSSH private key. Raises SigningKeyError.

    A file that others than its owner can reach is refused. The file is read from the descriptor that was checked.
    ask: asked for the passphrase of an encrypted key where none is given.
    """
    data = _read_private(path, "signing key")
    try:
        private = _decode(data, passphrase)
    except _PassphraseMissingError as error:
        if ask is None:
            raise SigningKeyError(
                f"{path} is encrypted: give its passphrase in {PASSPHRASE_VARIABLE}, or run the command on a terminal"
            ) from error
        return load_signing_key(path, ask(f"Passphrase of {path}: ").encode())
    except _KeyFormatError as error:
        raise SigningKeyError(f"{path}: {error}") from error
    public_key = private.public_key().public_bytes_raw()
    return SigningKey(private, public_key, keys.fingerprint(public_key))


class _KeyFormatError(Exception):
    """Bytes that are no private key; the message goes behind the file's name."""


class _PassphraseMissingError(Exception):
    """The key is encrypted, and no passphrase was given."""


def _decode(data: bytes, passphrase: bytes | None) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

    load = load_ssh_private_key if data.lstrip().startswith(_OPENSSH) else load_pem_private_key
    try:
        private = load(data, passphrase or None)
    except TypeError as error:
        # A passphrase is missing, or given for an open key. No cause's text ever holds key bytes.
        if not passphrase:
            raise _PassphraseMissingError from error
        raise _KeyFormatError(f"a passphrase is given, and the key has none: {error}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _KeyFormatError(
            f"not a readable private key (PKCS#8 PEM, or OpenSSH's), or the wrong passphrase: {error}"
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise _KeyFormatError("not an Ed25519 key; make one with `doit keygen`")
    return private


def load_public_key(path: Path) -> bytes:
    """The 32 raw bytes of a public key in PEM, or in OpenSSH's line `ssh-ed25519 ...`. Raises SigningKeyError.

    The keys under which anyone could forge a signature are refused by `takeoff.keys`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
    except OSError as error:
        raise SigningKeyError(f"{path}: the public key cannot be read: {error.strerror}") from error
    if b"PRIVATE KEY-----" in data:
        raise SigningKeyError(f"{path} is a private key: give the public half, which `doit keygen` writes beside it")
    try:
        if data.startswith(_OPENSSH_PUBLIC):
            return keys.check_public_key(_openssh_public(data))
        return keys.from_pem(data)
    except (TrustError, ValueError, _KeyFormatError) as error:
        said = error.message if isinstance(error, TrustError) else f"is not an OpenSSH public key: {error}"
        raise SigningKeyError(f"{path} {said}; give an Ed25519 public key, as PEM or as OpenSSH's line") from error


def _openssh_public(data: bytes) -> bytes:
    """The raw key of an OpenSSH line. Raises ValueError for what is none, _KeyFormatError for another kind's."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        key = load_ssh_public_key(data.strip())
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _KeyFormatError("it is of another kind")
    return key.public_bytes_raw()


def public_path(path: Path) -> Path:
    """Where the public half of a key file is written: `operator.pem` gives `operator.pub.pem`."""
    return path.with_name(f"{path.stem if path.suffix == '.pem' else path.name}.pub.pem")


def make_key(path: Path, passphrase: bytes | None) -> SigningKey:
    """Make a key: the private half at `path` with mode 0600, the public half beside it. Raises SigningKeyError.

    passphrase: encrypts the private half; None leaves it open. Neither file may exist: nothing is ever overwritten.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    public = public_path(path)
    for there in (path, public):
        if os.path.lexists(there):
            raise SigningKeyError(f"{there} exists and is left as it is; name another file")
    private = Ed25519PrivateKey.generate()
    raw = private.public_key().public_bytes_raw()
    protection = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    content = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_private(path, content)
        atomic.write_new(public, keys.to_pem(raw), mode=PUBLIC_MODE)
        atomic.fsync_directory(path.parent)
    except OSError as error:
        raise SigningKeyError(f"{path}: the key cannot be made: {error.strerror or error}") from error
    return SigningKey(private, raw, keys.fingerprint(raw))


def _write_private(path: Path, content: bytes) -> None:
    """Raises OSError, and SigningKeyError where the file system would let others read it."""
    try:
        atomic.write_new(path, content, mode=PRIVATE_MODE)
    except FileExistsError:
        raise
    except OSError:
        # Half a key is none, and would stand in the way of the next.
        atomic.remove_file(path)
        raise
    if path.stat().st_mode & 0o077:
        atomic.remove_file(path)
        raise SigningKeyError(f"{path.parent} keeps no permissions: a private key there could be read by others")


def make_dev_key(key_path: Path, trust_dir: Path) -> SigningKey:
    """Make an unencrypted development key, and a trust directory that admits it and dev mode. Raises SigningKeyError.

    Neither may exist: nothing is ever overwritten. The key gets mode 0600. The trust directory appears whole, by one
    rename, after the key; a run killed in between leaves the key alone, and says so the next time.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    for path, what in ((trust_dir, "trust directory"), (key_path, "signing key")):
        if os.path.lexists(path):
            raise SigningKeyError(f"{path}: the {what} exists and is left as it is; remove it, or name another")
    private = Ed25519PrivateKey.generate()
    raw = private.public_key().public_bytes_raw()
    key = SigningKey(private, raw, keys.fingerprint(raw))
    building = trust_dir.with_name(f".{trust_dir.name}.{os.getpid()}.tmp")
    try:
        key_path.parent.mkdir(parents=True, exist_ok=True)
        building.mkdir(parents=True)
        atomic.write_new(building / f"dev-{key.fingerprint[:12]}.pem", keys.to_pem(key.public_key), mode=PUBLIC_MODE)
        atomic.write_new(building / keys.ALLOW_DEV, b"", mode=PUBLIC_MODE)
        atomic.fsync_directory(building)
        content = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        atomic.write_new(key_path, content, mode=PRIVATE_MODE)
        atomic.fsync_directory(key_path.parent)
        atomic.rename_directory(building, trust_dir)
    except OSError as error:
        raise SigningKeyError(f"{key_path}: the development key cannot be made: {error}") from error
    return key


def given_passphrase(file: Path | None, variable: str | None) -> bytes | None:
    """The passphrase from a file, else from the environment variable's value; None where neither is given.

    The file's first line counts; it is held to the same rule as a key: nobody else may read it. Raises SigningKeyError.
    """
    if file is None:
        return variable.encode() if variable else None
    content = _read_private(file, "passphrase file").split(b"\n", 1)[0].removesuffix(b"\r")
    if not content:
        raise SigningKeyError(f"{file}: the passphrase file's first line is empty")
    return content


def new_passphrase(given: bytes | None, ask: Ask | None) -> bytes:
    """The passphrase of a new key, asked for twice where none is given. Raises SigningKeyError."""
    if given is not None:
        return given
    if ask is None:
        raise SigningKeyError(
            f"a new key is encrypted: give its passphrase by --passphrase-file=FILE or in {PASSPHRASE_VARIABLE}, or run "
            "the command on a terminal; --unencrypted makes a key without one"
        )
    first = ask("Passphrase of the new key: ")
    if not first:
        raise SigningKeyError("the passphrase is empty; no key was made")
    if ask("The same again: ") != first:
        raise SigningKeyError("the two passphrases differ; no key was made")
    return first.encode()


def _read_private(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            # A pipe is what a shell's <(...) hands over.
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISFIFO(status.st_mode):
                raise SigningKeyError(f"{path}: the {what} is not a regular file")
            data = file.read(_MAX_BYTES)
            if _PUBLIC in data:
                raise SigningKeyError(
                    f"{path} is a public key, not a {what}: name the private half, or set signing: offline in the mission"
                )
            if status.st_mode & 0o077:
                raise SigningKeyError(
                    f"{path}: the {what} can be reached by others (mode {status.st_mode & 0o777:04o}):"
                    f" run `chmod 600 {path}`"
                )
            return data
    except OSError as error:
        raise SigningKeyError(f"{path}: the {what} cannot be read: {error.strerror}") from error
