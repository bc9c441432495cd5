"""Imports tiles into the store: recognises the source, then takes the same way for every source."""

# ruff: noqa: PLC0415 - heavy libraries are imported by the functions that need them
from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from preflight.errors import ImportSourceError
from preflight.ports import Clock
from preflight.run.tile_access import TileAccess
from preflight.tile_import.importing import import_tiles
from preflight.tile_import.request import ImportProgress, ImportReport, ImportRequest
from preflight.tile_import.source import BadTile, OfferedTile, TileSource
from preflight.tile_import.storing import TileImage
from preflight.wiring.libraries import image_codec

DEMO_SEED = 1


def import_demo(
    tiles: TileAccess, clock: Clock, progress: Callable[[ImportProgress], None] | None = None
) -> ImportReport:
    """Draws the demo landscape into the tile store; its capture date is now. Raises ImportSourceError, DatabaseError."""
    from preflight.adapters.demo import landscape

    offered = (OfferedTile(tile.zoom, tile.x, tile.y, tile.content, ".jpg") for tile in landscape.generate(DEMO_SEED))
    request = ImportRequest(
        Path("demo"), landscape.DEMO_SOURCE, captured_at=clock(), terms="made up by this program; free of rights"
    )
    return _import(tiles, offered, request, clock, "demo", landscape.DEMO_TILE_COUNT, progress)


def import_folder(
    tiles: TileAccess,
    folder: Path,
    source: str,
    captured_at: datetime | None,
    clock: Clock,
    *,
    replace_tiles: bool,
) -> ImportReport:
    """Imports a z/x/y folder into the tile store. Raises ImportSourceError, DatabaseError."""
    request = ImportRequest(folder, source, captured_at=captured_at, update=replace_tiles)
    return import_source(tiles, request, clock)


def import_source(
    tiles: TileAccess,
    request: ImportRequest,
    clock: Clock,
    progress: Callable[[ImportProgress], None] | None = None,
) -> ImportReport:
    """Imports a folder, MBTiles, PMTiles, GeoTIFF, or a picture with corners into the tile store.

    A given date and given terms replace those of the source. They are needed if the source states a date in the future, which is
    refused otherwise.

    Raises:
        ImportSourceError: the source or a tile is refused.
        DatabaseError: the store does not answer.
    """
    offered = _open_source(request)
    given, stated = request.captured_at, offered.captured_at
    if given is not None and stated is not None and abs(given - stated) > timedelta(days=1):
        logging.getLogger("c10_provisioning.tile_import").warning(
            f"{request.path} says it was captured {stated:%Y-%m-%d %H:%M}; {given:%Y-%m-%d %H:%M} is taken, as given"
        )
    request = replace(request, captured_at=given or stated)
    # A path may hold bytes that are not UTF-8.
    origin = os.fsencode(request.path.resolve()).decode(errors="backslashreplace")
    return _import(tiles, offered, request, clock, origin, len(offered), progress, offered.terms)


def _open_source(request: ImportRequest) -> TileSource:
    """Recognises a file by its first bytes, not by its name."""
    path = request.path
    if path.is_dir() or not path.exists():
        from preflight.adapters.tile_folder import TileFolder

        return TileFolder(path, request.zooms, request.scheme)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise ImportSourceError(f"{path} cannot be read: {error}. Make it readable") from error
    if head.startswith(b"SQLite format 3\0"):
        from preflight.adapters.archives.mbtiles import MbTiles

        return MbTiles(path, request.zooms, request.scheme)
    if request.scheme is not None:
        raise ImportSourceError(f"--scheme is for folders and MBTiles files; {path} states its own")
    if head.startswith(b"PMTiles"):
        from preflight.adapters.archives.pmtiles import PmTiles

        return PmTiles(path, request.zooms)
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        from preflight.adapters.rasters.geotiff import GeoTiff

        return GeoTiff(path, request.zooms)
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        from preflight.adapters.rasters.corners import CornerImage

        return CornerImage(path, request.zooms)
    raise ImportSourceError(
        f"{path} is not a tile source: a folder, MBTiles, PMTiles, GeoTIFF, or a PNG or JPEG with a CSV of its "
        "corners is needed. If it should be one, copy or export it again"
    )


def check_image(content: bytes) -> TileImage:
    """Decodes and measures a tile. Raises TileContentError."""
    images = image_codec()
    picture = images.decode_rgb(content)
    height, width, _ = picture.shape
    return TileImage(width, height, round(float(images.thumbnail16(picture).std()), 3))


def _import(
    tiles: TileAccess,
    offered: Iterable[OfferedTile | BadTile],
    request: ImportRequest,
    clock: Clock,
    origin: str,
    total: int,
    progress: Callable[[ImportProgress], None] | None = None,
    stated_terms: str | None = None,
) -> ImportReport:
    return import_tiles(
        offered,
        source=request.source,
        captured_at=request.captured_at,
        metadata=tiles.metadata(),
        pixels=tiles.pixels(),
        check_image=check_image,
        clock=clock,
        replace=request.update,
        skip_bad=request.skip_bad,
        origin=origin,
        terms=request.terms,
        stated_terms=stated_terms,
        total=total,
        progress=progress,
    )
