"""Signing elsewhere: a statement waits in a folder until the signature over exactly its bytes is there.

The key never comes near the machine that builds. What is carried out is the pre-authentication encoding of the statement
(`takeoff.envelope.pae`), so that any tool that signs Ed25519 will do; what is carried back is a signature of 64 bytes.
"""

from __future__ import annotations

import binascii
import hashlib
from dataclasses import dataclass
from pathlib import Path

from preflight.errors import OfflineSigningError, SignatureAwaitedError
from preflight.signing.keyfiles import SigningKey
from preflight.store import atomic
from preflight.store.manifests import parse_manifest
from takeoff import envelope, keys
from takeoff.policy import utc

SIGNATURE_BYTES = 64
_MAX_SIGNATURE_FILE = 4096


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """The folder where a statement waits."""

    folder: Path

    @property
    def statement(self) -> Path:
        """The bytes of the manifest.json to be signed; its times are fixed from here on."""
        return self.folder / "statement.json"

    @property
    def signature(self) -> Path:
        """The 64 bytes that came back."""
        return self.folder / "signature"

    @property
    def rollback(self) -> Path:
        """The hash of a statement that is no build's, but the previous generation's content signed anew."""
        return self.folder / "rollback"


class OfflineSigner:
    """`ports.Signer` for a key that lies elsewhere: it hands statements out, and takes signatures that fit them."""

    def __init__(self, public_key: bytes, request: SigningRequest) -> None:
        self._public_key = public_key
        self._request = request

    @property
    def fingerprint(self) -> str:
        """As `ports.Signer`."""
        return keys.fingerprint(self._public_key)

    def waiting(self) -> bytes | None:
        """The statement that waits, or None."""
        return _read(self._request.statement)

    def sign(self, statement: bytes) -> bytes:
        """The envelope, once the signature has come back; until then the statement is laid out for it.

        Raises:
            SignatureAwaitedError: it has not.
        """
        self.lay_out(statement)
        signature = self._returned(statement)
        if signature is None:
            raise SignatureAwaitedError(
                f"the statement is written and waits for its signature by {self.fingerprint[:12]}: run doit sign "
                "--export=FILE, sign FILE where the key is, then doit sign --import=FILE.sig. Nothing built is lost, and "
                "the last good cache stays"
            )
        return envelope.encode(envelope.Envelope(statement, self.fingerprint, signature))

    def signed(self, statement: bytes) -> bool:
        """Whether the signature over these bytes has come back. Changes nothing."""
        return self._returned(statement) is not None

    def lay_out(self, statement: bytes) -> None:
        """Make a statement the one that waits; it replaces any other."""
        if self.waiting() != statement:
            atomic.atomic_write(self._request.statement, statement)
            atomic.remove_file(self._request.signature)

    def mark_rollback(self, statement: bytes) -> None:
        """Remember what a statement is for, so that its signature is taken there."""
        atomic.atomic_write(self._request.rollback, hashlib.sha256(statement).hexdigest().encode())

    def is_rollback(self, statement: bytes) -> bool:
        """Whether the statement was marked so."""
        return _read(self._request.rollback) == hashlib.sha256(statement).hexdigest().encode()

    def accept(self, statement: bytes, signature: bytes) -> None:
        """Lay a signature beside the statement. Raises OfflineSigningError when it is not this key's over these bytes."""
        if not self._fits(signature, statement):
            raise OfflineSigningError(
                f"the signature is not one of {self.fingerprint[:12]} over the statement that waits: it is another key's, "
                "or over another export (doit sign --export=FILE writes the bytes again)"
            )
        try:
            atomic.atomic_write(self._request.signature, signature)
        except OSError as error:
            raise OfflineSigningError(f"{self._request.signature} cannot be written: {error.strerror}") from error

    def _returned(self, statement: bytes) -> bytes | None:
        signature = _read(self._request.signature)
        return signature if signature is not None and self._fits(signature, statement) else None

    def _fits(self, signature: bytes, statement: bytes) -> bool:
        return len(signature) == SIGNATURE_BYTES and keys.verify_signature(
            self._public_key, signature, envelope.pae(statement)
        )


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def read_signature(path: Path) -> bytes:
    """A signature as tools write it: 64 raw bytes, or their base64 on one line. Raises OfflineSigningError."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_SIGNATURE_FILE)
    except OSError as error:
        raise OfflineSigningError(f"{path}: the signature cannot be read: {error.strerror}") from error
    if len(data) != SIGNATURE_BYTES:
        data = _from_base64(data.strip())
    if len(data) != SIGNATURE_BYTES:
        raise OfflineSigningError(f"{path} is no Ed25519 signature: give its 64 bytes, raw or as one line of base64")
    return data


def _from_base64(text: bytes) -> bytes:
    """The bytes of strict base64; none where it is not."""
    try:
        data = binascii.a2b_base64(text)
    except binascii.Error:
        return b""
    # binascii skips foreign characters: encoding again shows them.
    return data if binascii.b2a_base64(data, newline=False) == text else b""


def export_bytes(statement: bytes) -> bytes:
    """What is to be signed."""
    return envelope.pae(statement)


def read_export(path: Path) -> bytes:
    """The statement of a file that `doit sign --export` wrote. Raises OfflineSigningError for anything else.

    A key that signs whatever it is handed signs what nobody has read: so only a whole manifest is taken.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OfflineSigningError(f"{path} cannot be read: {error.strerror}") from error
    head, _, _ = envelope.pae(b"").rpartition(b"0 ")
    length, _, statement = data.removeprefix(head).partition(b" ")
    if not data.startswith(head) or not length.isdigit() or envelope.pae(statement) != data:
        raise OfflineSigningError(f"{path} is not what doit sign --export writes; nothing was signed")
    file = parse_manifest(statement)
    if file.other_schema is not None:
        raise OfflineSigningError(
            f"the manifest in {path} {file.fault}; nothing was signed. Sign it with the release of preflight that exported it"
        )
    if file.damage is not None:
        raise OfflineSigningError(
            f"{path} holds no manifest that a verifier would accept ({file.damage}); nothing was signed. Export it again"
        )
    return statement


