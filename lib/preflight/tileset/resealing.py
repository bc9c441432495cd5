"""Sealing again after a few tiles changed: the bytes `seal` would write, for the price of the change.

At a million tiles, reading all rows from the database and packing them takes some fifteen seconds. Here the old inventory and its
companions are copied in pieces, a block at a time, and only the changed tiles are packed. Memory is 20 bytes a row.
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


@dataclass(frozen=True, slots=True)
class SealedFiles:
    """An inventory and its companions, as `seal` wrote them."""

    inventory: Path
    lines: Path
    captured: Path


class _Piece(NamedTuple):
    """Rows start to stop: of those that were sealed, or of the fresh ones."""

    fresh: bool
    start: int
    stop: int


class _Old(NamedTuple):
    """What was sealed: the inventory mapped, its files open."""

    inventory: Inventory
    rows: BinaryIO
    lines: BinaryIO
    captured: NDArray[np.int64]


class _Scan(NamedTuple):
    """What a walk over the old rows found: where the changed tiles stand, and how many of the others each source and zoom has."""

    dropped: list[int]
    sources: NDArray[np.int64]
    zooms: NDArray[np.int64]


def reseal(
    old: SealedFiles, changed: Mapping[Tile, TileRow | None], out: BinaryIO, companions: Companions
) -> tuple[SealedHeader, int | None]:
    """Write the inventory in which each changed tile has the row given, or none; `out` can seek.

    Returns its header, and the earliest capture time of its rows (see `capture_time`), None without rows.

    Raises:
        TileContentError: the old files do not fit each other, a row may not be sealed, or two tiles have one id.
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
        names, numbers = _numbered(scan, sources)
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
        raise TileContentError(f"{old.lines} or {old.captured} cannot be read: {error}. Build it again") from error
    if len(captured) != len(inventory):
        raise TileContentError(f"{old.captured} does not fit {old.inventory}. Build it again")
    return _Old(inventory, rows, lines, captured)


def places_of(inventory: Inventory, tiles: Iterable[Tile]) -> list[int]:
    """Where some tiles stand in an inventory's rows, ascending; those it does not hold are left out."""
    wanted = _codes_of(tiles)
    return [at + place for at, block in row_blocks(inventory.rows) for place in _places_in(block, wanted)]


def _codes_of(tiles: Iterable[Tile]) -> NDArray[np.int64]:
    return np.array(sorted(zoom << 48 | x << 24 | y for zoom, x, y in tiles), np.int64)


def _places_in(block: NDArray[np.void], wanted: NDArray[np.int64]) -> list[int]:
    codes = block["zoom"].astype(np.int64) << 48 | block["x"].astype(np.int64) << 24 | block["y"]
    found: list[int] = np.flatnonzero(_among(codes, wanted)).tolist()
    return found


