r"""Overlapping windows: retrieval units of the size of a tile, which may cross the borders of tiles.

`steps` windows begin along each side of a tile: 2 for an overlap of 0.5, 4 for 0.75. Window (x, y) of a zoom begins
x / steps tile columns and y / steps tile rows from the north-western corner of the map. A window exists if all tiles
under it exist: one, two or four.

A window that coincides with a tile has the centre, id and hash of that tile. Any other window has the centre of its
square in EPSG:3857, the id that `tile_id` computes from this centre, and the content hash

    SHA-256("preflight window\n", offset x, offset y, SHA-256 of each tile under it, west to east, then north to south)

The offsets count quarters of a tile from the window's north-western tile, one byte each. A window that exists with both
overlaps thus has the same hash in both.

Format of `windows.inventory`; all integers are little-endian:

    8 bytes    magic "PFWINDS" and a zero byte
    u4         version, 1
    u4         length of the header
    32 bytes   SHA-256 of the header
    header     canonical JSON: body_sha256, count, steps, tiles (the aggregate of the tile set)
    rows       count x 65 bytes, up to the end of the file: id i8, zoom u1, x u4, y u4, lat f8, lon f8, sha256 32 bytes;
               ascending by (zoom, lat, lon)

`body_sha256` is the hash of the rows.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from preflight.area.web_mercator import grid_center
from preflight.errors import TileContentError
from preflight.records import STEPS, TileRow
from preflight.tileset.inventory import Inventory, tile_id
from preflight.tileset.mapped import columns_of
from preflight.tileset.tile_lookup import TileLookup

__all__ = ["WINDOW_ROW", "SealedTiles", "Windows", "count_windows", "cut", "parts_of", "write_windows"]

_QUARTERS = 4
_DOMAIN = b"preflight window\n"
_MAGIC = b"PFWINDS\0"
_VERSION = 1
_PREFIX = struct.Struct("<8sII32s")
_MOST_HEADER = 1 << 12
_REMEDY = "Run `doit provision repair=1` to build the windows again"
WINDOW_ROW = np.dtype(
    [("id", "<i8"), ("zoom", "u1"), ("x", "<u4"), ("y", "<u4"), ("lat", "<f8"), ("lon", "<f8"), ("sha256", "u1", (32,))]
)
_OWN, _EAST, _SOUTH, _SOUTH_EAST = 0, 1, 2, 3  # columns of the table of neighbours


@dataclass(frozen=True, slots=True)
class SealedTiles:
    """N sealed tiles as parallel arrays (N,); sha256 is (N, 32). lats and lons are the tile centres in degrees."""

    ids: NDArray[np.int64]
    zooms: NDArray[np.int64]
    xs: NDArray[np.int64]
    ys: NDArray[np.int64]
    lats: NDArray[np.float64]
    lons: NDArray[np.float64]
    sha256: NDArray[np.uint8]

    @classmethod
    def of_inventory(cls, inventory: Inventory) -> SealedTiles:
        """Take all rows of an inventory."""
        ids, zooms, xs, ys, lats, lons, digests = columns_of(
            inventory.rows, "id", "zoom", "x", "y", "lat", "lon", "sha256"
        )
        return cls(ids, zooms.astype(np.int64), xs.astype(np.int64), ys.astype(np.int64), lats, lons, digests)

    @classmethod
    def of_rows(cls, rows: Iterable[TileRow]) -> SealedTiles:
        """Take rows of the tile store that are not sealed yet."""
        rows = list(rows)

        def column(name: str) -> NDArray[np.int64]:
            return np.array([getattr(row, name) for row in rows], np.int64)

        digests = np.frombuffer(b"".join(bytes.fromhex(row.sha256) for row in rows), np.uint8)
        return cls(
            ids=np.array([tile_id(row.zoom, row.lat, row.lon) for row in rows], np.int64),
            zooms=column("zoom"),
            xs=column("x"),
            ys=column("y"),
            lats=np.array([row.lat for row in rows], np.float64),
            lons=np.array([row.lon for row in rows], np.float64),
            sha256=digests.reshape(-1, 32),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def without(self, tiles: Iterable[tuple[int, int, int]]) -> SealedTiles:
        """Return a copy without some tiles (zoom, x, y)."""
        kept = np.ones(len(self), bool)
        lookup = TileLookup(self.zooms, self.xs, self.ys)
        for tile in tiles:
            if (row := lookup.row(*tile)) >= 0:
                kept[row] = False
        return SealedTiles(*(getattr(self, name)[kept] for name in self.__slots__))

    def joined(self, other: SealedTiles) -> SealedTiles:
        """Return these tiles followed by the others."""
        return SealedTiles(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in self.__slots__))


class _Grid(NamedTuple):
    """neighbours: (N, 4) rows of each tile itself and of the tiles east, south and south-east of it; -1 if absent."""

    tiles: SealedTiles
    neighbours: NDArray[np.int64]


def _grid(tiles: SealedTiles) -> _Grid:
    lookup = TileLookup(tiles.zooms, tiles.xs, tiles.ys)
    # The map is round: the first column lies east of the last.
    east, south = (tiles.xs + 1) % np.left_shift(1, tiles.zooms), tiles.ys + 1
    columns = [
        np.arange(len(tiles)),
        lookup.rows(tiles.zooms, east, tiles.ys),
        lookup.rows(tiles.zooms, tiles.xs, south),
        lookup.rows(tiles.zooms, east, south),
    ]
    return _Grid(tiles, np.stack(columns, axis=1))


def _columns_under(i: int, j: int) -> list[int]:
    """Return which neighbours lie under a window that begins i and j steps east and south of its tile, row by row."""
    return [_OWN, *([_EAST] if i else []), *([_SOUTH] if j else []), *([_SOUTH_EAST] if i and j else [])]


def cut(tiles: SealedTiles, steps: int, touching: Iterable[tuple[int, int, int]] | None = None) -> NDArray[np.void]:
    """Compute the windows of a tile set, as the rows of `windows.inventory` in order.

    steps: the number of windows that begin along a tile's side. touching: if given, only the windows over at least one
    of these tiles (zoom, x, y).

    Raises:
        TileContentError: two windows have the same id, or a window has the id -1, which means "no result" in an index.
    """
    grid = _grid(tiles)
    chosen = None if touching is None else _rows_of(tiles, touching)
    pieces = [_windows_at(grid, steps, i, j, chosen) for j in range(steps) for i in range(steps)]
    rows = np.concatenate(pieces)
    rows = rows[np.lexsort((rows["x"], rows["y"], rows["lon"], rows["lat"], rows["zoom"]))]
    _check_ids(rows)
    return rows


def count_windows(tiles: SealedTiles, steps: int) -> int:
    """Return the number of windows that `cut` computes, without computing them."""
    present = _grid(tiles).neighbours >= 0
    offsets = {(0, 0): 1, (1, 0): steps - 1, (0, 1): steps - 1, (1, 1): (steps - 1) ** 2}
    return sum(count * int(present[:, _columns_under(*way)].all(axis=1).sum()) for way, count in offsets.items())


def _rows_of(tiles: SealedTiles, wanted: Iterable[tuple[int, int, int]]) -> NDArray[np.int64]:
    lookup = TileLookup(tiles.zooms, tiles.xs, tiles.ys)
    rows = (lookup.row(*tile) for tile in wanted)
    return np.array([row for row in rows if row >= 0], np.int64)


def _windows_at(grid: _Grid, steps: int, i: int, j: int, chosen: NDArray[np.int64] | None) -> NDArray[np.void]:
    """Return the windows that begin i and j steps east and south of their tiles, unsorted."""
    parts = grid.neighbours[:, _columns_under(i, j)]
    kept = (parts >= 0).all(axis=1)
    if chosen is not None:
        kept &= np.isin(parts, chosen).any(axis=1)
    parts = parts[kept]
    tiles, first = grid.tiles, parts[:, 0]
    rows = np.empty(len(parts), WINDOW_ROW)
    rows["zoom"] = tiles.zooms[first]
    rows["x"] = tiles.xs[first] * steps + i
    rows["y"] = tiles.ys[first] * steps + j
    if i == j == 0:
        rows["id"], rows["lat"], rows["lon"] = tiles.ids[first], tiles.lats[first], tiles.lons[first]
        rows["sha256"] = tiles.sha256[first]
        return rows
    rows["lat"], rows["lon"] = _centres(rows, steps)
    zooms, lats, lons = rows["zoom"].tolist(), rows["lat"].tolist(), rows["lon"].tolist()
    rows["id"] = np.fromiter(map(tile_id, zooms, lats, lons), np.int64, len(rows))
    quarters = _QUARTERS // steps
    rows["sha256"] = _hashes(
        bytes([i * quarters, j * quarters]), tiles.sha256[parts].reshape(len(parts), 32 * parts.shape[1])
    )
    return rows


def _centres(rows: NDArray[np.void], steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute each row and column of the grid once, with the same arithmetic as for a single window."""
    lats, lons = np.empty(len(rows)), np.empty(len(rows))
    for zoom in np.unique(rows["zoom"]).tolist():
        of_zoom = rows["zoom"] == zoom
        ys, y_of = np.unique(rows["y"][of_zoom], return_inverse=True)
        xs, x_of = np.unique(rows["x"][of_zoom], return_inverse=True)
        lats[of_zoom] = np.array([grid_center(zoom, 0, y, steps)[0] for y in ys.tolist()])[y_of]
        lons[of_zoom] = np.array([grid_center(zoom, x, 0, steps)[1] for x in xs.tolist()])[x_of]
    return lats, lons


