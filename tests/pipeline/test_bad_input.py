"""Each fault of the input gives one clear message, status 1 and no traceback, and leaves `current` unchanged."""

from __future__ import annotations

import os
import shutil
import sqlite3
from datetime import datetime, timezone
from hashlib import sha256

import pytest

from preflight.adapters.demo import weight_free_vpr
from preflight.area.web_mercator import tile_center
from preflight.records import TileRow


def config(mission):
    return mission["components"]["c10_provisioning"]


def refusing(place, python_outside):
    link = place.current.readlink()
    names = sorted(path.name for path in (place.cache / "gen").iterdir())

    def check(*parts, prefix=()):
        done = python_outside([*prefix, *place.command("provision")])
        assert done.status == 1, done.said
        for part in parts:
            assert part in done.sentences
        assert "Traceback" not in done.said
        assert "Error:" not in done.said
        assert place.current.readlink() == link
        assert sorted(path.name for path in (place.cache / "gen").iterdir()) == names
        assert place.takeoff().status == 0
        assert place.servers() == []
        return done

    return check


@pytest.fixture
def refuses(built, python_outside):
    """refuses(parts...): provision fails, its message contains all the parts, and the cache is unchanged."""
    return refusing(built, python_outside)


@pytest.fixture
def whole_refuses(whole, python_outside):
    """The same for a copy with its own tile store."""
    return refusing(whole, python_outside)


def test_no_tiles_in_the_area(built, refuses):
    box = {"lat_min": 0.348, "lon_min": 32.589, "lat_max": 0.349, "lon_max": 32.590}
    built.edit(lambda mission: mission.update(area={"bbox": box}, takeoff_origin=None))
    refuses("none of the 6 tiles", "area lat 0.348", "zoom 17, 18", "C11 TileDownloader", "doit import")
    assert built.report["outcome"] == "failure"
    assert "TileDownloader" in built.report["failure_reason"]


def test_more_missing_than_allowed(built, refuses):
    def widen(mission):
        # One more row of tiles in the north: 8 at zoom 18, and the 4 at zoom 17 that contain them.
        mission["area"]["bbox"]["lat_max"] += 0.0005
        mission["area"]["allow_missing"] = 0.1

    built.edit(widen)
    refuses("12 of 92 tiles", "area lat 45.99", "zoom 17, 18", "C11 TileDownloader", "doit import")


def test_as_many_missing_as_allowed(built):
    def widen(mission):
        mission["area"]["bbox"]["lat_max"] += 0.0005
        mission["area"]["allow_missing"] = 0.2

    built.edit(widen)
    done = built.provision_json()
    assert done.status == 0, done.said
    corpus = built.manifest["predicate"]["identity"]["corpus"]
    assert corpus["missing"] == 12
    assert corpus["tile_count"] == 80
    assert built.report["descriptors_generated"] == 0
    assert built.doit("verify").status == 0


def test_every_fault_of_a_mission_is_shown_at_once(built, refuses):
    def spoil(mission):
        mission["calibration"] = "no-such-camera.json"
        mission["zoom_levels"] = [17, "eighteen"]
        mission["colour"] = "blue"
        config(mission)["index"] = {"m": 0, "efsearch": 3}

    built.edit(spoil)
    index = "components.c10_provisioning.index"
    refuses(str(built.mission), "zoom_levels[1]", "colour: unknown key", f"{index}.m", f"{index}.efsearch: unknown key")
    built.edit(lambda mission: mission.update(zoom_levels=[17, 18], colour=None))
    built.edit(lambda mission: (mission.pop("colour"), config(mission).pop("index")))
    built.edit(lambda mission: config(mission)["backbones"][0].update(onnx_path="gone.onnx"))
    refuses("calibration", "no-such-camera.json", "backbones[0].onnx_path", "gone.onnx")


def test_a_mission_that_is_not_yaml(built, refuses):
    built.mission.write_text("version: 1\ncache_root: [\n")
    refuses("line ", str(built.mission))


