"""Faults while FAISS, SQLite, atomicwrites or Postgres write.

Strace makes the n-th system call fail, or kills the process.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
from collections import defaultdict

import pytest

SEED = 5
# System call -> the error that strace injects.
CALLS = {
    "write": "ENOSPC",  # files written by Python: the FAISS index through its writer, and atomicwrites
    "pwrite64": "ENOSPC",  # SQLite's pages
    "fdatasync": "EIO",  # SQLite's log
    "fsync": "EIO",
    "ftruncate": "EIO",
    "rename": "EIO",
    "unlink": "EIO",
}
TRACE = ["strace", "-f", "--seccomp-bpf", "-qq"]
STDOUT = "1,"


@pytest.fixture(scope="module")
def strace(scene):
    """strace(place, options): run `doit provision` under strace, which returns the status of the command."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (Debian: apt-get install strace)")
    probe = subprocess.run([*TRACE, "-o", "/dev/null", "true"], check=False, capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"strace may not trace here: {probe.stderr.strip()}")

    def run(harness, place, *options):
        return harness.pipeline().run([*TRACE, *options, *place.command("provision", "log=json")])

    return run


@pytest.fixture(scope="module")
def counted(harness, scene, strace):
    """For each system call, the numbers n of the calls in a normal run that do not write to standard output."""
    place = scene.copy()
    log = scene.folder / "strace.log"
    done = strace(harness, place, "-o", str(log), "-e", f"trace={','.join(CALLS)}")
    assert done.status == 0, done.said
    lines = [line.split(None, 1) for line in log.read_text().splitlines()]
    main = lines[0][0]
    seen, numbers = defaultdict(int), defaultdict(list)
    for process, text in lines:
        call, _, arguments = text.partition("(")
        if process == main and call in CALLS:
            seen[call] += 1
            if not arguments.startswith(STDOUT):
                numbers[call].append(seen[call])
    harness.remove(place)
    assert set(numbers) == set(CALLS)
    return numbers


def inject(harness, scene, strace, call, fault, number, *, own_tiles=False):
    place = scene.copy(own_tiles=own_tiles)
    before = harness.Before.of(place, harness.FIRST, harness.SECOND)
    how = f"inject={call}:{fault}:when={number}"
    done = strace(harness, place, "-o", "/dev/null", "-e", f"trace={call}", "-e", how)
    if fault == "signal=KILL":
        assert done.status in {0, -signal.SIGKILL}, done.said  # 0: fewer calls than in the counted run
    else:
        assert done.status in {0, 1}, done.said
        assert "Traceback" not in done.said, done.said
        assert harness.lock_is_free(place)
    current = harness.check_current(place, before)
    assert current == "new" or done.status != 0
    harness.check_next(scene.server, place, before)
    if own_tiles:
        harness.check_rows_of(place)
    else:
        harness.check_rows(scene.address, place)
    harness.remove(place)
    return done.status, current


@pytest.mark.parametrize("call", CALLS)
def test_a_library_that_cannot_write_damages_nothing(harness, scene, strace, counted, call):
    draw = random.Random(f"{SEED} {call}")
    numbers = counted[call]
    statuses = [
        inject(harness, scene, strace, call, f"error={CALLS[call]}", number)[0]
        for number in {draw.choice(numbers), draw.choice(numbers)}
    ]
    assert set(statuses) <= {0, 1}


@pytest.mark.parametrize("call", ["write", "pwrite64", "fdatasync"])
def test_a_process_killed_while_a_library_writes_damages_nothing(harness, scene, strace, counted, call):
    draw = random.Random(f"{SEED} kill {call}")
    inject(harness, scene, strace, call, "signal=KILL", draw.choice(counted[call]))


@pytest.mark.parametrize(("call", "number"), [("write", 20), ("fdatasync", 1)])
def test_a_postgres_that_cannot_write_damages_nothing(harness, scene, strace, call, number):
    """The embedded server also runs under strace. Each of its processes fails at its n-th call."""
    inject(harness, scene, strace, call, "error=ENOSPC", number, own_tiles=True)