def _hashes(offset: bytes, digests: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Compute (N, 32) content hashes from the hashes of the tiles under each window, (N, 32 x tiles)."""
    prefix = hashlib.sha256(_DOMAIN + offset)
    raw, width = np.ascontiguousarray(digests).tobytes(), digests.shape[1]

    def content_hash(start: int) -> bytes:
        digest = prefix.copy()
        digest.update(raw[start : start + width])
        return digest.digest()

    return np.frombuffer(b"".join(map(content_hash, range(0, len(raw), width))), np.uint8).reshape(-1, 32)


def _check_ids(rows: NDArray[np.void]) -> None:
    order = np.argsort(rows["id"], kind="stable")
    ids = rows["id"][order]
    equal = np.flatnonzero(ids[1:] == ids[:-1])
    if len(equal):
        names = " and ".join(_name(rows[order[equal[0] + step]]) for step in (0, 1))
        raise TileContentError(f"{names} have the same id {ids[equal[0]]}. Move the area a little, or change overlap")
    reserved = np.flatnonzero(ids == -1)
    if len(reserved):
        name = _name(rows[order[reserved[0]]])
        raise TileContentError(
            f"{name} has the id -1, which means `no result` in the index. Move the area a little, or change overlap"
        )


def _name(row: np.void) -> str:
    return f"window {row['zoom']}/{row['x']}/{row['y']} with its centre at ({row['lat']}, {row['lon']})"


def parts_of(tiles: SealedTiles, rows: NDArray[np.void], steps: int) -> NDArray[np.int32]:
    """Return the tiles under each of M windows, which `cut` computed from these tiles.

    Returns (M, 4) rows in `tiles`: the window's north-western tile, and the tiles east, south and south-east of it. -1
    stands for a tile that is not under the window.

    Raises:
        TileContentError: a window does not belong to this tile set.
    """
    neighbours = _grid(tiles).neighbours
    xs, ys, zooms = (rows[name].astype(np.int64) for name in ("x", "y", "zoom"))
    homes = TileLookup(tiles.zooms, tiles.xs, tiles.ys).rows(zooms, xs // steps, ys // steps)
    parts = neighbours[homes].astype(np.int32)
    east, south = xs % steps > 0, ys % steps > 0
    needed = np.stack([np.ones(len(rows), bool), east, south, east & south], axis=1)
    if (homes < 0).any() or (parts[needed] < 0).any():
        raise TileContentError(f"the windows do not belong to this tile set. {_REMEDY}")
    parts[~needed] = -1
    return parts


class Windows:
    """An opened, memory-mapped `windows.inventory`. rows: a read-only structured array with the format's fields."""

    def __init__(self, rows: NDArray[np.void], steps: int, tiles: str) -> None:
        self.rows = rows
        self.steps = steps
        self.tiles = tiles

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def open(cls, path: Path, *, vouched: bool = False) -> Windows:
        """Check and memory-map a file. vouched: the caller has already verified a hash of the whole file.

        Raises:
            TileContentError: the file is missing, damaged, or has another format. The message names the file.
        """
        header, start = _read_header(path)
        try:
            rows = np.memmap(path, np.uint8, "r", offset=start) if header.count else np.empty(0, np.uint8)
        except (OSError, ValueError) as error:
            raise TileContentError(f"{path}: the windows cannot be mapped: {error}. {_REMEDY}") from error
        if len(rows) != header.count * WINDOW_ROW.itemsize:
            _refuse(path, f"{len(rows)} bytes do not fit the {header.count} rows in the header")
        if not vouched and hashlib.sha256(rows.data).hexdigest() != header.body_sha256:
            _refuse(path, "the rows do not match the hash in the header")
        return cls(rows.view(WINDOW_ROW), header.steps, header.tiles)


def write_windows(out: BinaryIO, rows: NDArray[np.void], steps: int, tiles: str) -> None:
    """Write `windows.inventory`. rows: as `cut` returns them. tiles: the aggregate of their tile set."""
    raw = np.ascontiguousarray(rows).view(np.uint8)
    encoded = _encode(_Header(hashlib.sha256(raw.data).hexdigest(), len(rows), steps, tiles))
    out.write(_PREFIX.pack(_MAGIC, _VERSION, len(encoded), hashlib.sha256(encoded).digest()) + encoded)
    out.write(raw.data)


@dataclass(frozen=True, slots=True)
class _Header:
    body_sha256: str
    count: int
    steps: int
    tiles: str


def _encode(header: _Header) -> bytes:
    return json.dumps(asdict(header), sort_keys=True, separators=(",", ":")).encode()


def _read_header(path: Path) -> tuple[_Header, int]:
    """Return the header and the offset of the rows."""
    try:
        with path.open("rb") as file:
            prefix = file.read(_PREFIX.size)
            if len(prefix) < _PREFIX.size:
                _refuse(path, f"the file has less than {_PREFIX.size} bytes")
            magic, version, length, digest = _PREFIX.unpack(prefix)
            if magic != _MAGIC or version != _VERSION or length > _MOST_HEADER:
                _refuse(path, f"the file does not start like a window inventory of version {_VERSION}")
            encoded = file.read(length)
    except OSError as error:
        raise TileContentError(f"{path}: the windows cannot be read: {error}. {_REMEDY}") from error
    header = _decode(encoded) if hashlib.sha256(encoded).digest() == digest else None
    if header is None:
        _refuse(path, "the header is malformed or does not match its hash")
    return header, _PREFIX.size + length


def _decode(encoded: bytes) -> _Header | None:
    """Return the header, or None if the bytes are not exactly what `_encode` writes."""
    with suppress(ValueError, TypeError):
        header = _Header(**json.loads(encoded))
        if _encode(header) == encoded and header.steps in STEPS.values() and header.count >= 0:
            return header
    return None


def _refuse(path: Path, reason: str) -> NoReturn:
    raise TileContentError(f"{path}: {reason}. The window inventory is damaged or has another format. {_REMEDY}")