def test_a_mission_that_does_not_exist(built, refuses):
    built.mission.unlink()
    refuses(str(built.mission), "does not exist")


@pytest.mark.parametrize(
    "task", ["tiles", "engine", "descriptors", "index", "selftest", "manifest", "publish", "verify"]
)
def test_every_task_refuses_a_broken_mission(room, python_outside, unbuilt, task):
    broken = room / "broken.yaml"
    broken.write_text("version: 2\n")
    done = python_outside([*unbuilt.command(task)[:-1], f"mission={broken}"])
    assert done.status == 1
    assert "version" in done.sentences
    assert "Traceback" not in done.said


def test_verify_needs_nothing_that_only_building_needs(built):
    """The models, the calibration and the tiles are not on this machine, and the mission was edited after the build."""
    built.edit(lambda mission: mission["components"].update(c10_provisioning={}))
    built.edit(lambda mission: mission.update(calibration="not/there.json", zoom_levels=[]))
    assert built.doit("provision").status == 1
    verified = built.doit("verify")
    assert verified.status == 0, verified.said
    built.edit(lambda mission: mission.update(trsut="elsewhere"))
    refused = built.doit("verify")
    assert refused.status == 1
    assert "trsut: unknown key" in refused.sentences


@pytest.mark.parametrize("content", ["version: 2\n", "{{{", None])
def test_list_works_beside_a_broken_mission(room, python_outside, unbuilt, content):
    broken = room / "broken.yaml"
    broken.unlink(missing_ok=True)
    if content is not None:
        broken.write_text(content)
    for arguments in (["list"], ["list", "--all", "--deps"], ["help"], ["help", "test"]):
        done = python_outside([*unbuilt.command(*arguments)[:-1], f"mission={broken}"])
        assert done.status == 0, done.said
        assert "Traceback" not in done.said
    status = python_outside([*unbuilt.command("status")[:-1], f"mission={broken}"])
    assert status.status == 1
    assert "Traceback" not in status.said


def test_a_tile_with_another_hash_than_the_recorded_one(whole, whole_refuses):
    _embed_again(whole)
    path = next(iter(sorted((whole.folder / "tiles" / "objects").rglob("*.jpg"))))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)
    whole_refuses("tile 1", path.name, "small-landscape", "doit import")


def test_a_missing_tile_file(whole, whole_refuses):
    _embed_again(whole)
    path = next(iter(sorted((whole.folder / "tiles" / "objects").rglob("*.jpg"))))
    path.unlink()
    whole_refuses("tile 1", path.name, "doit import")


def _embed_again(place):
    place.edit(lambda mission: config(mission).update(descriptors={"batch_size": 8}))