def sign_export(statement: bytes, key: SigningKey) -> bytes:
    """The 64 bytes of the key's signature."""
    return key.private.sign(envelope.pae(statement))


def summary(statement: bytes) -> dict[str, str]:
    """What a person checks before signing, read from the very bytes that are signed. Raises OfflineSigningError."""
    file = parse_manifest(statement)
    manifest = file.manifest
    if manifest is None:
        raise OfflineSigningError(f"the statement to be signed {file.fault}")
    identity = manifest.identity
    corpus, origin = identity.corpus, identity.takeoff_origin
    return {
        "generation": str(manifest.generation),
        "signing_mode": manifest.signing_mode,
        "flight_id": identity.flight_id or "none",
        "sector_class": identity.sector_class,
        "takeoff_origin": "none" if origin is None else f"{origin.lat}, {origin.lon}, {origin.alt} m",
        "area": "; ".join(", ".join(box) for box in corpus.covered[:4]) + (" ..." if len(corpus.covered) > 4 else ""),
        "tiles": f"{corpus.tile_count:,} at zooms {', '.join(map(str, corpus.zoom_levels))}, {corpus.missing:,} missing",
        "models": ", ".join(f"{model.model_name} ({model.precision})" for model in identity.models),
        "artifacts": f"{len(manifest.subjects)}, {sum(manifest.sizes.values()):,} bytes",
        "issued_at": utc(manifest.issued_at),
        "valid_from": utc(manifest.valid_from),
        "valid_until": utc(manifest.valid_until),
        "manifest_hash": manifest.manifest_hash,
        "manifest_sha256": hashlib.sha256(statement).hexdigest(),
        "signed_bytes_sha256": hashlib.sha256(envelope.pae(statement)).hexdigest(),
    }
