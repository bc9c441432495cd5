"""The figures of a self-test and their JSON. Importing this module does not load numpy."""

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
    """Recall and position errors of one method.

    An error is the great-circle distance in metres from the true position to the centre of the first unit. It is
    infinite if the query has no result.

    Attributes:
        recall: recall[i] is the share of queries, 0 to 1, for which one of the first RANKS[i] units contains the true
            position.
        median_error_m: the median error.
        p90_error_m: the 90th percentile of the errors.
    """

    recall: tuple[float, ...]
    median_error_m: float
    p90_error_m: float

    def as_dict(self) -> dict[str, Any]:
        """Return the figures with fixed decimals: 4 for recall, 1 for metres. An infinite error is None."""
        return {
            "recall": {str(k): round(value, 4) for k, value in zip(RANKS, self.recall, strict=True)},
            "median_error_m": _metres(self.median_error_m),
            "p90_error_m": _metres(self.p90_error_m),
        }


@dataclass(frozen=True, slots=True)
class HeadingResult:
    """The figures of the index under test and of both baselines, with the heading either known or unknown."""

    index: Figures
    thumbnail: Figures
    chance: Figures

    def as_dict(self) -> dict[str, Any]:
        """Return the three sets of figures by name."""
        return {"index": self.index.as_dict(), "thumbnail": self.thumbnail.as_dict(), "chance": self.chance.as_dict()}


@dataclass(frozen=True, slots=True)
class SelftestResult:
    """The result of a self-test. The queries are simulated: recall on real photographs is lower.

    Attributes:
        backbone: the name of the backbone.
        seed: the seed of the queries.
        queries, tiles, units: numbers of queries, of tiles and of units in the index. There are as many units as tiles
            unless windows overlap.
        shifts: the number of turns that are searched if the heading is unknown.
        heading_known, heading_unknown: the figures.
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
        """recall@1 of the index minus that of the thumbnail baseline, with the heading known; -1 to 1."""
        return self.heading_known.index.recall[0] - self.heading_known.thumbnail.recall[0]

    def to_json(self) -> bytes:
        """Encode as JSON: indented, sorted keys, fixed decimals, final newline. Equal results give equal bytes."""
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
