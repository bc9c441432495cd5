from __future__ import annotations

import io
import math
from datetime import datetime, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from preflight.adapters.rasters.corners import CORNERS, CornerImage, corner_transform, read_corners
from preflight.adapters.rasters.tile_grid import WORLD_M
from preflight.area.web_mercator import tile_bounds
from preflight.errors import ImportSourceError

ZOOM, X, Y = 17, 77_000, 65_000


def corners_of(x_count, y_count):
    """The corners of a block of tiles whose north-west tile is (X, Y), as `read_corners` returns them."""
    first, last = tile_bounds(ZOOM, X, Y), tile_bounds(ZOOM, X + x_count - 1, Y + y_count - 1)
    north, west, south, east = first.lat_max, first.lon_min, last.lat_min, last.lon_max
    return {
        "top_left": (north, west),
        "top_right": (north, east),
        "bottom_right": (south, east),
        "bottom_left": (south, west),
    }


def csv_of(corners):
    return "corner,lat,lon\n" + "".join(f"{name},{lat!r},{lon!r}\n" for name, (lat, lon) in corners.items())


@pytest.fixture
def write_image(tmp_path):
    def write(pixels, corners, form="PNG", **options):
        path = tmp_path / f"field.{form.lower()}"
        Image.fromarray(pixels).save(path, form, **options)
        path.with_suffix(".csv").write_text(corners if isinstance(corners, str) else csv_of(corners))
        return path

    return write


def random_pixels(height=512, width=512, bands=3):
    shape = (height, width, bands) if bands > 1 else (height, width)
    return np.random.default_rng(1).integers(1, 255, shape, dtype=np.uint8)


def pixels_of(tile):
    return np.array(Image.open(io.BytesIO(tile.content)))


def test_an_image_on_the_tile_grid_keeps_its_pixels(write_image):
    pixels = random_pixels()
    tiles = list(CornerImage(write_image(pixels, corners_of(2, 2))))
    assert [(tile.zoom, tile.x - X, tile.y - Y) for tile in tiles] == [(ZOOM, x, y) for y in (0, 1) for x in (0, 1)]
    for tile in tiles:
        row, column = (tile.y - Y) * 256, (tile.x - X) * 256
        actual = pixels_of(tile).astype(int)[:, :, :3]
        # The last bits of the corners are rounded, so the resampler may miss the grid by a tiny amount.
        assert abs(actual - pixels[row : row + 256, column : column + 256]).max() <= 1


def test_an_image_upside_down_is_rotated(write_image):
    pixels = random_pixels(256, 256)
    rotated = {name: corners_of(1, 1)[other] for name, other in zip(CORNERS, (*CORNERS[2:], *CORNERS[:2]), strict=True)}
    [tile] = CornerImage(write_image(pixels, rotated), min_coverage=0.9)
    assert abs(pixels_of(tile).astype(int)[:, :, :3] - pixels[::-1, ::-1]).max() <= 1


def test_the_exif_of_a_jpeg_gives_date_and_copyright(write_image):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2025:06:01 12:30:00"
    exif[0x8298] = "Some Body"
    tiles = CornerImage(write_image(random_pixels(), corners_of(2, 2), "JPEG", exif=exif))
    assert tiles.captured_at == datetime(2025, 6, 1, 12, 30, tzinfo=timezone.utc)
    assert tiles.terms == "Some Body"
    assert len(list(tiles)) == 4


def test_alpha_is_respected(write_image):
    pixels = random_pixels(256, 256, 4)
    pixels[:, :, 3] = 255
    pixels[:100, :, 3] = 0
    [tile] = CornerImage(write_image(pixels, corners_of(1, 1)))
    assert not pixels_of(tile)[:99].any()


def test_the_message_for_a_missing_csv_says_how_to_write_one(write_image):
    path = write_image(random_pixels(64, 64), corners_of(1, 1))
    path.with_suffix(".csv").unlink()
    with pytest.raises(ImportSourceError, match=r"field\.csv does not exist.*corner,lat,lon.*top_left"):
        CornerImage(path)


