from __future__ import annotations

import io
import math
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from preflight.adapters.rasters import rendering as _rendering
from preflight.adapters.rasters.geotiff import GeoTiff
from preflight.adapters.rasters.tile_grid import WORLD_M, native_zoom, open_raster
from preflight.area.web_mercator import tile_at
from preflight.errors import ImportSourceError

REAL = Path(__file__).parents[6] / "shared" / "data" / "containers" / "pix4d_alpha_nodata.tif"
ZOOM, X, Y = 17, 77_000, 65_000
PIXEL = WORLD_M / (256 << ZOOM)
GRID = Affine(PIXEL, 0, X * 256 * PIXEL - WORLD_M / 2, 0, -PIXEL, WORLD_M / 2 - Y * 256 * PIXEL)


def picture(seed, height=512, width=512, bands=3):
    return np.random.default_rng(seed).integers(1, 255, (bands, height, width), dtype=np.uint8)


def shifted(columns, rows):
    """The grid's transform moved by pixels, eastwards and southwards."""
    return Affine(PIXEL, 0, GRID.c + columns * PIXEL, 0, -PIXEL, GRID.f - rows * PIXEL)


@pytest.fixture
def lay(tmp_path):
    def write(pixels, transform=GRID, crs="EPSG:3857", tags=None, meanings=None, **options):
        path = tmp_path / "a.tif"
        bands, height, width = pixels.shape
        profile = {"driver": "GTiff", "dtype": pixels.dtype, "count": bands, "height": height, "width": width}
        with rasterio.open(path, "w", **profile, transform=transform, crs=crs, **options) as file:
            file.write(pixels)
            file.update_tags(**(tags or {}))
            if meanings:
                file.colorinterp = meanings
        return path

    return write


def pixels_of(tile):
    return np.array(Image.open(io.BytesIO(tile.content)))


def test_a_picture_on_the_grid_comes_out_pixel_for_pixel(lay):
    pixels = picture(1)
    tiles = list(GeoTiff(lay(pixels)))
    assert [(tile.zoom, tile.x, tile.y) for tile in tiles] == [
        (ZOOM, X + column, Y + row) for row in (0, 1) for column in (0, 1)
    ]
    whole = pixels.transpose(1, 2, 0)
    for tile in tiles:
        row, column = (tile.y - Y) * 256, (tile.x - X) * 256
        assert np.array_equal(pixels_of(tile), whole[row : row + 256, column : column + 256])
        assert tile.suffix == ".png"


def test_the_same_file_gives_the_same_bytes_whatever_zooms_are_asked_with_it(lay):
    path = lay(picture(2), shifted(100.3, -31.7), tiled=True, blockxsize=128, blockysize=128)
    first = list(GeoTiff(path))
    assert first == list(GeoTiff(path))
    both = list(GeoTiff(path, (ZOOM - 1, ZOOM)))
    assert {tile.zoom for tile in both} == {ZOOM - 1, ZOOM}
    assert [tile for tile in both if tile.zoom == ZOOM] == first


@pytest.mark.parametrize("kind", ["colour", "grey", "alpha", "no data", "degrees"])
def test_any_number_of_threads_gives_the_same_bytes_in_the_same_order(lay, kind, monkeypatch):
    monkeypatch.setattr(_rendering, "_RUN", 2)
    pixels = picture(13, 700, 1300, bands={"grey": 1, "alpha": 4}.get(kind, 3))
    options = {"tiled": True, "blockxsize": 128, "blockysize": 128}
    if kind == "alpha":
        pixels[3, :, 1100:] = 0
        options["meanings"] = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    if kind == "no data":
        pixels[:, 200:, :300] = 0
        options["nodata"] = 0
    where = (Affine(1e-5, 0, 10.0, 0, -7e-6, 50.0), "EPSG:4326") if kind == "degrees" else (shifted(100.3, -31.7),)
    path = lay(pixels, *where, **options)
    alone = list(GeoTiff(path, (ZOOM - 1, ZOOM), min_coverage=0.01, threads=1))
    assert len(alone) > 12
    assert [tile.zoom for tile in alone] == sorted(tile.zoom for tile in alone)
    assert [(tile.zoom, tile.y, tile.x) for tile in alone] == sorted((tile.zoom, tile.y, tile.x) for tile in alone)
    for threads in (2, 3):
        assert list(GeoTiff(path, (ZOOM - 1, ZOOM), min_coverage=0.01, threads=threads)) == alone


