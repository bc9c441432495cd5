"""What passes between an import and who asks for it: the request, how far it is, the counts at its end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from preflight.tile_import.source import BadTile, Zooms

__all__ = ["ImportProgress", "ImportReport", "ImportRequest"]


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What an operator asks to import. scheme: None means what the source's format says."""

    path: Path
    source: str
    zooms: Zooms | None = None
    scheme: Literal["xyz", "tms"] | None = None
    captured_at: datetime | None = None
    terms: str | None = None
    update: bool = False
    skip_bad: bool = False


@dataclass(frozen=True, slots=True)
class ImportProgress:
    """How far an import is. total is what comes at most, None where it is not known; eta_s seconds to go."""

    done: int
    total: int | None
    tiles_per_s: float
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class ImportReport:
    """Counts of tiles; offered is the sum of the others and of the skipped tiles.

    replaced: there with other bytes before. repaired: there with the same bytes, but their file was missing or spoilt, or, with
    update, their row named another file or a later date of capture.
    """

    offered: int
    added: int
    unchanged: int
    replaced: int
    repaired: int = 0
    skipped: tuple[BadTile, ...] = ()
