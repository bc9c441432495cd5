r"""The sealed tile set: one small file that says which tiles a cache was made of, and flies with it.

`tiles.inventory`, all integers little-endian:

    8 bytes    magic "PFTILES" and a zero byte
    u4         version, 1
    u4         length of the header
    32 bytes   SHA-256 of the header
    header     canonical JSON: aggregate, body_sha256, count, path_bytes, sources, zooms
    rows       count x 67 bytes: id i8, zoom u1, x u4, y u4, lat f8, lon f8, source u2, sha256 32 bytes;
               ascending by (zoom, lat, lon, source name); source numbers the header's sources
    offsets    (count + 1) x u4 into the paths; path i is bytes offsets[i] to offsets[i + 1]
    paths      UTF-8; nothing follows

`body_sha256` covers everything after the header. `aggregate` is tiles_coverage_sha256: SHA-256 over the lines
f"{zoom}|{lat!r}|{lon!r}|{source}|{sha256}\n" in the order of the rows.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, NoReturn

from preflight.errors import TileContentError
from preflight.geometry import tile_bounds
from preflight.records import TileRow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from preflight.area import Cover
    from preflight.ports import TileMetadataStore

__all__ = [
    "MOST_AHEAD",
    "Companions",
    "Inventory",
    "SealedHeader",
    "choose_sources",
    "read_header",
    "rows_of_cover",
    "seal",
    "tile_id",
]

_MAGIC = b"PFTILES\0"
_VERSION = 1
_PREFIX = struct.Struct("<8sII32s")
_MOST_HEADER = 1 << 20
_MOST_SOURCES = 1 << 16
_ROW = struct.Struct("<qBIIddH32s")
_ROW_BYTES = _ROW.size  # 67
_HEX = re.compile(r"[0-9a-f]{64}")
_FEWER_SOURCES = "Import more of the tiles under one name (--source), or build several areas"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MOST_AHEAD = timedelta(days=1)
"""How far ahead of the clock a date of capture may be, since one without a zone is read as UTC. It then counts as now."""
Buffer = bytes | bytearray | memoryview


def tile_id(zoom: int, lat: float, lon: float) -> int:
    """The int64 id of a tile (SPEC.md). Half of all ids are negative; -1 is refused by `seal`: to FAISS it means none."""
    text = f"{zoom}|{lat}|{lon}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


@dataclass(frozen=True, slots=True)
class SealedHeader:
    """What is known of a tile set without reading its rows. aggregate is tiles_coverage_sha256, hex."""

    count: int
    sources: tuple[str, ...]
    zooms: tuple[int, ...]
    aggregate: str
    body_sha256: str
    path_bytes: int


def rows_of_cover(store: TileMetadataStore, cover: Cover) -> Iterator[TileRow]:
    """The store's rows of a cover, streamed by (zoom, lat, lon, source).

    Each range of the cover is a query of its own: compare `store.revision()` before and after for one snapshot.
    """
    for _, ranges in groupby(cover.ranges, key=lambda found: found.zoom):
        streams = [store.rows_in_box(*found) for found in ranges]
        rows = streams[0] if len(streams) == 1 else merge(*streams, key=_order)
        yield from (row for row in rows if cover.position(row.zoom, row.x, row.y) is not None)


def choose_sources(
    rows: Iterable[TileRow], source_order: Sequence[str], passed_over: Callable[[TileRow], None] | None = None
) -> Iterator[TileRow]:
    """Keep one row a (zoom, x, y): of the first source in `source_order`; sources not listed come after, by name.

    Rows come and go by (zoom, lat, lon, source). One row of tiles is held at a time, so that two sources may also
    disagree about the last bits of a centre. passed_over: told of each row that is not kept.
    """
    rank = {source: number for number, source in enumerate(source_order)}
    for _, band in groupby(rows, key=lambda row: (row.zoom, row.y)):
        best: dict[int, TileRow] = {}
        for row in band:
            held = best.get(row.x)
            kept, left = (row, held) if held is None or _rank(rank, row) < _rank(rank, held) else (held, row)
            best[row.x] = kept
            if left is not None and passed_over is not None:
                passed_over(left)
        yield from sorted(best.values(), key=_order)


def seal(rows: Iterable[TileRow], out: BinaryIO, companions: Companions | None = None) -> SealedHeader:
    """Write the inventory of rows sorted by (zoom, lat, lon, source); one packed record a row is held in memory.

    companions: where to keep what `reseal` needs beside the inventory.

    Raises:
        TileContentError: two tiles with one id, the id -1, a tile twice, a hash that is none, or a centre outside its
            tile.
        ValueError: the rows are not sorted.
    """
    import numpy as np  # noqa: PLC0415 - reading a header must not need it

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


class Companions(NamedTuple):
    """Kept beside an inventory in work/, so that a few changed tiles can be sealed anew without reading all rows again.

    lines: the lines of the aggregate. captured: `capture_time` of each row, int64 little-endian. Both in the rows' order.
    """

    lines: BinaryIO
    captured: BinaryIO


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
    import numpy as np  # noqa: PLC0415 - reading a header must not need it

    names = sorted(sources)
    return None if names == list(sources) else np.array([names.index(name) for name in sources], "<u2")


def write_inventory(out: BinaryIO, draft: SealedHeader, body: Iterable[Buffer]) -> SealedHeader:
    """Write the file from its parts, which may come one at a time; returns its header.

    draft: the header but for `body_sha256`, which is filled in. body: rows, offsets and paths as the module's format has
    them, in order; sources are numbered by name, no tile is there twice. out: a file that can seek, at its start.
    """
    encoded = _encode(replace(draft, body_sha256="0" * 64))
    if len(encoded) > _MOST_HEADER:
        raise TileContentError(
            f"the names of its {len(draft.sources):,} sources exceed what a tile inventory holds. {_FEWER_SOURCES}"
        )
    start = out.tell()
    out.seek(start + _PREFIX.size + len(encoded))
    digest = hashlib.sha256()
    for part in body:
        digest.update(part)
        out.write(part)
    end = out.tell()
    header = replace(draft, body_sha256=digest.hexdigest())
    encoded = _encode(header)
    out.seek(start)
    out.write(_PREFIX.pack(_MAGIC, _VERSION, len(encoded), hashlib.sha256(encoded).digest()) + encoded)
    out.seek(end)
    return header


def read_header(path: Path) -> SealedHeader:
    """The header of an inventory, checked against its own hash and the file's length; the rows are not read.

    Raises:
        TileContentError: the file is missing, truncated, lengthened, altered or of another format; it is named.
    """
    return _read_header(path)[0]


class Inventory:
    """An opened, memory-mapped inventory. `rows` is a structured array with the fields named above, read-only.

    Looking at all rows maps all of the file, which counts as this process's memory: see `preflight.mapped`.
    """

    def __init__(self, header: SealedHeader, mapped: mmap.mmap, start: int) -> None:
        import numpy as np  # noqa: PLC0415 - reading a header must not need it

        self.header = header
        self.rows_at = start
        body = np.frombuffer(mapped, np.uint8, offset=start)
        split = header.count * _ROW_BYTES
        rest = split + 4 * (header.count + 1)
        self.rows: NDArray[np.void] = body[:split].view(row_type())
        self._offsets: NDArray[np.uint32] = body[split:rest].view("<u4")
        self._blob: NDArray[np.uint8] = body[rest:]

    @classmethod
    def open(cls, path: Path, *, vouched: bool = False) -> Inventory:
        """Map a file whose every byte has been hashed first: here, or by the caller, who then says that it is vouched for.

        Raises:
            TileContentError: as `read_header`, or the rows or paths are not those that were sealed.
        """
        header, start = _read_header(path)
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise TileContentError(f"{path}: the tile inventory cannot be mapped: {error}. Build it again") from error
        found = cls(header, mapped, start)
        if not vouched and hashlib.sha256(memoryview(mapped)[start:]).hexdigest() != header.body_sha256:
            _refuse(path, "its rows are not those that were sealed")
        return found

    def __len__(self) -> int:
        return self.header.count

    def path_table(self) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """The offsets (count + 1) and the bytes of all paths."""
        return self._offsets, self._blob

    def path(self, index: int) -> str:
        """The path of a row's tile, relative to the tile store's root."""
        start, end = self._offsets[index : index + 2].tolist()
        return self._blob[start:end].tobytes().decode()

    def source(self, index: int) -> str:
        """The name of a row's source."""
        return self.header.sources[int(self.rows["source"][index])]

    def sha256(self, index: int) -> str:
        """The hash of a row's tile, 64 hex digits."""
        digest: bytes = self.rows["sha256"][index].tobytes()
        return digest.hex()