def test_threads_are_given_a_few_runs_ahead_only(lay, monkeypatch):
    monkeypatch.setattr(_rendering, "_RUN", 2)
    given = []
    submit = _rendering._Lane.submit
    monkeypatch.setattr(_rendering._Lane, "submit", lambda lane, run: given.append(run) or submit(lane, run))
    tiles = iter(GeoTiff(lay(picture(14, 1024, 1024)), (ZOOM + 1, ZOOM + 1), threads=2))
    first = next(tiles)
    # The one that is taken, and two that wait for each thread.
    assert len(given) == 1 + 2 * 2
    rest = list(tiles)
    assert len([first, *rest]) == 64
    assert len(given) == 32


def test_a_block_of_the_file_is_kept_for_the_tiles_beside_it(lay):
    """As GDAL understands the setting, not as it was written: 64 is 64 bytes to rasterio."""
    from rasterio._env import get_gdal_config

    with open_raster(lay(picture(15, 64, 64)), "GTiff"):
        assert 16 << 20 <= get_gdal_config("GDAL_CACHEMAX") <= 256 << 20


def test_tiles_the_picture_hardly_fills_are_left_out(lay):
    path = lay(picture(3), shifted(160, 0))
    assert {(tile.x - X, tile.y - Y) for tile in GeoTiff(path)} == {(1, 0), (1, 1), (2, 0), (2, 1)}
    assert len(GeoTiff(path)) == 6
    wide = {(tile.x - X, tile.y - Y) for tile in GeoTiff(path, min_coverage=0.3)}
    assert wide == {(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)}
    assert {tile.x - X for tile in GeoTiff(path, min_coverage=0.7)} == {1}


def test_what_the_picture_does_not_fill_is_transparent_and_black(lay):
    [left, _] = GeoTiff(lay(picture(4, 256, 256), shifted(100, 0)), min_coverage=0.1)
    seen = pixels_of(left)
    assert seen.shape == (256, 256, 4)
    assert not seen[:, :100].any()
    assert (seen[:, 100:, 3] == 255).all()


def test_no_data_and_alpha_are_respected(lay):
    pixels = picture(5, 256, 256)
    pixels[:, :, :60] = 0
    [tile] = GeoTiff(lay(pixels, nodata=0))
    assert not pixels_of(tile)[:, :60].any()
    assert np.array_equal(pixels_of(tile)[:, 60:, :3], pixels.transpose(1, 2, 0)[:, 60:])

    alpha = np.full((1, 256, 256), 255, np.uint8)
    alpha[:, 200:] = 0
    meanings = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    [tile] = GeoTiff(lay(np.concatenate([picture(6, 256, 256), alpha]), meanings=meanings))
    assert np.array_equal(pixels_of(tile)[:, :, 3], alpha[0])
    assert not pixels_of(tile)[200:].any()

    path = lay(pixels)
    with rasterio.open(path, "r+") as file:
        file.write_mask(np.repeat([True, False], [130, 126])[:, np.newaxis].repeat(256, axis=1))
    [tile] = GeoTiff(path)
    assert set(np.flatnonzero(pixels_of(tile)[:, :, 3].any(axis=1))) == set(range(130))


def test_what_lies_under_alpha_zero_does_not_bleed_when_it_shrinks(lay):
    pixels = np.full((4, 512, 512), 40, np.uint8)
    pixels[3] = 255
    pixels[:3, :, 256:], pixels[3, :, 256:] = 250, 0
    meanings = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    tiles = list(GeoTiff(lay(pixels, meanings=meanings), (ZOOM - 1, ZOOM - 1), min_coverage=0.01))
    seen = np.concatenate([pixels_of(tile).reshape(-1, 4) for tile in tiles])
    assert set(seen[seen[:, 3] > 0][:, 0]) == {40}


