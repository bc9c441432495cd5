"""The pixels of tiles, over a C6 tile store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from typing import BinaryIO

from preflight.errors import DatabaseError, PreflightError, TileContentError
from preflight.ports import C6TileStore, TileIdShape, TilePixelOpener
from preflight.records import TileId
from preflight.tile_import.source import MAX_TILE_BYTES

__all__ = ["C6Pixels", "c6_tile_store_to_pixel_opener"]


def c6_tile_store_to_pixel_opener(store: C6TileStore) -> TilePixelOpener:
    """Returns the port that opens a tile by its zoom and centre, over a C6 tile store."""
    return _Opener(store)


class _Opener:
    def __init__(self, store: C6TileStore) -> None:
        self._store = store

    def open_tile(self, *, zoom: int, lat: float, lon: float) -> AbstractContextManager[BinaryIO]:
        """As `ports.TilePixelOpener`."""
        return opened(self._store, TileId(zoom, lat, lon))


class C6Pixels:
    """`ports.TilePixelStore` over a C6 tile store, for building: tiles are opened, never put.

    tiles: path of a row -> the tile_id that the metadata store gave for it.
    """

    def __init__(self, store: C6TileStore, tiles: Mapping[str, TileIdShape]) -> None:
        self._store = store
        self._tiles = tiles

    def open_tile(self, path: str) -> AbstractContextManager[BinaryIO]:
        """As `ports.TilePixelStore`."""
        if path not in self._tiles:
            raise TileContentError(f"tile {path} is not in the tile store any more. Run the build again")
        return opened(self._store, self._tiles[path])

    def folder(self) -> None:
        """A C6 store promises no files."""

    def put(self, content: bytes, sha256: str, suffix: str) -> tuple[str, bool]:  # noqa: ARG002 - the port's signature
        """Raises TileContentError: this product reads a C6 store and never writes its tiles."""
        raise TileContentError("tiles cannot be imported into this tile store. Let the C11 TileDownloader write them")


@contextmanager
def opened(store: C6TileStore, tile_id: TileIdShape) -> Iterator[BinaryIO]:
    """Opens a tile of a C6 store. Raises TileContentError for a tile that is not there, DatabaseError for another failure.

    The bytes are read at once, so that an error of the store is never taken for an error of the reader, nor the reverse.
    """
    yield BytesIO(_content(store, tile_id))


def _content(store: C6TileStore, tile_id: TileIdShape) -> bytes:
    name = f"tile {tile_id.zoom_level} at ({tile_id.lat}, {tile_id.lon})"
    try:
        with store.read_tile_pixels(tile_id) as found:
            raw = isinstance(found, (bytes, bytearray, memoryview))
            content = bytes(found if raw else found.read(MAX_TILE_BYTES + 1))  # type: ignore[arg-type, union-attr] # see `raw`
    except (PreflightError, FileNotFoundError):
        raise
    except KeyError as error:
        raise TileContentError(f"the tile store has no {name} any more ({error!r}). Repair the store") from error
    except Exception as error:
        # This tells nothing about the tile, so the tile must not count as damaged.
        raise DatabaseError(
            f"the tile store cannot read {name}: {type(error).__name__}: {error}. Check the store"
        ) from error
    if len(content) > MAX_TILE_BYTES:
        raise TileContentError(f"{name} has more than {MAX_TILE_BYTES:,} bytes, which no tile has. Repair the store")
    return content
