r"""The units of the database where windows overlap: squares of one tile's size, cut across the borders of tiles.

With `steps` windows a tile's side (2 for an overlap of 0.5, 4 for 0.75) the window (x, y) of a zoom begins x / steps columns
and y / steps rows of tiles from the map's north-western corner. It is there where all tiles under it are: one, two or four.
Where it is exactly a tile it has that tile's centre, id and hash; every other has the centre of its square in EPSG:3857, the
id that follows from it by the formula of a tile's, and as content hash

    SHA-256("preflight window\n", offset x, offset y, the SHA-256 of each tile under it from west to east, north to south)

with the offsets from its north-western tile in quarters of a tile, one byte each: a window of both overlaps has one hash.

`windows.inventory`, all integers little-endian:

    8 bytes    magic "PFWINDS" and a zero byte
    u4         version, 1
    u4         length of the header
    32 bytes   SHA-256 of the header
    header     canonical JSON: body_sha256, count, steps, tiles (the aggregate of the tile set they are cut from)
    rows       count x 65 bytes: id i8, zoom u1, x u4, y u4, lat f8, lon f8, sha256 32 bytes; ascending by (zoom, lat, lon)

`body_sha256` covers the rows; nothing follows.
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
WINDOW_ROW = np.dtype(
    [("id", "<i8"), ("zoom", "u1"), ("x", "<u4"), ("y", "<u4"), ("lat", "<f8"), ("lon", "<f8"), ("sha256", "u1", (32,))]
)
_EAST, _SOUTH, _SOUTH_EAST = 1, 2, 3  # columns of the table of neighbours; the tile itself is column 0


@dataclass(frozen=True, slots=True)
class SealedTiles:
    """Sealed tiles as parallel arrays: zooms, xs, ys int64; ids int64; lats, lons float64; sha256 (N, 32) uint8."""

    ids: NDArray[np.int64]
    zooms: NDArray[np.int64]
    xs: NDArray[np.int64]
    ys: NDArray[np.int64]
    lats: NDArray[np.float64]
    lons: NDArray[np.float64]
    sha256: NDArray[np.uint8]

    @classmethod
    def of_inventory(cls, inventory: Inventory) -> SealedTiles:
        """Every row of a sealed set."""
        ids, zooms, xs, ys, lats, lons, digests = columns_of(
            inventory.rows, "id", "zoom", "x", "y", "lat", "lon", "sha256"
        )
        return cls(ids, zooms.astype(np.int64), xs.astype(np.int64), ys.astype(np.int64), lats, lons, digests)

    @classmethod
    def of_rows(cls, rows: Iterable[TileRow]) -> SealedTiles:
        """Rows of the store that are not sealed yet."""
        found = list(rows)

        def column(name: str) -> NDArray[np.int64]:
            return np.array([getattr(row, name) for row in found], np.int64)

        digests = np.frombuffer(b"".join(bytes.fromhex(row.sha256) for row in found), np.uint8)
        return cls(
            ids=np.array([tile_id(row.zoom, row.lat, row.lon) for row in found], np.int64),
            zooms=column("zoom"),
            xs=column("x"),
            ys=column("y"),
            lats=np.array([row.lat for row in found], np.float64),
            lons=np.array([row.lon for row in found], np.float64),
            sha256=digests.reshape(-1, 32),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def without(self, tiles: Iterable[tuple[int, int, int]]) -> SealedTiles:
        """The table without some (zoom, x, y)."""
        kept = np.ones(len(self), bool)
        places = TileLookup(self.zooms, self.xs, self.ys)
        for tile in tiles:
            if (row := places.row(*tile)) >= 0:
                kept[row] = False
        return SealedTiles(*(getattr(self, name)[kept] for name in self.__slots__))

    def joined(self, other: SealedTiles) -> SealedTiles:
        """Both, one after the other."""
        return SealedTiles(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in self.__slots__))


class _Grid(NamedTuple):
    """neighbours: (N, 4) rows of each tile itself, the one east, south, south-east of it; -1 for none."""

    tiles: SealedTiles
    neighbours: NDArray[np.int64]


def _grid(tiles: SealedTiles) -> _Grid:
    places = TileLookup(tiles.zooms, tiles.xs, tiles.ys)
    # East of the last column comes the first: the map is round.
    east, south = (tiles.xs + 1) % np.left_shift(1, tiles.zooms), tiles.ys + 1
    around = [
        np.arange(len(tiles)),
        places.rows(tiles.zooms, east, tiles.ys),
        places.rows(tiles.zooms, tiles.xs, south),
        places.rows(tiles.zooms, east, south),
    ]
    return _Grid(tiles, np.stack(around, axis=1))


def _under(i: int, j: int) -> list[int]:
    """The columns of the neighbours under a window i and j steps east and south of its tile, west to east, north to south."""
    return [0, *([_EAST] if i else []), *([_SOUTH] if j else []), *([_SOUTH_EAST] if i and j else [])]


def cut(tiles: SealedTiles, steps: int, touching: Iterable[tuple[int, int, int]] | None = None) -> NDArray[np.void]:
    """Every window of a tile set, or those with one of the tiles `touching` under them; rows of `windows.inventory`, in order.

    Raises:
        TileContentError: two windows have one id, or one has the id -1, which an index reads as none.
    """
    grid = _grid(tiles)
    chosen = None if touching is None else _rows_of(tiles, touching)
    pieces = [_offset(grid, steps, i, j, chosen) for j in range(steps) for i in range(steps)]
    rows = np.concatenate(pieces)
    rows = rows[np.lexsort((rows["x"], rows["y"], rows["lon"], rows["lat"], rows["zoom"]))]
    _refuse_twins(rows)
    return rows


def count_windows(tiles: SealedTiles, steps: int) -> int:
    """How many `cut` gives."""
    there = _grid(tiles).neighbours >= 0
    each = {0: 1, _EAST: steps - 1, _SOUTH: steps - 1, _SOUTH_EAST: (steps - 1) ** 2}
    under = {0: [0], _EAST: _under(1, 0), _SOUTH: _under(0, 1), _SOUTH_EAST: _under(1, 1)}
    return sum(each[way] * int(there[:, under[way]].all(axis=1).sum()) for way in each)


def _rows_of(tiles: SealedTiles, wanted: Iterable[tuple[int, int, int]]) -> NDArray[np.int64]:
    places = TileLookup(tiles.zooms, tiles.xs, tiles.ys)
    found = (places.row(*tile) for tile in wanted)
    return np.array([row for row in found if row >= 0], np.int64)


def _offset(grid: _Grid, steps: int, i: int, j: int, chosen: NDArray[np.int64] | None) -> NDArray[np.void]:
    """The windows i and j steps east and south of their tiles, unsorted."""
    parts = grid.neighbours[:, _under(i, j)]
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
    """Each row and column of the grid is computed once, by the same arithmetic as one alone."""
    lats, lons = np.empty(len(rows)), np.empty(len(rows))
    for zoom in np.unique(rows["zoom"]).tolist():
        here = rows["zoom"] == zoom
        ys, y_of = np.unique(rows["y"][here], return_inverse=True)
        xs, x_of = np.unique(rows["x"][here], return_inverse=True)
        lats[here] = np.array([grid_center(zoom, 0, y, steps)[0] for y in ys.tolist()])[y_of]
        lons[here] = np.array([grid_center(zoom, x, 0, steps)[1] for x in xs.tolist()])[x_of]
    return lats, lons


def _hashes(offset: bytes, digests: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, 32) content hashes from (N, 32 x tiles under each)."""
    start = hashlib.sha256(_DOMAIN + offset)
    raw, width = np.ascontiguousarray(digests).tobytes(), digests.shape[1]

    def one(at: int) -> bytes:
        digest = start.copy()
        digest.update(raw[at : at + width])
        return digest.digest()

    return np.frombuffer(b"".join(map(one, range(0, len(raw), width))), np.uint8).reshape(-1, 32)


