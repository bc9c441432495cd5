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

from preflight.adapters.rasters import rendering
from preflight.adapters.rasters.geotiff import GeoTiff
from preflight.adapters.rasters.tile_grid import WORLD_M, native_zoom, open_raster
from preflight.area.web_mercator import tile_at
from preflight.errors import ImportSourceError

REAL = Path(__file__).parents[6] / "shared" / "data" / "containers" / "pix4d_alpha_nodata.tif"
ZOOM, X, Y = 17, 77_000, 65_000
PIXEL = WORLD_M / (256 << ZOOM)
GRID = Affine(PIXEL, 0, X * 256 * PIXEL - WORLD_M / 2, 0, -PIXEL, WORLD_M / 2 - Y * 256 * PIXEL)


def random_pixels(seed, height=512, width=512, bands=3):
    return np.random.default_rng(seed).integers(1, 255, (bands, height, width), dtype=np.uint8)


def shifted(columns, rows):
    """The transform GRID, moved by pixels to the east and south."""
    return Affine(PIXEL, 0, GRID.c + columns * PIXEL, 0, -PIXEL, GRID.f - rows * PIXEL)


@pytest.fixture
def write_image(tmp_path):
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


def test_an_image_on_the_tile_grid_keeps_its_pixels(write_image):
    pixels = random_pixels(1)
    tiles = list(GeoTiff(write_image(pixels)))
    assert [(tile.zoom, tile.x, tile.y) for tile in tiles] == [
        (ZOOM, X + column, Y + row) for row in (0, 1) for column in (0, 1)
    ]
    expected = pixels.transpose(1, 2, 0)
    for tile in tiles:
        row, column = (tile.y - Y) * 256, (tile.x - X) * 256
        assert np.array_equal(pixels_of(tile), expected[row : row + 256, column : column + 256])
        assert tile.suffix == ".png"


def test_the_bytes_of_a_zoom_do_not_depend_on_the_other_zooms(write_image):
    path = write_image(random_pixels(2), shifted(100.3, -31.7), tiled=True, blockxsize=128, blockysize=128)
    first = list(GeoTiff(path))
    assert first == list(GeoTiff(path))
    both = list(GeoTiff(path, (ZOOM - 1, ZOOM)))
    assert {tile.zoom for tile in both} == {ZOOM - 1, ZOOM}
    assert [tile for tile in both if tile.zoom == ZOOM] == first


@pytest.mark.parametrize("kind", ["colour", "grey", "alpha", "no data", "degrees"])
def test_any_number_of_threads_gives_the_same_bytes_in_the_same_order(write_image, kind, monkeypatch):
    monkeypatch.setattr(rendering, "_RUN", 2)
    pixels = random_pixels(13, 700, 1300, bands={"grey": 1, "alpha": 4}.get(kind, 3))
    options = {"tiled": True, "blockxsize": 128, "blockysize": 128}
    if kind == "alpha":
        pixels[3, :, 1100:] = 0
        options["meanings"] = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    if kind == "no data":
        pixels[:, 200:, :300] = 0
        options["nodata"] = 0
    where = (Affine(1e-5, 0, 10.0, 0, -7e-6, 50.0), "EPSG:4326") if kind == "degrees" else (shifted(100.3, -31.7),)
    path = write_image(pixels, *where, **options)
    single = list(GeoTiff(path, (ZOOM - 1, ZOOM), min_coverage=0.01, threads=1))
    assert len(single) > 12
    assert [tile.zoom for tile in single] == sorted(tile.zoom for tile in single)
    assert [(tile.zoom, tile.y, tile.x) for tile in single] == sorted((tile.zoom, tile.y, tile.x) for tile in single)
    for threads in (2, 3):
        assert list(GeoTiff(path, (ZOOM - 1, ZOOM), min_coverage=0.01, threads=threads)) == single


def test_only_a_few_runs_are_submitted_ahead(write_image, monkeypatch):
    monkeypatch.setattr(rendering, "_RUN", 2)
    submitted = []
    submit = rendering._Worker.submit
    monkeypatch.setattr(rendering._Worker, "submit", lambda worker, run: submitted.append(run) or submit(worker, run))
    tiles = iter(GeoTiff(write_image(random_pixels(14, 1024, 1024)), (ZOOM + 1, ZOOM + 1), threads=2))
    first = next(tiles)
    # The run of the first tile, and two runs in the queue for each thread.
    assert len(submitted) == 1 + 2 * 2
    rest = list(tiles)
    assert len([first, *rest]) == 64
    assert len(submitted) == 32


