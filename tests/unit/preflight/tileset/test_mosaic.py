"""Windows cut from decoded tiles: the right pixels, each tile decoded once, one row of tiles in memory."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from preflight.adapters.images import resize
from preflight.area.web_mercator import tile_center
from preflight.records import TileRow
from preflight.tileset.mosaic import Mosaic, window_mosaic
from preflight.tileset.windows import SealedTiles, cut

ZOOM, X, Y = 18, 154804, 130807


def scene(columns, rows, side=16):
    """A picture, its tiles, and the table that names them."""
    picture = np.random.default_rng(3).integers(0, 256, (rows * side, columns * side, 3), np.uint8)
    places = [(i, j) for j in range(rows) for i in range(columns)]
    tiles = [picture[j * side : (j + 1) * side, i * side : (i + 1) * side] for i, j in places]
    table = SealedTiles.of_rows(
        TileRow(
            ZOOM,
            X + i,
            Y + j,
            *tile_center(ZOOM, X + i, Y + j),
            "a",
            hashlib.sha256(bytes([i, j])).hexdigest(),
            "p",
            None,
        )
        for i, j in places
    )
    return picture, tiles, table


def mosaic_of(table, rows, steps, read):
    """The windows in the order in which the mosaic cuts them, and the mosaic."""
    order, mosaic = window_mosaic(table, rows, steps, read, resize)
    return rows[order], mosaic


@pytest.mark.parametrize("steps", [2, 4])
def test_a_window_shows_what_the_picture_shows_there(steps):
    picture, tiles, table = scene(4, 3)
    rows, mosaic = mosaic_of(table, cut(table, steps), steps, tiles.__getitem__)
    for place, window in enumerate(rows):
        x, y = (int(window["x"]) - X * steps) * 16 // steps, (int(window["y"]) - Y * steps) * 16 // steps
        assert (mosaic.window(place) == picture[y : y + 16, x : x + 16]).all()


def test_each_tile_is_read_once_and_one_row_is_held():
    _, tiles, table = scene(9, 6)
    read, most = [], 0

    def count(number):
        read.append(number)
        return tiles[number]

    rows, mosaic = mosaic_of(table, cut(table, 4), 4, count)
    for place in range(len(rows)):
        mosaic.window(place)
        most = max(most, mosaic.held)
    assert sorted(read) == list(range(54))
    assert most <= 9 + 2
    assert mosaic.held == 0


def test_only_the_tiles_under_the_windows_asked_for_are_read():
    _, tiles, table = scene(5, 5)
    read = []

    def count(number):
        read.append(number)
        return tiles[number]

    rows, mosaic = mosaic_of(table, cut(table, 4, [(ZOOM, X + 2, Y + 2)]), 4, count)
    for place in range(len(rows)):
        mosaic.window(place)
    assert len(rows) == 49
    assert sorted(read) == [6, 7, 8, 11, 12, 13, 16, 17, 18]


def test_tiles_of_two_sizes_meet_at_the_larger():
    small, large = np.full((8, 8, 3), 10, np.uint8), np.full((16, 16, 3), 200, np.uint8)
    mosaic = Mosaic(np.array([[0, 1, -1, -1]], np.int32), np.array([[1, 0]]), 2, [small, large].__getitem__, resize)
    window = mosaic.window(0)
    assert window.shape == (16, 16, 3)
    assert (window[:, :8] == 10).all()
    assert (window[:, 8:] == 200).all()


def test_what_reading_raises_reaches_the_caller():
    def broken(_):
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        Mosaic(np.array([[0, -1, -1, -1]], np.int32), np.zeros((1, 2), np.int64), 2, broken, resize).window(0)