def _refuse_twins(rows: NDArray[np.void]) -> None:
    order = np.argsort(rows["id"], kind="stable")
    ids = rows["id"][order]
    twins = np.flatnonzero(ids[1:] == ids[:-1])
    if len(twins):
        names = " and ".join(_name(rows[order[twins[0] + step]]) for step in (0, 1))
        raise TileContentError(f"{names} have the same id {ids[twins[0]]}. Move the area a little, or change overlap")
    nothing = np.flatnonzero(ids == -1)
    if len(nothing):
        name = _name(rows[order[nothing[0]]])
        raise TileContentError(f"{name} has the id -1, which the index reads as none. Move the area, or change overlap")


def _name(row: np.void) -> str:
    return f"window {row['zoom']}/{row['x']}/{row['y']} with its centre at ({row['lat']}, {row['lon']})"


def parts_of(tiles: SealedTiles, rows: NDArray[np.void], steps: int) -> NDArray[np.int32]:
    """(M, 4): for each window the rows in `tiles` of its tile and those east, south and south-east of it; -1: not under it.

    Raises:
        TileContentError: a window is not of this tile set.
    """
    neighbours = _grid(tiles).neighbours
    xs, ys, zooms = (rows[name].astype(np.int64) for name in ("x", "y", "zoom"))
    homes = TileLookup(tiles.zooms, tiles.xs, tiles.ys).rows(zooms, xs // steps, ys // steps)
    parts = neighbours[homes].astype(np.int32)
    right, down = xs % steps > 0, ys % steps > 0
    needed = np.stack([np.ones(len(rows), bool), right, down, right & down], axis=1)
    if (homes < 0).any() or (parts[needed] < 0).any():
        raise TileContentError("the windows are not of this tile set. Build them again")
    parts[~needed] = -1
    return parts


class Windows:
    """An opened, memory-mapped `windows.inventory`. rows: a structured array with the fields named above, read-only."""

    def __init__(self, rows: NDArray[np.void], steps: int, tiles: str) -> None:
        self.rows = rows
        self.steps = steps
        self.tiles = tiles

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def open(cls, path: Path, *, vouched: bool = False) -> Windows:
        """Map a file. vouched: the caller has hashed every byte of it.

        Raises:
            TileContentError: the file is missing, truncated, altered or of another format; it is named.
        """
        header, start = _read_header(path)
        try:
            rows = np.memmap(path, np.uint8, "r", offset=start) if header.count else np.empty(0, np.uint8)
        except (OSError, ValueError) as error:
            raise TileContentError(f"{path}: the windows cannot be mapped: {error}. Build them again") from error
        if len(rows) != header.count * WINDOW_ROW.itemsize:
            _refuse(path, f"{len(rows)} bytes do not fit the {header.count} rows it announces")
        if not vouched and hashlib.sha256(rows.data).hexdigest() != header.body_sha256:
            _refuse(path, "its rows are not those that were cut")
        return cls(rows.view(WINDOW_ROW), header.steps, header.tiles)


def write_windows(out: BinaryIO, rows: NDArray[np.void], steps: int, tiles: str) -> None:
    """Write `windows.inventory`. rows: as `cut` gives them; tiles: the aggregate of the tile set they are cut from."""
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
    """The header and where the rows start."""
    try:
        with path.open("rb") as file:
            prefix = file.read(_PREFIX.size)
            if len(prefix) < _PREFIX.size:
                _refuse(path, "the file ends within its first bytes")
            magic, version, length, digest = _PREFIX.unpack(prefix)
            if magic != _MAGIC or version != _VERSION or length > _MOST_HEADER:
                _refuse(path, f"it does not start as windows of version {_VERSION} do")
            encoded = file.read(length)
    except OSError as error:
        raise TileContentError(f"{path}: the windows cannot be read: {error}. Build them again") from error
    header = _decode(encoded) if hashlib.sha256(encoded).digest() == digest else None
    if header is None:
        _refuse(path, "its header is not what was written")
    return header, _PREFIX.size + length


def _decode(encoded: bytes) -> _Header | None:
    """The header, or None when it is not exactly what `_encode` writes."""
    with suppress(ValueError, TypeError):
        header = _Header(**json.loads(encoded))
        if _encode(header) == encoded and header.steps in STEPS.values() and header.count >= 0:
            return header
    return None


def _refuse(path: Path, reason: str) -> NoReturn:
    raise TileContentError(f"{path}: {reason}. This file of windows is damaged or foreign; build it again")
