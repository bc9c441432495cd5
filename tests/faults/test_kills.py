"""Kills provisions at random moments, repeatedly. `benchmarks/kill_campaign.py --kills N` makes more kills."""

from __future__ import annotations

import random
import subprocess
from dataclasses import replace

SEED = 11


def test_forty_kills_of_one_place_lose_nothing(harness, scene):
    """The campaign checks `current` and the lock, that no finished step is repeated, and that no stray file is left."""
    tally = harness.kill_campaign(scene, kills=40, seed=SEED)
    assert tally.kills == 40
    assert tally.old
    assert len(tally.steps) >= 3


def test_ten_kills_of_whole_processes_with_their_own_server(harness, scene):
    """The server survives when its user is killed. The next run uses it and then stops it."""
    draw = random.Random(SEED)
    place = scene.copy(own_tiles=True)
    before = harness.Before.of(place, harness.FIRST, harness.SECOND)
    kills, number = 0, 0
    while kills < 10:
        process = place.start("provision")
        try:
            process.wait(draw.uniform(0.2, 2.5))
        except subprocess.TimeoutExpired:
            process.kill()
        status = process.wait()
        assert status in {0, -9}
        kills += status != 0
        which = harness.check_current(place, before)
        old, new = before.flights
        if status == 0:
            assert which == "new"
            number += 1
            old, new = new, f"00000000-0000-4000-8000-{number:012x}"
            harness.change_flight(place, new)
            before = harness.Before.of(place, old, new)
        else:
            before = replace(harness.Before.of(place, old, new), generation=before.generation)
    harness.check_next(scene.server, place, before)
    assert place.servers() == []
    verified = place.doit("verify")
    assert verified.status == 0, verified.said
    harness.check_rows_of(place)
    harness.remove(place)