def test_a_truncated_image_recorded_with_its_own_hash(whole, whole_refuses, landscape_tiles):
    tile = landscape_tiles[0]
    content = tile.content[: len(tile.content) // 2]
    digest = sha256(content).hexdigest()
    tiles = whole.tiles()
    try:
        path, _ = tiles.pixels().put(content, digest, ".jpg")
        row = TileRow(
            tile.zoom,
            tile.x,
            tile.y,
            *tile_center(tile.zoom, tile.x, tile.y),
            "small-landscape",
            digest,
            path,
            datetime.now(timezone.utc),
        )
        assert tiles.metadata().upsert([row], replace=True) == 1
    finally:
        tiles.close()
    whole_refuses(f"tile {tile.zoom}/{tile.x}/{tile.y}", "small-landscape", "doit import")


def test_truncated_images_are_not_imported(whole, landscape_tiles, tmp_path):
    tile = landscape_tiles[0]
    folder = tmp_path / str(tile.zoom) / str(tile.x)
    folder.mkdir(parents=True)
    (folder / f"{tile.y}.jpg").write_bytes(tile.content[:-200])
    done = whole.doit("import", str(tmp_path), "--source=small-landscape", "--update")
    assert done.status == 1
    assert f"{tile.zoom}/{tile.x}/{tile.y}" in done.sentences
    assert "Traceback" not in done.said


@pytest.mark.parametrize(
    "arguments",
    [
        ["import"],
        ["import", "demo", "demo"],
        ["import", "no-such-folder"],
        ["import", ".", "--captured-at=yesterday"],
        ["import", "demo", "--captured-at=2026-05-01"],
        ["import", "demo", "--sauce=x"],
    ],
    ids=["nothing", "two", "absent", "date", "demo", "option"],
)
def test_invalid_arguments_of_import(fresh, arguments):
    done = fresh.doit(*arguments)
    assert done.status == 1
    assert "doit import failed: " in done.err
    assert "Traceback" not in done.said


def _own_model(place, **changes):
    weight_free_vpr.write(place.folder / "own.onnx")
    place.edit(lambda mission: config(mission)["backbones"][0].update(onnx_path="own.onnx", **changes))


def test_an_onnx_that_does_not_load(built, refuses):
    _own_model(built)
    (built.folder / "own.onnx").write_bytes(b"this is no protobuf" * 10)
    refuses("own.onnx", "engine:weight_free_vpr")


def test_a_truncated_onnx(built, refuses):
    _own_model(built)
    path = built.folder / "own.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    refuses("own.onnx", "engine:weight_free_vpr")


def test_another_input_name(built, refuses):
    _own_model(built, input_name="picture")
    refuses("own.onnx", "picture", "image", "engine:weight_free_vpr")


def test_another_input_shape(built, refuses):
    _own_model(built, expected_input_shape=[1, 3, 192, 192])
    refuses("own.onnx", "192", "224", "engine:weight_free_vpr")


def test_the_same_model_as_a_file_builds(built):
    _own_model(built)
    assert built.provision().status == 0
    assert built.doit("verify").status == 0


def test_a_precision_the_runtime_does_not_have(built, refuses):
    built.edit(lambda mission: config(mission).update(runtime="onnxruntime"))
    built.edit(lambda mission: config(mission)["backbones"][0].update(precision="bf16"))
    refuses("backbones[0].precision", "onnxruntime builds fp32 and int8 engines alone, not bf16; say fp32 or int8")


def test_a_file_where_the_cache_root_should_be(built, refuses):
    (built.folder / "blocked").write_text("a file")
    built.edit(lambda mission: mission.update(cache_root="blocked"))
    refuses("blocked", "cannot be written", "cache_root")
    built.edit(lambda mission: mission.update(cache_root="blocked/deeper"))
    refuses("blocked/deeper", "cannot be written", "cache_root")


def test_a_cache_root_that_may_not_be_written(built, refuses):
    built.cache.chmod(0o555)
    (built.cache / ".c10.lock").chmod(0o444)
    prefix = []
    if os.geteuid() == 0:
        # Root may write everywhere. Without this capability, file modes restrict root as well.
        if shutil.which("setpriv") is None:
            pytest.skip("as root, this needs setpriv")
        prefix = ["setpriv", "--bounding-set", "-dac_override"]
    try:
        refuses(str(built.cache), "cannot be written", prefix=prefix)
    finally:
        built.cache.chmod(0o755)


def test_a_database_that_does_not_answer(built, refuses):
    url = "postgresql://pilot:hush-hush@127.0.0.1:1/tiles"
    built.edit(lambda mission: mission["tile_store"].update(database=url))
    done = refuses("127.0.0.1", "port 1", "tile_store.database")
    assert "hush-hush" not in done.said
    verified = built.doit("verify", "mode=operator")
    assert verified.status != 0
    assert "Traceback" not in verified.said
    # The airborne mode needs no database.
    assert built.doit("verify").status == 0


def test_an_unknown_variable(built, refuses, python_outside):
    command = [*built.command("provision")[:-1], f"misson={built.mission}"]
    done = python_outside(command)
    assert done.status == 1
    assert "misson" in done.sentences
    assert "mission=" in done.sentences
    assert "Traceback" not in done.said
    for task in ("verify", "tiles"):
        done = built.doit(task, "repiar=1")
        assert done.status == 1
        assert "repiar" in done.sentences


@pytest.mark.parametrize(
    ("task", "variable"), [("verify", "mode=nonsense"), ("provision", "repair=yes"), ("provision", "log=xml")]
)
def test_a_variable_with_a_wrong_value(built, task, variable):
    link = built.current.readlink()
    done = built.doit(task, variable)
    assert done.status == 1
    assert variable in done.sentences
    assert "Traceback" not in done.said
    assert built.current.readlink() == link


def test_nothing_is_signed_if_the_margin_is_not_reached(built, refuses):
    built.edit(lambda mission: config(mission)["selftest"].update(margin_over_thumbnail=1.0))
    refuses("margin_over_thumbnail", "nothing is signed", "manifest failed")


def test_a_key_that_may_not_sign(built, refuses):
    def change(mission):
        config(mission)["manifest"].update(signing_mode="operator", allowed_operator_fingerprints=["0" * 64])

    built.edit(change)
    refuses("allowed_operator_fingerprints")


def test_a_missing_signing_key(built, refuses):
    shutil.rmtree(built.folder / "keys")
    refuses("dev.pem")


def test_a_trust_directory_without_the_signing_key(built, refuses):
    """The shipped verifier refuses the new generation before it is published."""
    for path in (built.folder / "trust").iterdir():
        if path.name != "allow_dev":
            path.unlink()
    built.edit(lambda mission: mission.update(flight_id=None))
    link = built.current.readlink()
    done = built.provision()
    assert done.status == 1
    assert "Traceback" not in done.said
    assert built.current.readlink() == link
    assert not any((built.cache / "staging").iterdir())


@pytest.mark.parametrize("task", ["publish", "_lock", "verify"])
def test_no_task_can_be_ignored(built, task):
    done = built.doit("ignore", task)
    assert done.status == 3
    assert "doit ignore cannot be used" in done.sentences
    assert "Traceback" not in done.said


def test_everything_is_built_even_if_the_doit_database_marks_tasks_as_ignored(built):
    connection = sqlite3.connect(built.work / "doit.db")
    with connection:
        for task in ("_lock", "publish", "provision", "verify"):
            connection.execute("insert or replace into doit values (?, ?)", (task, '{"ignore:": "1"}'))
    connection.close()
    built.edit(lambda mission: mission.update(flight_id=None))
    assert built.provision_json().ran[-1] == "publish"
    verified = built.doit("-v", "2", "verify")
    assert verified.status == 0
    assert "PASSED" in verified.out


@pytest.mark.parametrize("task", ["tiles", "engine", "engine:weight_free_vpr", "publish", "provision"])
def test_a_stage_is_not_run_without_the_lock(built, task):
    def written():
        return {path: path.stat().st_mtime_ns for path in built.work.rglob("*") if not path.name.startswith("doit.db")}

    before = written()
    for lines in ([], ["log=json"]):
        done = built.doit("run", "-s", task, *lines)
        assert done.status == 1
        assert "doit's -s cannot be used" in done.sentences
        assert done.err == ""
    assert written() == before


@pytest.mark.parametrize("key", ["here", "gone"])
def test_a_file_where_the_trust_directory_should_be(built, refuses, key):
    if key == "gone":
        shutil.rmtree(built.folder / "keys")
    (built.folder / "other").write_text("a file")
    built.edit(lambda mission: mission.update(trust="other"))
    refuses(f"{built.folder / 'other'} is not a directory", "move it away, or set `trust` in the mission")


def test_a_variable_given_twice(built):
    for task in ("verify", "provision", "status"):
        done = built.doit(task, "mission=other.yaml")
        assert done.status == 1
        assert "mission= is given more than once" in done.sentences
        assert "Traceback" not in done.said
