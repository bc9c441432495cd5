"""Writing `tiles.inventory`: from sorted rows, or from parts that are packed already. Its format: `tileset.inventory`."""

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
    """Kept beside an inventory in work/, so that a few changed tiles can be sealed anew without reading all rows again.

    lines: the lines of the aggregate. captured: `capture_time` of each row, int64 little-endian. Both in the rows' order.
    """

    lines: BinaryIO
    captured: BinaryIO


def seal(rows: Iterable[TileRow], out: BinaryIO, companions: Companions | None = None) -> SealedHeader:
    """Write the inventory of rows sorted by (zoom, lat, lon, source); one packed record a row is held in memory.

    companions: where to keep what `reseal` needs beside the inventory.

    Raises:
        TileContentError: two tiles with one id, the id -1, a tile twice, a hash that is none, or a centre outside its
            tile.
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
    _refuse_twins(table)
    zooms = np.unique(table["zoom"]).tolist()
    draft = SealedHeader(len(table), tuple(sorted(sources)), tuple(zooms), digest.hexdigest(), "", len(blob))
    numbers = numbers_by_name(tuple(sources))
    if numbers is not None and len(table):
        table["source"] = numbers[table["source"]]
    return write_inventory(out, draft, [packed, np.array(offsets, "<u4").data, blob])


def pack_row(row: TileRow, source: int) -> bytes:
    """A row as the file holds it. Raises TileContentError for one that may not be sealed."""
    name = f"tile {row.zoom}/{row.x}/{row.y} of {row.source}"
    number = tile_id(row.zoom, row.lat, row.lon)
    if number == -1:
        raise TileContentError(f"{name}: its id is -1, which the index reads as none. Leave this tile out of the area")
    if source >= MOST_SOURCES:
        raise TileContentError(f"{name}: its tile set has more than {MOST_SOURCES:,} sources. {FEWER_SOURCES}")
    if not _HEX.fullmatch(row.sha256):
        raise TileContentError(f"{name}: {row.sha256!r} is no SHA-256. Import the tile again")
    bounds = tile_bounds(row.zoom, row.x, row.y)
    if not (bounds.lat_min < row.lat < bounds.lat_max and bounds.lon_min < row.lon < bounds.lon_max):
        raise TileContentError(f"{name}: its centre ({row.lat}, {row.lon}) is outside the tile. Correct its row")
    return ROW.pack(number, row.zoom, row.x, row.y, row.lat, row.lon, source, bytes.fromhex(row.sha256))


def aggregate_line(row: TileRow) -> bytes:
    """The row's part of the aggregate."""
    return f"{row.zoom}|{row.lat!r}|{row.lon!r}|{row.source}|{row.sha256}\n".encode()


def capture_time(row: TileRow) -> int:
    """Microseconds since 1970-01-01 UTC."""
    return (row.captured_at - _EPOCH) // timedelta(microseconds=1)


def numbers_by_name(sources: Sequence[str]) -> NDArray[np.uint16] | None:
    """What the number of each source becomes when sources are numbered by name, so that equal sets are equal bytes.

    None where nothing changes.
    """
    import numpy as np  # noqa: PLC0415 - heavy

    names = sorted(sources)
    return None if names == list(sources) else np.array([names.index(name) for name in sources], "<u2")


def write_inventory(out: BinaryIO, draft: SealedHeader, body: Iterable[Buffer]) -> SealedHeader:
    """Write the file from its parts, which may come one at a time; returns its header.

    draft: the header but for `body_sha256`, which is filled in. body: rows, offsets and paths as the format has them, in
    order; sources are numbered by name, no tile is there twice. out: a file that can seek, at its start.
    """
    start = out.tell()
    # As long as it will be: the hash is filled in when the body is there.
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
        place = row_order(row)
        if last is not None and place < last:
            raise ValueError(f"rows must come by (zoom, lat, lon, source): {place} came after {last}")
        last = place
        yield row


def _checked_length(blob: bytearray) -> int:
    if len(blob) >= 1 << 32:
        raise TileContentError("the paths of this tile set exceed 4 GiB. Build it as several areas")
    return len(blob)


def _refuse_twins(table: NDArray[np.void]) -> None:
    import numpy as np  # noqa: PLC0415 - heavy

    order = np.argsort(table["id"], kind="stable")
    ids = table["id"][order]
    twins = np.flatnonzero(ids[1:] == ids[:-1])
    if len(twins):
        one, other = (table[order[twins[0] + step]] for step in (0, 1))
        names = " and ".join("/".join(str(tile[name]) for name in ("zoom", "x", "y")) for tile in (one, other))
        raise TileContentError(f"tiles {names} have the same id {one['id']}. Leave one of them out of the area")
    places = np.lexsort((table["y"], table["x"], table["zoom"]))
    keys = np.stack([table[name][places].astype(np.int64) for name in ("zoom", "x", "y")], axis=1)
    again = np.flatnonzero(np.all(keys[1:] == keys[:-1], axis=1))
    if len(again):
        name = "/".join(map(str, keys[again[0]].tolist()))
        raise TileContentError(f"tile {name} comes twice: one source a tile is sealed (see choose_sources)")
