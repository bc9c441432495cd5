from __future__ import annotations

import io
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preflight.area.web_mercator import tile_center
from preflight.errors import TileContentError
from preflight.records import TileRow
from preflight.tileset import mapped
from preflight.tileset import resealing as reseal_module
from preflight.tileset.resealing import SealedFiles, reseal
from preflight.tileset.sealing import Companions, seal

THEN = datetime(2025, 6, 1, tzinfo=timezone.utc)
# Only a few tiles, so that changes hit tiles of the old set.
TILES = st.tuples(st.integers(2, 3), st.integers(0, 3), st.integers(0, 3))


@st.composite
def rows(draw):
    zoom, x, y = draw(TILES)
    lat, lon = tile_center(zoom, x, y)
    source = draw(st.sampled_from(["a", "b", "ä", "zz"]))
    captured = THEN + timedelta(seconds=draw(st.integers(-5, 5)))
    return TileRow(
        zoom,
        x,
        y,
        lat,
        lon,
        source,
        draw(st.binary(min_size=32, max_size=32)).hex(),
        draw(st.text("pq/é", max_size=3)),
        captured,
    )


def by_tile(tile_rows):
    return {(row.zoom, row.x, row.y): row for row in tile_rows}


def order(row):
    return row.zoom, row.lat, row.lon, row.source


def sealed(tiles, folder):
    files = SealedFiles(folder / "tiles.inventory", folder / "tiles.lines", folder / "tiles.times")
    with files.inventory.open("wb") as out, files.lines.open("wb") as lines, files.captured.open("wb") as times:
        header = seal(sorted(tiles.values(), key=order), out, Companions(lines, times))
    return files, header


@settings(max_examples=200, deadline=None)
@given(
    st.lists(rows(), min_size=1, max_size=12),
    st.lists(rows(), max_size=5),
    st.lists(TILES, max_size=4),
    st.sampled_from([(1, 1), (2, 150), (5, 1 << 20)]),
)
def test_reseal_writes_the_same_bytes_as_seal(before, replaced, removed, blocks):
    old = by_tile(before)
    changed = {**dict.fromkeys(removed), **by_tile(replaced)}
    new = {tile: row for tile, row in {**old, **changed}.items() if row is not None}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "old").mkdir()
        (folder / "new").mkdir()
        files, _ = sealed(old, folder / "old")
        expected, header = sealed(new, folder / "new")
        out, lines, times = io.BytesIO(), io.BytesIO(), io.BytesIO()
        with pytest.MonkeyPatch.context() as patch:
            # Small blocks of rows and bytes, so that block borders lie everywhere.
            patch.setattr(mapped, "_BLOCK_ROWS", blocks[0])
            patch.setattr(reseal_module, "_BLOCK_BYTES", blocks[1])
            resealed, oldest = reseal(files, changed, out, Companions(lines, times))
        assert resealed == header
        assert out.getvalue() == expected.inventory.read_bytes()
        assert lines.getvalue() == expected.lines.read_bytes()
        assert times.getvalue() == expected.captured.read_bytes()
        earliest = min((row.captured_at for row in new.values()), default=None)
        assert oldest == (None if earliest is None else int(earliest.timestamp() * 1_000_000))


def test_companions_that_do_not_fit_are_refused(tmp_path):
    lat, lon = tile_center(2, 1, 1)
    files, _ = sealed({(2, 1, 1): TileRow(2, 1, 1, lat, lon, "a", "0" * 64, "p", THEN)}, tmp_path)
    files.lines.write_bytes(files.lines.read_bytes() * 2)
    with pytest.raises(TileContentError, match="does not fit"):
        reseal(files, {}, io.BytesIO(), Companions(io.BytesIO(), io.BytesIO()))


def test_two_tiles_with_one_id_are_refused(tmp_path):
    # Two rows have the same id if they claim the same centre.
    lat, lon = tile_center(2, 1, 1)
    files, _ = sealed({(2, 1, 1): TileRow(2, 1, 1, lat, lon, "a", "0" * 64, "p", THEN)}, tmp_path)
    twin = TileRow(2, 1, 1, lat, lon, "b", "1" * 64, "p", THEN)
    with pytest.raises(TileContentError, match="same id"):
        # `changed` names another tile, so the old row stays.
        reseal(files, {(2, 0, 0): twin}, io.BytesIO(), Companions(io.BytesIO(), io.BytesIO()))
