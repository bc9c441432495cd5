"""Every file operation of `doit bundle` on the card fails once, or its process is killed there.

`current` on the card must be the complete old cache or the complete new one. A cache that was damaged before is refused
until it is repaired. The next copy must work.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import preflight

LIB = Path(preflight.__file__).parents[1]
PROGRAM = Path(__file__).parent / "bundle_with_faults.py"


MEMORY = Path("/dev/shm")


@pytest.fixture
def room(tmp_path):
    """A folder in which syncing costs nothing, if there is one. The test syncs some thousand times."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="preflight-bundle-", dir=MEMORY) as folder:
        yield Path(folder)


@pytest.fixture
def driven(room):
    """The outcome of each fault. One new process makes all faults in forked children, because it has no threads."""

    def run(kind, what):
        done = subprocess.run(
            [sys.executable, "-W", "error", str(PROGRAM), str(room), kind, what],
            env={**os.environ, "PYTHONPATH": str(LIB)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize(("kind", "what"), [("kill", "next"), ("kill", "mend"), ("ENOSPC", "next"), ("EIO", "mend")])
def test_the_card_has_a_complete_cache_after_a_fault_at_any_point(driven, kind, what):
    outcomes = driven(kind, what)
    assert {"open", "write", "fsync", "rename", "link", "symlink", "mkdir", "rmdir"} <= {
        outcome["call"] for outcome in outcomes
    }
    before, after = (1, 2) if what == "next" else ("refused", 1)
    for outcome in outcomes:
        assert outcome["state"] in {before, after}, outcome
        assert outcome["after the next run"] == after, outcome
        assert outcome["left over"] == [], outcome
        if kind == "kill":
            assert outcome["ended"] == 137, outcome
        else:
            assert outcome["ended"] in {"BundleError", "nothing raised"}, outcome
        if outcome["ended"] == "nothing raised":
            # If a link fails, the file is copied. A damaged file is written again. The next run removes the rest of a
            # temporary folder. Every other fault makes the copy fail.
            assert outcome["call"] in {"link", "remove", "rmdir"}, outcome
            assert outcome["state"] == after, outcome
    assert {outcome["state"] for outcome in outcomes} == {before, after}


@pytest.fixture
def full(tmp_path):
    """A card that is too small: a file system of its own."""
    folder = tmp_path / "card"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs may be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_card_keeps_its_cache(tmp_path, full):
    """The copy is refused before it starts, with the sizes.

    If another program fills the card meanwhile, nothing is lost.
    """
    program = f"""
import sys; sys.argv = ["x"]
sys.path.insert(0, {str(PROGRAM.parent)!r})
import bundle_with_faults as b, os, errno
from pathlib import Path
from preflight.errors import BundleError
scene = b.places.Scene(Path({str(tmp_path)!r}))
scene.copy(scene.generation(1))
large = scene.generation(2, {{"index.faiss": os.urandom(3 << 20)}})
for free in (os.statvfs(scene.card).f_bavail * 4096, 1 << 40):
    try:
        scene.copy(large, free=free)
    except BundleError as error:
        print(error)
    assert scene.state() == 1
    assert [path.name for path in scene.card.iterdir() if path.name.startswith(".")] == []
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "PYTHONPATH": str(LIB)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    refused, filled = done.stdout.splitlines()
    assert "MB free, but this copy needs" in refused
    assert "No space left on device" in filled
