"""The figures of a self-test, and their JSON. Loads no numpy, so that a report can read them anywhere."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

__all__ = ["RANKS", "Figures", "HeadingResult", "SelftestResult"]

RANKS = (1, 5, 10)
"""The k of recall@k."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Recall at each of RANKS, 0..1, and position errors in metres; infinite where nothing was found.

    recall[i] is the share of queries of which one of the first RANKS[i] units contains the true position. An error is
    the great-circle distance from the true position to the centre of the first unit.
    """

    recall: tuple[float, ...]
    median_error_m: float
    p90_error_m: float

    def as_dict(self) -> dict[str, Any]:
        """With fixed decimals: 4 for recall, 1 for metres; an infinite error is null."""
        return {
            "recall": {str(k): round(value, 4) for k, value in zip(RANKS, self.recall, strict=True)},
            "median_error_m": _metres(self.median_error_m),
            "p90_error_m": _metres(self.p90_error_m),
        }


@dataclass(frozen=True, slots=True)
class HeadingResult:
    """One way of flying: the index under test, the thumbnail baseline, and drawing tiles at random."""

    index: Figures
    thumbnail: Figures
    chance: Figures

    def as_dict(self) -> dict[str, Any]:
        """The three, by name."""
        return {"index": self.index.as_dict(), "thumbnail": self.thumbnail.as_dict(), "chance": self.chance.as_dict()}


@dataclass(frozen=True, slots=True)
class SelftestResult:
    """What the self-test measured. The queries are simulated: recall on real photographs is lower.

    units: what the index holds, which is `tiles` unless windows overlap.
    """

    backbone: str
    seed: int
    queries: int
    tiles: int
    units: int
    shifts: int
    heading_known: HeadingResult
    heading_unknown: HeadingResult

    @property
    def margin_over_thumbnail(self) -> float:
        """recall@1 of the index less that of the thumbnail baseline, heading known; -1..1."""
        return self.heading_known.index.recall[0] - self.heading_known.thumbnail.recall[0]

    def to_json(self) -> bytes:
        """Indented JSON with sorted keys, fixed decimals and a final newline; equal results give equal bytes."""
        document = {
            "backbone": self.backbone,
            "seed": self.seed,
            "queries": self.queries,
            "tiles": self.tiles,
            "units": self.units,
            "shifts": self.shifts,
            "heading_known": self.heading_known.as_dict(),
            "heading_unknown": self.heading_unknown.as_dict(),
            "margin_over_thumbnail": round(self.margin_over_thumbnail, 4),
        }
        return (json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


def _metres(value: float) -> float | None:
    return round(value, 1) if math.isfinite(value) else None
