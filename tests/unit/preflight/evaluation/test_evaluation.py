"""The self-test end to end on a small landscape, and its parts on values computed by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preflight.adapters.demo import landscape
from preflight.adapters.demo.weight_free_vpr import CARD, write
from preflight.adapters.images import decode_rgb, thumbnail16, to_batch
from preflight.adapters.onnxruntime.runtime import OnnxRuntime
from preflight.area.web_mercator import tile_at, tile_bounds, tile_center
from preflight.evaluation.backbone_card import card_without_shifts
from preflight.evaluation.baselines import best_per_id, chance_recall, nearest_thumbnails
from preflight.evaluation.metrics import Truth, figures, units_holding
from preflight.evaluation.queries import POSITION_ZOOM, TileTable, draw_queries
from preflight.evaluation.result import Figures, HeadingResult, SelftestResult
from preflight.evaluation.retrieval_quality import evaluate
from preflight.records import Preprocessing

QUERIES = 48


def table_of(tiles, first_id=1000):
    centres = [tile_center(*tile) for tile in tiles]
    columns = [np.array([tile[i] for tile in tiles], dtype=np.int64) for i in range(3)]
    ids = np.arange(first_id, first_id + len(tiles), dtype=np.int64) * np.int64(-1)
    return TileTable(ids, *columns, np.array([c[0] for c in centres]), np.array([c[1] for c in centres]))


@pytest.fixture(scope="module")
def pixels():
    tiles = landscape.generate(11, columns=8, rows=8)
    return {(tile.zoom, tile.x, tile.y): decode_rgb(tile.content) for tile in tiles}


@pytest.fixture(scope="module")
def table(pixels):
    return table_of(sorted(pixels))


@pytest.fixture(scope="module")
def embed(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    write(path)
    with OnnxRuntime(threads=1).reference(path) as engine:
        yield lambda images: engine.run({"image": to_batch(images, Preprocessing())})["descriptor"]


@pytest.fixture(scope="module")
def run(pixels, table, embed):
    from PIL import Image

    small = [np.asarray(Image.fromarray(pixels[key]).resize((224, 224))) for key in sorted(pixels)]
    matrix = np.concatenate([embed(np.stack(small[i : i + 16])) for i in range(0, len(small), 16)])
    thumbs = np.stack([thumbnail16(image) for image in small])

    def run_selftest(order=None, card=CARD, queries=QUERIES):
        ids = table.ids if order is None else table.ids[order]

        def search(vectors, k):
            scores = vectors @ matrix.T
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            return np.take_along_axis(scores, best, axis=1), ids[best]

        return evaluate(
            table,
            table,
            card,
            open_rgb=lambda *tile: pixels.get(tile),
            embed=embed,
            search=search,
            thumbnail=thumbnail16,
            thumbnails=lambda: [(table.ids[:50], thumbs[:50]), (table.ids[50:], thumbs[50:])],
            queries=queries,
            seed=5,
        )

    return run_selftest


@pytest.fixture(scope="module")
def result(run):
    return run()


def test_the_index_beats_chance_and_the_thumbnails(result):
    assert (result.backbone, result.tiles, result.queries, result.shifts) == ("weight_free_vpr", 80, QUERIES, 16)
    known, unknown = result.heading_known, result.heading_unknown
    assert known.index.recall[0] > known.chance.recall[0] + 0.15
    assert unknown.index.recall[0] > unknown.chance.recall[0] + 0.1
    assert result.margin_over_thumbnail > 0.05
    assert known.index.median_error_m < known.chance.median_error_m
    for figures_ in (known.index, known.thumbnail, known.chance, unknown.index):
        assert list(figures_.recall) == sorted(figures_.recall)
        assert 0 < figures_.median_error_m <= figures_.p90_error_m < 2000


def test_searching_all_turns_is_what_finds_unknown_headings(run, result):
    one_turn = run(card=replace(CARD, shift_count=1))
    assert one_turn.heading_known == result.heading_known
    assert one_turn.heading_unknown.index.recall[1] < result.heading_unknown.index.recall[1] - 0.1


def test_an_index_with_shuffled_ids_is_no_better_than_chance(run, result):
    order = np.roll(np.arange(80), 37)
    shuffled = run(order=order)
    assert shuffled.heading_known.index.recall[0] < 0.1
    assert shuffled.heading_known.index.recall[0] < result.heading_known.index.recall[0] - 0.15


def test_equal_runs_give_equal_bytes_that_hold_every_figure(run, result):
    content = run().to_json()
    assert content == result.to_json()
    document = json.loads(content)
    assert set(document["heading_known"]) == {"index", "thumbnail", "chance"}
    assert set(document["heading_unknown"]["index"]) == {"recall", "median_error_m", "p90_error_m"}
    assert set(document["heading_unknown"]["index"]["recall"]) == {"1", "5", "10"}
    assert document["margin_over_thumbnail"] == round(result.margin_over_thumbnail, 4)


def test_no_queries_are_refused(run):
    with pytest.raises(ValueError, match="at least one query, not 0"):
        run(queries=0)


def test_a_position_lies_inside_a_tile_with_all_neighbours(pixels, table):
    for query in draw_queries(table, lambda *tile: pixels.get(tile), 6, seed=9, size=64):
        homes = [
            (zoom, query.column >> (POSITION_ZOOM - zoom), query.row >> (POSITION_ZOOM - zoom)) for zoom in (17, 18)
        ]
        assert any(all((z, x + dx, y + dy) in pixels for dx in (-1, 0, 1) for dy in (-1, 0, 1)) for z, x, y in homes)
        box = tile_bounds(*homes[1])
        assert box.lat_min <= query.lat <= box.lat_max
        assert box.lon_min <= query.lon <= box.lon_max
        assert tile_at(18, query.lat, query.lon) == homes[1][1:]
        assert query.heading_known.shape == query.heading_unknown.shape == (64, 64, 3)
        assert query.heading_known.dtype == np.uint8


def test_a_longer_run_begins_like_a_shorter_one(pixels, table):
    def draw(count):
        return list(islice(draw_queries(table, lambda *tile: pixels.get(tile), count, seed=2, size=32), 2))

    for one, other in zip(draw(2), draw(5), strict=True):
        assert one[:4] == other[:4]
        assert (one.heading_unknown == other.heading_unknown).all()


def test_a_photograph_shows_the_place_it_claims():
    # The colours of this landscape are its coordinates: red grows to the east, green to the south.
    def open_rgb(zoom, x, y):
        line = np.arange(64)
        tile = np.full((64, 64, 3), 100, dtype=np.uint8)
        tile[..., 0] = (x * 64 + line)[None, :]
        tile[..., 1] = (y * 64 + line)[:, None]
        return tile

    table = table_of(
        [(10, x, y) for x in range(4) for y in range(4)]
    )  # only four inner tiles, so queries are drawn from all
    for query in draw_queries(table, open_rgb, 20, seed=1, size=32):
        u, v = query.column / 2 ** (POSITION_ZOOM - 10), query.row / 2 ** (POSITION_ZOOM - 10)
        for shot in (query.heading_known, query.heading_unknown):
            red, green, blue = shot.astype(float).mean(axis=(0, 1))
            # Gain and gamma change all channels alike, tint by a tenth: their order shows the position.
            for level, coordinate in ((red, u * 64), (green, v * 64)):
                if abs(coordinate - 100) > 60:
                    assert (level > blue) == (coordinate > 100)
        east_west = query.heading_known[:, -6:, 0].mean() - query.heading_known[:, :6, 0].mean()
        assert east_west > 0


@pytest.mark.parametrize("tiles", [[(12, 5, 5)], [(12, 5, 5), (12, 6, 5)], [(12, x, 5) for x in range(20)]])
def test_the_footprint_stays_on_tiles_where_neighbours_are_missing(tiles):
    white = np.full((64, 64, 3), 255, dtype=np.uint8)
    table = table_of(tiles)
    for query in draw_queries(table, lambda *_: white, 12, seed=4, size=48):
        for shot in (query.heading_known, query.heading_unknown):
            assert shot.min() > 100  # no black: the footprint never leaves the existing tiles


def test_the_message_names_a_faulty_tile():
    white = np.full((32, 32, 3), 255, dtype=np.uint8)
    table = table_of([(12, x, y) for x in range(3) for y in range(3)])
    with pytest.raises(ValueError, match="12/1/1 is in the table but does not open"):
        list(draw_queries(table, lambda _, x, y: None if (x, y) == (1, 1) else white, 20, seed=1))
    with pytest.raises(ValueError, match="its neighbour"):
        list(draw_queries(table, lambda _, x, y: white[:16, :16] if (x, y) == (1, 1) else white, 20, seed=1))
    with pytest.raises(ValueError, match="no tiles"):
        list(draw_queries(TileTable(*[np.zeros(0, dtype=np.int64)] * 6), lambda *_: white, 1, seed=1))


def cell(zoom, u, v):
    unit = 1 << (POSITION_ZOOM - zoom)
    return int(u * unit), int(v * unit)


def test_a_hit_is_any_tile_that_contains_the_position():
    tiles = [(3, 2, 2), (4, 4, 4), (4, 5, 5), (4, 7, 7)]
    table = table_of(tiles)
    centre = tile_center(4, 4, 4)
    truth = Truth([cell(4, 4.5, 4.5)] * 4, [centre] * 4)
    ids = np.full((4, 10), -1, dtype=np.int64)
    ids[0, 0] = table.ids[1]  # the tile comes first
    ids[1, 0] = table.ids[0]  # its parent comes first
    ids[2, :2] = table.ids[[2, 1]]  # the tile comes second
    ids[3, :6] = table.ids[[3, 2, 3, 2, 3, 1]]  # the tile comes sixth
    got = figures(ids, truth, table)
    assert got.recall == (0.5, 0.75, 1.0)
    assert units_holding(truth, table).tolist() == [2, 2, 2, 2]
    assert got.median_error_m > 0


def test_a_query_without_results_has_an_infinite_error_and_null_in_json():
    table = table_of([(4, 4, 4)])
    got = figures(np.full((2, 10), -1, dtype=np.int64), Truth([cell(4, 4.5, 4.5)] * 2, [(0.0, 0.0)] * 2), table)
    assert got == Figures((0.0, 0.0, 0.0), math.inf, math.inf)
    assert got.as_dict()["median_error_m"] is None
    json.loads(SelftestResult("x", 1, 2, 1, 1, 1, *[HeadingResult(got, got, got)] * 2).to_json())


def test_an_id_of_another_tile_set_is_refused():
    table = table_of([(4, 4, 4), (4, 4, 5)])
    with pytest.raises(ValueError, match="id 77, which does not belong to the tile set"):
        figures(np.full((1, 10), 77, dtype=np.int64), Truth([cell(4, 4, 4)], [(0.0, 0.0)]), table)


def test_the_position_error_is_the_distance_to_the_centre_of_the_first_tile():
    table = table_of([(18, 131072, 131071)])
    box = tile_bounds(18, 131072, 131071)
    ids = np.full((1, 10), table.ids[0], dtype=np.int64)
    edge = (float(table.lats[0]), box.lon_max)
    got = figures(ids, Truth([cell(18, 131072.99, 131071.5)], [edge]), table)
    assert got.median_error_m == pytest.approx(6371008.8 * math.radians(box.lon_max - table.lons[0]), rel=1e-6)


def test_chance_is_drawing_without_replacement():
    assert chance_recall(np.array([1]), 80, 10) == pytest.approx(10 / 80)
    assert chance_recall(np.array([2, 0]), 10, 1) == pytest.approx(0.1)
    assert chance_recall(np.array([1]), 3, 10) == 1.0


def test_the_best_turn_of_each_id_counts():
    ids = np.array([[[1, 2, -1]], [[2, 3, 1]]])
    scores = np.array([[[0.9, 0.2, 0.0]], [[0.95, 0.5, 0.1]]], dtype=np.float32)
    assert best_per_id(scores, ids, 5).tolist() == [[2, 1, 3, -1, -1]]
    assert best_per_id(scores, ids, 2).tolist() == [[2, 1]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.lists(st.integers(0, 30), max_size=4), st.integers(0, 1000))
def test_the_ranking_of_thumbnails_does_not_depend_on_the_chunks(count, k, cuts, seed):
    rng = np.random.default_rng(seed)
    ids = rng.permutation(count).astype(np.int64)
    thumbs = rng.integers(0, 4, (count, 256), dtype=np.uint8)
    thumbs[count // 2] = thumbs[0]  # a tie
    queries = rng.integers(0, 256, (3, 256), dtype=np.uint8)
    queries[0] = thumbs[0] * 3 + 7  # gain and offset do not matter
    borders = [0, *sorted(min(cut, count) for cut in cuts), count]
    chunks = [(ids[a:b], thumbs[a:b]) for a, b in pairwise(borders) if b > a]
    nearest = nearest_thumbnails(queries, chunks, k)
    assert (nearest == nearest_thumbnails(queries, [(ids, thumbs)], k)).all()
    assert nearest[0, 0] in (ids[0], ids[count // 2])
    assert ((nearest == -1).sum(axis=1) == max(0, k - count)).all()


def test_a_uniform_thumbnail_is_accepted():
    blank = np.full((1, 256), 9, dtype=np.uint8)
    assert nearest_thumbnails(blank, [(np.array([4]), blank)], 2).tolist() == [[4, -1]]


def test_a_backbone_without_shifts_is_searched_once(run):
    once = run(card=card_without_shifts("other", CARD.descriptor_dim), queries=4)
    assert (once.backbone, once.shifts) == ("other", 1)
