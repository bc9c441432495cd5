"""Checks which key may sign in which mode, and signs a manifest."""

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
    """Checks whether a key may sign in a mode.

    Args:
        mode: `operator` allows only keys on the allow-list. `dev` allows every key.
        fingerprint: of the key, hex digits.
        allowed_operator_fingerprints: the allow-list, hex digits.

    Returns:
        A warning to log if an operator key signs in dev mode, otherwise None.

    Raises:
        SigningKeyError: the key may not sign in this mode.
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
    """Signs the bytes of manifest.json and returns the bytes of manifest.dsse.json. Pure Ed25519, so deterministic."""
    signature = key.private.sign(envelope.pae(manifest_bytes))
    return envelope.encode(envelope.Envelope(manifest_bytes, key.fingerprint, signature))
