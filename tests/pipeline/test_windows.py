"""Real builds with overlapping windows: what is embedded, what is rebuilt, and what a flight finds in the cache."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from datetime import datetime, timezone

import numpy as np
import pytest

from preflight import wiring
from preflight.adapters.demo import landscape
from preflight.adapters.faiss.index import FaissIndexFactory
from preflight.adapters.images import decode_rgb, resize
from preflight.area.web_mercator import tile_center
from preflight.mission.loading import load_mission
from preflight.stages import unit_images
from preflight.tile_import.importing import import_tiles
from preflight.tile_import.source import OfferedTile
from preflight.tileset.inventory import Inventory, tile_id
from preflight.tileset.windows import Windows

# 4 x 4 tiles at one zoom and 2 x 2 tiles at the zoom below it. This gives inner tiles, and windows over each border.
COLUMNS, ROWS, TILES = 4, 4, 16 + 4
HALF, QUARTER = 7 * 7 + 3 * 3, 13 * 13 + 5 * 5


@pytest.fixture(scope="module")
def landscape_tiles():
    return list(landscape.generate(7, columns=COLUMNS, rows=ROWS))


@pytest.fixture(scope="module")
def unbuilt(place_over, landscape_tiles):
    """Replaces the mission that the other test files share by a smaller one, because each tile has many windows."""
    return place_over("unbuilt-windows", landscape_tiles)


@pytest.fixture(scope="module")
def first(unbuilt, copy_whole):
    """The same mission, built without overlap."""
    place = copy_whole(unbuilt, "built-windows")
    done = place.provision_json()
    assert done.status == 0, done.said
    return place, done


@pytest.fixture(scope="module")
def host():
    return wiring.Surroundings.real().host


@pytest.fixture
def build(host, caplog):
    """build(place): run a provision through the API in this process. Returns its report and the steps that ran."""

    def provision(place):
        caplog.clear()
        surroundings = wiring.Surroundings(wiring.wall_clock, {}, host)
        assembly = wiring.assemble(load_mission(place.mission, {}), surroundings, wiring.Options())
        with caplog.at_level(logging.DEBUG, logger="c10_provisioning"):
            report = assembly.session().build()
        ran = [record.fields["step"] for record in caplog.records if getattr(record, "event", "") == "c10.step.start"]
        return report, ran

    return provision


def overlap(place, share):
    def change(mission):
        mission["components"]["c10_provisioning"]["descriptors"]["overlap"] = share

    place.edit(change)


def replace_tile(place, tile, content):
    access = place.tiles()
    try:
        import_tiles(
            [OfferedTile(tile.zoom, tile.x, tile.y, content, ".jpg")],
            source="small-landscape",
            captured_at=datetime.now(timezone.utc),
            metadata=access.metadata(),
            pixels=access.pixels(),
            check_image=wiring.check_image,
            clock=wiring.wall_clock,
            replace=True,
        )
    finally:
        access.close()


def test_every_window_is_embedded_once_and_from_the_right_pixels(built, build, landscape_tiles, monkeypatch):
    decoded = Counter()
    plain = unit_images.read_tile

    def counted(inventory, number, *others):
        decoded[number] += 1
        return plain(inventory, number, *others)

    monkeypatch.setattr(unit_images, "read_tile", counted)
    overlap(built, 0.5)
    report, ran = build(built)
    # The windows that are whole tiles were embedded before, without overlap.
    assert (report.outcome, report.descriptors_generated) == ("success", HALF - TILES)
    assert ran == ["windows", "descriptors", "index", "selftest", "corpus", "manifest", "publish"]
    assert len(decoded) == TILES
    assert set(decoded.values()) == {1}

    windows = Windows.open(built.current / "windows.inventory")
    assert len(windows) == HALF
    assert windows.tiles == Inventory.open(built.current / "tiles.inventory").header.aggregate
    corpus = json.loads((built.current / "corpus.json").read_bytes())
    assert corpus["units"] == {"file": "windows.inventory", "overlap": 0.5}
    assert "windows.inventory" in {subject["name"] for subject in built.manifest["subject"]}
    assert built.takeoff().status == 0
    assert build(built)[0].outcome == "idempotent_no_op"

    picture = {(tile.zoom, tile.x, tile.y): decode_rgb(tile.content) for tile in landscape_tiles}
    index = FaissIndexFactory().open(built.current / "descriptors.faiss")
    for row in windows.rows[[5, 20, 50]]:
        zoom, x, y = (int(row[name]) for name in ("zoom", "x", "y"))
        canvas = np.zeros((512, 512, 3), np.uint8)
        for i, j in np.ndindex(2, 2):
            tile = picture.get((zoom, x // 2 + i, y // 2 + j))
            if tile is not None:
                canvas[j * 256 : (j + 1) * 256, i * 256 : (i + 1) * 256] = tile
        right, down = x % 2 * 128, y % 2 * 128
        image = resize(canvas[down : down + 256, right : right + 256], (224, 224))
        _, ids = index.search(embed(built, image), 1)
        assert ids[0, 0] == row["id"] == tile_id(zoom, float(row["lat"]), float(row["lon"]))


def embed(place, image):
    """Return the descriptor of an image, computed with the engine of the build."""
    surroundings = wiring.Surroundings.real()
    assembly = wiring.assemble(load_mission(place.mission, {}), surroundings, wiring.Options())
    spec = assembly.job.descriptor
    path = place.work / "engines" / str(assembly.compiler.name(spec))
    pixels = wiring.image_codec().to_batch(np.stack([image] * 16), spec.preprocessing)
    with assembly.compiler.load(spec, path) as engine:
        return next(iter(engine.run({"image": pixels}).values()))[:1]


def test_one_changed_tile_embeds_exactly_the_windows_that_touch_it(whole, build, landscape_tiles):
    overlap(whole, 0.75)
    assert build(whole)[0].descriptors_generated == QUARTER - TILES
    inner = sorted({(tile.x, tile.y) for tile in landscape_tiles if tile.zoom == 18})[ROWS + 2]
    tile = next(tile for tile in landscape_tiles if tile.zoom == 18 and (tile.x, tile.y) == inner)
    other = next(tile for tile in landscape_tiles if tile.zoom == 17)
    replace_tile(whole, tile, other.content)
    plan = json.loads(whole.doit("plan", "log=json").out)
    assert (plan["tiles_present"], plan["units"], plan["units_to_embed"]) == (TILES, QUARTER, 49)
    report, ran = build(whole)
    assert report.descriptors_generated == 7 * 7
    assert ran[:3] == ["tiles", "windows", "descriptors"]
    assert "index" in ran


def test_a_plan_counts_the_windows_to_embed_after_tiles_and_overlap_changed(whole, build, landscape_tiles):
    overlap(whole, 0.5)
    # Two neighbours get the same image. A window that covers exactly one of them is embedded once.
    zoomed = sorted((tile for tile in landscape_tiles if tile.zoom == 18), key=lambda tile: (tile.y, tile.x))
    for tile in zoomed[3:5]:
        replace_tile(whole, tile, landscape_tiles[0].content + b"0")
    plan = json.loads(whole.doit("plan", "log=json").out)
    assert plan["units_to_embed"] == HALF - TILES + 1
    assert build(whole)[0].descriptors_generated == HALF - TILES + 1


def test_a_plan_counts_what_a_stopped_build_sealed_but_did_not_embed(whole, build, landscape_tiles):
    replace_tile(whole, landscape_tiles[3], landscape_tiles[0].content + b"0")
    surroundings = wiring.Surroundings(wiring.wall_clock, {}, wiring.Surroundings.real().host)
    session = wiring.assemble(load_mission(whole.mission, {}), surroundings, wiring.Options()).session()
    try:
        session.begin()
        session.run("tiles")
    finally:
        session.close()
    replace_tile(whole, landscape_tiles[4], landscape_tiles[0].content + b"1")
    plan = json.loads(whole.doit("plan", "log=json").out)
    assert plan["units_to_embed"] == 2
    assert build(whole)[0].descriptors_generated == 2


def test_a_smaller_overlap_embeds_nothing(built, build):
    overlap(built, 0.5)
    build(built)
    overlap(built, 0.75)
    # Every window of overlap 0.5 is also a window of overlap 0.75.
    assert build(built)[0].descriptors_generated == QUARTER - HALF
    overlap(built, 0.0)
    report, ran = build(built)
    assert report.descriptors_generated == 0
    assert "windows" not in ran
    assert not (built.current / "windows.inventory").exists()


def test_the_bytes_do_not_depend_on_history(built, fresh, build):
    """Raising the overlap in two steps gives the same files as building with 0.75 at once."""
    overlap(built, 0.5)
    build(built)
    overlap(built, 0.75)
    build(built)
    overlap(fresh, 0.75)
    build(fresh)
    for name in ("windows.inventory", "descriptors.faiss", "selftest.json", "corpus.json"):
        one, other = ((place.current / name).read_bytes() for place in (built, fresh))
        assert hashlib.sha256(one).digest() == hashlib.sha256(other).digest(), name


def test_overlap_improves_the_retrieval(built, build):
    before = json.loads((built.current / "selftest.json").read_bytes())
    overlap(built, 0.75)
    build(built)
    after = json.loads((built.current / "selftest.json").read_bytes())
    assert (before["tiles"], before["units"], after["tiles"], after["units"]) == (TILES, TILES, TILES, QUARTER)
    assert after["heading_known"]["index"]["median_error_m"] < before["heading_known"]["index"]["median_error_m"]
    assert after["heading_known"]["index"]["recall"]["1"] >= before["heading_known"]["index"]["recall"]["1"]


def test_a_window_has_the_position_of_its_centre(built, build):
    overlap(built, 0.5)
    build(built)
    rows = Windows.open(built.current / "windows.inventory").rows
    whole = rows[(rows["x"] % 2 == 0) & (rows["y"] % 2 == 0)]
    for row in whole[:5]:
        centre = tile_center(int(row["zoom"]), int(row["x"]) // 2, int(row["y"]) // 2)
        assert (float(row["lat"]), float(row["lon"])) == pytest.approx(centre, abs=1e-9)


def test_an_invalid_overlap_is_refused_before_anything_is_written(built):
    overlap(built, 0.6)
    done = built.provision()
    assert done.status == 1
    assert "components.c10_provisioning.descriptors.overlap: 0.6 is none of 0, 0.5, 0.75" in done.sentences
