"""Reads and creates Ed25519 key files, and obtains their passphrases.

A private key is a PKCS#8 PEM file or an OpenSSH private key file. A public key is a PEM file or one line in OpenSSH
format. Only `takeoff.keys` decides whether a public key is acceptable.
"""

# ruff: noqa: PLC0415 - cryptography is imported only where a key is used, to keep `doit list` fast
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
"""Asks a person for a secret: takes the prompt, returns the typed text. Only callers with a terminal provide one."""

PASSPHRASE_VARIABLE = "PREFLIGHT_SIGNING_PASSPHRASE"  # noqa: S105 - the name of a variable
PRIVATE_MODE, PUBLIC_MODE = 0o600, 0o644
_MAX_BYTES = 1 << 20
_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_PUBLIC = b"-----BEGIN PUBLIC KEY-----"
_OPENSSH_PUBLIC = b"ssh-ed25519 "


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key pair.

    private: the private key.
    public_key: the 32 raw bytes of the public key.
    fingerprint: SHA-256 of the public key's SPKI DER, hex digits.
    """

    private: Ed25519PrivateKey
    public_key: bytes
    fingerprint: str


def load_signing_key(path: Path, passphrase: bytes | None = None, ask: Ask | None = None) -> SigningKey:
    """Reads a private key from a PKCS#8 PEM file or an OpenSSH private key file.

    The permissions are checked on the open file that is then read, so that the file cannot be exchanged in between.

    Args:
        path: the key file.
        passphrase: the passphrase of an encrypted key.
        ask: asks for the passphrase if the key is encrypted and `passphrase` is not given.

    Raises:
        SigningKeyError: the file cannot be read, users other than its owner can access it, it is not an Ed25519 private
            key, or the passphrase is missing or wrong.
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
    """The bytes are not a valid key. The message continues a sentence that begins with the file's name."""


class _PassphraseMissingError(Exception):
    """The key is encrypted and no passphrase was given."""