def test_bands_are_taken_by_their_meaning(lay):
    pixels = picture(7, 256, 256, bands=4)
    meanings = [ColorInterp.undefined, ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    [tile] = GeoTiff(lay(pixels, meanings=meanings, photometric="MINISBLACK"))
    assert np.array_equal(pixels_of(tile), pixels[[3, 2, 1]].transpose(1, 2, 0))


def test_a_grey_picture_stays_grey(lay):
    pixels = picture(8, 256, 256, bands=1)
    [tile] = GeoTiff(lay(pixels))
    assert np.array_equal(pixels_of(tile), pixels[0])


def test_a_picture_in_degrees_lies_where_it_should(lay):
    """A bright spot at a known place is found in the tile, and there in the pixel, of that place."""
    lat, lon, step = 50.0, 10.0, 1e-5
    pixels = np.full((3, 400, 400), 20, np.uint8)
    pixels[:, 197:203, 197:203] = 255
    path = lay(pixels, Affine(step, 0, lon - 200 * step, 0, -step, lat + 200 * step), "EPSG:4326")
    tiles = {(tile.x, tile.y): tile for tile in GeoTiff(path, (18, 18), min_coverage=0.0)}
    x, y = tile_at(18, lat, lon)
    rows, columns = np.nonzero(pixels_of(tiles[x, y])[:, :, 0] > 128)
    scale = 256 << 18
    east = (lon + 180) / 360 * scale - 256 * x
    south = (1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * scale - 256 * y
    assert abs(columns.mean() + 0.5 - east) < 0.6
    assert abs(rows.mean() + 0.5 - south) < 0.6


@pytest.mark.parametrize("zoom", [0, 5, 17, 24])
def test_the_native_zoom_is_the_nearest(zoom):
    pixel = WORLD_M / (256 << zoom)
    assert native_zoom(pixel) == native_zoom(pixel * 1.3) == native_zoom(pixel / 1.3) == zoom


def test_date_and_terms_come_from_the_tags(lay):
    tags = {"TIFFTAG_DATETIME": "2025:06:01 12:30:00", "TIFFTAG_COPYRIGHT": "CC BY 4.0"}
    tiles = GeoTiff(lay(picture(9, 256, 256), tags=tags))
    assert tiles.captured_at == datetime(2025, 6, 1, 12, 30, tzinfo=timezone.utc)
    assert tiles.terms == "CC BY 4.0"


def test_pictures_that_would_have_to_be_guessed_at_are_refused(lay):
    small = picture(10, 64, 64)
    with pytest.warns(NotGeoreferencedWarning):
        plain = lay(small, transform=Affine.identity(), crs=None)
    for path in (plain, lay(small, crs=None)):
        with pytest.raises(ImportSourceError, match="has no georeference"):
            GeoTiff(path)
    with pytest.raises(ImportSourceError, match=r"uint16 pixels.*-ot Byte"):
        GeoTiff(lay(small.astype(np.uint16)))
    with pytest.raises(ImportSourceError, match="colour table"):
        GeoTiff(lay(small[:1], meanings=[ColorInterp.palette], photometric="PALETTE"))


def test_pictures_at_the_edge_of_the_world_are_refused(lay):
    small = picture(11, 64, 64)
    with pytest.raises(ImportSourceError, match="180th meridian"):
        GeoTiff(lay(small, Affine(10_000, 0, 300_000, 0, -10_000, 6_000_000), "EPSG:32760"))
    with pytest.raises(ImportSourceError, match=r"would give .* tiles"):
        GeoTiff(lay(small, Affine(1, 0, 0, 0, -1, 50), "EPSG:4326"), (24, 24))


def test_a_block_that_cannot_be_held_is_refused(lay, tmp_path):
    options = {"height": 30_720, "width": 30_720, "tiled": True, "blockxsize": 30_720, "blockysize": 30_720}
    path = tmp_path / "bomb.tif"
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint8", count=1, **options, crs="EPSG:3857", transform=GRID, sparse_ok=True
    ):
        pass
    assert path.stat().st_size < 10_000
    with pytest.raises(ImportSourceError, match="at once"):
        GeoTiff(path)


def test_files_that_do_not_read_are_refused(lay, tmp_path):
    path = lay(picture(12), tiled=True, blockxsize=128, blockysize=128)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImportSourceError, match="does not read"):
        list(GeoTiff(path))
    path.write_bytes(b"II*\0 and nothing")
    with pytest.raises(ImportSourceError, match="does not read"):
        GeoTiff(path)
    with pytest.raises(ImportSourceError, match="does not read"):
        GeoTiff(tmp_path / "gone.tif")


def test_another_format_is_not_opened_under_a_tiffs_name(tmp_path):
    path = tmp_path / "a.tif"
    path.write_text('<VRTDataset rasterXSize="1" rasterYSize="1"></VRTDataset>')
    with pytest.raises(ImportSourceError, match="does not read"):
        GeoTiff(path)


@pytest.mark.skipif(not REAL.is_file(), reason="../shared/data is not here")
class TestTheRealOrthophoto:
    def test_it_gives_tiles_at_its_own_zoom(self):
        tiles = list(GeoTiff(REAL))
        assert {tile.zoom for tile in tiles} == {19}
        assert 8 <= len(tiles) <= 16
        for tile in tiles:
            seen = pixels_of(tile)
            assert seen.shape[:2] == (256, 256)
            filled = 1.0 if seen.shape[2] == 3 else (seen[:, :, 3] > 0).mean()
            assert filled >= 0.5
            assert seen[:, :, :3].std() > 5
        assert list(GeoTiff(REAL)) == tiles

    def test_it_gives_the_zooms_asked_for(self):
        assert {tile.zoom for tile in GeoTiff(REAL, (17, 18), min_coverage=0.1)} == {17, 18}
