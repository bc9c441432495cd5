"""What a million tiles may take of memory, measured on fewer: the peak grows by few bytes a tile, and maps are let go."""

from __future__ import annotations

import hashlib
import io
import tracemalloc
import weakref
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from preflight.adapters.faiss.index import FaissIndexFactory
from preflight.area.web_mercator import tile_center
from preflight.descriptors.descriptor_store import DescriptorStore
from preflight.descriptors.segment import Block
from preflight.records import IndexParameters, TileRow
from preflight.stages.units import Units
from preflight.store.atomic import atomic_write
from preflight.tileset import inventory as tileset
from preflight.tileset import mapped, sealing
from preflight.tileset import resealing as reseal
from preflight.tileset import tile_lookup as places

THEN = datetime(2025, 6, 1, tzinfo=timezone.utc)
ZOOM, SIDE = 18, 100
COUNT = SIDE * SIDE


def row(x, y, content="0"):
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    return TileRow(ZOOM, x, y, *tile_center(ZOOM, x, y), "made-up", sha256, f"objects/{sha256}.png", THEN)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A block of SIDE x SIDE tiles, sealed, southernmost first."""
    folder = tmp_path_factory.mktemp("sealed")
    files = reseal.SealedFiles(folder / "tiles.inventory", folder / "tiles.lines", folder / "tiles.times")
    rows = [row(x, y) for y in range(70_000 + SIDE - 1, 69_999, -1) for x in range(80_000, 80_000 + SIDE)]
    with files.inventory.open("wb") as out, files.lines.open("wb") as lines, files.captured.open("wb") as times:
        sealing.seal(rows, out, sealing.Companions(lines, times))
    return files


@pytest.fixture
def small_blocks(monkeypatch):
    """So that a block is small beside ten thousand rows, as it is beside a million."""
    monkeypatch.setattr(mapped, "_BLOCK_ROWS", 64)
    monkeypatch.setattr(reseal, "_BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(places, "_BLOCK", 64)


def peak_of(work):
    """Bytes allocated at the peak of a call; numpy's arrays are counted."""
    work()  # imports and caches
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_sealing_one_changed_tile_takes_few_bytes_a_row(sealed, small_blocks, tmp_path):
    changed = row(80_050, 70_050, "new")

    def work():
        with (tmp_path / "a").open("wb") as out, (tmp_path / "b").open("wb") as lines, (tmp_path / "c").open("wb") as t:
            reseal.reseal(sealed, {(ZOOM, changed.x, changed.y): changed}, out, sealing.Companions(lines, t))

    # A row is 67 bytes, its line 114, its path 79.
    assert peak_of(work) < 32 * COUNT
    assert (tmp_path / "b").stat().st_size == sealed.lines.stat().st_size
    assert (tmp_path / "b").read_bytes() != sealed.lines.read_bytes()


def test_tiles_are_found_without_a_number_for_each(sealed, small_blocks):
    inventory = tileset.Inventory.open(sealed.inventory)
    wanted = [(ZOOM, 80_000, 70_000), (ZOOM, 80_007, 70_099), (ZOOM, 1, 1), (17, 80_000, 70_000)]
    assert reseal.places_of(inventory, wanted) == [7, COUNT - SIDE]
    assert peak_of(lambda: reseal.places_of(inventory, wanted)) < 4 * COUNT


