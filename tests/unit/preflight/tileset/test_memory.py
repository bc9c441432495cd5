"""Memory at a million tiles, measured on fewer: the peak grows by few bytes a tile, and mappings are released."""

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
from preflight.tileset import inventory as inventory_module
from preflight.tileset import mapped, resealing, sealing, tile_lookup

THEN = datetime(2025, 6, 1, tzinfo=timezone.utc)
ZOOM, SIDE = 18, 100
COUNT = SIDE * SIDE


def row(x, y, content="0"):
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    return TileRow(ZOOM, x, y, *tile_center(ZOOM, x, y), "made-up", sha256, f"objects/{sha256}.png", THEN)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A sealed set of SIDE x SIDE tiles, from south to north."""
    folder = tmp_path_factory.mktemp("sealed")
    files = resealing.SealedFiles(folder / "tiles.inventory", folder / "tiles.lines", folder / "tiles.times")
    rows = [row(x, y) for y in range(70_000 + SIDE - 1, 69_999, -1) for x in range(80_000, 80_000 + SIDE)]
    with files.inventory.open("wb") as out, files.lines.open("wb") as lines, files.captured.open("wb") as times:
        sealing.seal(rows, out, sealing.Companions(lines, times))
    return files


@pytest.fixture
def small_blocks(monkeypatch):
    """Make a block small in relation to ten thousand rows, as the real block is to a million."""
    monkeypatch.setattr(mapped, "_BLOCK_ROWS", 64)
    monkeypatch.setattr(resealing, "_BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(tile_lookup, "_BLOCK", 64)


def peak_of(work):
    """Return the peak of the bytes that a call allocates, numpy arrays included."""
    work()  # imports and caches
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_resealing_one_changed_tile_needs_few_bytes_for_each_row(sealed, small_blocks, tmp_path):
    changed = row(80_050, 70_050, "new")

    def work():
        with (tmp_path / "a").open("wb") as out, (tmp_path / "b").open("wb") as lines, (tmp_path / "c").open("wb") as t:
            resealing.reseal(sealed, {(ZOOM, changed.x, changed.y): changed}, out, sealing.Companions(lines, t))

    # A row has 67 bytes, its line 114 and its path 79.
    assert peak_of(work) < 32 * COUNT
    assert (tmp_path / "b").stat().st_size == sealed.lines.stat().st_size
    assert (tmp_path / "b").read_bytes() != sealed.lines.read_bytes()


def test_finding_tiles_needs_less_than_a_number_for_each_row(sealed, small_blocks):
    inventory = inventory_module.Inventory.open(sealed.inventory)
    wanted = [(ZOOM, 80_000, 70_000), (ZOOM, 80_007, 70_099), (ZOOM, 1, 1), (17, 80_000, 70_000)]
    assert resealing.places_of(inventory, wanted) == [7, COUNT - SIDE]
    assert peak_of(lambda: resealing.places_of(inventory, wanted)) < 4 * COUNT


def mapped_bytes(path):
    """Return how many bytes of a mapped file are resident in this process."""
    total, of_file = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            of_file = line.endswith(str(path))
        elif of_file and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def test_copying_columns_releases_the_pages_of_the_file(tmp_path):
    path, count = tmp_path / "tiles.inventory", 50_000
    table = np.zeros(count, inventory_module.row_type())
    table["id"], table["zoom"], table["x"] = np.arange(count), ZOOM, np.arange(count) % 300
    table["sha256"][:, 0] = np.arange(count) % 251
    draft = inventory_module.SealedHeader(count, ("a",), (ZOOM,), "0" * 64, "", 0)
    with path.open("wb") as out:
        sealing.write_inventory(out, draft, [table.tobytes(), bytes(4 * (count + 1))])
    inventory = inventory_module.Inventory.open(path, vouched=True)
    ids, keys = mapped.columns_of(inventory.rows, "id", "sha256")
    assert np.array_equal(ids, table["id"])
    assert np.array_equal(keys, table["sha256"])
    units = Units(inventory.rows, 1)
    assert units.blocks().tolist()[:300:299] == [[ZOOM, 0, 0], [ZOOM, 1, 0]]
    assert sum(len(rows) for _, rows in units.by_block()) == len(units.keys()) == count
    assert mapped_bytes(path) < 1 << 18
    assert int(inventory.rows["id"].sum()) == count * (count - 1) // 2
    assert mapped_bytes(path) > 60 * count


def test_rows_in_memory_are_not_released():
    table = np.zeros(100_000, inventory_module.row_type())
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
def test_keys_are_released_once_their_descriptors_are_located(store, gather):
    keys = np.random.default_rng(1).integers(0, 256, (50, 32), dtype=np.uint8)
    filled(store, keys)
    blocks = np.tile(np.array([ZOOM, 1, 2], np.int32), (50, 1))
    chunks = getattr(store, gather)(blocks, keys, 10)
    references = [weakref.ref(blocks), weakref.ref(keys)]
    del blocks, keys
    assert len(next(chunks)) == 10
    assert [reference() for reference in references] == [None, None]
    assert sum(map(len, chunks)) == 40


def test_keys_with_the_same_first_bytes_are_distinguished(store):
    keys = np.zeros((40, 32), np.uint8)
    keys[:, 31] = np.arange(40)
    keys[20:, 0] = 1
    vectors = filled(store, keys[::2])
    assert store.lookup(Block(ZOOM, 1, 2), keys).tolist() == [True, False] * 20
    blocks = np.tile(np.array([ZOOM, 1, 2]), (20, 1))
    assert np.array_equal(np.concatenate(list(store.gather(blocks, keys[::2]))), vectors)


def test_finding_surrounded_tiles_needs_few_bytes_for_each_tile(small_blocks):
    ys, xs = (grid.ravel() + 1000 for grid in np.indices((SIDE, SIDE)))
    table = tile_lookup.TileLookup(np.full(COUNT, ZOOM), xs, ys)
    inner = table.surrounded()
    assert [table.tile(int(inner[index])) for index in (0, -1)] == [(ZOOM, 1001, 1001), (ZOOM, 1098, 1098)]
    assert len(inner) == (SIDE - 2) ** 2
    assert peak_of(table.surrounded) < 16 * COUNT


def test_the_index_has_the_bytes_that_faiss_writes_for_these_ids(tmp_path):
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
