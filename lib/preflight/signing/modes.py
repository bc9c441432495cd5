"""Who may sign in which mode, and what a signature looks like."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from preflight.errors import SigningKeyError
from preflight.signing.keyfiles import SigningKey
from takeoff import envelope

SigningMode = Literal["dev", "operator"]


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
