"""Images of retrieval units: the same call for tiles and for windows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from preflight.stages import unit_images as module
from preflight.stages.unit_images import unit_images
from preflight.stages.units import Units
from preflight.tileset.windows import SealedTiles, cut

SIDE = 8


def tiles():
    """Four tiles, 2 by 2; tile n has the colour 10 n."""
    xs, ys = np.array([4, 5, 4, 5], np.int64), np.array([6, 6, 7, 7], np.int64)
    numbers = np.arange(4)
    return SealedTiles(
        ids=numbers.astype(np.int64),
        zooms=np.full(4, 9, np.int64),
        xs=xs,
        ys=ys,
        lats=60.0 - ys,
        lons=xs * 1.0,
        sha256=np.repeat(numbers.astype(np.uint8), 32).reshape(4, 32),
    )


@pytest.fixture
def read(monkeypatch):
    """The row numbers of the tiles that were read."""
    numbers = []

    def read_tile(inventory, number, pixels, images, size):
        numbers.append(number)
        shape = size or (SIDE, SIDE)
        return np.full((*shape, 3), 10 * number, np.uint8)

    monkeypatch.setattr(module, "read_tile", read_tile)
    monkeypatch.setattr(SealedTiles, "of_inventory", classmethod(lambda cls, inventory: tiles()))
    return numbers


def resize(pixels, shape):
    return pixels if pixels.shape[:2] == shape else pixels[:1, :1].repeat(shape[0], 0).repeat(shape[1], 1)


CODEC = SimpleNamespace(resize=resize)


def test_a_unit_that_is_a_tile_is_read_at_the_models_size(read):
    found = unit_images(Units(np.empty(4), 1), np.array([2, 0]), None, None, CODEC, (3, 5))
    assert found.rows.tolist() == [2, 0]
    assert found.image(0).shape == (3, 5, 3)
    assert (found.image(0) == 20).all()


def test_nothing_is_read_before_the_first_image(read):
    rows = cut(tiles(), 2)
    found = unit_images(Units(rows, 2), np.arange(len(rows)), None, None, CODEC, None)
    assert read == []
    found.image(0)
    assert read == [0]


def test_windows_come_in_the_order_that_reads_each_tile_once(read):
    rows = cut(tiles(), 2)
    wanted = np.arange(len(rows))[::-1]
    found = unit_images(Units(rows, 2), wanted, None, None, CODEC, None)
    for position, row in enumerate(found.rows.tolist()):
        window = found.image(position)
        own = int(rows["x"][row] // 2 - 4 + 2 * (rows["y"][row] // 2 - 6))
        assert (window[0, 0] == 10 * own).all()
    assert sorted(found.rows.tolist()) == sorted(wanted.tolist())
    assert sorted(read) == [0, 1, 2, 3]


def test_a_window_is_resized_to_the_models_size(read):
    rows = cut(tiles(), 2)
    found = unit_images(Units(rows, 2), np.arange(len(rows)), None, None, CODEC, (3, 5))
    assert found.image(0).shape == (3, 5, 3)
