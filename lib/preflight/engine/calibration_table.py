"""Calibration tables (D-C10-6): the range of values that each tensor of a model took on a sample.

A table is a file of canonical JSON: what it was measured with, the ranges, and a digest over both. Ranges are printed by
`repr`, so that reading gives the same numbers. Infinities are allowed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from preflight.errors import CalibrationCacheError
from preflight.trace.record import canonical_json

__all__ = ["METHOD", "CalibrationKey", "CalibrationTable", "merged"]

SCHEMA = 1
METHOD = "minmax"
"""The least and the greatest value of the whole sample."""

Ranges = Mapping[str, tuple[float, float]]

_AGAIN = "Remove the file, or run doit provision recalibrate=1: the sample is drawn and measured again."


@dataclass(frozen=True, slots=True)
class CalibrationKey:
    """What decides a table: the model and the sample by their digests, the inputs, the method, and the tool that measured."""

    model: str
    sample: str
    inputs: str
    method: str
    tool: str


@dataclass(frozen=True, slots=True)
class CalibrationTable:
    """A table. ranges: tensor -> (lowest, highest) value. samples: the number of samples measured."""

    key: CalibrationKey
    samples: int
    ranges: Ranges

    def encode(self) -> bytes:
        """Returns the content of the file. Equal tables give equal bytes."""
        body = {
            "schema": SCHEMA,
            "key": asdict(self.key),
            "samples": self.samples,
            "ranges": {name: [repr(least), repr(most)] for name, (least, most) in self.ranges.items()},
        }
        return canonical_json({**body, "sha256": _digest(body)})

    @classmethod
    def decode(cls, content: bytes, label: str) -> CalibrationTable:
        """Reads a table from a file's content. label: the file, for the message.

        Raises:
            CalibrationCacheError: the content is not a table, or was changed after it was written.
        """
        try:
            value = json.loads(content)
            body = {name: value[name] for name in ("schema", "key", "samples", "ranges")}
            whole = set(value) == {*body, "sha256"} and value["sha256"] == _digest(body) and body["schema"] == SCHEMA
            table = cls(
                CalibrationKey(**body["key"]),
                body["samples"],
                {name: (float(least), float(most)) for name, (least, most) in body["ranges"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CalibrationCacheError(
                f"The calibration table {label} is damaged, or is not a calibration table. {_AGAIN}"
            ) from error
        if not whole or not _sound(table):
            raise CalibrationCacheError(
                f"The calibration table {label} is damaged: it was changed after it was written. {_AGAIN}"
            )
        return table

    def check_made_for(self, key: CalibrationKey, label: str) -> None:
        """Compares the table's key with the wanted one. Raises CalibrationCacheError, which shows both."""
        differing = [field.name for field in fields(key) if getattr(self.key, field.name) != getattr(key, field.name)]
        if not differing:
            return
        shown = "; ".join(f"{name} {getattr(self.key, name)}, not {getattr(key, name)}" for name in differing)
        raise CalibrationCacheError(f"The calibration table {label} was made for another {shown}. {_AGAIN}")


def merged(one: Ranges, other: Ranges) -> dict[str, tuple[float, float]]:
    """Returns the ranges over both tables of ranges. NaN stays NaN."""
    found = dict(one)
    for name, reach in other.items():
        bounds = (*found.get(name, reach), *reach)
        broken = any(math.isnan(bound) for bound in bounds)
        found[name] = (math.nan, math.nan) if broken else (min(bounds), max(bounds))
    return found


def _digest(body: Mapping[str, object]) -> str:
    return hashlib.sha256(canonical_json(body)).hexdigest()


def _sound(table: CalibrationTable) -> bool:
    return (
        all(isinstance(value, str) for value in asdict(table.key).values())
        and type(table.samples) is int
        and table.samples > 0
        and bool(table.ranges)
        and all(least <= most for least, most in table.ranges.values())
    )
