"""Seals a tile set again after a few tiles changed. The result has the same bytes as that of `seal`.

For a million tiles, `seal` takes about 15 seconds to read all rows from the database and pack them. This module copies
the old inventory and its companions block by block, and packs only the changed tiles. It needs 20 bytes of memory for
each row.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from preflight.errors import TileContentError
from preflight.records import TileRow
from preflight.tileset.inventory import Inventory, SealedHeader, row_order, row_type
from preflight.tileset.mapped import row_blocks
from preflight.tileset.sealing import (
    Buffer,
    Companions,
    aggregate_line,
    capture_time,
    numbers_by_name,
    pack_row,
    write_inventory,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SealedFiles", "places_of", "reseal"]

Tile = tuple[int, int, int]
"""(zoom, x, y)."""

_BLOCK_BYTES = 1 << 20
_REMEDY = "Run `doit provision repair=1` to build it again"


@dataclass(frozen=True, slots=True)
class SealedFiles:
    """An inventory and its companions, as `seal` wrote them."""

    inventory: Path
    lines: Path
    captured: Path


class _Piece(NamedTuple):
    """The rows from `start` up to, but without, `stop`: of the old inventory, or of the fresh rows."""

    fresh: bool
    start: int
    stop: int


class _Old(NamedTuple):
    """The files of the last seal, opened: the mapped inventory, the same file for reads, and the companions."""

    inventory: Inventory
    rows: BinaryIO
    lines: BinaryIO
    captured: NDArray[np.int64]


class _Scan(NamedTuple):
    """The result of one pass over the old rows.

    dropped: indices of the rows of changed tiles. sources, zooms: number of new rows of each source and each zoom.
    """

    dropped: list[int]
    sources: NDArray[np.int64]
    zooms: NDArray[np.int64]


def reseal(
    old: SealedFiles, changed: Mapping[Tile, TileRow | None], out: BinaryIO, companions: Companions
) -> tuple[SealedHeader, int | None]:
    """Write the inventory and the companions of a tile set in which a few tiles changed.

    Args:
        old: the inventory and companions of the last seal.
        changed: changed tile -> its new row, or None if it is no longer in the set.
        out: the new inventory; a seekable file at its start.
        companions: the new companions.

    Returns:
        The header of the new inventory, and the earliest capture time of its rows (see `capture_time`; None without
        rows).

    Raises:
        TileContentError: the old files do not fit each other, a new row is invalid, or two tiles have the same id.
    """
    fresh = sorted((row for row in changed.values() if row is not None), key=row_order)
    with ExitStack() as stack:
        sealed = _open(old, stack)
        sources = [*sealed.inventory.header.sources]
        sources += sorted({row.source for row in fresh} - set(sources))
        packed = np.frombuffer(b"".join(pack_row(row, sources.index(row.source)) for row in fresh), row_type())
        scan = _scan(sealed.inventory, changed, packed, len(sources))
        pieces = _pieces(sealed.inventory, scan.dropped, fresh)
        paths = [row.path.encode() for row in fresh]
        names, numbers = _renumber_sources(scan, sources)
        aggregate = _write_lines(sealed, pieces, [aggregate_line(row) for row in fresh], companions.lines)
        oldest = _write_times(sealed, pieces, [capture_time(row) for row in fresh], companions.captured)
        draft = SealedHeader(
            count=sum(piece.stop - piece.start for piece in pieces),
            sources=tuple(names),
            zooms=tuple(np.flatnonzero(scan.zooms).tolist()),
            aggregate=aggregate,
            body_sha256="",
            path_bytes=_path_bytes(sealed.inventory, pieces, paths),
        )
        return write_inventory(out, draft, _body(sealed, pieces, packed, paths, numbers)), oldest


def _open(old: SealedFiles, stack: ExitStack) -> _Old:
    inventory = Inventory.open(old.inventory, vouched=True)
    try:
        rows, lines = (stack.enter_context(path.open("rb", buffering=0)) for path in (old.inventory, old.lines))
        captured = np.fromfile(old.captured, "<i8")
    except OSError as error:
        raise TileContentError(f"{old.lines} or {old.captured} cannot be read: {error}. {_REMEDY}") from error
    if len(captured) != len(inventory):
        raise TileContentError(f"{old.captured} does not fit {old.inventory}. {_REMEDY}")
    return _Old(inventory, rows, lines, captured)


def places_of(inventory: Inventory, tiles: Iterable[Tile]) -> list[int]:
    """Return the row indices of some tiles (zoom, x, y), ascending. Tiles that the inventory lacks are left out."""
    wanted = _codes_of(tiles)
    return [first + index for first, block in row_blocks(inventory.rows) for index in _indices_in(block, wanted)]


def _codes_of(tiles: Iterable[Tile]) -> NDArray[np.int64]:
    return np.array(sorted(zoom << 48 | x << 24 | y for zoom, x, y in tiles), np.int64)


def _indices_in(block: NDArray[np.void], wanted: NDArray[np.int64]) -> list[int]:
    codes = block["zoom"].astype(np.int64) << 48 | block["x"].astype(np.int64) << 24 | block["y"]
    indices: list[int] = np.flatnonzero(_contained(codes, wanted)).tolist()
    return indices


def _contained(values: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which values are in the sorted array `wanted`. For few wanted values this is faster than np.isin."""
    if not len(wanted):
        return np.zeros(len(values), bool)
    contained: NDArray[np.bool_] = wanted[np.searchsorted(wanted, values).clip(max=len(wanted) - 1)] == values
    return contained


