"""The tile store as a run uses it: opened when first asked for, closed at the end, its server with it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preflight.ports import TileMetadataStore, TilePixelStore

EMBEDDED = "embedded"


class TileAccess:
    """Opens on demand. `open_metadata` and `open_pixels` do the work and register what must be closed on the stack."""

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
        """Where the pixels lie."""
        return self._root

    def metadata(self) -> TileMetadataStore:
        """The rows. Raises DatabaseError."""
        if self._metadata is None:
            self._metadata = self._open_metadata(self._stack)
        return self._metadata

    def pixels(self) -> TilePixelStore:
        """The files."""
        if self._pixels is None:
            self._pixels = self._open_pixels(self._root)
        return self._pixels

    def close(self) -> None:
        """Close what was opened. Idempotent."""
        self._metadata = None
        self._stack.close()
