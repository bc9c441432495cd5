"""A whole provision in which one file operation of our own code fails, or its process is killed there.

The tests take a sample of the operations. `python benchmarks/kill_campaign.py --sweep` takes all of them.
"""

from __future__ import annotations

import pytest

SEED = 3
MORE = 24


@pytest.fixture(scope="module")
def outcomes(harness, scene):
    calls = harness.operations(scene)
    assert {"open", "write", "fsync", "rename", "link", "symlink", "remove", "mkdir", "chmod"} == set(calls)
    assert len(calls) > 150
    return {fault: harness.attempt(scene, *fault) for fault in harness.chosen(calls, SEED, MORE)}


@pytest.mark.parametrize("kind", ["ENOSPC", "EIO", "kill"])
def test_after_any_fault_current_is_complete_and_the_next_provision_resumes(outcomes, kind):
    """`attempt` makes the checks for each fault. This test checks that the faults hit all kinds of operations."""
    met = [outcome for (fault, _), outcome in outcomes.items() if fault == kind]
    assert {"open", "write", "fsync", "rename", "link", "symlink"} <= {outcome["call"] for outcome in met}
    assert {outcome["status"] for outcome in met} <= ({137} if kind == "kill" else {0, 1})
    assert {outcome["current"] for outcome in met} == {"old", "new"}


def test_a_failed_operation_that_has_no_substitute_fails_the_provision(outcomes):
    for (kind, _), outcome in outcomes.items():
        if kind != "kill" and outcome["current"] == "old":
            assert outcome["status"] == 1
        if kind != "kill" and outcome["status"] == 0:
            # If a link fails, the file is copied. The rates are needed only by the next plan.
            assert outcome["call"] == "link" or outcome["warned"], outcome
