"""Opens the tile store on first use, and closes it and its server at the end of a run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preflight.ports import TileMetadataStore, TilePixelStore

EMBEDDED = "embedded"


class TileAccess:
    """The tile store of a run, opened on first use.

    Args:
        root: the folder of the tile store.
        open_metadata: opens the rows and registers what must be closed on the stack.
        open_pixels: opens the files below the folder.
    """

    def __init__(
        self,
        root: Path,
        open_metadata: Callable[[ExitStack], TileMetadataStore],
        open_pixels: Callable[[Path], TilePixelStore],
    ) -> None:
        self._root = root
        self._open_metadata = open_metadata
        self._open_pixels = open_pixels
        self._stack = ExitStack()
        self._metadata: TileMetadataStore | None = None
        self._pixels: TilePixelStore | None = None

    @property
    def root(self) -> Path:
        """The folder of the tile store."""
        return self._root

    def metadata(self) -> TileMetadataStore:
        """Return the rows. Raises DatabaseError."""
        if self._metadata is None:
            self._metadata = self._open_metadata(self._stack)
        return self._metadata

    def pixels(self) -> TilePixelStore:
        """Return the files."""
        if self._pixels is None:
            self._pixels = self._open_pixels(self._root)
        return self._pixels

    def close(self) -> None:
        """Close what was opened. Idempotent; the next use opens it again."""
        self._metadata = None
        self._stack.close()
