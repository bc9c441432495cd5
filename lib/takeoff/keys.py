"""Public keys and the trust directory.

A trust directory lies outside the cache. It contains one `<any name>.pem` for each trusted Ed25519 public key (PEM,
"PUBLIC KEY"). The optional file `revoked` lists fingerprints, one a line, with `#` before a comment, and overrides
every key. The optional file `allow_dev` admits caches that are signed in dev mode. Other files are not read. One
damaged file makes the whole directory unusable.
"""

# ruff: noqa: PLC0415 - start-up time: imports lie where they are needed
from __future__ import annotations

import binascii
import hashlib
import os
import re
from typing import NamedTuple

from takeoff.errors import TrustError, VerificationError
from takeoff.filesystem import Directory

ALLOW_DEV, REVOKED = "allow_dev", "revoked"
MAX_BYTES = 2**20

# RFC 8410: SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING of 32 bytes }. A comparison replaces a DER parser.
_SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")
_BEGIN, _END = b"-----BEGIN PUBLIC KEY-----\n", b"\n-----END PUBLIC KEY-----\n"

_P = 2**255 - 19
# The y coordinates of the eight points of small order, each for both signs of x. The points of order 8 have y or -y.
_Y8 = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
_SMALL_ORDER_Y = frozenset([0, 1, _P - 1, _Y8, _P - _Y8])


class Trust(NamedTuple):
    """The content of a trust directory. keys: fingerprint -> raw public key. allow_dev: whether dev caches pass."""

    keys: dict[str, bytes]
    revoked: frozenset[str]
    allow_dev: bool


def fingerprint(public_key: bytes) -> str:
    """Returns the SHA-256 of the key's SubjectPublicKeyInfo in DER, 64 hex digits. public_key: the raw 32 bytes."""
    return hashlib.sha256(_SPKI_PREFIX + public_key).hexdigest()


def check_public_key(public_key: bytes) -> bytes:
    """Returns the raw key. Raises TrustError for an encoding under which anyone could forge a signature.

    These are the points of small order and every y that is not below 2^255 - 19, which include all 14 small-order
    encodings. OpenSSL accepts them.
    """
    y = int.from_bytes(public_key, "little") & (2**255 - 1)
    if len(public_key) != 32 or y >= _P or y in _SMALL_ORDER_Y:
        raise TrustError("is a weak or damaged Ed25519 key")
    return public_key


def to_pem(public_key: bytes) -> bytes:
    """Returns the PEM file of a raw public key."""
    return _BEGIN + binascii.b2a_base64(_SPKI_PREFIX + public_key, newline=False) + _END


def from_pem(data: bytes) -> bytes:
    """Returns the raw public key of a PEM file with exactly one Ed25519 key. Raises TrustError."""
    unix = data.replace(b"\r\n", b"\n")
    try:
        der = binascii.a2b_base64(unix.removeprefix(_BEGIN).removesuffix(_END))
    except binascii.Error as error:
        raise TrustError("is not a PEM public key") from error
    if der[:12] != _SPKI_PREFIX or to_pem(der[12:]) != unix:
        raise TrustError("is not one Ed25519 public key in PEM")
    return check_public_key(der[12:])


def load_trust(path: str | os.PathLike[str]) -> Trust:
    """Reads a trust directory. Raises TrustError if it cannot be read, or holds no key or a damaged file."""
    where = os.fspath(path)
    try:
        with Directory(where) as directory:
            names = directory.walk()
            raw_keys = [_read_key(directory, name) for name in sorted(names) if name.endswith(".pem")]
            revoked = _read_revoked(directory) if REVOKED in names else frozenset[str]()
    except OSError as error:
        raise TrustError(f"the trust directory cannot be read: {error.strerror}", where) from error
    except VerificationError as error:
        raise TrustError(f"the trust directory is damaged: {error.file} {error.message}", where) from error
    if not raw_keys:
        raise TrustError("the trust directory holds no public key (*.pem)", where)
    return Trust({fingerprint(key): key for key in raw_keys}, revoked, names.get(ALLOW_DEV) == "file")


def verify_signature(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` (64 bytes) is the key's pure Ed25519 signature of `message`. Raises TrustError: weak key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(check_public_key(public_key)).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _read_key(directory: Directory, name: str) -> bytes:
    try:
        return from_pem(directory.read(name, MAX_BYTES))
    except TrustError as error:
        raise TrustError(error.message, name) from error


def _read_revoked(directory: Directory) -> frozenset[str]:
    data = directory.read(REVOKED, MAX_BYTES)
    if len(data) > MAX_BYTES:  # the keys that the rest revokes are not known
        raise TrustError(f"is larger than {MAX_BYTES} bytes", REVOKED)
    entries = [line.partition("#")[0].strip().lower() for line in data.decode("utf-8", "replace").splitlines()]
    for number, entry in enumerate(entries, 1):
        if entry and not re.fullmatch("[0-9a-f]{64}", entry):
            raise TrustError(f"line {number} is not a fingerprint of 64 hex digits", REVOKED)
    return frozenset(filter(None, entries))
