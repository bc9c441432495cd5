"""The private side of the manifest's signature: Ed25519 keys on disk, the two signing modes, DSSE envelopes.

The format itself, fingerprints and public keys belong to `takeoff`.
"""

# ruff: noqa: PLC0415 - cryptography is imported where a key is used, not by every `doit list`
from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from preflight.errors import SigningKeyError
from preflight.store import atomic
from takeoff import envelope, keys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SigningMode = Literal["dev", "operator"]


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 private key and the fingerprint of its public half (SHA-256 of the SPKI DER, hex)."""

    private: Ed25519PrivateKey
    public_key: bytes
    fingerprint: str


def load_signing_key(path: Path, passphrase: bytes | None = None) -> SigningKey:
    """Read a PKCS#8 PEM file. Raises SigningKeyError.

    A file that others than its owner can reach is refused. The file is read from the descriptor that was checked.
    """
    data = _read_private(path)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(data, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The cause's text never holds key bytes; TypeError: a passphrase is missing, or given for an open key.
        raise SigningKeyError(f"{path}: not a readable PKCS#8 PEM key, or the wrong passphrase: {error}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise SigningKeyError(f"{path}: not an Ed25519 key; make one with `doit keygen`")
    return _signing_key(private)


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
    key = _signing_key(private)
    building = trust_dir.with_name(f".{trust_dir.name}.{os.getpid()}.tmp")
    try:
        key_path.parent.mkdir(parents=True, exist_ok=True)
        building.mkdir(parents=True)
        atomic.write_new(building / f"dev-{key.fingerprint[:12]}.pem", keys.to_pem(key.public_key), mode=0o644)
        atomic.write_new(building / keys.ALLOW_DEV, b"", mode=0o644)
        atomic.fsync_directory(building)
        atomic.write_new(key_path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
        atomic.fsync_directory(key_path.parent)
        atomic.rename_directory(building, trust_dir)
    except OSError as error:
        raise SigningKeyError(f"{key_path}: the development key cannot be made: {error}") from error
    return key


def check_signing_mode(
    mode: SigningMode, fingerprint: str, allowed_operator_fingerprints: Collection[str]
) -> str | None:
    """Whether a key may sign in this mode; returns a warning to log, or None. Raises SigningKeyError.

    operator: only a key on the allow-list. dev: any key; an operator's key there earns the warning.
    """
    listed = fingerprint.lower() in {allowed.lower() for allowed in allowed_operator_fingerprints}
    if mode == "operator" and not listed:
        raise SigningKeyError(
            f"the key {fingerprint} is not in components.c10_provisioning.manifest.allowed_operator_fingerprints:"
            " sign with an operator key, or add the fingerprint"
        )
    if mode == "dev" and listed:
        return f"signing_mode is dev, but {fingerprint} is an allow-listed operator key: set signing_mode: operator"
    return None


def sign_statement(manifest_bytes: bytes, key: SigningKey) -> bytes:
    """The bytes of manifest.dsse.json over exactly these bytes of manifest.json. Deterministic: pure Ed25519."""
    signature = key.private.sign(envelope.pae(manifest_bytes))
    return envelope.encode(envelope.Envelope(manifest_bytes, key.fingerprint, signature))


def _signing_key(private: Ed25519PrivateKey) -> SigningKey:
    public_key = private.public_key().public_bytes_raw()
    return SigningKey(private, public_key, keys.fingerprint(public_key))


def _read_private(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SigningKeyError(f"{path}: the signing key is not a regular file")
            if status.st_mode & 0o077:
                raise SigningKeyError(
                    f"{path}: the signing key can be reached by others (mode {status.st_mode & 0o777:04o}):"
                    f" run `chmod 600 {path}`"
                )
            return file.read(1 << 20)
    except OSError as error:
        raise SigningKeyError(f"{path}: the signing key cannot be read: {error.strerror}") from error
