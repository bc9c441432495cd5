"""A whole provision in which one of our own file operations fails, or is the last thing its process does.

A sample of the operations; `python benchmarks/kill_campaign.py --sweep` goes through every one.
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
def test_current_is_whole_and_the_next_provision_goes_on_after_any_fault(outcomes, kind):
    """`attempt` asserts it for each; here: the faults reached what they were meant for."""
    met = [outcome for (fault, _), outcome in outcomes.items() if fault == kind]
    assert {"open", "write", "fsync", "rename", "link", "symlink"} <= {outcome["call"] for outcome in met}
    assert {outcome["status"] for outcome in met} <= ({137} if kind == "kill" else {0, 1})
    assert {outcome["current"] for outcome in met} == {"old", "new"}


def test_what_cannot_be_done_without_fails_the_provision(outcomes):
    for (kind, _), outcome in outcomes.items():
        if kind != "kill" and outcome["current"] == "old":
            assert outcome["status"] == 1
        if kind != "kill" and outcome["status"] == 0:
            # A link that cannot be made is a copy; the rates only serve the next plan.
            assert outcome["call"] == "link" or outcome["warned"], outcome
