"""Injects many faults into provisions: kills at random moments, or a failure of each file operation in turn.

    python benchmarks/kill_campaign.py --kills 1000 --seed 1     # SIGKILL at random moments
    python benchmarks/kill_campaign.py --sweep                   # each file operation of preflight x ENOSPC, EIO, death
    python benchmarks/kill_campaign.py --sweep --every 7         # every seventh of them

After each fault the cache must verify and must be completely the old or completely the new one. The next provision must
continue where the previous one stopped. tests/faults runs the same checks on a sample. The campaign stops with status 1
at the first violation.
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
    start = time.monotonic()
    tally = harness.kill_campaign(scene, kills=kills, seed=seed)
    seconds = round(time.monotonic() - start, 1)
    return {
        "kills": tally.kills,
        "ended before the kill": tally.ended,
        "current was the old cache": tally.old,
        "current was the new cache": tally.new,
        "steps killed": sorted(tally.steps),
        "seconds": seconds,
    }


def sweep(scene: harness.Ground, every: int) -> dict[str, object]:
    start = time.monotonic()
    calls = harness.operations(scene)
    outcomes: Counter[str] = Counter()
    for number in range(1, len(calls) + 1, every):
        for kind in harness.KINDS:
            outcome = harness.attempt(scene, kind, number)
            outcomes[f"{kind}: status {outcome['status']}, current {outcome['current']}"] += 1
        print(f"{number}/{len(calls)} {calls[number - 1]}", file=sys.stderr)
    return {
        "operations": dict(Counter(calls)),
        "outcomes": dict(outcomes),
        "seconds": round(time.monotonic() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Inject faults into provisions and check the cache after each.")
    parser.add_argument("--kills", type=int, default=0, help="number of provisions to kill at random moments")
    parser.add_argument("--seed", type=int, default=1, help="seed of the moments and of the changes between builds")
    parser.add_argument("--sweep", action="store_true", help="let each file operation of a provision fail in turn")
    parser.add_argument("--every", type=int, default=1, help="with --sweep: only every N-th file operation")
    options = parser.parse_args()
    if not options.kills and not options.sweep:
        parser.error("give --kills N or --sweep")
    with harness.pipeline().open_folder() as folder, harness.ground(folder) as scene:
        if options.kills:
            print(json.dumps(campaign(scene, options.kills, options.seed), indent=2))
        if options.sweep:
            print(json.dumps(sweep(scene, options.every), indent=2))


if __name__ == "__main__":
    main()
