"""Sources of tiles from the demo landscape: equal tiles as MBTiles file, folder and PMTiles file, and a GeoTIFF."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from incremental_scene import X0, Y0, ZOOM, columns_of  # also adds lib/ to the path

PAINTED = 32  # side of the landscape in tiles
METRES = 0.4  # side of a pixel of the GeoTIFF; at this latitude its tiles have zoom 18
UTM = "EPSG:32625"


@dataclass(frozen=True)
class Sources:
    """Paths of the sources."""

    mbtiles: Path
    folder: Path
    pmtiles: Path
    geotiff: Path


def write_sources(place: Path, tiles: int, side: int) -> Sources:
    """Write the sources that do not exist yet.

    Args:
        place: their folder.
        tiles: number of tiles in the archives and the folder.
        side: side of the GeoTIFF in pixels.

    Returns:
        The paths of the sources.
    """
    sources = Sources(place / "area.mbtiles", place / "area", place / "area.pmtiles", place / "area.tif")
    if not (place / "laid").exists():
        rows = list(_tiles(tiles))
        _write_mbtiles(sources.mbtiles, rows)
        for x, y, content in rows:
            name = sources.folder / str(ZOOM) / str(x) / f"{y}.jpg"
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_bytes(content)
        _write_pmtiles(sources)
        _write_geotiff(sources.geotiff, side)
        (place / "laid").touch()
    return sources


def _tiles(count: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield (x, y, JPEG) column by column, the usual order in archives. A comment makes each file unique."""
    from preflight.adapters.demo.landscape import generate  # noqa: PLC0415 - heavy

    painted = [tile.content for tile in generate(1, PAINTED, PAINTED) if tile.zoom == ZOOM]
    columns = columns_of(count)
    lines = count // columns
    for number in range(count):
        content = painted[number % len(painted)]
        comment = b"\xff\xfe\x00\x06" + number.to_bytes(4, "big")
        yield X0 + number // lines, Y0 + number % lines, content[:2] + comment + content[2:]


def _write_mbtiles(path: Path, rows: list[tuple[int, int, bytes]]) -> None:
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE metadata (name text, value text)")
        connection.execute("CREATE TABLE tiles (zoom_level int, tile_column int, tile_row int, tile_data blob)")
        metadata = {"name": "made up", "format": "jpg", "minzoom": str(ZOOM), "maxzoom": str(ZOOM), "type": "baselayer"}
        metadata["bounds"] = "-31,45,-29,47"
        connection.executemany("INSERT INTO metadata VALUES (?, ?)", metadata.items())
        last = (1 << ZOOM) - 1
        connection.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", ((ZOOM, x, last - y, c) for x, y, c in rows))
        connection.execute("CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row)")


def _write_pmtiles(sources: Sources) -> None:
    from pmtiles.convert import mbtiles_to_pmtiles  # noqa: PLC0415 - heavy

    sources.pmtiles.unlink(missing_ok=True)
    mbtiles_to_pmtiles(str(sources.mbtiles), str(sources.pmtiles), None)


def _write_geotiff(path: Path, side: int) -> None:
    """Write an RGB image with deflated blocks of 256 x 256 pixels, in UTM, as is usual for orthophotos."""
    import numpy as np  # noqa: PLC0415 - heavy
    import rasterio  # noqa: PLC0415 - heavy, as above
    from affine import Affine  # noqa: PLC0415 - heavy, as above
    from rasterio.warp import transform  # noqa: PLC0415 - heavy, as above

    from preflight.adapters.demo.landscape_paint import paint  # noqa: PLC0415 - heavy, as above
    from preflight.area.web_mercator import tile_bounds  # noqa: PLC0415 - as above

    corner = tile_bounds(ZOOM, X0, Y0)
    (east,), (north,) = transform("EPSG:4326", UTM, [corner.lon_min], [corner.lat_max])
    profile = {
        "driver": "GTiff",
        "width": side,
        "height": side,
        "count": 3,
        "dtype": "uint8",
        "crs": UTM,
        "tiled": True,
    }
    profile |= {"blockxsize": 256, "blockysize": 256, "compress": "deflate", "predictor": 2, "photometric": "rgb"}
    placement = Affine(METRES, 0.0, east, 0.0, -METRES, north)
    with rasterio.open(path, "w", transform=placement, **profile) as target:
        target.write(np.asarray(paint(2, side, side)).transpose(2, 0, 1))