GOOD = csv_of(corners_of(1, 1))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "four lines"),
        ("corner,lat,lon\n", "four lines"),
        (GOOD.replace("corner,lat,lon", "corner,latitude,longitude"), "must have the header"),
        (GOOD + "middle,0,0\n", "four lines"),
        (GOOD.replace("top_right", "top_left"), "once"),
        (GOOD.replace("top_right", "north_east"), "once"),
        ("corner,lat,lon\ntop_left,x,1\ntop_right,1,2\nbottom_right,0,2\nbottom_left,0,1\n", "not a number"),
        ("corner,lat,lon\ntop_left,1\ntop_right,1,2\nbottom_right,0,2\nbottom_left,0,1\n", "not a number"),
        (
            "corner,lat,lon\ntop_left,nan,1\ntop_right,1,2\nbottom_right,0,2\nbottom_left,0,1\n",
            "outside the Web Mercator map",
        ),
        ("corner,lat,lon\ntop_left,120,50\ntop_right,121,50\nbottom_right,121,49\nbottom_left,120,49\n", "swapped"),
        (
            "corner,lat,lon\ntop_left,50,20\ntop_right,51,20\nbottom_right,51,19\nbottom_left,50,19\n",
            "lat and lon, may be swapped",
        ),
        ("corner,lat,lon\ntop_left,1,2\ntop_right,1,1\nbottom_right,0,1\nbottom_left,0,2\n", "mirrored"),
        ("corner,lat,lon\ntop_left,1,1\ntop_right,1,1\nbottom_right,1,1\nbottom_left,1,1\n", "mirrored, or as a line"),
        ("corner,lat,lon\ntop_left,1,1\ntop_right,1,2\nbottom_right,0.3,2\nbottom_left,0,1\n", "form no parallelogram"),
        (
            "corner,lat,lon\ntop_left,1,-179\ntop_right,1,179\nbottom_right,0,179\nbottom_left,0,-179\n",
            "half the world",
        ),
    ],
)
def test_impossible_corners_are_refused(write_image, text, reason):
    path = write_image(random_pixels(64, 64), text)
    with pytest.raises(ImportSourceError, match=reason):
        CornerImage(path)


def test_a_csv_that_is_not_utf_8_is_refused(write_image):
    path = write_image(random_pixels(64, 64), GOOD)
    path.with_suffix(".csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ImportSourceError, match="not a readable CSV"):
        CornerImage(path)


def test_a_byte_order_mark_and_crlf_line_ends_are_accepted(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert read_corners(path) == corners_of(1, 1)


def test_unreadable_images_are_refused(write_image, monkeypatch):
    path = write_image(random_pixels(), corners_of(2, 2))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImportSourceError, match="cannot be read"):
        list(CornerImage(path))
    path.write_bytes(b"GIF89a")
    with pytest.raises(ImportSourceError, match="neither PNG nor JPEG"):
        CornerImage(path)
    path.write_bytes(content)
    monkeypatch.setattr("preflight.adapters.rasters.corners.MAX_PIXELS", 1000)
    with pytest.raises(ImportSourceError, match="claims 512 x 512 pixels"):
        CornerImage(path)


@given(
    st.floats(-70, 70),
    st.floats(-170, 170),
    st.floats(0, 2 * math.pi),
    st.floats(50, 5000),
    st.floats(50, 5000),
)
def test_the_transform_of_any_rotated_rectangle_maps_to_its_corners(lat, lon, angle, wide, high):
    """corner_transform maps (column, row) of each corner of the image to the corner that it was computed from."""
    radius = WORLD_M / (2 * math.pi)
    middle = complex(radius * math.radians(lon), radius * math.asinh(math.tan(math.radians(lat))))
    along, down = wide * complex(math.cos(angle), math.sin(angle)), high * complex(math.sin(angle), -math.cos(angle))
    expected = [middle, middle + along, middle + along + down, middle + down]
    points = [
        (math.degrees(math.atan(math.sinh(corner.imag / radius))), math.degrees(corner.real / radius))
        for corner in expected
    ]
    a, b, c, d, e, f = corner_transform(None, dict(zip(CORNERS, points, strict=True)), 640, 480)[:6]
    for (column, row), corner in zip([(0, 0), (640, 0), (640, 480), (0, 480)], expected, strict=True):
        assert abs(complex(a * column + b * row + c, d * column + e * row + f) - corner) < 1e-3
