"""Sealing again after a few tiles changed: the bytes `seal` would write, for the price of the change.

At a million tiles, reading all rows from the database and packing them takes some fifteen seconds. Here the old inventory and its
companions are taken over in pieces, and only the changed tiles are packed.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from preflight.errors import TileContentError
from preflight.records import TileRow
from preflight.tileset import (
    Companions,
    Inventory,
    SealedHeader,
    aggregate_line,
    capture_time,
    pack_row,
    row_type,
    write_inventory,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SealedFiles", "places_of", "reseal"]

Tile = tuple[int, int, int]
"""(zoom, x, y)."""


@dataclass(frozen=True, slots=True)
class SealedFiles:
    """An inventory and its companions, as `seal` wrote them."""

    inventory: Path
    lines: Path
    captured: Path


@dataclass(frozen=True, slots=True)
class _Old:
    """What was sealed, mapped."""

    inventory: Inventory
    lines: NDArray[np.uint8]
    line_ends: NDArray[np.int64]
    captured: NDArray[np.int64]


def reseal(
    old: SealedFiles, changed: Mapping[Tile, TileRow | None], out: BinaryIO, companions: Companions
) -> tuple[SealedHeader, int | None]:
    """Write the inventory in which each changed tile has the row given, or none.

    Returns its header, and the earliest capture time of its rows (see `capture_time`), None without rows.

    Raises:
        TileContentError: the old files do not fit each other, a row may not be sealed, or two tiles have one id.
    """
    sealed = _open(old)
    rows = sealed.inventory.rows
    fresh = sorted((row for row in changed.values() if row is not None), key=_order)
    sources = [*sealed.inventory.header.sources]
    sources += sorted({row.source for row in fresh} - set(sources))
    packed = np.frombuffer(b"".join(pack_row(row, sources.index(row.source)) for row in fresh), row_type())
    pieces = _pieces(sealed.inventory, places_of(rows, changed), fresh)
    table = np.concatenate([packed[a:b] if new else rows[a:b] for new, a, b in pieces] or [rows[:0]])
    _refuse_twins(table, packed)
    table, names = _used(table, sources)
    paths = [row.path.encode() for row in fresh]
    offsets, blob = _paths(sealed.inventory, pieces, paths)
    aggregate = _write_lines(sealed, pieces, [aggregate_line(row) for row in fresh], companions.lines)
    fresh_times = np.array([capture_time(row) for row in fresh], "<i8")
    times = np.concatenate([(fresh_times if new else sealed.captured)[a:b] for new, a, b in pieces] or [fresh_times])
    companions.captured.write(times.tobytes())
    header = write_inventory(out, table, offsets, blob, names, aggregate)
    return header, int(times.min()) if len(times) else None


def _open(old: SealedFiles) -> _Old:
    inventory = Inventory.open(old.inventory, vouched=True)
    try:
        lines = np.memmap(old.lines, np.uint8, "r")
        captured = np.fromfile(old.captured, "<i8")
    except (OSError, ValueError) as error:
        raise TileContentError(f"{old.lines} or {old.captured} cannot be read: {error}. Build it again") from error
    ends = np.flatnonzero(lines == ord("\n")) + 1
    if not len(ends) == len(captured) == len(inventory):
        raise TileContentError(f"{old.lines} and {old.captured} do not fit {old.inventory}. Build it again")
    return _Old(inventory, lines, ends, captured)


def _order(row: TileRow) -> tuple[int, float, float, str]:
    return row.zoom, row.lat, row.lon, row.source


def places_of(rows: NDArray[np.void], tiles: Iterable[Tile]) -> list[int]:
    """Where some tiles stand in an inventory's rows, ascending; those it does not hold are left out."""
    keys = rows["zoom"].astype(np.int64) << 48 | rows["x"].astype(np.int64) << 24 | rows["y"]
    wanted = np.array([zoom << 48 | x << 24 | y for zoom, x, y in tiles], np.int64)
    found: list[int] = np.flatnonzero(np.isin(keys, wanted)).tolist()
    return found


def _pieces(inventory: Inventory, dropped: Sequence[int], fresh: Sequence[TileRow]) -> list[tuple[bool, int, int]]:
    """The new order as slices: (from the fresh rows?, start, stop)."""
    place = _Places(inventory)
    events = sorted(
        [(at, 1, -1) for at in dropped] + [(bisect_left(place, _order(row)), 0, i) for i, row in enumerate(fresh)]
    )
    found: list[tuple[bool, int, int]] = []
    done = 0
    for at, drop, number in events:
        if at > done:
            found.append((False, done, at))
            done = at
        if drop:
            done = at + 1
        else:
            found.append((True, number, number + 1))
    if done < len(inventory):
        found.append((False, done, len(inventory)))
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


def _refuse_twins(table: NDArray[np.void], packed: NDArray[np.void]) -> None:
    """Among the old rows there are none: only the fresh ones can meet another."""
    ids = table["id"][np.isin(table["id"], packed["id"])]
    if len(ids) != len(np.unique(ids)):
        values, counts = np.unique(ids, return_counts=True)
        number = int(values[counts > 1][0])
        raise TileContentError(f"two tiles have the same id {number}. Leave one of them out of the area")


def _used(table: NDArray[np.void], sources: Sequence[str]) -> tuple[NDArray[np.void], list[str]]:
    """Without the sources that no row has any more."""
    used: list[int] = np.unique(table["source"]).tolist()
    if len(used) == len(sources):
        return table, list(sources)
    numbers = np.zeros(len(sources), "<u2")
    numbers[used] = np.arange(len(used))
    table["source"] = numbers[table["source"]]
    return table, [sources[number] for number in used]


def _paths(
    inventory: Inventory, pieces: Sequence[tuple[bool, int, int]], fresh: Sequence[bytes]
) -> tuple[NDArray[np.uint32], list[memoryview | bytes]]:
    old_offsets, blob = inventory.path_table()
    lengths = [
        np.array([len(path) for path in fresh[a:b]], np.int64)
        if new
        else np.diff(old_offsets[a : b + 1].astype(np.int64))
        for new, a, b in pieces
    ]
    ends = np.cumsum(np.concatenate([np.zeros(1, np.int64), *lengths]))
    if ends[-1] >= 1 << 32:
        raise TileContentError("the paths of this tile set exceed 4 GiB. Build it as several areas")
    parts: list[memoryview | bytes] = [
        b"".join(fresh[a:b]) if new else blob[int(old_offsets[a]) : int(old_offsets[b])].data for new, a, b in pieces
    ]
    return ends.astype("<u4"), parts


def _write_lines(sealed: _Old, pieces: Sequence[tuple[bool, int, int]], fresh: Sequence[bytes], out: BinaryIO) -> str:
    """Write the aggregate's lines in their new order; returns its hex digest."""
    digest = hashlib.sha256()
    for part in _line_parts(sealed, pieces, fresh):
        digest.update(part)
        out.write(part)
    return digest.hexdigest()


def _line_parts(
    sealed: _Old, pieces: Sequence[tuple[bool, int, int]], fresh: Sequence[bytes]
) -> Iterator[memoryview | bytes]:
    for new, a, b in pieces:
        if new:
            yield b"".join(fresh[a:b])
        else:
            start = int(sealed.line_ends[a - 1]) if a else 0
            yield sealed.lines[start : int(sealed.line_ends[b - 1])].data
