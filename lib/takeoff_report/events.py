"""The events for the journal and the flight recorder: flat JSON objects with an `event` and a `time`."""

from __future__ import annotations

import time
from collections.abc import Mapping

from takeoff_report.verifier_run import Verdict

MAX_REASONS = 16
"""The largest number of failures in an event. A cache may have 100,000 failures; the event still counts all of them."""

ERROR, INFO = 3, 6
"""Priorities of sd-daemon(3). MAV_SEVERITY uses the same numbers."""


def utc(seconds: float) -> str:
    """Formats seconds since the epoch (UTC) as ISO 8601 with milliseconds, e.g. 2026-03-01T12:00:00.250Z."""
    milliseconds = int(seconds * 1000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return f"{text}.{milliseconds % 1000:03d}Z"


def priority(verdict: Verdict) -> int:
    """Returns the journal priority of a verdict: information for a pass, error for a refusal."""
    return INFO if verdict.passed else ERROR


def verification(verdict: Verdict, phase: str) -> dict[str, object]:
    """Returns the event of a verdict. phase: `takeoff` (command `verify`) or `arm` (command `authorise`)."""
    reasons = verdict.said.get("fail_reasons")
    listed = [_reason(reason) for reason in reasons] if isinstance(reasons, list) else []
    copied = ("cache", "manifest_hash", "generation", "signer", "flight_id", "takeoff_origin", "remedy")
    return {
        "event": "verification_passed" if verdict.passed else "verification_refused",
        "phase": phase,
        "time": utc(verdict.began),
        "took_s": round(verdict.took_s, 3),
        "exit_status": verdict.exit_status,
        "statustext": verdict.statustext,
        "failures": len(listed),
        "fail_reasons": listed[:MAX_REASONS],
        **{name: verdict.said.get(name) for name in copied},
    }


def failed(sink: str, message: str, now: float) -> dict[str, object]:
    """Returns the event of a report that failed. sink: where it was to go. now: seconds since the epoch."""
    return {"event": "report_failed", "sink": sink, "time": utc(now), "message": message}


def _reason(reason: object) -> str:
    if not isinstance(reason, Mapping):
        return str(reason)
    return f"[{reason.get('code')}] {reason.get('file')}: {reason.get('message')}".replace("] : ", "] ")
