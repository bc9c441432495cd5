"""Build records: what was built from what, beside each artifact, written after it."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SCHEMA = 1
RECORD_SUFFIX = ".record.json"


def canonical_json(value: object) -> bytes:
    """ASCII JSON with sorted keys and no spaces: equal values, equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def action_key(step: str, version: int, components: Mapping[str, str]) -> str:
    """SHA-256 over the step's name, its version number and its components."""
    return hashlib.sha256(canonical_json([step, version, dict(components)])).hexdigest()


@dataclass(frozen=True, slots=True)
class BuildRecord:
    """How the outputs beside it came to be.

    outputs: path relative to the record's directory -> SHA-256. A record says nothing of time: it is equal for equal builds.
    """

    step: str
    version: int
    action_key: str
    components: Mapping[str, str]
    outputs: Mapping[str, str]

    def encode(self) -> bytes:
        """The record's file content."""
        return canonical_json(
            {
                "schema": SCHEMA,
                "step": self.step,
                "version": self.version,
                "action_key": self.action_key,
                "components": dict(self.components),
                "outputs": dict(self.outputs),
            }
        )


def read_record(path: Path) -> BuildRecord | None:
    """The record at `path`; None when there is none or it is not one of ours (then the step runs again)."""
    try:
        value = json.loads(path.read_bytes())
        if value["schema"] != SCHEMA:
            return None
        record = BuildRecord(
            value["step"], value["version"], value["action_key"], dict(value["components"]), dict(value["outputs"])
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not all(isinstance(digest, str) for digest in record.outputs.values()):
        return None
    if record.action_key != action_key(record.step, record.version, record.components):
        return None
    return record


def record_path(artifact: Path) -> Path:
    """Where the record of an artifact lies."""
    return artifact.with_name(artifact.name + RECORD_SUFFIX)


def record_of(artifact: Path) -> BuildRecord:
    """The record of an artifact that was built. Raises FileNotFoundError when it was not."""
    record = read_record(record_path(artifact))
    if record is None:
        raise FileNotFoundError(errno.ENOENT, "no build record", str(record_path(artifact)))
    return record
