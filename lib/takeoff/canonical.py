"""Canonical JSON, the only form that is signed or hashed: printable ASCII, sorted keys, no spaces, no fractions.

A subset of RFC 8785. Strings hold printable ASCII without `"` and backslash, so no escape ever occurs. Numbers are
integers within +-(2^53 - 1); decimals are strings. A document has exactly one encoding. Any other encoding is refused.
"""

from __future__ import annotations

import json
from typing import Any

from takeoff.errors import ManifestFormatError

SAFE_INTEGER = 2**53 - 1
MAX_DEPTH = 16


def encode(value: object) -> bytes:
    """Encodes dicts, lists, strings, integers, booleans and None. Raises ManifestFormatError for anything else."""
    try:
        text = _dump(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ManifestFormatError(f"cannot be written as canonical JSON: {error}") from error
    if _parse(text) != value:
        raise ManifestFormatError("holds a value that JSON would change: use lists and string keys")
    return text.encode("ascii")


def decode(data: bytes, limit: int) -> Any:  # noqa: ANN401 - JSON
    """Decodes what `encode` writes, at most `limit` bytes. Raises ManifestFormatError for anything else."""
    if len(data) > limit:
        raise ManifestFormatError(f"is larger than {limit} bytes")
    if not data.isascii():
        raise ManifestFormatError("is not ASCII")
    value = _parse(data.decode("ascii"))
    if _dump(value).encode("ascii") != data:
        raise ManifestFormatError("is not canonical JSON (sorted keys, no spaces, one encoding)")
    return value


def _dump(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _parse(text: str) -> Any:  # noqa: ANN401 - JSON
    if not text.isprintable() or "\\" in text:
        raise ManifestFormatError('holds a character other than printable ASCII without `"` and backslash')
    _check_depth(text)
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_int=_safe, parse_float=_refuse, parse_constant=_refuse)
    except ValueError as error:
        raise ManifestFormatError(f"is not JSON: {error}") from error


def _check_depth(text: str) -> None:
    # There are no escapes, so every second piece between quotes lies outside strings.
    depth = 0
    for piece in text.split('"')[::2]:
        for character in piece:
            depth += (character in "[{") - (character in "]}")
            if depth > MAX_DEPTH:
                raise ManifestFormatError(f"is nested deeper than {MAX_DEPTH}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ManifestFormatError("holds a key twice in one object")
    return members


def _safe(digits: str) -> int:
    # Check the length first: int() of a million digits takes seconds, or raises.
    if len(digits) > 17 or abs(int(digits)) > SAFE_INTEGER:
        raise ManifestFormatError("holds an integer beyond 2^53 - 1")
    return int(digits)


def _refuse(digits: str) -> None:
    raise ManifestFormatError(f"holds the number {digits[:20]}: numbers are integers, decimals are strings")
