r"""The sealed tile set: one small file that lists the tiles of a cache. It is part of the cache that flies.

Format of `tiles.inventory`; all integers are little-endian:

    8 bytes    magic "PFTILES" and a zero byte
    u4         version, 1
    u4         length of the header
    32 bytes   SHA-256 of the header
    header     canonical JSON: aggregate, body_sha256, count, path_bytes, sources, zooms
    rows       count x 67 bytes: id i8, zoom u1, x u4, y u4, lat f8, lon f8, source u2, sha256 32 bytes;
               ascending by (zoom, lat, lon, source name); source is an index into the header's sources
    offsets    (count + 1) x u4 into the paths; path i is bytes offsets[i] to offsets[i + 1]
    paths      UTF-8, up to the end of the file

`body_sha256` is the hash of everything after the header. `aggregate` is tiles_coverage_sha256: SHA-256 over the lines
f"{zoom}|{lat!r}|{lon!r}|{source}|{sha256}\n" in the order of the rows.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from preflight.errors import TileContentError
from preflight.records import TileRow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "FEWER_SOURCES",
    "MOST_SOURCES",
    "ROW",
    "Inventory",
    "SealedHeader",
    "header_bytes",
    "read_header",
    "row_order",
    "row_type",
    "tile_id",
]

_MAGIC = b"PFTILES\0"
_VERSION = 1
_PREFIX = struct.Struct("<8sII32s")
_MOST_HEADER = 1 << 20
_REMEDY = "Run `doit provision repair=1` to build it again"
ROW = struct.Struct("<qBIIddH32s")
"""One packed row, 67 bytes. `row_type` is the same layout as a NumPy type."""
MOST_SOURCES = 1 << 16
FEWER_SOURCES = "Import several sources under one name (--source), or build smaller areas"
"""The remedy in messages about a tile set with more sources than the format can hold."""


def tile_id(zoom: int, lat: float, lon: float) -> int:
    """Return the int64 id of a tile (SPEC.md). lat, lon: the tile centre in degrees.

    Half of all ids are negative. The id -1 is never sealed, because FAISS uses it for "no result".
    """
    text = f"{zoom}|{lat}|{lon}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def row_order(row: TileRow) -> tuple[int, float, float, str]:
    """Return the sort key of a row."""
    return row.zoom, row.lat, row.lon, row.source


def row_type() -> np.dtype[np.void]:
    """Return the NumPy type of one packed row."""
    import numpy as np  # noqa: PLC0415 - reading a header must not need it

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


@dataclass(frozen=True, slots=True)
class SealedHeader:
    """The header of an inventory: what is known of a tile set without its rows.

    Attributes:
        count: number of rows.
        sources: names of the sources, sorted.
        zooms: zoom levels that occur, ascending.
        aggregate: tiles_coverage_sha256, hex.
        body_sha256: hash of everything after the header, hex.
        path_bytes: total length of the paths.
    """

    count: int
    sources: tuple[str, ...]
    zooms: tuple[int, ...]
    aggregate: str
    body_sha256: str
    path_bytes: int


def header_bytes(header: SealedHeader) -> bytes:
    """Return all bytes before the rows. Raises TileContentError if a reader would refuse a header of this length."""
    encoded = _encode(header)
    if len(encoded) > _MOST_HEADER:
        raise TileContentError(
            f"the names of the {len(header.sources):,} sources of this tile set exceed the header of a tile inventory "
            f"({_MOST_HEADER:,} bytes). {FEWER_SOURCES}"
        )
    return _PREFIX.pack(_MAGIC, _VERSION, len(encoded), hashlib.sha256(encoded).digest()) + encoded


def read_header(path: Path) -> SealedHeader:
    """Read the header of an inventory. Checks the header's hash and the file's length, but does not read the rows.

    Raises:
        TileContentError: the file is missing, damaged, or has another format or length. The message names the file.
    """
    return _read_header(path)[0]


class Inventory:
    """An opened, memory-mapped inventory. `rows` is a read-only structured array with the fields of the format.

    Pages that are read stay mapped and count as memory of this process. To read all rows, use `tileset.mapped`.
    """

    def __init__(self, header: SealedHeader, mapped: mmap.mmap, start: int) -> None:
        import numpy as np  # noqa: PLC0415 - reading a header must not need it

        self.header = header
        self.rows_at = start
        body = np.frombuffer(mapped, np.uint8, offset=start)
        split = header.count * ROW.size
        rest = split + 4 * (header.count + 1)
        self.rows: NDArray[np.void] = body[:split].view(row_type())
        self._offsets: NDArray[np.uint32] = body[split:rest].view("<u4")
        self._blob: NDArray[np.uint8] = body[rest:]

    @classmethod
    def open(cls, path: Path, *, vouched: bool = False) -> Inventory:
        """Check and memory-map a file.

        Args:
            path: the inventory.
            vouched: the caller has already verified a hash of the whole file. If false, `body_sha256` is checked.

        Raises:
            TileContentError: as `read_header`, or the rows or paths differ from their hash.
        """
        header, start = _read_header(path)
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise TileContentError(f"{path}: the tile inventory cannot be mapped: {error}. {_REMEDY}") from error
        inventory = cls(header, mapped, start)
        if not vouched and hashlib.sha256(memoryview(mapped)[start:]).hexdigest() != header.body_sha256:
            _refuse(path, "the rows do not match the hash in the header")
        return inventory

    def __len__(self) -> int:
        return self.header.count

    def path_table(self) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """Return the offsets (count + 1,) and the bytes of all paths."""
        return self._offsets, self._blob

    def path(self, index: int) -> str:
        """Return the path of a row's tile, relative to the root of the tile store."""
        start, end = self._offsets[index : index + 2].tolist()
        return self._blob[start:end].tobytes().decode()

    def source(self, index: int) -> str:
        """Return the name of a row's source."""
        return self.header.sources[int(self.rows["source"][index])]

    def sha256(self, index: int) -> str:
        """Return the hash of a row's tile, 64 hex digits."""
        digest: bytes = self.rows["sha256"][index].tobytes()
        return digest.hex()


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
    raise TileContentError(f"{path}: {reason}. The tile inventory is damaged or has another format. {_REMEDY}")


def _read_header(path: Path) -> tuple[SealedHeader, int]:
    """Return the header and the offset of the rows."""
    try:
        with path.open("rb") as file:
            prefix = file.read(_PREFIX.size)
            if len(prefix) < _PREFIX.size:
                _refuse(path, f"the file has less than {_PREFIX.size} bytes")
            magic, version, length, digest = _PREFIX.unpack(prefix)
            if magic != _MAGIC or version != _VERSION:
                _refuse(path, f"the file does not start like a tile inventory of version {_VERSION}")
            if length > _MOST_HEADER:
                _refuse(path, f"a header of {length} bytes is too long")
            encoded = file.read(length)
            size = file.seek(0, 2)
    except OSError as error:
        raise TileContentError(f"{path}: the tile inventory cannot be read: {error}. {_REMEDY}") from error
    if hashlib.sha256(encoded).digest() != digest:
        _refuse(path, "the header does not match its hash")
    header = _decode(encoded)
    if header is None:
        _refuse(path, "the header is malformed")
    start = _PREFIX.size + length
    if size != start + header.count * ROW.size + 4 * (header.count + 1) + header.path_bytes:
        _refuse(path, f"{size} bytes do not fit the {header.count} rows in the header")
    return header, start


def _decode(encoded: bytes) -> SealedHeader | None:
    """Return the header, or None if the bytes are not exactly what `_encode` writes."""
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
