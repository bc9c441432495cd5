"""What is to be said of single tiles of a sealed set: another source was passed over, little can be seen, nobody measured.

Kept beside the inventory, one record a finding, so that the counts stay right when only a few changed tiles are sealed anew.

    count x 10 bytes, little-endian, ascending and distinct: u8 kind << 56 | zoom << 48 | x << 24 | y,
    u2 the number of the source among the names, in their order; 0 where the finding is of no source
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
"""Below it a tile is called poor: water, sand, fog (docs/adr/0009-texture-of-a-tile.md)."""

_RECORD = [("code", "<u8"), ("source", "<u2")]
_KIND_BITS = 56
_MOST_SOURCES = 1 << 16


class Kind(IntEnum):
    """PASSED_OVER: this source holds the tile too. POOR: its texture is below LEAST_TEXTURE. UNMEASURED: it is not known."""

    PASSED_OVER = 0
    POOR = 1
    UNMEASURED = 2


class Findings(NamedTuple):
    """A set of findings. names: the sources that were passed over, sorted."""

    records: NDArray[np.void]
    names: tuple[str, ...]

    @classmethod
    def read(cls, content: bytes, names: Iterable[str]) -> Findings:
        """What `records.tobytes()` wrote. Raises ValueError for bytes that are none."""
        import numpy as np  # noqa: PLC0415 - heavy

        found = cls(np.frombuffer(content, _RECORD), tuple(sorted(names)))
        if len(found.records) and found.records["source"].max() >= max(1, len(found.names)):
            raise ValueError("a finding is of a source that has no name")
        return found

    def count(self, kind: Kind) -> int:
        """Findings of a kind."""
        return int((self.records["code"] >> _KIND_BITS == kind).sum())

    def passed_over(self) -> dict[str, int]:
        """Name of each source that was passed over -> tiles of it."""
        import numpy as np  # noqa: PLC0415 - heavy

        of_sources = self.records["code"] >> _KIND_BITS == Kind.PASSED_OVER
        counts = np.bincount(self.records["source"][of_sources], minlength=len(self.names)).tolist()
        return dict(zip(self.names, counts, strict=True))

    def replaced(self, tiles: Iterable[tuple[int, int, int]], fresh: Findings) -> Findings:
        """These without the findings on the tiles given, and the fresh ones."""
        import numpy as np  # noqa: PLC0415 - heavy

        wanted = np.array(sorted(_code(0, *tile) for tile in tiles), "<u8")
        places = self.records["code"] & np.uint64((1 << _KIND_BITS) - 1)
        gone = np.zeros(len(places), bool)
        if len(wanted):
            gone = wanted[np.searchsorted(wanted, places).clip(max=len(wanted) - 1)] == places
        names = sorted({*self.names, *fresh.names})
        parts = [part._renumbered(names) for part in (Findings(self.records[~gone], self.names), fresh)]
        return _made(np.concatenate(parts), names)

    def _renumbered(self, names: list[str]) -> NDArray[np.void]:
        import numpy as np  # noqa: PLC0415 - heavy

        records: NDArray[np.void] = self.records.copy()
        if self.names:
            numbers = np.array([names.index(name) if name in names else 0 for name in self.names], "<u2")
            mine = records["code"] >> _KIND_BITS == Kind.PASSED_OVER
            records["source"][mine] = numbers[records["source"][mine]]
        return records


class FindingCollector:
    """Takes findings one by one, as rows stream by."""

    def __init__(self) -> None:
        self._codes = array("Q")
        self._sources = array("H")
        self._numbers: dict[str, int] = {}

    def sealed(self, row: TileRow) -> None:
        """A tile that is sealed."""
        if row.texture is None:
            self._add(Kind.UNMEASURED, row, 0)
        elif row.texture < LEAST_TEXTURE:
            self._add(Kind.POOR, row, 0)

    def passed_over(self, row: TileRow) -> None:
        """A tile of which another source's is sealed. Raises TileContentError for more sources than can be numbered."""
        number = self._numbers.setdefault(row.source, len(self._numbers))
        if number >= _MOST_SOURCES:
            raise TileContentError(
                f"tile {row.zoom}/{row.x}/{row.y} of {row.source}: more than {_MOST_SOURCES:,} sources hold tiles that others "
                "are preferred for. Import more of them under one name (--source), or build several areas"
            )
        self._add(Kind.PASSED_OVER, row, number)

    def _add(self, kind: Kind, row: TileRow, source: int) -> None:
        self._codes.append(_code(kind, row.zoom, row.x, row.y))
        self._sources.append(source)

    def findings(self) -> Findings:
        """What was taken so far."""
        import numpy as np  # noqa: PLC0415 - heavy

        records = np.empty(len(self._codes), _RECORD)
        records["code"], records["source"] = self._codes, self._sources
        names = sorted(self._numbers)
        return _made(Findings(records, tuple(self._numbers))._renumbered(names), names)


def _code(kind: int, zoom: int, x: int, y: int) -> int:
    return kind << _KIND_BITS | zoom << 48 | x << 24 | y


def _made(records: NDArray[np.void], names: list[str]) -> Findings:
    """In order, and without the names that no finding has: equal sets are equal bytes."""
    import numpy as np  # noqa: PLC0415 - heavy

    whole = Findings(records[np.lexsort((records["source"], records["code"]))], tuple(names))
    used = [name for name, count in whole.passed_over().items() if count]
    return Findings(whole._renumbered(used), tuple(used))