def _among(values: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which values are among the wanted ones, which ascend. For a few wanted much cheaper than np.isin, which sorts."""
    if not len(wanted):
        return np.zeros(len(values), bool)
    found: NDArray[np.bool_] = wanted[np.searchsorted(wanted, values).clip(max=len(wanted) - 1)] == values
    return found


def _scan(inventory: Inventory, changed: Iterable[Tile], packed: NDArray[np.void], sources: int) -> _Scan:
    """One walk over the old rows.

    Raises:
        TileContentError: a fresh row has the id of another, or of a row that stays. Among the old rows there are no such.
    """
    wanted, ids = _codes_of(changed), np.sort(packed["id"])
    _refuse_twin(ids[1:][ids[1:] == ids[:-1]])
    dropped: list[int] = []
    counts = np.bincount(packed["source"], minlength=sources)
    zooms = np.bincount(packed["zoom"], minlength=256)
    for at, block in row_blocks(inventory.rows):
        places = _places_in(block, wanted)
        dropped += [at + place for place in places]
        kept = np.delete(block[["id", "zoom", "source"]], places) if places else block
        _refuse_twin(kept["id"][_among(kept["id"], ids)])
        counts += np.bincount(kept["source"], minlength=sources)
        zooms += np.bincount(kept["zoom"], minlength=256)
    return _Scan(dropped, counts, zooms)


def _refuse_twin(twins: NDArray[np.int64]) -> None:
    if len(twins):
        raise TileContentError(f"two tiles have the same id {int(twins[0])}. Leave one of them out of the area")


def _pieces(inventory: Inventory, dropped: Sequence[int], fresh: Sequence[TileRow]) -> list[_Piece]:
    """The new order as slices."""
    place = _Places(inventory)
    events = sorted(
        [(at, 1, -1) for at in dropped] + [(bisect_left(place, row_order(row)), 0, i) for i, row in enumerate(fresh)]
    )
    found: list[_Piece] = []
    done = 0
    for at, drop, number in events:
        if at > done:
            found.append(_Piece(False, done, at))
            done = at
        if drop:
            done = at + 1
        else:
            found.append(_Piece(True, number, number + 1))
    if done < len(inventory):
        found.append(_Piece(False, done, len(inventory)))
    return found


class _Places(Sequence[tuple[int, float, float, str]]):
    """The old rows' sort keys, one at a time."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory

    def __len__(self) -> int:
        return len(self._inventory)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204 - bisect takes single indices only
        row = self._inventory.rows[index]
        return int(row["zoom"]), float(row["lat"]), float(row["lon"]), self._inventory.source(index)


def _numbered(scan: _Scan, sources: Sequence[str]) -> tuple[list[str], NDArray[np.uint16] | None]:
    """The sources that a row still has, by name, and what becomes of the old numbers: None where all stay."""
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
        raise TileContentError("the paths of this tile set exceed 4 GiB. Build it as several areas")
    return total


def _body(
    sealed: _Old,
    pieces: Sequence[_Piece],
    packed: NDArray[np.void],
    paths: Sequence[bytes],
    numbers: NDArray[np.uint16] | None,
) -> Iterator[Buffer]:
    """Rows, offsets and paths in their new order."""
    size, start = row_type().itemsize, sealed.inventory.rows_at
    for new, first, stop in pieces:
        parts: Iterable[Buffer] = (
            [packed[first:stop].tobytes()]
            if new
            else _stretch(sealed.rows, start + first * size, start + stop * size, whole=size)
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
            yield from _stretch(sealed.rows, start + int(offsets[first]), start + int(offsets[stop]))


def _renumbered(part: Buffer, numbers: NDArray[np.uint16]) -> Buffer:
    rows = np.frombuffer(part, row_type()).copy()
    rows["source"] = numbers[rows["source"]]
    renumbered: memoryview = rows.view(np.uint8).data
    return renumbered


def _stretch(file: BinaryIO, start: int, stop: int, whole: int = 1) -> Iterator[bytes]:
    """A file's bytes from start to stop, in blocks of whole so many bytes."""
    block = max(1, _BLOCK_BYTES // whole) * whole
    for at in range(start, stop, block):
        file.seek(at)
        part = file.read(min(block, stop - at))
        if len(part) < min(block, stop - at):
            raise TileContentError(f"{file.name} became shorter while it was read. Build it again")
        yield part


def _write_lines(sealed: _Old, pieces: Sequence[_Piece], fresh: Sequence[bytes], out: BinaryIO) -> str:
    """Write the aggregate's lines in their new order; returns its hex digest."""
    borders = sorted({0, len(sealed.inventory), *(row for new, *ends in pieces if not new for row in ends)})
    starts = dict(zip(borders, _line_starts(sealed, borders), strict=True))
    digest = hashlib.sha256()
    for new, first, stop in pieces:
        for part in fresh[first:stop] if new else _stretch(sealed.lines, starts[first], starts[stop]):
            digest.update(part)
            out.write(part)
    return digest.hexdigest()


def _line_starts(sealed: _Old, rows: Sequence[int]) -> list[int]:
    """Where the lines of some rows start. rows: ascending, the first 0, the last the number of rows."""
    wanted = np.array(rows)
    starts = np.zeros(len(rows), np.int64)
    size = sealed.lines.seek(0, 2)
    at = done = 0
    for part in _stretch(sealed.lines, 0, size):
        ends = np.flatnonzero(np.frombuffer(part, np.uint8) == ord("\n")) + 1
        low, high = np.searchsorted(wanted, [done + 1, done + len(ends) + 1])
        starts[low:high] = at + ends[wanted[low:high] - done - 1]
        at, done = at + len(part), done + len(ends)
    if done != rows[-1] or starts[-1] != size:
        raise TileContentError(f"{sealed.lines.name} does not fit its inventory. Build it again")
    found: list[int] = starts.tolist()
    return found


def _write_times(sealed: _Old, pieces: Sequence[_Piece], fresh: Sequence[int], out: BinaryIO) -> int | None:
    """Write the capture times in their new order; returns the earliest."""
    packed = np.array(fresh, "<i8")
    oldest: list[int] = []
    for new, start, stop in pieces:
        part = (packed if new else sealed.captured)[start:stop]
        out.write(part.data)
        oldest.append(int(part.min()))
    return min(oldest, default=None)