def test_gdal_caches_the_blocks_that_neighbouring_tiles_share(write_image):
    """Checks the value that GDAL uses: rasterio reads the setting 64 as 64 bytes."""
    from rasterio._env import get_gdal_config

    with open_raster(write_image(random_pixels(15, 64, 64)), "GTiff"):
        assert 16 << 20 <= get_gdal_config("GDAL_CACHEMAX") <= 256 << 20


def test_tiles_that_the_image_fills_too_little_are_left_out(write_image):
    path = write_image(random_pixels(3), shifted(160, 0))
    assert {(tile.x - X, tile.y - Y) for tile in GeoTiff(path)} == {(1, 0), (1, 1), (2, 0), (2, 1)}
    assert len(GeoTiff(path)) == 6
    more = {(tile.x - X, tile.y - Y) for tile in GeoTiff(path, min_coverage=0.3)}
    assert more == {(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)}
    assert {tile.x - X for tile in GeoTiff(path, min_coverage=0.7)} == {1}


def test_pixels_outside_the_image_are_transparent_and_black(write_image):
    [left, _] = GeoTiff(write_image(random_pixels(4, 256, 256), shifted(100, 0)), min_coverage=0.1)
    actual = pixels_of(left)
    assert actual.shape == (256, 256, 4)
    assert not actual[:, :100].any()
    assert (actual[:, 100:, 3] == 255).all()


def test_no_data_and_alpha_are_respected(write_image):
    pixels = random_pixels(5, 256, 256)
    pixels[:, :, :60] = 0
    [tile] = GeoTiff(write_image(pixels, nodata=0))
    assert not pixels_of(tile)[:, :60].any()
    assert np.array_equal(pixels_of(tile)[:, 60:, :3], pixels.transpose(1, 2, 0)[:, 60:])

    alpha = np.full((1, 256, 256), 255, np.uint8)
    alpha[:, 200:] = 0
    meanings = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    [tile] = GeoTiff(write_image(np.concatenate([random_pixels(6, 256, 256), alpha]), meanings=meanings))
    assert np.array_equal(pixels_of(tile)[:, :, 3], alpha[0])
    assert not pixels_of(tile)[200:].any()

    path = write_image(pixels)
    with rasterio.open(path, "r+") as file:
        file.write_mask(np.repeat([True, False], [130, 126])[:, np.newaxis].repeat(256, axis=1))
    [tile] = GeoTiff(path)
    assert set(np.flatnonzero(pixels_of(tile)[:, :, 3].any(axis=1))) == set(range(130))


def test_colours_of_transparent_pixels_do_not_bleed_when_the_image_shrinks(write_image):
    pixels = np.full((4, 512, 512), 40, np.uint8)
    pixels[3] = 255
    pixels[:3, :, 256:], pixels[3, :, 256:] = 250, 0
    meanings = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    tiles = list(GeoTiff(write_image(pixels, meanings=meanings), (ZOOM - 1, ZOOM - 1), min_coverage=0.01))
    actual = np.concatenate([pixels_of(tile).reshape(-1, 4) for tile in tiles])
    assert set(actual[actual[:, 3] > 0][:, 0]) == {40}


