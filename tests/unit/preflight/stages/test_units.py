"""Units by the blocks of the descriptor store: tiles and windows alike."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from preflight.area.web_mercator import tile_center
from preflight.records import TileRow
from preflight.stages.units import Units
from preflight.tileset.windows import SealedTiles, cut

TILES = [(12, x, y) for x in (255, 256, 257) for y in (511, 512)] + [(11, 255, 511)]


def units_of(steps):
    rows = [
        TileRow(*tile, *tile_center(*tile), "a", hashlib.sha256(repr(tile).encode()).hexdigest(), "p", None)
        for tile in TILES
    ]
    return Units(cut(SealedTiles.of_rows(rows), steps), steps)


def test_blocks_hold_every_tile_once():
    units = units_of(1)
    blocks = list(units.by_block())
    assert [(*block, len(rows)) for block, rows in blocks] == [
        (11, 0, 1, 1),
        (12, 0, 1, 1),
        (12, 0, 2, 1),
        (12, 1, 1, 2),
        (12, 1, 2, 2),
    ]
    assert sorted(np.concatenate([rows for _, rows in blocks]).tolist()) == list(range(len(TILES)))


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_unit_lies_in_the_block_of_its_north_western_tile(steps):
    units = units_of(steps)
    found = 0
    for block, rows in units.by_block():
        inside = units.rows[rows]
        assert set(inside["zoom"]) == {block.zoom}
        assert set(inside["x"] // steps // 256) == {block.x}
        assert set(inside["y"] // steps // 256) == {block.y}
        assert rows.tolist() == sorted(rows.tolist())
        found += len(rows)
    assert found == len(units.rows)


def test_no_units_have_no_blocks():
    units = units_of(2)
    assert list(Units(units.rows[:0], 2).by_block()) == []


def test_a_tile_and_the_window_that_is_it_are_kept_under_one_key():
    tiles, windows = units_of(1), units_of(4)

    def places(units):
        return {
            (int(row["zoom"]), int(row["x"]) * 4 // units.steps, int(row["y"]) * 4 // units.steps): bytes(key)
            for row, key in zip(units.rows, units.keys(), strict=True)
        }

    assert places(tiles).items() <= places(windows).items()
