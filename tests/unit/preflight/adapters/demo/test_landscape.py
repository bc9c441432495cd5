"""The demo landscape: its tiles, the same bytes for the same seed, and tiles that differ from each other."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from io import BytesIO
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from preflight.adapters.demo import landscape
from preflight.adapters.images import decode_rgb, thumbnail16
from preflight.area.area import area_from_bbox, cover
from preflight.area.web_mercator import tile_bounds


@pytest.fixture(scope="module")
def small():
    return list(landscape.generate(7, columns=6, rows=4))


@pytest.fixture(scope="module")
def pixels(small):
    return {(tile.zoom, tile.x, tile.y): decode_rgb(tile.content) for tile in small}


def digest(tiles):
    return hashlib.sha256(b"".join(tile.content for tile in tiles)).hexdigest()


def test_the_demo_tiles_are_exactly_those_that_cover_the_demo_box():
    tiles = set(cover(area_from_bbox(landscape.DEMO_BBOX), landscape.DEMO_ZOOMS))
    deep = [tile for tile in tiles if tile[0] == 18]
    xs, ys = [x for _, x, _ in deep], [y for _, _, y in deep]
    assert (min(xs), min(ys)) == (landscape._X0, landscape._Y0)
    assert (max(xs) - min(xs) + 1, max(ys) - min(ys) + 1) == (24, 20)
    assert {(17, x // 2, y // 2) for _, x, y in deep} == {tile for tile in tiles if tile[0] == 17}
    assert len(tiles) == landscape.DEMO_TILE_COUNT == 600


def test_the_aircraft_takes_off_inside_the_demo_box():
    box, origin = landscape.DEMO_BBOX, landscape.DEMO_TAKEOFF
    assert box.lat_min < origin.lat < box.lat_max
    assert box.lon_min < origin.lon < box.lon_max


def test_the_demo_lies_in_the_atlantic():
    corner = tile_bounds(18, landscape._X0, landscape._Y0)
    assert (round(corner.lat_max), round(corner.lon_min)) == (46, -30)


def test_a_small_landscape_has_both_zooms(small):
    assert len(small) == 6 * 4 + 3 * 2
    assert len({(tile.zoom, tile.x, tile.y) for tile in small}) == len(small)
    assert {(17, t.x // 2, t.y // 2) for t in small if t.zoom == 18} == {
        (t.zoom, t.x, t.y) for t in small if t.zoom == 17
    }


def test_tiles_are_jpegs_of_256_pixels(small):
    for tile in small:
        image = Image.open(BytesIO(tile.content))
        assert (image.format, image.size, image.mode) == ("JPEG", (256, 256), "RGB")


def test_a_parent_tile_is_the_average_of_its_children(pixels):
    for (zoom, x, y), parent in pixels.items():
        if zoom != 17:
            continue
        rows = [np.hstack([pixels[18, 2 * x + i, 2 * y + j] for i in (0, 1)]) for j in (0, 1)]
        children = np.vstack(rows).astype(float).reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
        assert np.abs(children - parent).mean() < 4  # the loss of JPEG compression


def test_the_same_seed_gives_the_same_bytes_in_another_process(small):
    program = (
        "import hashlib; from preflight.adapters.demo.landscape import generate; "
        "print(hashlib.sha256(b''.join(t.content for t in generate(7, columns=6, rows=4))).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert other.stdout.strip() == digest(small)


def test_another_seed_gives_another_landscape(small):
    assert digest(landscape.generate(8, columns=6, rows=4)) != digest(small)


def test_tiles_differ_from_each_other(pixels):
    thumbnails = [thumbnail16(image).astype(float) for image in pixels.values()]
    unit = [(t - t.mean()) / np.linalg.norm(t - t.mean()) for t in thumbnails]
    assert max(a @ b for a, b in combinations(unit, 2)) < 0.9
    assert min(image.std() for image in pixels.values()) > 3


@pytest.mark.parametrize(("columns", "rows"), [(5, 4), (4, 3), (0, 4), (4, -2)])
def test_odd_or_non_positive_sizes_are_refused(columns, rows):
    with pytest.raises(ValueError, match="even, positive"):
        next(landscape.generate(1, columns=columns, rows=rows))
