"""Signs manifests with a key on this machine."""

from __future__ import annotations

from pathlib import Path

from preflight.signing.keyfiles import Ask, load_signing_key
from preflight.signing.modes import sign_statement


class Ed25519ManifestSigner:
    """Signs with the Ed25519 key of a key file. It is a `ports.Signer` whose signature is there at once.

    Args:
        key_file: the private key: a PKCS#8 PEM file or an OpenSSH private key file.
        passphrase: the passphrase of an encrypted key.
        ask: asks for the passphrase if the key is encrypted and `passphrase` is not given.

    Raises:
        SigningKeyError: the key cannot be read, other users can access it, or its passphrase is missing or wrong.
    """

    def __init__(self, key_file: Path | str, passphrase: bytes | None = None, ask: Ask | None = None) -> None:
        self._key = load_signing_key(Path(key_file), passphrase, ask)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the key: SHA-256 of its public key, 64 hex digits."""
        return self._key.fingerprint

    def waiting(self) -> bytes | None:
        """As `ports.Signer`: no statement ever waits for its signature."""
        return None

    def sign(self, statement: bytes) -> bytes:
        """Signs the bytes of manifest.json. Returns the DSSE envelope, the bytes of manifest.dsse.json."""
        return sign_statement(statement, self._key)
