"""The DSSE v1 envelope of manifest.json (https://github.com/secure-systems-lab/dsse), with exactly one signature."""

from __future__ import annotations

import binascii
from typing import NamedTuple

from takeoff import canonical
from takeoff.errors import EnvelopeError, ManifestFormatError
from takeoff.names import ENVELOPE
from takeoff.schema import list_of, one_of, record, text

PAYLOAD_TYPE = "application/vnd.in-toto+json"


class Envelope(NamedTuple):
    """A decoded envelope. Trust nothing in it before its signature is verified."""

    payload: bytes
    keyid: str
    signature: bytes


def pae(payload: bytes) -> bytes:
    """Returns the bytes that are signed: DSSE's pre-authentication encoding of PAYLOAD_TYPE and the payload."""
    kind = PAYLOAD_TYPE.encode("ascii")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def encode(envelope: Envelope) -> bytes:
    """Returns the bytes of manifest.dsse.json. keyid: the signer's fingerprint, 64 hex digits; signature: 64 bytes."""
    signature = {"keyid": envelope.keyid, "sig": _to_base64(envelope.signature)}
    return canonical.encode(
        {"payload": _to_base64(envelope.payload), "payloadType": PAYLOAD_TYPE, "signatures": [signature]}
    )


def decode(data: bytes, limit: int) -> Envelope:
    """Reads an envelope of at most `limit` bytes. Raises EnvelopeError."""
    try:
        fields = _ENVELOPE(canonical.decode(data, limit), "envelope")
    except ManifestFormatError as error:
        raise EnvelopeError(error.message, ENVELOPE) from error
    signatures = fields["signatures"]
    if len(signatures) != 1 or len(signatures[0]["sig"]) != 64:
        raise EnvelopeError("does not hold exactly one signature of 64 bytes", ENVELOPE)
    return Envelope(fields["payload"], signatures[0]["keyid"], signatures[0]["sig"])


def _to_base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _base64(value: object, where: str) -> bytes:
    # binascii skips foreign characters and ignores spare bits. Encoding again reveals both.
    written: str = _STRING(value, where)
    try:
        data = binascii.a2b_base64(written)
    except binascii.Error as error:
        raise ManifestFormatError(f"{where} is not strict base64: {error}") from error
    if _to_base64(data) != written:
        raise ManifestFormatError(f"{where} is not strict base64")
    return data


_STRING = text("[ -~]*", "a string")
_SIGNATURE = record(dict, {"keyid": text("[0-9a-f]{64}", "64 lower-case hex digits"), "sig": _base64})
_ENVELOPE = record(dict, {"payload": _base64, "payloadType": one_of(PAYLOAD_TYPE), "signatures": list_of(_SIGNATURE)})
