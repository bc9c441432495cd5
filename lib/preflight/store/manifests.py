"""Reads manifests that may have another schema or be damaged. The result is a value, never an exception.

A cache root can be older than this release of preflight. So all code reads manifests through this module: published
manifests, signed manifests in work/, and statements that wait for their signature.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preflight.errors import ManifestWriteError
from preflight.store.generations import Generations
from takeoff import envelope
from takeoff import manifest as format_
from takeoff.errors import SchemaVersionError, VerificationError
from takeoff.names import ENVELOPE, MANIFEST, sidecar_name

WRITTEN = format_.SCHEMA_VERSION
"""The schema version of the manifests that this release writes."""

_MAX_ENVELOPE = format_.MAX_BYTES * 2
_LAST_TIME = 253402300798
"""The latest issued_at after which one more is possible, UTC seconds. The format ends with the year 9999."""


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """The result of reading a manifest.json.

    content: the bytes, empty if the file cannot be read.
    manifest: the decoded manifest, None if this release cannot decode it.
    other_schema: the schema version if it differs from the one that this release writes, otherwise None.
    damage: why the file cannot be read or decoded, otherwise None.
    """

    content: bytes
    manifest: format_.Manifest | None = None
    other_schema: str | None = None
    damage: str | None = None

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes, 64 hex digits."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def fault(self) -> str | None:
        """Why the manifest cannot be used, as the predicate of a sentence about it, or None if it can be used."""
        if self.other_schema is not None:
            return f"is of schema {self.other_schema}, and this release of preflight writes schema {WRITTEN}"
        return None if self.damage is None else f"cannot be read ({self.damage})"


def read_manifest(folder: Path) -> ManifestFile:
    """Reads the manifest.json in a folder."""
    try:
        content = _read(folder / MANIFEST)
    except OSError as error:
        return ManifestFile(b"", damage=error.strerror or str(error))
    return parse_manifest(content)


def parse_manifest(content: bytes) -> ManifestFile:
    """Decodes the bytes of a manifest.json."""
    manifest = None
    try:
        manifest = format_.decode(content)
    except SchemaVersionError:
        pass
    except VerificationError as error:
        return ManifestFile(content, damage=str(error))
    # Check the version also if decoding succeeded: a release may read more schemas than the one that it writes.
    version = str(_predicate(content)["schema_version"])
    return ManifestFile(content, manifest, other_schema=None if version == WRITTEN else version[:20])


def signed_here(content: bytes) -> format_.Manifest:
    """Decodes a manifest that this release has just signed. Raises ManifestWriteError if it was changed since then."""
    file = parse_manifest(content)
    if file.manifest is None:
        raise ManifestWriteError(f"the manifest that was signed {file.fault}; run doit provision again")
    return file.manifest


def current_manifest(generations: Generations) -> ManifestFile | None:
    """Reads the manifest of the current generation. Returns None if there is no current generation."""
    current = generations.current()
    return None if current is None else read_manifest(current.path)


def newest_issue(generations: Generations) -> int:
    """Returns the latest `issued_at` of all generations on disk, UTC seconds, or 0 if none can be read.

    An aircraft that accepted a generation refuses every cache that was issued before it. So the next manifest must have
    a later time, even if this release cannot decode the manifest of that generation.
    """
    return max((_issued_at(generation.path) for generation in generations.all()), default=0)


def _issued_at(folder: Path) -> int:
    """Returns `issued_at` of the manifest in a folder, for any schema, or 0 if it cannot be read.

    Every schema has this member at the same place. A damaged manifest could give a wrong time, even centuries ahead. So
    two
    of three files must agree: manifest.json, its sidecar, and the envelope, which contains the same bytes.
    """
    content, sidecar = _read_or_nothing(folder / MANIFEST), _read_or_nothing(folder / sidecar_name(MANIFEST))
    payload = _payload(_read_or_nothing(folder / ENVELOPE))
    for candidate in (content, payload):
        agreed = content == payload or hashlib.sha256(candidate).hexdigest().encode() == sidecar
        if agreed and (issued_at := _time(_predicate(candidate).get("issued_at"))):
            return issued_at
    manifest = parse_manifest(content).manifest
    return 0 if manifest is None else _time(manifest.issued_at)


def _payload(sealed: bytes) -> bytes:
    try:
        return envelope.decode(sealed, _MAX_ENVELOPE).payload
    except VerificationError:
        return b""


def _time(value: object) -> int:
    return value if type(value) is int and 0 <= value <= _LAST_TIME else 0


def _predicate(content: bytes) -> dict[str, Any]:
    """Returns the predicate of a statement of any schema, empty if there is none."""
    try:
        predicate = json.loads(content)["predicate"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return predicate if isinstance(predicate, dict) else {}


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_ENVELOPE)


def _read_or_nothing(path: Path) -> bytes:
    try:
        return _read(path)
    except OSError:
        return b""
