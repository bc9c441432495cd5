"""The DSSE envelope of manifest.json (https://github.com/secure-systems-lab/dsse, v1), with exactly one signature."""

from __future__ import annotations

import binascii
import re
from typing import NamedTuple

from takeoff import canonical
from takeoff.errors import EnvelopeError

PAYLOAD_TYPE = "application/vnd.in-toto+json"


class Envelope(NamedTuple):
    """A decoded envelope. Nothing in it is trusted before its signature has been verified."""

    payload: bytes
    keyid: str
    signature: bytes


def pae(payload: bytes) -> bytes:
    """The bytes that are signed: DSSE's pre-authentication encoding of the payload and PAYLOAD_TYPE."""
    kind = PAYLOAD_TYPE.encode("ascii")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def encode(envelope: Envelope) -> bytes:
    """The bytes of manifest.dsse.json. keyid is the signer's fingerprint, 64 hex digits; the signature has 64 bytes."""
    signature = {"keyid": envelope.keyid, "sig": _to_base64(envelope.signature)}
    return canonical.encode(
        {"payload": _to_base64(envelope.payload), "payloadType": PAYLOAD_TYPE, "signatures": [signature]}
    )


def decode(data: bytes, limit: int) -> Envelope:
    """Read an envelope of at most `limit` bytes. Raises EnvelopeError."""
    match canonical.decode(data, limit, EnvelopeError):
        case {
            "payload": str(payload),
            "payloadType": str(kind),
            "signatures": [{"keyid": str(keyid), "sig": str(sig), **more_in_signature}],
            **more,
        } if not more and not more_in_signature:
            pass
        case _:
            raise EnvelopeError("is not exactly {payload, payloadType, signatures: [{keyid, sig}]}")
    if kind != PAYLOAD_TYPE:
        raise EnvelopeError(f"carries the payload type {kind[:60]}, not {PAYLOAD_TYPE}")
    if not re.fullmatch("[0-9a-f]{64}", keyid):
        raise EnvelopeError("has a keyid that is not 64 lower-case hex digits")
    signature = _from_base64(sig)
    if len(signature) != 64:
        raise EnvelopeError(f"has a signature of {len(signature)} bytes, not 64")
    return Envelope(_from_base64(payload), keyid, signature)


def _to_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _from_base64(text: str) -> bytes:
    # binascii skips foreign characters and ignores spare bits; encoding again shows both.
    try:
        data = binascii.a2b_base64(text)
    except binascii.Error as error:
        raise EnvelopeError(f"is not strict base64: {error}") from error
    if _to_base64(data) != text:
        raise EnvelopeError("is not strict base64")
    return data
