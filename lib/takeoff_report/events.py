"""What is written down, in the journal and the flight recorder alike: flat JSON objects with an `event` and a `time`."""

from __future__ import annotations

import time
from collections.abc import Mapping

from takeoff_report.verifier_run import Verdict

MOST_REASONS = 16
"""A cache may have 100,000 failures; all are counted, so many are written down."""

ERROR, INFO = 3, 6
"""Of sd-daemon(3); MAV_SEVERITY counts alike."""


def utc(seconds: float) -> str:
    """UTC seconds as ISO 8601 with milliseconds, e.g. 2026-03-01T12:00:00.250Z."""
    milliseconds = int(seconds * 1000)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return f"{whole}.{milliseconds % 1000:03d}Z"


def priority(verdict: Verdict) -> int:
    """The journal's, sd-daemon(3): information for a pass, an error for a refusal."""
    return INFO if verdict.passed else ERROR


def verification(verdict: Verdict, phase: str) -> dict[str, object]:
    """A verdict. phase: takeoff (`verify`) or arm (`authorise`)."""
    reasons = verdict.said.get("fail_reasons")
    listed = [_reason(reason) for reason in reasons] if isinstance(reasons, list) else []
    kept = ("cache", "manifest_hash", "generation", "signer", "flight_id", "takeoff_origin", "remedy")
    return {
        "event": "verification_passed" if verdict.passed else "verification_refused",
        "phase": phase,
        "time": utc(verdict.began),
        "took_s": round(verdict.took_s, 3),
        "exit_status": verdict.exit_status,
        "statustext": verdict.statustext,
        "failures": len(listed),
        "fail_reasons": listed[:MOST_REASONS],
        **{name: verdict.said.get(name) for name in kept},
    }


def failed(sink: str, message: str, now: float) -> dict[str, object]:
    """Something could not be reported."""
    return {"event": "report_failed", "sink": sink, "time": utc(now), "message": message}


def _reason(reason: object) -> str:
    if not isinstance(reason, Mapping):
        return str(reason)
    return f"[{reason.get('code')}] {reason.get('file')}: {reason.get('message')}".replace("] : ", "] ")