def _scan(inventory: Inventory, changed: Iterable[Tile], packed: NDArray[np.void], sources: int) -> _Scan:
    """Read the old rows once.

    Raises:
        TileContentError: a fresh row has the same id as another fresh row, or as an old row that stays.
    """
    wanted, ids = _codes_of(changed), np.sort(packed["id"])
    _refuse_same_id(ids[1:][ids[1:] == ids[:-1]])
    dropped: list[int] = []
    counts = np.bincount(packed["source"], minlength=sources)
    zooms = np.bincount(packed["zoom"], minlength=256)
    for first, block in row_blocks(inventory.rows):
        indices = _indices_in(block, wanted)
        dropped += [first + index for index in indices]
        kept = np.delete(block[["id", "zoom", "source"]], indices) if indices else block
        _refuse_same_id(kept["id"][_contained(kept["id"], ids)])
        counts += np.bincount(kept["source"], minlength=sources)
        zooms += np.bincount(kept["zoom"], minlength=256)
    return _Scan(dropped, counts, zooms)


def _refuse_same_id(repeated: NDArray[np.int64]) -> None:
    if len(repeated):
        raise TileContentError(f"two tiles have the same id {int(repeated[0])}. Leave one of them out of the area")


def _pieces(inventory: Inventory, dropped: Sequence[int], fresh: Sequence[TileRow]) -> list[_Piece]:
    """Return the rows of the new inventory, in order, as pieces of the old and the fresh rows."""
    keys = _SortKeys(inventory)
    events = sorted(
        [(index, 1, -1) for index in dropped]
        + [(bisect_left(keys, row_order(row)), 0, number) for number, row in enumerate(fresh)]
    )
    pieces: list[_Piece] = []
    done = 0
    for index, drop, number in events:
        if index > done:
            pieces.append(_Piece(False, done, index))
            done = index
        if drop:
            done = index + 1
        else:
            pieces.append(_Piece(True, number, number + 1))
    if done < len(inventory):
        pieces.append(_Piece(False, done, len(inventory)))
    return pieces


