"""Every write, sync, rename and link of a publication fails once, or its process is killed there.

At every moment `current` must be the complete old generation or the complete new one. The next publication must work.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import preflight

LIB = Path(preflight.__file__).parents[1]
PROGRAM = Path(__file__).parent / "publish_with_faults.py"


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    """The outcome of each fault. One new process makes all faults in forked children, because it has no threads."""

    def run(kind):
        folder = tmp_path_factory.mktemp(kind)
        done = subprocess.run(
            [sys.executable, "-W", "error", str(PROGRAM), str(folder), kind],
            env={**os.environ, "PYTHONPATH": str(LIB)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("kind", ["ENOSPC", "EIO", "kill before", "kill after"])
def test_current_is_complete_after_a_fault_at_any_point_and_the_next_run_publishes(driven, kind):
    outcomes = driven(kind)
    # Each kind of call occurs at least once.
    assert {"write", "fsync", "rename", "link", "symlink", "mkdir"} <= {outcome["call"] for outcome in outcomes}
    assert len(outcomes) > 20
    for outcome in outcomes:
        assert outcome["current"] in {"old", "new"}, outcome
        assert outcome["after sweep and next run"] == "new", outcome
        assert outcome["left over"] == [], outcome
        if kind.startswith("kill"):
            assert outcome["ended"] == 137, outcome
        else:
            assert outcome["ended"] in {"CacheRootError", "nothing raised"}, outcome
    # There are faults before and after the switch of `current`.
    assert {outcome["current"] for outcome in outcomes} == {"old", "new"}


def test_no_fault_before_the_switch_of_current_is_hidden(driven):
    for outcome in driven("ENOSPC"):
        if outcome["ended"] == "nothing raised":
            # If a link fails, the file is copied. An existing folder need not be made. Every other fault is an error.
            assert outcome["call"] in {"link", "mkdir"}, outcome
            assert outcome["current"] == "new"
