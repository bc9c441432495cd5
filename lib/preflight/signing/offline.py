"""Offline signing: a statement waits in a folder until a signature over exactly its bytes is imported.

The private key never touches the machine that builds. The export is the pre-authentication encoding of the statement
(`takeoff.envelope.pae`), so that any tool that signs with Ed25519 can sign it. The import is a signature of 64 bytes.
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
    """The folder where a statement waits for its signature."""

    folder: Path

    @property
    def statement(self) -> Path:
        """The file with the bytes of manifest.json to be signed. Its times are already final."""
        return self.folder / "statement.json"

    @property
    def signature(self) -> Path:
        """The file with the 64 bytes of the imported signature."""
        return self.folder / "signature"

    @property
    def rollback(self) -> Path:
        """The file with the hash of a rollback statement, which signs the content of the previous generation again."""
        return self.folder / "rollback"


class OfflineSigner:
    """`ports.Signer` for a key on another machine: exports statements and accepts only signatures that match them."""

    def __init__(self, public_key: bytes, request: SigningRequest) -> None:
        self._public_key = public_key
        self._request = request

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the key, hex digits."""
        return keys.fingerprint(self._public_key)

    def waiting(self) -> bytes | None:
        """Returns the statement that waits for its signature, or None."""
        return _read(self._request.statement)

    def sign(self, statement: bytes) -> bytes:
        """Returns the envelope if the signature was imported. Otherwise the statement is written for export.

        Raises:
            SignatureAwaitedError: there is no signature yet.
        """
        self.lay_out(statement)
        signature = self._imported(statement)
        if signature is None:
            raise SignatureAwaitedError(
                f"the statement is written and waits for its signature by {self.fingerprint[:12]}: run doit sign "
                "--export=FILE, sign FILE where the key is, then run doit sign --import=FILE.sig. The results of this "
                "build and the last good cache are kept"
            )
        return envelope.encode(envelope.Envelope(statement, self.fingerprint, signature))

    def signed(self, statement: bytes) -> bool:
        """Returns whether the signature over these bytes was imported. Changes nothing."""
        return self._imported(statement) is not None

    def lay_out(self, statement: bytes) -> None:
        """Writes the statement that waits for a signature. It replaces any other statement and its signature."""
        if self.waiting() != statement:
            atomic.atomic_write(self._request.statement, statement)
            atomic.remove_file(self._request.signature)

    def mark_rollback(self, statement: bytes) -> None:
        """Marks a statement as one for a rollback, so that its signature is used for the rollback."""
        atomic.atomic_write(self._request.rollback, hashlib.sha256(statement).hexdigest().encode())

    def is_rollback(self, statement: bytes) -> bool:
        """Returns whether `mark_rollback` marked this statement."""
        return _read(self._request.rollback) == hashlib.sha256(statement).hexdigest().encode()

    def accept(self, statement: bytes, signature: bytes) -> None:
        """Stores an imported signature beside the statement.

        Raises:
            OfflineSigningError: it is not a signature of this key over these bytes, or it cannot be written.
        """
        if not self._matches(signature, statement):
            raise OfflineSigningError(
                f"the signature does not match key {self.fingerprint[:12]} and the statement that waits: it comes from "
                "another key or another export. Run doit sign --export=FILE and sign the new FILE"
            )
        try:
            atomic.atomic_write(self._request.signature, signature)
        except OSError as error:
            raise OfflineSigningError(f"{self._request.signature} cannot be written: {error.strerror}") from error

    def _imported(self, statement: bytes) -> bytes | None:
        signature = _read(self._request.signature)
        return signature if signature is not None and self._matches(signature, statement) else None

    def _matches(self, signature: bytes, statement: bytes) -> bool:
        return len(signature) == SIGNATURE_BYTES and keys.verify_signature(
            self._public_key, signature, envelope.pae(statement)
        )


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def read_signature(path: Path) -> bytes:
    """Reads a signature file, which holds 64 raw bytes or their base64 in one line.

    Returns:
        The 64 bytes.

    Raises:
        OfflineSigningError: the file cannot be read, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_SIGNATURE_FILE)
    except OSError as error:
        raise OfflineSigningError(f"{path}: the signature cannot be read: {error.strerror}") from error
    if len(data) != SIGNATURE_BYTES:
        data = _from_base64(data.strip())
    if len(data) != SIGNATURE_BYTES:
        raise OfflineSigningError(
            f"{path} is not an Ed25519 signature: give its 64 bytes, raw or as one line of base64"
        )
    return data


def _from_base64(text: bytes) -> bytes:
    """Decodes strict base64. Returns no bytes if the text is not strict base64."""
    try:
        data = binascii.a2b_base64(text)
    except binascii.Error:
        return b""
    # binascii skips invalid characters. Encoding the result again reveals them.
    return data if binascii.b2a_base64(data, newline=False) == text else b""


def export_bytes(statement: bytes) -> bytes:
    """Returns the bytes to sign for a statement: its pre-authentication encoding."""
    return envelope.pae(statement)


def read_export(path: Path) -> bytes:
    """Returns the statement in a file that `doit sign --export` wrote.

    Only a complete, valid manifest is accepted, so that nobody signs bytes that they could not check.

    Raises:
        OfflineSigningError: the file cannot be read, or holds anything else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OfflineSigningError(f"{path} cannot be read: {error.strerror}") from error
    head, _, _ = envelope.pae(b"").rpartition(b"0 ")
    length, _, statement = data.removeprefix(head).partition(b" ")
    if not data.startswith(head) or not length.isdigit() or envelope.pae(statement) != data:
        raise OfflineSigningError(
            f"{path} is not a file of doit sign --export, so nothing was signed: export the statement again"
        )
    file = parse_manifest(statement)
    if file.other_schema is not None:
        raise OfflineSigningError(
            f"the manifest in {path} {file.fault}, so nothing was signed: "
            "sign it with the release of preflight that exported it"
        )
    if file.damage is not None:
        raise OfflineSigningError(
            f"{path} does not hold a valid manifest ({file.damage}), so nothing was signed: export the statement again"
        )
    return statement


def sign_export(statement: bytes, key: SigningKey) -> bytes:
    """Signs a statement and returns the 64 bytes of the signature."""
    return key.private.sign(envelope.pae(statement))


def summary(statement: bytes) -> dict[str, str]:
    """Returns what a person must check before signing, read from the bytes that are signed.

    Raises:
        OfflineSigningError: the statement is not a valid manifest.
    """
    file = parse_manifest(statement)
    manifest = file.manifest
    if manifest is None:
        raise OfflineSigningError(f"the statement to be signed {file.fault}: run doit provision, then export it again")
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
