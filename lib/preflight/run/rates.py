"""How long stages took when they were built, kept for the next plan's estimate."""

from __future__ import annotations

import json

from preflight.report.run_log import RunLog
from preflight.store import atomic
from preflight.store.cache_layout import CacheLayout
from preflight.trace.record import canonical_json

# As many units (tiles) as give a rate that is not mostly starting up.
RATE_UNITS = 256


def read_rates(layout: CacheLayout) -> dict[str, dict[str, float]]:
    """Stage -> seconds and units of its last build; empty when nothing usable is kept."""
    try:
        value = json.loads(layout.rates.read_bytes())
        return {
            str(name): {"seconds": float(rate["seconds"]), "units": float(rate["units"])}
            for name, rate in value.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def keep_rates(layout: CacheLayout, run_log: RunLog) -> None:
    """Keep the seconds of the stages a run has built. That they cannot be written is a warning."""
    built = {name: note.seconds for name, note in run_log.stages.items() if note.outcome == "built"}
    if not built:
        return
    units = {"descriptors": run_log.counts["descriptors_generated"]}
    fresh = {name: {"seconds": round(value, 3), "units": units.get(name, 1)} for name, value in built.items()}
    old = read_rates(layout)
    # A few units tell what starting costs, not the rate: they do not replace what many have shown.
    least = {name: min(rate["units"], RATE_UNITS) for name, rate in old.items()}
    kept = {name: rate for name, rate in fresh.items() if rate["units"] >= max(1, least.get(name, 1))}
    try:
        atomic.atomic_write(layout.rates, canonical_json({**old, **kept}))
    except OSError as error:
        # Costs the next plan an estimate; what was built is not changed by it.
        run_log.warn("rates_not_kept", f"the seconds of this build are not remembered: {error}")
