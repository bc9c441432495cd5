"""Keeps how long stages took to build, for the estimate of the next plan."""

from __future__ import annotations

import json

from preflight.report.run_log import RunLog
from preflight.store import atomic
from preflight.store.cache_layout import CacheLayout
from preflight.trace.record import canonical_json

# With fewer units (tiles), the start-up time would dominate the rate.
RATE_UNITS = 256


def read_rates(layout: CacheLayout) -> dict[str, dict[str, float]]:
    """Return stage -> {"seconds", "units"} of its last build. Empty if the file is missing or damaged."""
    try:
        value = json.loads(layout.rates.read_bytes())
        return {
            str(name): {"seconds": float(rate["seconds"]), "units": float(rate["units"])}
            for name, rate in value.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def keep_rates(layout: CacheLayout, run_log: RunLog) -> None:
    """Store the seconds of the stages that a run built. A failed write only logs a warning."""
    built = {name: result.seconds for name, result in run_log.stages.items() if result.outcome == "built"}
    if not built:
        return
    units = {"descriptors": run_log.counts["descriptors_generated"]}
    fresh = {name: {"seconds": round(value, 3), "units": units.get(name, 1)} for name, value in built.items()}
    old = read_rates(layout)
    # The time for a few units is mostly start-up time, so it does not replace a rate that was measured on many.
    least = {name: min(rate["units"], RATE_UNITS) for name, rate in old.items()}
    kept = {name: rate for name, rate in fresh.items() if rate["units"] >= max(1, least.get(name, 1))}
    try:
        atomic.atomic_write(layout.rates, canonical_json({**old, **kept}))
    except OSError as error:
        # Only the estimate of the next plan suffers; the build is complete.
        run_log.warn(
            "c10.build.rates_not_kept",
            f"the duration of the stages cannot be stored, so the next plan has no new estimate: {error}",
        )
