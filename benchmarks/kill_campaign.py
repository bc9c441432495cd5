"""Faults without end: kills at random moments, or every file operation of a provision failing in turn.

    python benchmarks/kill_campaign.py --kills 1000 --seed 1     # SIGKILL at random moments
    python benchmarks/kill_campaign.py --sweep                   # each of our own file operations x ENOSPC, EIO, death
    python benchmarks/kill_campaign.py --sweep --every 7         # one in seven of them

After each the cache must verify, be wholly the old or the new one, and the next provision must go on where it was. The
same checks run in tests/faults, on a sample. Ends with status 1 at the first thing that is not so.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "faults"))

import harness


def campaign(scene: harness.Ground, kills: int, seed: int) -> dict[str, object]:
    began = time.monotonic()
    tally = harness.kill_campaign(scene, kills=kills, seed=seed)
    seconds = round(time.monotonic() - began, 1)
    return {
        "kills": tally.kills,
        "ended before the kill": tally.ended,
        "current was the old one": tally.old,
        "current was the new one": tally.new,
        "steps killed": sorted(tally.steps),
        "seconds": seconds,
    }


def sweep(scene: harness.Ground, every: int) -> dict[str, object]:
    began = time.monotonic()
    calls = harness.operations(scene)
    outcomes: Counter[str] = Counter()
    for at in range(1, len(calls) + 1, every):
        for kind in harness.KINDS:
            outcome = harness.attempt(scene, kind, at)
            outcomes[f"{kind}: status {outcome['status']}, current {outcome['current']}"] += 1
        print(f"{at}/{len(calls)} {calls[at - 1]}", file=sys.stderr)
    return {
        "operations": dict(Counter(calls)),
        "outcomes": dict(outcomes),
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill provisions and check what is left.")
    parser.add_argument("--kills", type=int, default=0, help="how many provisions to kill at random moments")
    parser.add_argument("--seed", type=int, default=1, help="of the moments and of the changes between builds")
    parser.add_argument("--sweep", action="store_true", help="fail every file operation of a provision in turn")
    parser.add_argument("--every", type=int, default=1, help="with --sweep: only one in so many")
    given = parser.parse_args()
    if not given.kills and not given.sweep:
        parser.error("give --kills N or --sweep")
    with harness.pipeline().open_folder() as folder, harness.ground(folder) as scene:
        if given.kills:
            print(json.dumps(campaign(scene, given.kills, given.seed), indent=2))
        if given.sweep:
            print(json.dumps(sweep(scene, given.every), indent=2))


if __name__ == "__main__":
    main()