def mapped_bytes(path):
    """How much of a file this process has mapped and looked at."""
    total, here = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            here = line.endswith(str(path))
        elif here and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def test_columns_leave_nothing_of_the_file_mapped(tmp_path):
    path, count = tmp_path / "tiles.inventory", 50_000
    table = np.zeros(count, tileset.row_type())
    table["id"], table["zoom"], table["x"] = np.arange(count), ZOOM, np.arange(count) % 300
    table["sha256"][:, 0] = np.arange(count) % 251
    draft = tileset.SealedHeader(count, ("a",), (ZOOM,), "0" * 64, "", 0)
    with path.open("wb") as out:
        sealing.write_inventory(out, draft, [table.tobytes(), bytes(4 * (count + 1))])
    inventory = tileset.Inventory.open(path, vouched=True)
    ids, keys = mapped.columns_of(inventory.rows, "id", "sha256")
    assert np.array_equal(ids, table["id"])
    assert np.array_equal(keys, table["sha256"])
    units = Units(inventory.rows, 1)
    assert units.blocks().tolist()[:300:299] == [[ZOOM, 0, 0], [ZOOM, 1, 0]]
    assert sum(len(rows) for _, rows in units.by_block()) == len(units.keys()) == count
    assert mapped_bytes(path) < 1 << 18
    assert int(inventory.rows["id"].sum()) == count * (count - 1) // 2
    assert mapped_bytes(path) > 60 * count


def test_rows_in_memory_are_left_as_they_are():
    table = np.zeros(100_000, tileset.row_type())
    table["x"] = 7
    (xs,) = mapped.columns_of(table, "x")
    assert (xs == 7).all()
    assert (table["x"] == 7).all()


@pytest.fixture
def store(tmp_path):
    return DescriptorStore(tmp_path, "ab" * 32, 4, atomic_write)


def filled(store, keys):
    vectors = np.arange(4 * len(keys), dtype=np.float32).reshape(-1, 4)
    store.append(Block(ZOOM, 1, 2), keys, np.zeros((len(keys), 256), np.uint8), vectors)
    return vectors


@pytest.mark.parametrize("gather", ["gather", "gather_thumbs"])
def test_keys_are_let_go_once_their_descriptors_are_found(store, gather):
    keys = np.random.default_rng(1).integers(0, 256, (50, 32), dtype=np.uint8)
    filled(store, keys)
    blocks = np.tile(np.array([ZOOM, 1, 2], np.int32), (50, 1))
    chunks = getattr(store, gather)(blocks, keys, 10)
    gone = [weakref.ref(blocks), weakref.ref(keys)]
    del blocks, keys
    assert len(next(chunks)) == 10
    assert [ref() for ref in gone] == [None, None]
    assert sum(map(len, chunks)) == 40


def test_keys_that_begin_alike_are_told_apart(store):
    keys = np.zeros((40, 32), np.uint8)
    keys[:, 31] = np.arange(40)
    keys[20:, 0] = 1
    vectors = filled(store, keys[::2])
    assert store.lookup(Block(ZOOM, 1, 2), keys).tolist() == [True, False] * 20
    blocks = np.tile(np.array([ZOOM, 1, 2]), (20, 1))
    assert np.array_equal(np.concatenate(list(store.gather(blocks, keys[::2]))), vectors)


def test_neighbours_are_counted_without_a_dozen_numbers_a_tile(small_blocks):
    ys, xs = (grid.ravel() + 1000 for grid in np.indices((SIDE, SIDE)))
    table = places.TileLookup(np.full(COUNT, ZOOM), xs, ys)
    inner = table.surrounded()
    assert [table.tile(int(inner[at])) for at in (0, -1)] == [(ZOOM, 1001, 1001), (ZOOM, 1098, 1098)]
    assert len(inner) == (SIDE - 2) ** 2
    assert peak_of(table.surrounded) < 16 * COUNT


def test_an_index_is_what_faiss_itself_would_write_with_these_ids(tmp_path):
    random = np.random.default_rng(3)
    vectors = random.normal(size=(500, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = random.integers(-(1 << 62), 1 << 62, 500)
    factory = FaissIndexFactory()
    factory.build(ids, [vectors], 8, IndexParameters(m=4, ef_construction=8, ef_search=8), tmp_path / "ours")
    faiss = factory._library()
    graph = faiss.IndexHNSWFlat(8, 4, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = graph.hnsw.efSearch = 8
    index = faiss.IndexIDMap2(graph)
    index.add_with_ids(vectors, ids)
    written = io.BytesIO()
    faiss.write_index(index, faiss.PyCallbackIOWriter(written.write))
    assert (tmp_path / "ours").read_bytes() == written.getvalue()
