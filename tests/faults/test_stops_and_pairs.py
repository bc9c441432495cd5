"""A run that receives a stop signal, two runs at the same time, a killed database, an input edited during a run."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

SEED = 17
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
NOBODY_WAITS = 60


def until(run, event, **fields):
    """Wait until a run has logged an event."""
    handle = os.pidfd_open(run.pid)
    try:
        while True:
            if any(all(line.get(name) == value for name, value in fields.items()) for line in run.event(event)):
                return
            assert not _ended(handle), run.said
    finally:
        os.close(handle)


def _ended(handle):
    import select

    return bool(select.select([handle], [], [], 0.002)[0])


def children(pid):
    """Return the processes that a process has started."""
    return [child for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


@pytest.mark.parametrize("number", STOPPING)
def test_a_stop_signal_at_a_random_moment_leaves_a_consistent_state(harness, scene, number):
    draw = random.Random(f"{SEED} {number}")
    stopped = 0
    for _ in range(3):
        place = scene.copy(own_tiles=True)
        before = harness.Before.of(place, harness.FIRST, harness.SECOND)
        run = scene.server.start(place)
        until(run, "c10.build.start")
        status = run.wait(number, draw.uniform(0, 0.7))
        assert status in {0, 128 + number}, run.said
        stopped += status != 0
        assert "Traceback" not in run.said
        assert place.servers() == []
        assert children(scene.server.pid) == []
        assert harness.stray(place) == []
        assert harness.lock_is_free(place)
        harness.check_current(place, before)
        harness.check_next(scene.server, place, before)
        assert place.servers() == []
        harness.remove(place)
    assert stopped


def test_of_two_provisions_at_once_one_builds_and_one_is_refused(harness, scene):
    place = scene.copy()
    before = harness.Before.of(place, harness.FIRST, harness.SECOND)
    runs = [scene.server.start(place), scene.server.start(place)]
    statuses = sorted(run.wait() for run in runs)
    assert statuses == [0, 1]
    built, refused = sorted(runs, key=lambda run: run.status)
    assert built.event("c10.build.complete")[0]["outcome"] == "success"
    assert "publish" in built.ran
    (line,) = [line for line in refused.events if line["level"] == "ERROR"]
    assert line["error"] == "BuildLockHeldError"
    assert refused.ran == []
    assert harness.check_current(place, before) == "new"
    assert place.report["outcome"] == "success"
    harness.remove(place)


def test_of_two_provisions_with_wait_the_second_finds_nothing_to_do(harness, scene):
    place = scene.copy()
    before = harness.Before.of(place, harness.FIRST, harness.SECOND)
    asked = ("provision", "log=json", f"wait={NOBODY_WAITS}")
    runs = [scene.server.start(place, *asked), scene.server.start(place, *asked)]
    assert [run.wait() for run in runs] == [0, 0], [run.said for run in runs]
    outcomes = sorted(run.event("c10.build.complete")[0]["outcome"] for run in runs)
    assert outcomes == ["idempotent_no_op", "success"]
    assert sorted(len(run.ran) > 0 for run in runs) == [False, True]
    assert harness.check_current(place, before) == "new"
    assert len(list((place.cache / "gen").iterdir())) == 2
    harness.remove(place)


def test_a_database_that_is_killed_while_descriptors_are_embedded(harness, scene):
    place = scene.copy(own_tiles=True)
    before = harness.Before.of(place, harness.FIRST, harness.SECOND)
    run = scene.server.start(place)
    until(run, "c10.step.start", step="descriptors")
    postmaster = int((place.database / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGKILL)
    assert run.wait() == 1, run.said
    assert "Traceback" not in run.said
    (failed,) = run.event("c10.build.failed")
    assert failed["error"] == "DatabaseError"
    assert "Postgres" in failed["message"]
    assert harness.check_current(place, before) == "old"
    assert harness.stray(place) == []
    again = harness.check_next(scene.server, place, before)
    assert again.event("c10.build.complete")[0]["descriptors_generated"] == 0
    assert place.servers() == []
    harness.check_rows_of(place)
    harness.remove(place)


def test_a_run_killed_at_the_switch_of_current_is_registered_by_the_next_run(harness, scene):
    """A row is pending before `current` is switched, and active after it.

    The next run corrects rows to match the files.
    """
    calls = harness.operations(scene)
    flip = max(at for at, call in enumerate(calls, 1) if call == "symlink")
    seen = set()
    for at in (flip, flip + 2):
        place = scene.copy()
        before = harness.Before.of(place, harness.FIRST, harness.SECOND)
        run = scene.server.provision(place, fault=("kill", at))
        assert run.status == 137, run.said
        which = harness.check_current(place, before)
        seen.add(which)
        found = harness.rows(scene.address, place)
        assert found[2] == "pending"
        assert found[1] == "active"
        harness.check_next(scene.server, place, before)
        assert harness.rows(scene.address, place) == {1: "retired", 2: "active"}
        harness.remove(place)
    assert seen == {"old", "new"}


@pytest.fixture
def with_model_file(scene):
    """A copy whose backbone is a file of the operator."""
    from preflight.adapters.demo import weight_free_vpr

    place = scene.copy()
    weight_free_vpr.write(place.folder / "model.onnx")

    def change(mission):
        (backbone,) = mission["components"]["c10_provisioning"]["backbones"]
        backbone.update(model_name="of_file", onnx_path="model.onnx")

    place.edit(change)
    return place


def test_a_model_edited_while_it_is_compiled_is_reported_and_the_next_run_is_right(harness, scene, with_model_file):
    place = with_model_file
    before = harness.Before.of(place, harness.FIRST, harness.SECOND)
    model = place.folder / "model.onnx"
    run = scene.server.provision(place, hook=("edit while compiling", str(model)))
    assert run.status == 1, run.said
    (failed,) = run.event("c10.build.failed")
    assert failed["error"] == "InputChangedError"
    assert str(model) in failed["message"]
    assert "engine:of_file" not in harness.records(place)
    assert harness.check_current(place, before) == "old"
    again = harness.check_next(scene.server, place, before, engines=1, edited={"model:of_file"})
    assert again.event("c10.build.complete")[0]["engines_built"] == 1
    (used,) = place.manifest["predicate"]["identity"]["models"]
    from preflight.trace.digests import hash_file

    assert used["onnx_sha256"] == hash_file(model)
    harness.remove(place)


def test_a_camera_calibration_edited_while_the_manifest_is_made_is_reported_and_the_next_run_is_right(harness, scene):
    place = scene.copy()
    before = harness.Before.of(place, harness.FIRST, harness.SECOND)
    camera = place.folder / "camera.json"
    run = scene.server.provision(place, hook=("edit while signing", str(camera)))
    assert run.status == 1, run.said
    (failed,) = run.event("c10.build.failed")
    assert failed["error"] == "InputChangedError"
    assert str(camera) in failed["message"]
    assert harness.check_current(place, before) == "old"
    harness.check_next(scene.server, place, before)
    assert (place.current / "calibration.json").read_bytes() == camera.read_bytes()
    harness.remove(place)