def _decode(data: bytes, passphrase: bytes | None) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

    load = load_ssh_private_key if data.lstrip().startswith(_OPENSSH) else load_pem_private_key
    try:
        private = load(data, passphrase or None)
    except TypeError as error:
        # The passphrase is missing, or the key is not encrypted. The text of these errors never contains key bytes.
        if not passphrase:
            raise _PassphraseMissingError from error
        raise _KeyFormatError(f"a passphrase is given, but the key has none, so leave it out: {error}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _KeyFormatError(
            f"not a readable private key (PKCS#8 PEM or OpenSSH), or the wrong passphrase: {error}"
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise _KeyFormatError("not an Ed25519 key; make one with `doit keygen`")
    return private


def load_public_key(path: Path) -> bytes:
    """Reads a public key from a PEM file or an OpenSSH line `ssh-ed25519 ...`.

    `takeoff.keys` refuses weak keys, for which anyone can forge signatures.

    Returns:
        The 32 raw bytes of the key.

    Raises:
        SigningKeyError: the file cannot be read, or does not hold an acceptable Ed25519 public key.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
    except OSError as error:
        raise SigningKeyError(f"{path}: the public key cannot be read: {error.strerror}") from error
    if b"PRIVATE KEY-----" in data:
        raise SigningKeyError(f"{path} is a private key: give the public key, which `doit keygen` writes beside it")
    try:
        if data.startswith(_OPENSSH_PUBLIC):
            return keys.check_public_key(_openssh_public(data))
        return keys.from_pem(data)
    except (TrustError, ValueError, _KeyFormatError) as error:
        fault = error.message if isinstance(error, TrustError) else f"is not an OpenSSH public key: {error}"
        raise SigningKeyError(f"{path} {fault}; give an Ed25519 public key, in PEM or as an OpenSSH line") from error


def _openssh_public(data: bytes) -> bytes:
    """Returns the 32 raw bytes of the key in an OpenSSH line.

    Raises:
        ValueError: the line is not a public key.
        _KeyFormatError: the key is not an Ed25519 key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        key = load_ssh_public_key(data.strip())
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _KeyFormatError("it is not an Ed25519 key")
    return key.public_bytes_raw()


def public_path(path: Path) -> Path:
    """Returns the path of the public key file for a private key file: `operator.pem` gives `operator.pub.pem`."""
    return path.with_name(f"{path.stem if path.suffix == '.pem' else path.name}.pub.pem")


def make_key(path: Path, passphrase: bytes | None) -> SigningKey:
    """Creates a key pair: the private key at `path` with mode 0600, and the public key beside it.

    Existing files are never overwritten.

    Args:
        path: the private key file. Missing folders are created.
        passphrase: encrypts the private key. None writes it without encryption.

    Raises:
        SigningKeyError: one of the files exists, a file cannot be written, or the file system does not keep
            permissions.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    public = public_path(path)
    for file in (path, public):
        if os.path.lexists(file):
            raise SigningKeyError(f"{file} exists and was not changed: name another file")
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
    """Writes a private key file. Raises OSError, or SigningKeyError if other users could read the file."""
    try:
        atomic.write_new(path, content, mode=PRIVATE_MODE)
    except FileExistsError:
        raise
    except OSError:
        # Remove a partial file: it is useless, and it would block the next attempt.
        atomic.remove_file(path)
        raise
    if path.stat().st_mode & 0o077:
        atomic.remove_file(path)
        raise SigningKeyError(
            f"the file system of {path.parent} keeps no permissions, so other users could read a private key there: "
            "name a file on another file system"
        )


def make_dev_key(key_path: Path, trust_dir: Path) -> SigningKey:
    """Creates an unencrypted development key, and a trust directory that allows this key and dev mode.

    Nothing is overwritten. The key file gets mode 0600. The finished trust directory is renamed into place after the
    key is written. If the run is killed in between, only the key exists, and the next run reports it.

    Args:
        key_path: the private key file.
        trust_dir: the trust directory.

    Raises:
        SigningKeyError: the key or the trust directory exists, or cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    for path, what in ((trust_dir, "trust directory"), (key_path, "signing key")):
        if os.path.lexists(path):
            raise SigningKeyError(f"{path}: the {what} exists and was not changed: remove it, or name another")
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
    """Returns the passphrase from a file or from the environment, or None if neither is given.

    Args:
        file: the passphrase file. Its first line is used. It must be readable only by its owner, as a key file.
        variable: the value of the environment variable, used if there is no file.

    Raises:
        SigningKeyError: the file cannot be read, other users can access it, or its first line is empty.
    """
    if file is None:
        return variable.encode() if variable else None
    content = _read_private(file, "passphrase file").split(b"\n", 1)[0].removesuffix(b"\r")
    if not content:
        raise SigningKeyError(f"{file}: the passphrase file's first line is empty: write the passphrase there")
    return content


def new_passphrase(given: bytes | None, ask: Ask | None) -> bytes:
    """Returns the passphrase for a new key. Asks for it twice if it is not given.

    Raises:
        SigningKeyError: the passphrase is missing or empty, or the two answers differ.
    """
    if given is not None:
        return given
    if ask is None:
        raise SigningKeyError(
            f"a new key needs a passphrase: give it with --passphrase-file=FILE or in {PASSPHRASE_VARIABLE}, or run "
            "the command on a terminal; --unencrypted makes a key without one"
        )
    first = ask("Passphrase of the new key: ")
    if not first:
        raise SigningKeyError("the passphrase is empty, so no key was made: run the command again")
    if ask("Repeat the passphrase: ") != first:
        raise SigningKeyError("the two passphrases differ, so no key was made: run the command again")
    return first.encode()


def _read_private(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            # Pipes are allowed: a shell passes one for <(...).
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISFIFO(status.st_mode):
                raise SigningKeyError(f"{path}: the {what} is not a regular file: name another")
            data = file.read(_MAX_BYTES)
            if _PUBLIC in data:
                raise SigningKeyError(
                    f"{path} is a public key, not a {what}: "
                    "name the private key, or set signing: offline in the mission"
                )
            if status.st_mode & 0o077:
                raise SigningKeyError(
                    f"{path}: other users can access the {what} (mode {status.st_mode & 0o777:04o}):"
                    f" run `chmod 600 {path}`"
                )
            return data
    except OSError as error:
        raise SigningKeyError(f"{path}: the {what} cannot be read: {error.strerror}") from error