def _order(row: TileRow) -> tuple[int, float, float, str]:
    return row.zoom, row.lat, row.lon, row.source


def _rank(rank: dict[str, int], row: TileRow) -> tuple[int, str]:
    return rank.get(row.source, len(rank)), row.source


def _in_order(rows: Iterable[TileRow]) -> Iterator[TileRow]:
    last: tuple[int, float, float, str] | None = None
    for row in rows:
        if last is not None and _order(row) < last:
            raise ValueError(f"rows must come by (zoom, lat, lon, source): {_order(row)} came after {last}")
        last = _order(row)
        yield row


def row_type() -> np.dtype[np.void]:
    """One packed row."""
    import numpy as np  # noqa: PLC0415 - see Inventory.open

    return np.dtype(
        [
            ("id", "<i8"),
            ("zoom", "u1"),
            ("x", "<u4"),
            ("y", "<u4"),
            ("lat", "<f8"),
            ("lon", "<f8"),
            ("source", "<u2"),
            ("sha256", "u1", (32,)),
        ]
    )


def pack_row(row: TileRow, source: int) -> bytes:
    """A row as the file holds it. Raises TileContentError for one that may not be sealed."""
    name = f"tile {row.zoom}/{row.x}/{row.y} of {row.source}"
    number = tile_id(row.zoom, row.lat, row.lon)
    if number == -1:
        raise TileContentError(f"{name}: its id is -1, which the index reads as none. Leave this tile out of the area")
    if source >= _MOST_SOURCES:
        raise TileContentError(f"{name}: its tile set has more than {_MOST_SOURCES:,} sources. {_FEWER_SOURCES}")
    if not _HEX.fullmatch(row.sha256):
        raise TileContentError(f"{name}: {row.sha256!r} is no SHA-256. Import the tile again")
    bounds = tile_bounds(row.zoom, row.x, row.y)
    if not (bounds.lat_min < row.lat < bounds.lat_max and bounds.lon_min < row.lon < bounds.lon_max):
        raise TileContentError(f"{name}: its centre ({row.lat}, {row.lon}) is outside the tile. Correct its row")
    return _ROW.pack(number, row.zoom, row.x, row.y, row.lat, row.lon, source, bytes.fromhex(row.sha256))


