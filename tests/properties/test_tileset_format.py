from __future__ import annotations

import hashlib
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from preflight.area.web_mercator import MAX_ZOOM, tile_center
from preflight.records import TileRow
from preflight.tileset.inventory import Inventory, read_header, tile_id
from preflight.tileset.sealing import seal
from preflight.tileset.source_choice import choose_sources

THEN = datetime(2025, 6, 1, tzinfo=timezone.utc)


@st.composite
def rows(draw):
    zoom = draw(st.integers(0, MAX_ZOOM))
    x, y = draw(st.integers(0, 2**zoom - 1)), draw(st.integers(0, 2**zoom - 1))
    lat, lon = tile_center(zoom, x, y)
    source = draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=5))
    sha256 = draw(st.binary(min_size=32, max_size=32)).hex()
    return TileRow(zoom, x, y, lat, lon, source, sha256, draw(st.text(st.characters(codec="utf-8"), max_size=9)), THEN)


def order(row):
    return row.zoom, row.lat, row.lon, row.source


@settings(max_examples=50, deadline=None)
@given(st.lists(rows(), max_size=20))
def test_an_inventory_returns_what_was_sealed(stored):
    chosen = list(choose_sources(sorted({order(one): one for one in stored}.values(), key=order), ["x"]))
    assert {(one.zoom, one.x, one.y) for one in chosen} == {(one.zoom, one.x, one.y) for one in stored}
    assert len({(one.zoom, one.x, one.y) for one in chosen}) == len(chosen)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tiles.inventory")
        with path.open("wb") as out:
            header = seal(chosen, out)
        assert read_header(path) == header
        inventory = Inventory.open(path)
        lines = []
        for index, one in enumerate(chosen):
            record = inventory.rows[index]
            assert (record["zoom"], record["x"], record["y"], record["lat"], record["lon"]) == (
                one.zoom,
                one.x,
                one.y,
                one.lat,
                one.lon,
            )
            assert record["id"] == tile_id(one.zoom, one.lat, one.lon)
            assert (inventory.path(index), inventory.source(index), inventory.sha256(index)) == (
                one.path,
                one.source,
                one.sha256,
            )
            lines.append(f"{one.zoom}|{one.lat!r}|{one.lon!r}|{one.source}|{one.sha256}\n")
        assert header.aggregate == hashlib.sha256("".join(lines).encode()).hexdigest()
        assert inventory.header == header
        del inventory
