"""A run that is killed, a run that receives a stop signal, and two runs at the same time."""

from __future__ import annotations

import fcntl
import json
import signal
import socket
import subprocess
import time

import pytest

LIMIT_S = 120


def wait_for(process, appears):
    """Wait until a file appears. Fails if the process ends before."""
    deadline = time.monotonic() + LIMIT_S
    while not appears():
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline
        try:
            process.wait(0.002)
        except subprocess.TimeoutExpired:
            continue


def lock_is_free(place):
    with (place.cache / ".c10.lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def finished(place):
    """Return the steps that have written their records."""
    return {json.loads(path.read_bytes())["step"] for path in place.work.rglob("*.record.json")}


# The files that show how far a run is: the engine is built, the vectors are embedded, staging has started.
MOMENTS = {
    "engine": lambda place: any(place.work.glob("engines/*.engine.record.json")),
    "descriptors": lambda place: any(place.work.glob("descriptors/**/*.record.json")),
    "publish": lambda place: any((place.cache / "staging").glob("*")),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_build_resumes_after_a_killed_run(fresh, moment):
    process = fresh.start("provision")
    wait_for(process, lambda: MOMENTS[moment](fresh))
    process.kill()
    process.wait()
    assert not fresh.current.is_symlink()
    assert lock_is_free(fresh)
    done_before = finished(fresh)

    done = fresh.provision_json()
    assert done.status == 0, done.said
    assert not done_before & set(done.ran)
    assert done.ran[-1] == "publish"
    assert fresh.servers() == []
    assert fresh.takeoff().status == 0
    assert not any((fresh.cache / "staging").iterdir())
    assert not list(fresh.cache.rglob(".preflight-*"))
    assert fresh.provision_json().ran == []


def test_a_killed_rebuild_leaves_a_valid_cache(built):
    link = built.current.readlink()

    def change(mission):
        mission["components"]["c10_provisioning"]["index"] = {"m": 16}

    built.edit(change)
    process = built.start("provision")
    wait_for(process, lambda: any((built.cache / "staging").glob("*")))
    process.kill()
    process.wait()
    # This is the old generation, or the new one if the kill came late.
    assert built.current.readlink() == link or built.current.readlink().name.startswith("000002")
    assert built.takeoff().status == 0
    assert built.provision().status == 0
    assert built.takeoff().status == 0
    assert built.servers() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_stops_the_server_and_keeps_finished_work(fresh, number):
    process = fresh.start("provision")
    wait_for(process, lambda: any(fresh.work.glob("engines/*.engine.record.json")))
    process.send_signal(number)
    assert process.wait(LIMIT_S) == 128 + number
    assert fresh.servers() == []
    assert lock_is_free(fresh)
    done_before = finished(fresh)
    assert "engine:weight_free_vpr" in done_before
    done = fresh.provision_json()
    assert done.status == 0, done.said
    assert not done_before & set(done.ran)


def test_a_second_build_is_refused_and_told_who_holds_the_lock(fresh):
    process = fresh.start("provision")
    try:
        wait_for(process, lambda: (fresh.cache / ".c10.lock").is_file() and "pid" in _text(fresh))
        process.send_signal(signal.SIGSTOP)  # it must hold the lock while the second run tries
        second = fresh.provision()
        in_json = fresh.provision_json()
    finally:
        process.send_signal(signal.SIGCONT)
    assert second.status == in_json.status == 1
    holder = json.loads(_text(fresh))
    for part in (str(process.pid), socket.gethostname(), holder["since"]):
        assert part in second.sentences
    assert "Traceback" not in second.said
    (line,) = [line for line in in_json.events if line["level"] == "ERROR"]
    assert line["error"] == "BuildLockHeldError"
    assert process.wait(LIMIT_S) == 0
    # The refused runs must not overwrite the report of the first run.
    assert fresh.report["outcome"] == "success"


def _text(place):
    return (place.cache / ".c10.lock").read_text()


def test_verify_and_status_need_no_lock(built):
    with (built.cache / ".c10.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert built.doit("verify").status == 0
        assert built.doit("status").status == 0
        assert built.provision().status == 1
