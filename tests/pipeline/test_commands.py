"""The commands other than provision: plan, why, reproduce, gc and rollback, and waiting for the lock."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from preflight import wiring
from preflight.adapters.openvino import library as openvino_library
from preflight.commands.explain import explain
from preflight.commands.rollback import roll_back
from preflight.errors import CacheRootError
from preflight.mission.loading import load_mission
from preflight.trace.digests import hash_file

DEMO = Path(__file__).resolve().parents[2] / "cache_templates" / "demo.yaml"
TILES = 80
STAGES = ["tiles", "engine:weight_free_vpr", "descriptors", "index", "selftest", "manifest", "publish"]
OTHER_FLIGHT = "2f3d1c9e-5d3b-4c57-8e86-0a5d1f6f0001"


def section(mission):
    return mission["components"]["c10_provisioning"]


def snapshot(folder):
    """Return every file and link below a folder with its content, inode, mtime and ctime."""
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        content = path.readlink() if path.is_symlink() else hash_file(path) if path.is_file() else None
        found[str(path.relative_to(folder))] = (content, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)
    return found


def fly_elsewhere(place, flight=OTHER_FLIGHT):
    place.edit(lambda mission: mission.update(flight_id=flight))
    done = place.provision_json()
    assert done.status == 0, done.said
    return done


def flip(path):
    """Flip one bit in a copy and replace the file by it.

    Generations share inodes, so an edit in place would hit several.
    """
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    other = path.with_name("altered")
    other.write_bytes(content)
    other.replace(path)


def plan_of(place):
    done = place.doit("plan", "log=json")
    assert done.status == 0, done.said
    (plan,) = done.events
    return plan, {stage["name"]: stage["status"] for stage in plan["stages"]}


# plan


def test_plan_before_anything_is_built(fresh):
    plan, statuses = plan_of(fresh)
    assert statuses == dict.fromkeys(STAGES, "will run")
    assert (plan["tiles_expected"], plan["tiles_present"], plan["units_to_embed"]) == (TILES, TILES, TILES)
    assert plan["seconds"] is None
    assert plan["bytes_needed"] > TILES * 2080 * 4 * 2
    assert plan["bytes_free"] > 0
    assert not fresh.cache.exists()
    text = fresh.doit("plan")
    assert text.status == 0
    assert "80 of 80 in the tile store descriptors 80 in all, 80 to embed" in text.sentences
    assert "unknown before the first build" in text.sentences
    assert not fresh.cache.exists()
    assert fresh.servers() == []


def test_plan_before_any_import_creates_no_tile_store(room, numbers, place_in):
    place = place_in(
        room / f"empty-{next(numbers)}",
        {"bbox": {"lat_min": 1, "lon_min": 1, "lat_max": 1.001, "lon_max": 1.001}},
        [17],
    )
    plan, statuses = plan_of(place)
    assert set(statuses.values()) == {"will run"}
    assert plan["tiles_expected"] > 0
    assert plan["tiles_present"] == 0
    assert sorted(path.name for path in place.folder.iterdir()) == ["camera.json", "mission.yaml"]


def test_plan_of_a_demo_counts_the_tiles_it_will_import_first(room, numbers, place_in):
    demo = yaml.safe_load(DEMO.read_text())
    place = place_in(room / f"demo-{next(numbers)}", demo["area"], demo["zoom_levels"])
    place.edit(lambda mission: mission["tile_store"].update(if_empty="demo"))
    plan, _ = plan_of(place)
    assert (plan["tiles_expected"], plan["tiles_present"]) == (600, 0)
    assert (plan["tiles_to_import"], plan["units_to_embed"], plan["at_most"]) == (600, 600, False)
    assert plan["bytes_needed"] > 600 * 1000
    text = place.doit("plan").sentences
    assert "600 tiles of the demo into the empty tile store" in text
    assert "0 of 600 in the tile store descriptors 600 in all, 600 to embed" in text
    # Each tile has three windows besides its own, except at the borders of the map.
    place.edit(lambda mission: section(mission)["descriptors"].update(overlap=0.5))
    plan, _ = plan_of(place)
    assert (plan["units"], plan["units_to_embed"], plan["at_most"]) == (2400, 2400, True)
    assert "at most 2,400 in all, at most 2,400 to embed" in place.doit("plan").sentences
    assert sorted(path.name for path in place.folder.iterdir()) == ["camera.json", "mission.yaml"]


def test_plan_takes_no_lock_and_changes_nothing_if_all_is_up_to_date(built):
    assert built.provision_json().ran == []  # from now on, the copy's digests are cached
    before = snapshot(built.cache)
    with (built.cache / ".c10.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        plan, statuses = plan_of(built)
        text = built.doit("plan")
    assert statuses == dict.fromkeys(STAGES, "up to date")
    assert (plan["units_to_embed"], plan["bytes_needed"], plan["seconds"]) == (0, 0, 0)
    assert text.status == 0
    assert "will run" not in text.out
    assert "none" in text.out
    assert snapshot(built.cache) == before


def test_plan_after_a_change_changes_nothing_and_is_right(built):
    built.edit(lambda mission: section(mission).update(index={"m": 16}))
    before = snapshot(built.cache)
    plan, statuses = plan_of(built)
    assert snapshot(built.cache) == before
    assert statuses == {
        **dict.fromkeys(["tiles", "engine:weight_free_vpr", "descriptors"], "up to date"),
        "index": "will run",
        "selftest": "may be skipped",
        "manifest": "will run",  # because corpus.json contains the parameters
        "publish": "may be skipped",
    }
    (reasons,) = [stage["reasons"] for stage in plan["stages"] if stage["name"] == "index"]
    assert reasons == ["index: m: 32 → 16"]
    assert plan["units_to_embed"] == 0
    assert plan["seconds"] > 0
    assert plan["bytes_needed"] > TILES * 2080 * 4
    text = built.doit("plan").sentences
    assert "m: 32 → 16" in text
    assert "about" in text
    assert built.provision_json().ran == ["index", "selftest", "corpus", "manifest", "publish"]
    assert set(plan_of(built)[1].values()) == {"up to date"}


def test_plan_of_another_engine_counts_every_tile(built):
    built.edit(lambda mission: section(mission).update(workspace_mb=128))
    plan, statuses = plan_of(built)
    assert (statuses["engine:weight_free_vpr"], statuses["descriptors"]) == ("will run", "may be skipped")
    assert plan["units_to_embed"] == TILES


@pytest.mark.parametrize(
    ("pattern", "stage", "to_embed"),
    [
        ("tiles/coverage.json", "tiles", 0),
        ("descriptors/descriptors.json", "descriptors", 0),
        ("descriptors/*/18-*.seg", "descriptors", TILES),
    ],
)
def test_plan_after_a_file_in_work_was_truncated(built, pattern, stage, to_embed):
    (file, *_) = sorted(built.work.glob(pattern))
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1])
    plan, statuses = plan_of(built)
    assert statuses[stage] == "will run"
    assert (plan["units_to_embed"], plan["at_most"]) == (to_embed, to_embed > 0)
    assert built.doit("why", "manifest").status == 0
    done = built.provision_json()
    assert done.status == 0, done.said
    assert stage in done.ran


def test_plan_counts_the_one_tile_that_changed(whole, landscape_tiles, tmp_path):
    tile, other = landscape_tiles[:2]
    folder = tmp_path / str(tile.zoom) / str(tile.x)
    folder.mkdir(parents=True)
    (folder / f"{tile.y}.jpg").write_bytes(other.content + b"\0")  # other bytes, but still a valid image
    store = whole.tiles()
    try:
        now = wiring.wall_clock
        wiring.import_folder(store, tmp_path, "small-landscape", now(), now, replace_tiles=True)
    finally:
        store.close()
    plan, statuses = plan_of(whole)
    # The folder is a new origin of this source. The cache records it whether or not the tile changes.
    assert {name for name in STAGES if statuses[name] == "will run"} == {"tiles", "manifest"}
    assert {statuses[name] for name in STAGES} == {"will run", "may be skipped"}
    assert (plan["tiles_present"], plan["units_to_embed"]) == (TILES, 1)


# why


def why(place, task):
    done = place.doit("why", task)
    assert done.status == 0, done.said
    return [line.strip() for line in done.out.splitlines()]


def test_why_before_anything_is_built(fresh):
    assert "never built here" in why(fresh, "engine:weight_free_vpr")
    assert not fresh.cache.exists()


def test_why_an_engine_of_another_precision(built):
    if "BF16" not in openvino_library.library().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bf16")
    built.edit(lambda mission: section(mission)["backbones"][0].update(precision="bf16"))
    said = why(built, "engine:weight_free_vpr")
    assert "precision: fp32 → bf16" in said
    assert "engine:weight_free_vpr: will be built" in said
    assert "model:weight_free_vpr: up to date" in said
    (told,) = built.doit("why", "engine:weight_free_vpr", "log=json").events
    (step,) = [step for step in told["steps"] if step["step"] == "engine:weight_free_vpr"]
    assert step["changes"] == [{"component": "precision", "old": "fp32", "new": "bf16"}]
    assert not step["current"]


def test_why_an_engine_of_another_runtime(built):
    built.edit(lambda mission: section(mission).update(runtime="onnxruntime"))
    assert "runtime: openvino → onnxruntime" in why(built, "engine")


def test_why_another_flight(built):
    built.edit(lambda mission: mission.update(flight_id=OTHER_FLIGHT))
    old = "0b6cf8c6-3a0e-4a55-9b0e-0a2a2a6d7f10"
    assert f"flight_id: {old} → {OTHER_FLIGHT}" in why(built, "manifest")
    (told,) = built.doit("why", "manifest", "log=json").events
    (step,) = [step for step in told["steps"] if step["step"] == "manifest"]
    assert step["changes"] == [{"component": "flight_id", "old": old, "new": OTHER_FLIGHT}]
    # The next task has not changed yet.
    assert why(built, "publish") == [
        "this is the state now; manifest will run before and may change it",
        "publish: up to date",
        "last built because of never built here",
    ]
    assert built.provision_json().status == 0
    assert f"last built because of flight_id: {old} → {OTHER_FLIGHT}" in why(built, "manifest")


def test_why_changes_nothing(built):
    built.edit(lambda mission: section(mission).update(index={"m": 16}))
    before = snapshot(built.cache)
    for task in ("tiles", "engine", *STAGES[2:]):
        assert why(built, task)
    assert snapshot(built.cache) == before


def test_why_of_each_step_that_plan_names(built):
    built.edit(lambda mission: section(mission)["descriptors"].update(overlap=0.5))
    built.edit(lambda mission: section(mission).update(runtime="onnxruntime"))
    plan, _ = plan_of(built)
    reasons = [reason for stage in plan["stages"] for reason in stage["reasons"] if not reason.startswith("after ")]
    steps = {reason.partition(": ")[0] for reason in reasons}
    assert {"windows", "engine:weight_free_vpr"} <= steps
    assert why(built, "windows") == ["windows: will be built", "never built here"]
    session = wiring.assemble(load_mission(built.mission, {}), wiring.Surroundings.real(), wiring.Options()).session()
    try:
        for name in steps:
            assert name in [item.step for item in explain(session, name)]
    finally:
        session.close()


@pytest.mark.parametrize("arguments", [["nonsense"], ["engine:other"], [], ["index", "manifest"], ["provision"]])
def test_why_refuses_an_unknown_task(built, arguments):
    done = built.doit("why", *arguments)
    assert done.status == 1
    assert "doit why failed: " in done.err
    assert "Traceback" not in done.said


# reproduce


def untouched(place):
    """A snapshot without the lock file and the time of staging/, where the fresh build was made."""
    return {
        name: seen for name, seen in snapshot(place.folder).items() if name not in {"cache/.c10.lock", "cache/staging"}
    }


def test_reproduce(built):
    before = untouched(built)
    done = built.doit("reproduce", "log=json")
    assert done.status == 0, done.said
    (told,) = [line for line in done.events if "reproduced" in line]
    assert told["reproduced"]
    names = {item["name"] for item in told["files"]}
    kept = {path.relative_to(built.generation).as_posix() for path in built.generation.rglob("*") if path.is_file()}
    assert names == {name for name in kept if not name.endswith(".sha256")}
    assert all(item["equal"] for item in told["files"])
    assert untouched(built) == before
    assert not any((built.cache / "staging").iterdir())


def test_reproduce_on_one_core_gives_the_bytes_of_a_build_on_several(built):
    taskset = shutil.which("taskset")
    if taskset is None:
        pytest.skip("there is no taskset to hold a process to one core")
    done = subprocess.run(
        [taskset, "-c", str(min(os.sched_getaffinity(0))), *built.command("reproduce")],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "reproduced"
    assert "DIFFERS" not in done.stdout


def test_reproduce_names_a_tampered_artifact(built):
    flip(built.generation / "selftest.json")
    names = sorted(path.name for path in built.folder.iterdir())
    done = built.doit("reproduce")
    assert done.status == 1
    assert "DIFFERS  selftest.json  (bytes differ)" in done.out
    assert "not reproduced: 1 of " in done.out
    assert "Traceback" not in done.said
    assert sorted(path.name for path in built.folder.iterdir()) == names


def test_reproduce_needs_a_current_cache(fresh):
    done = fresh.doit("reproduce")
    assert done.status == 1
    assert "run doit provision first" in done.sentences
    assert not fresh.cache.exists()


# gc


def test_gc_removes_the_old_engine_and_keeps_what_is_current(built):
    (old,) = (built.work / "engines").glob("*.engine")
    segments = set((built.work / "descriptors").rglob("*.seg"))
    assert segments
    built.edit(lambda mission: section(mission).update(runtime="onnxruntime"))
    assert built.provision_json().status == 0
    assert len(list((built.work / "engines").glob("*.engine"))) == 2
    before = snapshot(built.cache)

    dry = built.doit("gc", "--dry-run")
    assert dry.status == 0, dry.said
    assert "would be removed" in dry.out
    assert old.name in dry.out
    after = snapshot(built.cache)
    del before[".c10.lock"], after[".c10.lock"]
    assert after == before

    few = built.doit("gc", "--max-size=1GB")
    assert "0 removed" in few.out
    assert old.exists()

    done = built.doit("gc")
    assert done.status == 0, done.said
    assert " removed" in done.out
    assert not old.exists()
    assert not any(path.exists() for path in segments)
    assert len(list((built.work / "engines").glob("*.engine"))) == 1
    assert built.provision_json().ran == []
    assert built.doit("verify").status == 0
    assert "0 removed" in built.doit("gc").out


def test_gc_keeps_what_a_killed_run_embedded(built):
    """Segments are written before the record that names them."""
    shutil.copytree(built.work / "descriptors", built.folder / "kept")
    for path in (built.work / "descriptors").glob("descriptors.json*"):
        path.unlink()
    done = built.doit("gc")
    assert done.status == 0
    assert "0 removed" in done.out
    assert built.provision_json().status == 0
    assert built.report["descriptors_generated"] == 0


def test_gc_down_to_a_size_takes_the_oldest_first(built):
    size = sum(path.lstat().st_size for path in built.cache.rglob("*") if path.is_file())
    for number, name in enumerate(["b", "a"]):
        path = built.work / "engines" / f"{name}.engine"
        path.write_bytes(bytes(500_000))
        os.utime(path, (number, number))
    done = built.doit("gc", f"--max-size={size + 600_000}", "log=json")
    (told,) = done.event("c10.gc.complete")
    assert (told["count"], told["bytes"], told["reached"]) == (1, 500_000, True)
    assert {path.name for path in (built.work / "engines").glob("?.engine")} == {"a.engine"}


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_gc_reports_that_a_size_cannot_be_reached(built, dry):
    (built.work / "engines" / "a.engine").write_bytes(bytes(500_000))
    size = sum(path.lstat().st_size for path in built.cache.rglob("*") if path.is_file()) - 500_000
    (told,) = built.doit("gc", "--max-size=1000", "log=json", *dry).event("c10.gc.complete")
    assert (told["count"], told["reached"]) == (1, False)
    assert abs(told["left"] - size) < 10_000
    assert "more than --max-size=1000" in built.doit("gc", "--max-size=1000", *dry).sentences


def test_import_refuses_a_date_in_the_future(fresh):
    done = fresh.doit("import", str(fresh.folder), "--captured-at=2999-01-01")
    assert done.status == 1
    assert "--captured-at=2999-01-01 is in the future" in done.err
    assert "Traceback" not in done.said


@pytest.mark.parametrize("size", ["lots", "-1", "1.5GB", "1TB "])
def test_gc_refuses_an_invalid_size(built, size):
    done = built.doit("gc", f"--max-size={size}")
    assert done.status == 1
    assert "--max-size" in done.err
    assert "Traceback" not in done.said


def test_gc_does_not_wait_for_the_lock(built):
    with (built.cache / ".c10.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = built.doit("gc")
    assert done.status == 1
    assert "another build holds" in done.sentences


# rollback


def test_rollback_and_forward_again(built, python_outside):
    first = built.manifest["predicate"]
    floor = built.folder / "floor.json"

    def verified():
        """Verify as an aircraft does that keeps a rollback floor."""
        trust = str(built.folder / "trust")
        done = python_outside(
            [sys.executable, "-I", "-m", "takeoff", str(built.current), "--trust", trust, "--floor", str(floor)]
        )
        assert done.status == 0, done.said
        assert floor.exists()

    verified()
    fly_elsewhere(built)
    second = built.manifest["predicate"]
    verified()

    done = built.doit("rollback", "log=json")
    assert done.status == 0, done.said
    (told,) = done.event("c10.rollback.complete")
    assert told["generation"] == built.generation.name
    back = built.manifest["predicate"]
    assert back["generation"] == 3
    assert back["manifest_hash"] == first["manifest_hash"]
    assert back["identity"] == first["identity"]
    assert back["issued_at"] > second["issued_at"]
    assert (built.cache / "previous").readlink().name.startswith("000002")
    verified()

    assert plan_of(built)[1]["manifest"] == "will run"
    forward = built.provision_json()
    assert forward.status == 0, forward.said
    assert forward.ran == ["manifest", "publish"]
    assert forward.event("c10.manifest.moving_forward")
    ahead = built.manifest["predicate"]
    assert ahead["manifest_hash"] == second["manifest_hash"]
    assert (ahead["generation"], ahead["issued_at"] > back["issued_at"]) == (4, True)
    verified()
    assert built.provision_json().ran == []


def test_two_rollbacks_restore_the_first_generation(built):
    hashes = [built.report["manifest_hash"]]
    fly_elsewhere(built)
    hashes.append(built.report["manifest_hash"])
    for expected in (hashes[0], hashes[1]):
        assert built.doit("rollback").status == 0
        assert built.manifest["predicate"]["manifest_hash"] == expected
        assert built.takeoff().status == 0


def test_rollback_within_the_second_of_a_build_is_valid_at_once(built):
    """If the clock does not advance, issued_at is later than the clock, but the start of the validity is not."""
    now = wiring.wall_clock().replace(microsecond=0)
    mission = load_mission(built.mission, {})
    surroundings = replace(wiring.Surroundings.real(), clock=lambda: now, environment={})
    for flight in (OTHER_FLIGHT, None):
        built.edit(lambda mission, flight=flight: mission.update(flight_id=flight))
        mission = load_mission(built.mission, {})
        assert wiring.assemble(mission, surroundings, wiring.Options()).session().build().outcome == "success"
    assembly = wiring.assemble(mission, surroundings, wiring.Options())
    session = assembly.session()
    try:
        session.hold()
        roll_back(assembly)
    finally:
        session.close()
    predicate = built.manifest["predicate"]
    assert predicate["valid_from"] == int(now.timestamp())
    assert predicate["issued_at"] > predicate["valid_from"]
    assert built.takeoff().status == 0


def test_rollback_restores_an_expired_generation(built):
    fly_elsewhere(built)
    mission = load_mission(built.mission, {})
    later = wiring.wall_clock() + timedelta(days=400)
    # The tiles are too old at that time as well. So only the rollback runs with this clock.
    surroundings = replace(wiring.Surroundings.real(), clock=lambda: later, environment={})
    assembly = wiring.assemble(mission, surroundings, wiring.Options())
    session = assembly.session()
    try:
        session.hold()
        generation = roll_back(assembly)
    finally:
        session.close()
    verdict = wiring.manifest_verifier(mission.job.trust, lambda: later).verify_manifest(generation.path)
    assert verdict.outcome == "pass"
    assert generation.path == built.current.resolve()


def test_rollback_needs_a_previous_generation(built):
    link = built.current.readlink()
    done = built.doit("rollback")
    assert done.status == 1
    assert "no previous generation" in done.sentences
    assert built.current.readlink() == link


def test_rollback_refuses_a_damaged_previous_generation(built):
    fly_elsewhere(built)
    link = built.current.readlink()
    before = sorted(path.name for path in (built.cache / "gen").iterdir())
    flip(built.cache / "previous" / "corpus.json")
    done = built.doit("rollback")
    assert done.status == 1
    assert "corpus.json" in done.sentences
    assert "Traceback" not in done.said
    assert built.current.readlink() == link
    assert sorted(path.name for path in (built.cache / "gen").iterdir()) == before
    assert not any((built.cache / "staging").iterdir())
    assert built.takeoff().status == 0


# wait, and space


def test_wait_continues_when_the_holder_ends(built):
    file = (built.cache / ".c10.lock").open()
    fcntl.flock(file, fcntl.LOCK_EX)
    free = threading.Timer(1.0, file.close)
    free.start()
    try:
        done = built.provision_json("wait=60")
    finally:
        free.join()
    assert done.status == 0, done.said
    assert built.report["outcome"] == "idempotent_no_op"


def test_wait_times_out(built):
    with (built.cache / ".c10.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = built.provision("wait=1")
    assert done.status == 1
    assert "another build holds" in done.sentences


Usage = namedtuple("Usage", "total used free")


def test_a_disk_too_small_is_refused_before_anything_is_written(fresh, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**9, 0, 67_500_000))
    with pytest.raises(CacheRootError, match=r"68 MB free, this build needs about 2 MB and a reserve of 67 MB"):
        wiring.assemble(load_mission(fresh.mission, {}), wiring.Surroundings.real(), wiring.Options()).session().build()
    kept = sorted(str(path.relative_to(fresh.cache)) for path in fresh.cache.rglob("*") if path.is_file())
    assert kept == [".c10.lock", "work/build_report.json"]
    assert "68 MB free" in fresh.report["failure_reason"]
    assert not (fresh.folder / "keys").exists()


def test_a_full_disk_does_not_refuse_a_run_with_nothing_to_do(built, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**9, 0, 67_500_000))
    mission = load_mission(built.mission, {})
    report = wiring.assemble(mission, wiring.Surroundings.real(), wiring.Options()).session().build()
    assert report.outcome == "idempotent_no_op"