class _SortKeys(Sequence[tuple[int, float, float, str]]):
    """The sort keys of the old rows; each is computed when it is asked for."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory

    def __len__(self) -> int:
        return len(self._inventory)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204 - bisect asks by index only
        row = self._inventory.rows[index]
        return int(row["zoom"]), float(row["lat"]), float(row["lon"]), self._inventory.source(index)


def _renumber_sources(scan: _Scan, sources: Sequence[str]) -> tuple[list[str], NDArray[np.uint16] | None]:
    """Return the sources that still have a row, by name, and old number -> new number (None if no number changes)."""
    used = np.flatnonzero(scan.sources).tolist()
    names = [sources[number] for number in used]
    by_name = numbers_by_name(names)
    if by_name is None and len(used) == len(sources):
        return names, None
    numbers = np.zeros(len(sources), "<u2")
    numbers[used] = np.arange(len(used)) if by_name is None else by_name
    return sorted(names), numbers


def _path_bytes(inventory: Inventory, pieces: Sequence[_Piece], fresh: Sequence[bytes]) -> int:
    offsets, _ = inventory.path_table()
    total = sum(
        sum(map(len, fresh[start:stop])) if new else int(offsets[stop]) - int(offsets[start])
        for new, start, stop in pieces
    )
    if total >= 1 << 32:
        raise TileContentError("the paths of this tile set exceed 4 GiB. Build smaller areas")
    return total


def _body(
    sealed: _Old,
    pieces: Sequence[_Piece],
    packed: NDArray[np.void],
    paths: Sequence[bytes],
    numbers: NDArray[np.uint16] | None,
) -> Iterator[Buffer]:
    """Yield the rows, offsets and paths of the new inventory."""
    size, start = row_type().itemsize, sealed.inventory.rows_at
    for new, first, stop in pieces:
        parts: Iterable[Buffer] = (
            [packed[first:stop].tobytes()]
            if new
            else _read_range(sealed.rows, start + first * size, start + stop * size, unit=size)
        )
        yield from parts if numbers is None else (_renumbered(part, numbers) for part in parts)
    offsets, _ = sealed.inventory.path_table()
    yield bytes(4)
    end = 0
    for new, first, stop in pieces:
        ends = (
            np.cumsum([end + len(paths[first]), *map(len, paths[first + 1 : stop])])
            if new
            else offsets[first + 1 : stop + 1] + np.int64(end - int(offsets[first]))
        )
        yield ends.astype("<u4").data
        end = int(ends[-1])
    start += size * len(sealed.inventory) + offsets.nbytes
    for new, first, stop in pieces:
        if new:
            yield b"".join(paths[first:stop])
        else:
            yield from _read_range(sealed.rows, start + int(offsets[first]), start + int(offsets[stop]))


def _renumbered(part: Buffer, numbers: NDArray[np.uint16]) -> Buffer:
    rows = np.frombuffer(part, row_type()).copy()
    rows["source"] = numbers[rows["source"]]
    renumbered: memoryview = rows.view(np.uint8).data
    return renumbered


def _read_range(file: BinaryIO, start: int, stop: int, unit: int = 1) -> Iterator[bytes]:
    """Yield the bytes of a file from start to stop in blocks; each block is a multiple of `unit` bytes long."""
    block = max(1, _BLOCK_BYTES // unit) * unit
    for position in range(start, stop, block):
        file.seek(position)
        part = file.read(min(block, stop - position))
        if len(part) < min(block, stop - position):
            raise TileContentError(f"{file.name} became shorter while it was read. {_REMEDY}")
        yield part


def _write_lines(sealed: _Old, pieces: Sequence[_Piece], fresh: Sequence[bytes], out: BinaryIO) -> str:
    """Write the lines of the new aggregate and return its hex digest."""
    borders = sorted({0, len(sealed.inventory), *(row for new, *ends in pieces if not new for row in ends)})
    starts = dict(zip(borders, _line_starts(sealed, borders), strict=True))
    digest = hashlib.sha256()
    for new, first, stop in pieces:
        for part in fresh[first:stop] if new else _read_range(sealed.lines, starts[first], starts[stop]):
            digest.update(part)
            out.write(part)
    return digest.hexdigest()


def _line_starts(sealed: _Old, rows: Sequence[int]) -> list[int]:
    """Return the offsets at which the lines of some rows start.

    rows: row indices, ascending. The first is 0, the last is the number of rows.
    """
    wanted = np.array(rows)
    starts = np.zeros(len(rows), np.int64)
    size = sealed.lines.seek(0, 2)
    position = done = 0
    for part in _read_range(sealed.lines, 0, size):
        ends = np.flatnonzero(np.frombuffer(part, np.uint8) == ord("\n")) + 1
        low, high = np.searchsorted(wanted, [done + 1, done + len(ends) + 1])
        starts[low:high] = position + ends[wanted[low:high] - done - 1]
        position, done = position + len(part), done + len(ends)
    if done != rows[-1] or starts[-1] != size:
        raise TileContentError(f"{sealed.lines.name} does not fit its inventory. {_REMEDY}")
    offsets: list[int] = starts.tolist()
    return offsets


def _write_times(sealed: _Old, pieces: Sequence[_Piece], fresh: Sequence[int], out: BinaryIO) -> int | None:
    """Write the capture times of the new rows and return the earliest."""
    packed = np.array(fresh, "<i8")
    earliest: list[int] = []
    for new, start, stop in pieces:
        part = (packed if new else sealed.captured)[start:stop]
        out.write(part.data)
        earliest.append(int(part.min()))
    return min(earliest, default=None)