def test_bands_are_taken_by_their_meaning(write_image):
    pixels = random_pixels(7, 256, 256, bands=4)
    meanings = [ColorInterp.undefined, ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    [tile] = GeoTiff(write_image(pixels, meanings=meanings, photometric="MINISBLACK"))
    assert np.array_equal(pixels_of(tile), pixels[[3, 2, 1]].transpose(1, 2, 0))


def test_a_grey_image_stays_grey(write_image):
    pixels = random_pixels(8, 256, 256, bands=1)
    [tile] = GeoTiff(write_image(pixels))
    assert np.array_equal(pixels_of(tile), pixels[0])


def test_an_image_in_degrees_is_placed_correctly(write_image):
    """A bright spot at a known position appears in the tile and the pixel of that position."""
    lat, lon, step = 50.0, 10.0, 1e-5
    pixels = np.full((3, 400, 400), 20, np.uint8)
    pixels[:, 197:203, 197:203] = 255
    path = write_image(pixels, Affine(step, 0, lon - 200 * step, 0, -step, lat + 200 * step), "EPSG:4326")
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


def test_date_and_terms_come_from_the_tags(write_image):
    tags = {"TIFFTAG_DATETIME": "2025:06:01 12:30:00", "TIFFTAG_COPYRIGHT": "CC BY 4.0"}
    tiles = GeoTiff(write_image(random_pixels(9, 256, 256), tags=tags))
    assert tiles.captured_at == datetime(2025, 6, 1, 12, 30, tzinfo=timezone.utc)
    assert tiles.terms == "CC BY 4.0"


def test_images_without_certain_position_or_colours_are_refused(write_image):
    small = random_pixels(10, 64, 64)
    with pytest.warns(NotGeoreferencedWarning):
        plain = write_image(small, transform=Affine.identity(), crs=None)
    for path in (plain, write_image(small, crs=None)):
        with pytest.raises(ImportSourceError, match="has no georeference"):
            GeoTiff(path)
    with pytest.raises(ImportSourceError, match=r"uint16 pixels.*-ot Byte"):
        GeoTiff(write_image(small.astype(np.uint16)))
    with pytest.raises(ImportSourceError, match="colour table"):
        GeoTiff(write_image(small[:1], meanings=[ColorInterp.palette], photometric="PALETTE"))


def test_images_across_the_180th_meridian_or_with_too_many_tiles_are_refused(write_image):
    small = random_pixels(11, 64, 64)
    with pytest.raises(ImportSourceError, match="180th meridian"):
        GeoTiff(write_image(small, Affine(10_000, 0, 300_000, 0, -10_000, 6_000_000), "EPSG:32760"))
    with pytest.raises(ImportSourceError, match=r"would give .* tiles"):
        GeoTiff(write_image(small, Affine(1, 0, 0, 0, -1, 50), "EPSG:4326"), (24, 24))


def test_an_image_with_huge_blocks_is_refused(write_image, tmp_path):
    options = {"height": 30_720, "width": 30_720, "tiled": True, "blockxsize": 30_720, "blockysize": 30_720}
    path = tmp_path / "bomb.tif"
    with rasterio.open(
        path, "w", driver="GTiff", dtype="uint8", count=1, **options, crs="EPSG:3857", transform=GRID, sparse_ok=True
    ):
        pass
    assert path.stat().st_size < 10_000
    with pytest.raises(ImportSourceError, match="too large to decode at once"):
        GeoTiff(path)


def test_unreadable_files_are_refused(write_image, tmp_path):
    path = write_image(random_pixels(12), tiled=True, blockxsize=128, blockysize=128)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImportSourceError, match="cannot be read"):
        list(GeoTiff(path))
    path.write_bytes(b"II*\0 and nothing")
    with pytest.raises(ImportSourceError, match="cannot be read"):
        GeoTiff(path)
    with pytest.raises(ImportSourceError, match="cannot be read"):
        GeoTiff(tmp_path / "gone.tif")


def test_another_format_with_the_file_name_of_a_tiff_is_not_opened(tmp_path):
    path = tmp_path / "a.tif"
    path.write_text('<VRTDataset rasterXSize="1" rasterYSize="1"></VRTDataset>')
    with pytest.raises(ImportSourceError, match="cannot be read"):
        GeoTiff(path)


@pytest.mark.skipif(not REAL.is_file(), reason="../shared/data is not here")
class TestTheRealOrthophoto:
    def test_it_gives_tiles_at_its_native_zoom(self):
        tiles = list(GeoTiff(REAL))
        assert {tile.zoom for tile in tiles} == {19}
        assert 8 <= len(tiles) <= 16
        for tile in tiles:
            actual = pixels_of(tile)
            assert actual.shape[:2] == (256, 256)
            filled = 1.0 if actual.shape[2] == 3 else (actual[:, :, 3] > 0).mean()
            assert filled >= 0.5
            assert actual[:, :, :3].std() > 5
        assert list(GeoTiff(REAL)) == tiles

    def test_it_gives_the_requested_zooms(self):
        assert {tile.zoom for tile in GeoTiff(REAL, (17, 18), min_coverage=0.1)} == {17, 18}
