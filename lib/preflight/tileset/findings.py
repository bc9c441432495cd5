"""Findings on single tiles of a sealed set: another source has the tile too, or its texture is low or unknown.

The findings are stored beside the inventory, one record each. The counts thus stay right when only a few changed tiles
are sealed again. The format is count x 10 bytes, little-endian, ascending and distinct:

    u8  kind << 56 | zoom << 48 | x << 24 | y
    u2  the index of the source among the sorted names; 0 for a finding without a source
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from preflight.errors import TileContentError
from preflight.records import TileRow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LEAST_TEXTURE", "FindingCollector", "Findings", "Kind"]

LEAST_TEXTURE = 5.0
"""A tile with less texture is poor: water, sand, fog (docs/adr/0009-texture-of-a-tile.md)."""

_RECORD = [("code", "<u8"), ("source", "<u2")]
_KIND_BITS = 56
_MOST_SOURCES = 1 << 16


class Kind(IntEnum):
    """The kind of a finding.

    PASSED_OVER: this source has the tile too, but the tile of another source is sealed. POOR: the texture is below
    LEAST_TEXTURE. UNMEASURED: the texture is unknown.
    """

    PASSED_OVER = 0
    POOR = 1
    UNMEASURED = 2


class Findings(NamedTuple):
    """A set of findings. records: in the format above. names: the sources that were passed over, sorted."""

    records: NDArray[np.void]
    names: tuple[str, ...]

    @classmethod
    def read(cls, content: bytes, names: Iterable[str]) -> Findings:
        """Decode what `records.tobytes()` wrote. names: the sources that were passed over, in any order.

        Raises:
            ValueError: the bytes are not a set of findings on these sources.
        """
        import numpy as np  # noqa: PLC0415 - heavy

        findings = cls(np.frombuffer(content, _RECORD), tuple(sorted(names)))
        if len(findings.records) and findings.records["source"].max() >= max(1, len(findings.names)):
            raise ValueError("a finding refers to a source that has no name")
        return findings

    def count(self, kind: Kind) -> int:
        """Return the number of findings of a kind."""
        return int((self.records["code"] >> _KIND_BITS == kind).sum())

    def passed_over(self) -> dict[str, int]:
        """Return the name of each source that was passed over -> the number of its tiles."""
        import numpy as np  # noqa: PLC0415 - heavy

        passed_over = self.records["code"] >> _KIND_BITS == Kind.PASSED_OVER
        counts = np.bincount(self.records["source"][passed_over], minlength=len(self.names)).tolist()
        return dict(zip(self.names, counts, strict=True))

    def replaced(self, tiles: Iterable[tuple[int, int, int]], fresh: Findings) -> Findings:
        """Return a copy without the findings on these tiles (zoom, x, y), but with the fresh ones."""
        import numpy as np  # noqa: PLC0415 - heavy

        changed = np.array(sorted(_code(0, *tile) for tile in tiles), "<u8")
        codes = self.records["code"] & np.uint64((1 << _KIND_BITS) - 1)
        dropped = np.zeros(len(codes), bool)
        if len(changed):
            dropped = changed[np.searchsorted(changed, codes).clip(max=len(changed) - 1)] == codes
        names = sorted({*self.names, *fresh.names})
        parts = [part._renumbered(names) for part in (Findings(self.records[~dropped], self.names), fresh)]
        return _canonical(np.concatenate(parts), names)

    def _renumbered(self, names: list[str]) -> NDArray[np.void]:
        import numpy as np  # noqa: PLC0415 - heavy

        records: NDArray[np.void] = self.records.copy()
        if self.names:
            numbers = np.array([names.index(name) if name in names else 0 for name in self.names], "<u2")
            passed_over = records["code"] >> _KIND_BITS == Kind.PASSED_OVER
            records["source"][passed_over] = numbers[records["source"][passed_over]]
        return records


class FindingCollector:
    """Collects findings while rows stream by."""

    def __init__(self) -> None:
        self._codes = array("Q")
        self._sources = array("H")
        self._numbers: dict[str, int] = {}

    def sealed(self, row: TileRow) -> None:
        """Note the findings on a tile that is sealed."""
        if row.texture is None:
            self._add(Kind.UNMEASURED, row, 0)
        elif row.texture < LEAST_TEXTURE:
            self._add(Kind.POOR, row, 0)

    def passed_over(self, row: TileRow) -> None:
        """Note a tile that is not sealed because the tile of another source is.

        Raises:
            TileContentError: there are more such sources than the format can number.
        """
        number = self._numbers.setdefault(row.source, len(self._numbers))
        if number >= _MOST_SOURCES:
            raise TileContentError(
                f"tile {row.zoom}/{row.x}/{row.y} of {row.source}: more than {_MOST_SOURCES:,} sources hold tiles for "
                "which another source is preferred. Import several of them under one name (--source), or build smaller "
                "areas"
            )
        self._add(Kind.PASSED_OVER, row, number)

    def _add(self, kind: Kind, row: TileRow, source: int) -> None:
        self._codes.append(_code(kind, row.zoom, row.x, row.y))
        self._sources.append(source)

    def findings(self) -> Findings:
        """Return the findings so far."""
        import numpy as np  # noqa: PLC0415 - heavy

        records = np.empty(len(self._codes), _RECORD)
        records["code"], records["source"] = self._codes, self._sources
        names = sorted(self._numbers)
        return _canonical(Findings(records, tuple(self._numbers))._renumbered(names), names)


def _code(kind: int, zoom: int, x: int, y: int) -> int:
    return kind << _KIND_BITS | zoom << 48 | x << 24 | y


def _canonical(records: NDArray[np.void], names: list[str]) -> Findings:
    """Sort the records and drop unused names, so that equal sets have equal bytes."""
    import numpy as np  # noqa: PLC0415 - heavy

    ordered = Findings(records[np.lexsort((records["source"], records["code"]))], tuple(names))
    used = [name for name, count in ordered.passed_over().items() if count]
    return Findings(ordered._renumbered(used), tuple(used))
