"""Tiles offered by a folder of images in the XYZ scheme: `<zoom>/<x>/<y>.png` (or jpg, jpeg, webp)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from preflight.errors import ImportSourceError
from preflight.importing import OfferedTile

__all__ = ["TileFolder"]

_SUFFIXES = {".png": ".png", ".jpg": ".jpg", ".jpeg": ".jpg", ".webp": ".webp"}


class TileFolder:
    """An iterable of OfferedTile, by (zoom, x, y); `len` is known before a file is read.

    Files whose path is not numbers and an image suffix are not tiles and are passed by, such as a viewer's index.html.
    """

    def __init__(self, folder: Path) -> None:
        """List the folder.

        Raises:
            ImportSourceError: it is no folder, cannot be read, or holds no tiles.
        """
        if not folder.is_dir():
            raise ImportSourceError(f"{folder} is not a folder. Give one that holds tiles as ZOOM/X/Y.png")
        try:
            self._files = sorted(_tiles_below(folder))
        except OSError as error:
            raise ImportSourceError(f"{folder} cannot be listed: {error}. Make it readable") from error
        if not self._files:
            raise ImportSourceError(
                f"{folder} holds no tiles. They are looked for as ZOOM/X/Y with {', '.join(_SUFFIXES)}, whole numbers each"
            )

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[OfferedTile]:
        for zoom, x, y, file in self._files:
            try:
                content = file.read_bytes()
            except OSError as error:
                raise ImportSourceError(f"{file} cannot be read: {error}. Make it readable, or remove it") from error
            yield OfferedTile(zoom, x, y, content, _SUFFIXES[file.suffix.lower()])


def _tiles_below(folder: Path) -> Iterator[tuple[int, int, int, Path]]:
    for zoom in _numbered(folder):
        for column in _numbered(zoom):
            for file in column.iterdir():
                if file.suffix.lower() in _SUFFIXES and _is_number(file.stem):
                    yield int(zoom.name), int(column.name), int(file.stem), file


def _numbered(folder: Path) -> Iterator[Path]:
    return (child for child in folder.iterdir() if _is_number(child.name) and child.is_dir())


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) <= 9
