"""Opens the tile store on first use, and closes it and its server at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from preflight.ports import TileIdShape, TileMetadataStore, TilePixelStore
    from preflight.records import BoundingBox, SectorClass, TileRow

EMBEDDED = "embedded"
_NEAR = 1e-9  # degrees, 0.1 mm: a box around a tile's centre


class TileAccess:
    """The tile store of a run, opened on first use.

    Args:
        root: the folder of the tile store.
        open_metadata: opens the rows and registers what must be closed on the stack.
        open_pixels: opens the files below the folder.
    """

    def __init__(
        self,
        root: Path | None,
        open_metadata: Callable[[ExitStack], TileMetadataStore],
        open_pixels: Callable[[], TilePixelStore],
    ) -> None:
        self._root = root
        self._open_metadata = open_metadata
        self._open_pixels = open_pixels
        self._stack = ExitStack()
        self._metadata: TileMetadataStore | None = None
        self._pixels: TilePixelStore | None = None

    @property
    def root(self) -> Path | None:
        """The folder of the tile store; None if it is not a folder."""
        return self._root

    def exists(self) -> bool:
        """Whether there is a store to open. Opening an embedded store would create it."""
        return self._root is None or self._root.is_dir()

    def metadata(self) -> TileMetadataStore:
        """Return the rows. Raises DatabaseError."""
        if self._metadata is None:
            self._metadata = self._open_metadata(self._stack)
        return self._metadata

    def pixels(self) -> TilePixelStore:
        """Return the files."""
        if self._pixels is None:
            self._pixels = self._open_pixels()
        return self._pixels

    def query_by_bbox(
        self,
        *,
        bbox: BoundingBox,
        zoom: int | None = None,
        zoom_levels: Sequence[int] = (),
        sector_class: SectorClass | None = None,
    ) -> Iterator[TileRow]:
        """Yields the rows whose tiles share interior with the box: C6's shape of a metadata store."""
        return self.metadata().query_by_bbox(bbox=bbox, zoom=zoom, zoom_levels=zoom_levels, sector_class=sector_class)

    def read_tile_pixels(self, tile_id: TileIdShape) -> AbstractContextManager[BinaryIO]:
        """Opens the encoded image of a tile: C6's shape of a tile store. Raises TileContentError if there is no such tile.

        If several sources hold the tile, the first one by name is opened.
        """
        from preflight.errors import TileContentError  # noqa: PLC0415 - a verification needs neither
        from preflight.records import BoundingBox  # noqa: PLC0415

        zoom, lat, lon = tile_id.zoom_level, tile_id.lat, tile_id.lon
        around = BoundingBox(lat - _NEAR, lon - _NEAR, lat + _NEAR, lon + _NEAR)
        for row in self.query_by_bbox(bbox=around, zoom=zoom):
            if (row.lat, row.lon) == (lat, lon):
                return self.pixels().open_tile(row.path)
        raise TileContentError(f"the tile store has no tile {zoom} at ({lat}, {lon}). Import it")

    def close(self) -> None:
        """Close what was opened. Idempotent; the next use opens it again."""
        self._metadata = None
        self._stack.close()
