"""What `doit verify` says of the tile store: which tiles are not those that were signed, and whose files are not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from preflight.commands.tile_hashing import TwoProcesses
from preflight.errors import TileContentError
from preflight.ports import TilePixelStore
from preflight.records import TileRow
from preflight.stages.artifacts import INVENTORY_NAME
from takeoff.errors import TileDriftError, TileFileError, VerificationError
from takeoff.verify import VerificationResult, VerifiedCache

if TYPE_CHECKING:
    from preflight.tileset.inventory import Inventory

_BLOCK = 1 << 10  # the paths and digests of two fit in a pipe of 1 MiB


class SealedTile(NamedTuple):
    """One tile as it was signed."""

    zoom: int
    x: int
    y: int
    lat: float
    lon: float
    source: str
    sha256: str
    path: str


def with_tiles_checked(
    result: VerificationResult, *, store: Iterable[TileRow] | None, pixels: TilePixelStore | None
) -> VerificationResult:
    """The verdict with each tile that differs, compared with the sealed tiles the cache itself carries.

    store: the rows of the mission's area as they are now, one source a tile, where the verdict says that they drifted.
    pixels: the files to hash. Where the sealed tiles are not those that were signed, nothing is added: it is refused already.

    Raises:
        TileContentError: the sealed tiles cannot be read though they are the signed bytes.
        DatabaseError: the tile store does not answer.
    """
    if result.manifest is None or result.artifacts.get(INVENTORY_NAME) is False:
        return result
    if INVENTORY_NAME not in result.artifacts:
        lacking = TileFileError(f"the cache holds no {INVENTORY_NAME}: which tiles it was made of cannot be told")
        return _with(result, [lacking])
    from preflight.tileset.inventory import Inventory, read_header  # noqa: PLC0415 - a cache that is not asked for its tiles has no need

    with VerifiedCache(result.root, result.manifest.subjects).open(INVENTORY_NAME) as file:
        place = Path(f"/proc/self/fd/{file.fileno()}")
        # The second process starts while this one loads NumPy.
        with TwoProcesses(0 if pixels is None else read_header(place).count) as hashing:
            inventory = Inventory.open(place, vouched=True)
            found: list[VerificationError] = []
            found += [] if store is None else drift(inventory, store)
            found += [] if pixels is None else file_failures(inventory, pixels, hashing)
            return _with(result, found)


def drift(inventory: Inventory, rows: Iterable[TileRow]) -> Iterator[TileDriftError]:
    """Each tile that was sealed otherwise, is no more in the store, or was not sealed.

    One number a tile is held in memory.
    """
    places = {(tile.zoom, tile.x, tile.y): number for number, tile in enumerate(sealed_tiles(inventory))}
    for row in rows:
        number = places.pop((row.zoom, row.x, row.y), None)
        if number is None:
            yield TileDriftError("added: was not in the tile store when the cache was signed", _name(row))
            continue
        (sealed,) = _block(inventory, number, number + 1)
        if (change := _change(sealed, row)) is not None:
            yield TileDriftError(f"drifted: {change}", _name(row))
    for number in places.values():
        (sealed,) = _block(inventory, number, number + 1)
        yield TileDriftError("missing: is no more in the tile store", _name(sealed))


def file_failures(inventory: Inventory, pixels: TilePixelStore, hashing: TwoProcesses) -> Iterator[TileFileError]:
    """Hash the file of every sealed tile; each that is not there or holds other bytes.

    Where the store keeps its tiles as files in one folder, two processes hash them; what is not beyond doubt then, and every
    tile of another store, is opened by the store itself, which also knows why it refuses.
    """
    blocks = [(start, min(start + _BLOCK, len(inventory))) for start in range(0, len(inventory), _BLOCK)]
    folder = pixels.folder()
    if folder is None:
        doubted: Iterable[Sequence[int]] = (range(end - start) for start, end in blocks)
    else:
        doubted = hashing.doubted(
            folder, ((_paths(inventory, *block), _digests(inventory, *block)) for block in blocks)
        )
    for block, numbers in zip(blocks, doubted, strict=True):
        if numbers:
            yield from _looked_at(_block(inventory, *block), numbers, pixels)


def _looked_at(tiles: list[SealedTile], numbers: Iterable[int], pixels: TilePixelStore) -> Iterator[TileFileError]:
    """The failures of some of these tiles, in their order."""
    return (failure for number in numbers if (failure := _file_failure(tiles[number], pixels)) is not None)


def sealed_tiles(inventory: Inventory) -> Iterator[SealedTile]:
    """Every tile of an inventory, in its order."""
    for start in range(0, len(inventory), _BLOCK):
        yield from _block(inventory, start, min(start + _BLOCK, len(inventory)))


def _block(inventory: Inventory, start: int, end: int) -> list[SealedTile]:
    """Some tiles, column by column: a NumPy row at a time would cost more than hashing its file."""
    rows = inventory.rows[start:end]
    zooms, xs, ys, lats, lons, sources = (rows[name].tolist() for name in ("zoom", "x", "y", "lat", "lon", "source"))
    names = [inventory.header.sources[number] for number in sources]
    digests, paths = _digests(inventory, start, end), _paths(inventory, start, end)
    hashes = [digests[at : at + 64] for at in range(0, len(digests), 64)]
    return list(map(SealedTile, zooms, xs, ys, lats, lons, names, hashes, paths))


def _digests(inventory: Inventory, start: int, end: int) -> str:
    """Of some tiles, 64 hex digits each."""
    return inventory.rows["sha256"][start:end].tobytes().hex()


def _paths(inventory: Inventory, start: int, end: int) -> list[str]:
    offsets, blob = inventory.path_table()
    ends = offsets[start : end + 1].tolist()
    text, first = blob[ends[0] : ends[-1]].tobytes(), ends[0]
    return [text[begin - first : stop - first].decode() for begin, stop in pairwise(ends)]


def _file_failure(tile: SealedTile, pixels: TilePixelStore) -> TileFileError | None:
    try:
        with pixels.open_tile(tile.path) as file:
            digest = hashlib.sha256(file.read()).hexdigest()
    except (TileContentError, OSError) as error:
        return TileFileError(str(error), _name(tile))
    if digest == tile.sha256:
        return None
    return TileFileError(f"its file {tile.path} has SHA-256 {digest}, not {tile.sha256}", _name(tile))


def _change(old: SealedTile, new: TileRow) -> str | None:
    pairs: list[tuple[str, Any, Any]] = [
        ("source", old.source, new.source),
        ("SHA-256", old.sha256, new.sha256),
        ("centre", (old.lat, old.lon), (new.lat, new.lon)),
    ]
    changes = [f"{what} {was} when it was signed, now {now}" for what, was, now in pairs if was != now]
    return "; ".join(changes) or None


def _name(tile: SealedTile | TileRow) -> str:
    return f"{tile.zoom}/{tile.x}/{tile.y} {tile.source}"


def _with(result: VerificationResult, found: list[VerificationError]) -> VerificationResult:
    failures = sorted((*result.failures, *found), key=lambda failure: failure.exit_status)
    return result._replace(failures=tuple(failures))
