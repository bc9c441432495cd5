"""Build records: the inputs and outputs of one build. A record lies beside its artifact and is written after it."""

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
    """Returns ASCII JSON with sorted keys and without spaces. Equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def action_key(step: str, version: int, components: Mapping[str, str]) -> str:
    """Returns the SHA-256 of a step's name, version number and components as hex digits."""
    return hashlib.sha256(canonical_json([step, version, dict(components)])).hexdigest()


@dataclass(frozen=True, slots=True)
class BuildRecord:
    """Describes how the outputs beside it were built. It holds no time, so that equal builds have equal records.

    step: the name of the step.
    version: the version number of the step.
    action_key: the key over step, version and components.
    components: component -> value, everything that decides the outputs.
    outputs: path relative to the record's directory -> SHA-256.
    """

    step: str
    version: int
    action_key: str
    components: Mapping[str, str]
    outputs: Mapping[str, str]

    def encode(self) -> bytes:
        """Returns the content of the record's file."""
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
    """Reads the record at `path`. Returns None if there is none or it is not valid: the step then runs again."""
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
    """Returns the path of an artifact's record."""
    return artifact.with_name(artifact.name + RECORD_SUFFIX)


def record_of(artifact: Path) -> BuildRecord:
    """Returns the record of an artifact. Raises FileNotFoundError if the artifact was not built."""
    record = read_record(record_path(artifact))
    if record is None:
        raise FileNotFoundError(errno.ENOENT, "no build record", str(record_path(artifact)))
    return record
