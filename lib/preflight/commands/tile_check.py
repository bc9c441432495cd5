"""Compares the tile store with the signed list of tiles for `doit verify`: the rows, and with `--deep` the files."""

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

_BLOCK = 1 << 10  # tiles; the paths and digests of two blocks fit in a pipe of 1 MiB


class SealedTile(NamedTuple):
    """One tile as it was when the cache was signed.

    lat, lon: the centre in degrees. path: the file in the tile store.
    """

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
    """Add each tile that differs from the signed list of tiles to a verdict. The cache carries this list.

    If the list is not the signed one, the verifier has refused the cache already. Then nothing is added.

    Args:
        result: the verdict of the verifier.
        store: the current rows of the mission's area, one source for each tile; None to compare no rows.
        pixels: the tile files to hash; None to hash none.

    Returns:
        The verdict with one failure more for each tile that differs.

    Raises:
        TileContentError: the list has the signed hash but cannot be read.
        DatabaseError: the tile store does not answer.
    """
    if result.manifest is None or result.artifacts.get(INVENTORY_NAME) is False:
        return result
    if INVENTORY_NAME not in result.artifacts:
        lacking = TileFileError(
            f"the cache has no {INVENTORY_NAME}, so its tiles cannot be checked. Build it again with doit provision"
        )
        return _with(result, [lacking])
    from preflight.tileset.inventory import Inventory, read_header  # noqa: PLC0415 - loads NumPy, which the early returns do not need

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
    """Compare the signed tiles with the current rows, and yield each tile that changed, is missing, or was added.

    Holds one number for each tile in memory.
    """
    places = {(tile.zoom, tile.x, tile.y): number for number, tile in enumerate(sealed_tiles(inventory))}
    for row in rows:
        number = places.pop((row.zoom, row.x, row.y), None)
        if number is None:
            yield TileDriftError("added: the tile was not in the tile store when the cache was signed", _name(row))
            continue
        (sealed,) = _block(inventory, number, number + 1)
        if (change := _change(sealed, row)) is not None:
            yield TileDriftError(f"drifted: {change}", _name(row))
    for number in places.values():
        (sealed,) = _block(inventory, number, number + 1)
        yield TileDriftError("missing: the tile is no longer in the tile store", _name(sealed))


def file_failures(inventory: Inventory, pixels: TilePixelStore, hashing: TwoProcesses) -> Iterator[TileFileError]:
    """Hash the file of every signed tile, and yield a failure for each file that is missing or has other content.

    If the store keeps its tiles as files in one folder, two processes hash them. The store itself then opens the files
    that were not verified, because it knows the reason. It opens every tile if it does not keep files.
    """
    blocks = [(start, min(start + _BLOCK, len(inventory))) for start in range(0, len(inventory), _BLOCK)]
    folder = pixels.folder()
    if folder is None:
        unverified: Iterable[Sequence[int]] = (range(end - start) for start, end in blocks)
    else:
        unverified = hashing.unverified(
            folder, ((_paths(inventory, *block), _digests(inventory, *block)) for block in blocks)
        )
    for block, numbers in zip(blocks, unverified, strict=True):
        if numbers:
            yield from _failures_among(_block(inventory, *block), numbers, pixels)


def _failures_among(tiles: list[SealedTile], numbers: Iterable[int], pixels: TilePixelStore) -> Iterator[TileFileError]:
    """Check the tiles with these numbers, in order."""
    return (failure for number in numbers if (failure := _file_failure(tiles[number], pixels)) is not None)


def sealed_tiles(inventory: Inventory) -> Iterator[SealedTile]:
    """Yield every tile of an inventory, in its order."""
    for start in range(0, len(inventory), _BLOCK):
        yield from _block(inventory, start, min(start + _BLOCK, len(inventory)))


def _block(inventory: Inventory, start: int, end: int) -> list[SealedTile]:
    """Read the tiles from `start` to `end` column by column.

    Reading NumPy rows one by one costs more than hashing the files.
    """
    rows = inventory.rows[start:end]
    zooms, xs, ys, lats, lons, sources = (rows[name].tolist() for name in ("zoom", "x", "y", "lat", "lon", "source"))
    names = [inventory.header.sources[number] for number in sources]
    digests, paths = _digests(inventory, start, end), _paths(inventory, start, end)
    hashes = [digests[at : at + 64] for at in range(0, len(digests), 64)]
    return list(map(SealedTile, zooms, xs, ys, lats, lons, names, hashes, paths))


def _digests(inventory: Inventory, start: int, end: int) -> str:
    """Return 64 hex digits for each tile, concatenated."""
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
    return TileFileError(f"the file {tile.path} has SHA-256 {digest}, not {tile.sha256}", _name(tile))


def _change(old: SealedTile, new: TileRow) -> str | None:
    pairs: list[tuple[str, Any, Any]] = [
        ("source", old.source, new.source),
        ("SHA-256", old.sha256, new.sha256),
        ("centre", (old.lat, old.lon), (new.lat, new.lon)),
    ]
    changes = [f"{what} was {was} when the cache was signed, is now {now}" for what, was, now in pairs if was != now]
    return "; ".join(changes) or None


def _name(tile: SealedTile | TileRow) -> str:
    return f"{tile.zoom}/{tile.x}/{tile.y} {tile.source}"


def _with(result: VerificationResult, found: list[VerificationError]) -> VerificationResult:
    failures = sorted((*result.failures, *found), key=lambda failure: failure.exit_status)
    return result._replace(failures=tuple(failures))
