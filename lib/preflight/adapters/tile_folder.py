"""A source of tiles: a folder of images `<zoom>/<x>/<y>.png` (or jpg, jpeg, webp), in the XYZ or the TMS scheme."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from preflight.area.web_mercator import MAX_ZOOM
from preflight.errors import ImportSourceError
from preflight.tile_import.source import MAX_TILE_BYTES, BadTile, OfferedTile, Zooms

__all__ = ["TileFolder"]

_SUFFIXES = {".png": ".png", ".jpg": ".jpg", ".jpeg": ".jpg", ".webp": ".webp"}
_VECTOR = {".pbf", ".mvt"}
_TMS_RESOURCE = "tilemapresource.xml"  # defined by OSGeo's Tile Map Service specification, 1.0.0


class TileFolder:
    """A TileSource over a folder. Yields tiles by (zoom, x, y). `len` reads no file.

    Skips files whose path does not consist of numbers and an image suffix, such as the index.html of a viewer.
    """

    def __init__(self, folder: Path, zooms: Zooms | None = None, scheme: Literal["xyz", "tms"] | None = None) -> None:
        """List the folder.

        Args:
            folder: the folder of the tiles.
            zooms: the first and last zoom; None for all.
            scheme: `xyz` counts rows from the north, `tms` from the south. None is `xyz`.

        Raises:
            ImportSourceError: the path is no folder, cannot be read, or has no image tiles. Also raised if the folder
                has the description file of TMS, and `scheme` is None.
        """
        if not folder.is_dir():
            raise ImportSourceError(f"{folder} is not a folder. Give a folder with tiles as ZOOM/X/Y.png")
        if scheme is None and (folder / _TMS_RESOURCE).exists():
            raise ImportSourceError(
                f"{folder} has the file {_TMS_RESOURCE}, so its rows may count from the south. Give --scheme=tms, or "
                "--scheme=xyz if they count from the north"
            )
        try:
            tiles = sorted(_tiles_below(folder, zooms))
        except OSError as error:
            raise ImportSourceError(f"{folder} cannot be listed: {error}. Make it readable") from error
        self._files = [tile for tile in tiles if tile[3].suffix.lower() in _SUFFIXES]
        self._flip = scheme == "tms"
        if not self._files:
            _refuse_empty(folder, tiles, zooms)

    @property
    def captured_at(self) -> datetime | None:
        """None: a folder does not state it."""
        return None

    @property
    def terms(self) -> str | None:
        """None: a folder does not state it."""
        return None

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[OfferedTile | BadTile]:
        for zoom, x, row, file in self._files:
            y = (1 << zoom) - 1 - row if self._flip and zoom <= MAX_ZOOM else row
            try:
                if (size := file.stat().st_size) > MAX_TILE_BYTES:
                    yield BadTile(zoom, x, y, f"has {size:,} bytes, but the limit is {MAX_TILE_BYTES:,}")
                    continue
                content = file.read_bytes()
            except OSError as error:
                raise ImportSourceError(f"{file} cannot be read: {error}. Make it readable, or remove it") from error
            yield OfferedTile(zoom, x, y, content, _SUFFIXES[file.suffix.lower()])


def _refuse_empty(folder: Path, tiles: list[tuple[int, int, int, Path]], zooms: Zooms | None) -> None:
    if any(file.suffix.lower() in _VECTOR for *_, file in tiles):
        raise ImportSourceError(
            f"{folder} holds vector tiles, but only images can be imported. Export the map as PNG, JPEG or WebP tiles"
        )
    at_zooms = f" at zooms {zooms[0]} to {zooms[1]}" if zooms else ""
    raise ImportSourceError(
        f"{folder} holds no tiles{at_zooms}. Give a folder with tiles as ZOOM/X/Y, where all three are integers and "
        f"the suffix is one of {', '.join(_SUFFIXES)}"
    )


def _tiles_below(folder: Path, zooms: Zooms | None) -> Iterator[tuple[int, int, int, Path]]:
    suffixes = _SUFFIXES.keys() | _VECTOR
    for zoom in _numbered(folder):
        if zooms is not None and not zooms[0] <= int(zoom.name) <= zooms[1]:
            continue
        for column in _numbered(zoom):
            for file in column.iterdir():
                if file.suffix.lower() in suffixes and _is_number(file.stem):
                    yield int(zoom.name), int(column.name), int(file.stem), file


def _numbered(folder: Path) -> Iterator[Path]:
    return (child for child in folder.iterdir() if _is_number(child.name) and child.is_dir())


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) <= 9
