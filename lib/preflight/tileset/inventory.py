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
ROW = struct.Struct("<qBIIddH32s")
"""One packed row, 67 bytes; `row_type` says the same to NumPy."""
MOST_SOURCES = 1 << 16
FEWER_SOURCES = "Import more of the tiles under one name (--source), or build several areas"
"""What to do where a tile set has more sources than the format holds."""


def tile_id(zoom: int, lat: float, lon: float) -> int:
    """The int64 id of a tile (SPEC.md). Half of all ids are negative; -1 is never sealed: to FAISS it means none."""
    text = f"{zoom}|{lat}|{lon}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def row_order(row: TileRow) -> tuple[int, float, float, str]:
    """By what rows ascend."""
    return row.zoom, row.lat, row.lon, row.source


def row_type() -> np.dtype[np.void]:
    """One packed row."""
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
    """What is known of a tile set without reading its rows. aggregate is tiles_coverage_sha256, hex."""

    count: int
    sources: tuple[str, ...]
    zooms: tuple[int, ...]
    aggregate: str
    body_sha256: str
    path_bytes: int


def header_bytes(header: SealedHeader) -> bytes:
    """All that comes before the rows. Raises TileContentError where it would be longer than the reader takes."""
    encoded = _encode(header)
    if len(encoded) > _MOST_HEADER:
        raise TileContentError(
            f"the names of its {len(header.sources):,} sources exceed what a tile inventory holds. {FEWER_SOURCES}"
        )
    return _PREFIX.pack(_MAGIC, _VERSION, len(encoded), hashlib.sha256(encoded).digest()) + encoded


def read_header(path: Path) -> SealedHeader:
    """The header of an inventory, checked against its own hash and the file's length; the rows are not read.

    Raises:
        TileContentError: the file is missing, truncated, lengthened, altered or of another format; it is named.
    """
    return _read_header(path)[0]


class Inventory:
    """An opened, memory-mapped inventory. `rows` is a structured array with the fields named above, read-only.

    Looking at all rows maps all of the file, which counts as this process's memory: see `preflight.tileset.mapped`.
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
    if size != start + header.count * ROW.size + 4 * (header.count + 1) + header.path_bytes:
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
