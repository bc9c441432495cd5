"""Writes `tiles.inventory` from sorted rows or from packed parts. `tileset.inventory` describes the format."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from preflight.area.web_mercator import tile_bounds
from preflight.errors import TileContentError
from preflight.records import TileRow
from preflight.tileset.inventory import (
    FEWER_SOURCES,
    MOST_SOURCES,
    ROW,
    SealedHeader,
    header_bytes,
    row_order,
    row_type,
    tile_id,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Buffer",
    "Companions",
    "aggregate_line",
    "capture_time",
    "numbers_by_name",
    "pack_row",
    "seal",
    "write_inventory",
]

_HEX = re.compile(r"[0-9a-f]{64}")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
Buffer = bytes | bytearray | memoryview


class Companions(NamedTuple):
    """The files beside an inventory in work/ that let `reseal` seal a few changed tiles without reading all rows.

    Both are in the order of the rows. lines: the lines of the aggregate. captured: `capture_time` of each row, int64
    little-endian.
    """

    lines: BinaryIO
    captured: BinaryIO


def seal(rows: Iterable[TileRow], out: BinaryIO, companions: Companions | None = None) -> SealedHeader:
    """Write the inventory of a tile set. Memory holds one packed record for each row.

    Args:
        rows: the rows, sorted by (zoom, lat, lon, source), one source for each tile.
        out: the inventory; a seekable file at its start.
        companions: the companion files to write, for a later `reseal`.

    Returns:
        The header of the inventory.

    Raises:
        TileContentError: two tiles have the same id, an id is -1, a tile occurs twice, a hash is invalid, a centre lies
            outside its tile, or the set exceeds a limit of the format.
        ValueError: the rows are not sorted.
    """
    import numpy as np  # noqa: PLC0415 - heavy

    sources: dict[str, int] = {}
    digest = hashlib.sha256()
    packed, blob, offsets, captured = bytearray(), bytearray(), array("I", [0]), array("q")
    for row in _in_order(rows):
        packed += pack_row(row, sources.setdefault(row.source, len(sources)))
        line = aggregate_line(row)
        digest.update(line)
        blob += row.path.encode()
        offsets.append(_checked_length(blob))
        if companions is not None:
            companions.lines.write(line)
            captured.append(capture_time(row))
    if companions is not None:
        companions.captured.write(np.array(captured, "<i8").tobytes())
    table = np.frombuffer(packed, row_type())
    _refuse_duplicates(table)
    zooms = np.unique(table["zoom"]).tolist()
    draft = SealedHeader(len(table), tuple(sorted(sources)), tuple(zooms), digest.hexdigest(), "", len(blob))
    numbers = numbers_by_name(tuple(sources))
    if numbers is not None and len(table):
        table["source"] = numbers[table["source"]]
    return write_inventory(out, draft, [packed, np.array(offsets, "<u4").data, blob])


def pack_row(row: TileRow, source: int) -> bytes:
    """Pack a row as the file holds it. source: the index of its source. Raises TileContentError for an invalid row."""
    name = f"tile {row.zoom}/{row.x}/{row.y} of {row.source}"
    number = tile_id(row.zoom, row.lat, row.lon)
    if number == -1:
        raise TileContentError(
            f"{name} has the id -1, which means `no result` in the index. Leave this tile out of the area"
        )
    if source >= MOST_SOURCES:
        raise TileContentError(f"{name}: the tile set has more than {MOST_SOURCES:,} sources. {FEWER_SOURCES}")
    if not _HEX.fullmatch(row.sha256):
        raise TileContentError(f"{name}: its hash {row.sha256!r} is no SHA-256. Import the tile again")
    bounds = tile_bounds(row.zoom, row.x, row.y)
    if not (bounds.lat_min < row.lat < bounds.lat_max and bounds.lon_min < row.lon < bounds.lon_max):
        raise TileContentError(
            f"{name}: its centre ({row.lat}, {row.lon}) is outside the tile. Correct its row in the tile store"
        )
    return ROW.pack(number, row.zoom, row.x, row.y, row.lat, row.lon, source, bytes.fromhex(row.sha256))


def aggregate_line(row: TileRow) -> bytes:
    """Return the line of a row in the aggregate."""
    return f"{row.zoom}|{row.lat!r}|{row.lon!r}|{row.source}|{row.sha256}\n".encode()


def capture_time(row: TileRow) -> int:
    """Return the capture time of a row in microseconds since 1970-01-01 UTC."""
    return (row.captured_at - _EPOCH) // timedelta(microseconds=1)


def numbers_by_name(sources: Sequence[str]) -> NDArray[np.uint16] | None:
    """Return the new number of each source if sources are numbered by name. None if no number changes.

    Numbering by name gives equal tile sets equal bytes.
    """
    import numpy as np  # noqa: PLC0415 - heavy

    names = sorted(sources)
    return None if names == list(sources) else np.array([names.index(name) for name in sources], "<u2")


def write_inventory(out: BinaryIO, draft: SealedHeader, body: Iterable[Buffer]) -> SealedHeader:
    """Write an inventory from packed parts.

    Args:
        out: a seekable file at its start.
        draft: the header without `body_sha256`, which this function fills in.
        body: the rows, offsets and paths in the format's layout and order, in any number of buffers. The sources must
            be numbered by name, and each tile must occur once.

    Returns:
        The complete header.
    """
    start = out.tell()
    # Reserve the space of the header: its hash of the body is known only after the body is written.
    out.seek(start + len(header_bytes(replace(draft, body_sha256="0" * 64))))
    digest = hashlib.sha256()
    for part in body:
        digest.update(part)
        out.write(part)
    end = out.tell()
    header = replace(draft, body_sha256=digest.hexdigest())
    out.seek(start)
    out.write(header_bytes(header))
    out.seek(end)
    return header


def _in_order(rows: Iterable[TileRow]) -> Iterator[TileRow]:
    last: tuple[int, float, float, str] | None = None
    for row in rows:
        key = row_order(row)
        if last is not None and key < last:
            raise ValueError(f"rows must be sorted by (zoom, lat, lon, source): {key} came after {last}")
        last = key
        yield row


def _checked_length(blob: bytearray) -> int:
    if len(blob) >= 1 << 32:
        raise TileContentError("the paths of this tile set exceed 4 GiB. Build smaller areas")
    return len(blob)


def _refuse_duplicates(table: NDArray[np.void]) -> None:
    import numpy as np  # noqa: PLC0415 - heavy

    order = np.argsort(table["id"], kind="stable")
    ids = table["id"][order]
    equal_ids = np.flatnonzero(ids[1:] == ids[:-1])
    if len(equal_ids):
        one, other = (table[order[equal_ids[0] + step]] for step in (0, 1))
        names = " and ".join("/".join(str(tile[name]) for name in ("zoom", "x", "y")) for tile in (one, other))
        raise TileContentError(f"tiles {names} have the same id {one['id']}. Leave one of them out of the area")
    by_tile = np.lexsort((table["y"], table["x"], table["zoom"]))
    tiles = np.stack([table[name][by_tile].astype(np.int64) for name in ("zoom", "x", "y")], axis=1)
    repeated = np.flatnonzero(np.all(tiles[1:] == tiles[:-1], axis=1))
    if len(repeated):
        name = "/".join(map(str, tiles[repeated[0]].tolist()))
        raise TileContentError(f"tile {name} occurs twice: give `seal` one source for each tile (see choose_sources)")
