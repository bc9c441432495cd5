"""The values between an import and its caller: request, progress and final counts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from preflight.tile_import.source import BadTile, Zooms

__all__ = ["ImportProgress", "ImportReport", "ImportRequest"]


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """A request to import tiles.

    Attributes:
        path: the folder or file to import.
        source: the name under which the tiles are stored.
        zooms: the first and the last zoom level to import; None for all.
        scheme: the numbering of the rows of tiles; None for that of the source's format.
        captured_at: when the pictures were taken; None for the date that the source states.
        terms: licence or attribution; None for those recorded before, or those that the source states.
        update: replace stored tiles that differ.
        skip_bad: skip tiles that cannot be imported, instead of refusing the import.
    """

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
    """The progress of an import, in tiles.

    total: the largest possible number of tiles; None if unknown. eta_s: estimated remaining seconds; None if unknown.
    """

    done: int
    total: int | None
    tiles_per_s: float
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The result of an import, in tiles.

    Attributes:
        offered: all tiles of the source; the sum of the other counts and the skipped tiles.
        added: tiles that the store did not have under this source.
        unchanged: tiles that were stored already.
        replaced: tiles that were stored with other bytes.
        repaired: tiles that were stored with the same bytes, but whose file was missing or damaged. With `update`, also
            tiles whose row named another file or a later capture date.
        skipped: tiles that could not be imported.
    """

    offered: int
    added: int
    unchanged: int
    replaced: int
    repaired: int = 0
    skipped: tuple[BadTile, ...] = ()