def _checked_length(blob: bytearray) -> int:
    if len(blob) >= 1 << 32:
        raise TileContentError("the paths of this tile set exceed 4 GiB. Build it as several areas")
    return len(blob)


def _refuse_twins(table: NDArray[np.void]) -> None:
    import numpy as np  # noqa: PLC0415 - see Inventory.open

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


def _encode(header: SealedHeader) -> bytes:
    form = {
        "aggregate": header.aggregate,
        "body_sha256": header.body_sha256,
        "count": header.count,
        "path_bytes": header.path_bytes,
        "sources": list(header.sources),
        "zooms": list(header.zooms),
    }
    return json.dumps(form, sort_keys=True, separators=(",", ":")).encode()


def _refuse(path: Path, reason: str) -> NoReturn:
    raise TileContentError(f"{path}: {reason}. This tile inventory is damaged or foreign; build it again")


def _read_header(path: Path) -> tuple[SealedHeader, int]:
    """The header and where the rows start."""
    try:
        with path.open("rb") as file:
            prefix = file.read(_PREFIX.size)
            if len(prefix) < _PREFIX.size:
                _refuse(path, "the file ends within its first bytes")
            magic, version, length, digest = _PREFIX.unpack(prefix)
            if magic != _MAGIC or version != _VERSION:
                _refuse(path, f"it does not start as a tile inventory of version {_VERSION} does")
            if length > _MOST_HEADER:
                _refuse(path, f"a header of {length} bytes is too long")
            encoded = file.read(length)
            size = file.seek(0, 2)
    except OSError as error:
        raise TileContentError(f"{path}: the tile inventory cannot be read: {error}. Build it again") from error
    if hashlib.sha256(encoded).digest() != digest:
        _refuse(path, "its header is not what was sealed")
    header = _decode(encoded)
    if header is None:
        _refuse(path, "its header is malformed")
    start = _PREFIX.size + length
    if size != start + header.count * _ROW_BYTES + 4 * (header.count + 1) + header.path_bytes:
        _refuse(path, f"{size} bytes do not fit the {header.count} rows it announces")
    return header, start


def _decode(encoded: bytes) -> SealedHeader | None:
    """The header, or None when it is not exactly what `_encode` writes."""
    with suppress(ValueError, KeyError, TypeError):
        form = json.loads(encoded)
        header = SealedHeader(
            count=int(form["count"]),
            sources=tuple(map(str, form["sources"])),
            zooms=tuple(map(int, form["zooms"])),
            aggregate=str(form["aggregate"]),
            body_sha256=str(form["body_sha256"]),
            path_bytes=int(form["path_bytes"]),
        )
        if _encode(header) == encoded and header.count >= 0 and header.path_bytes >= 0:
            return header
    return None
