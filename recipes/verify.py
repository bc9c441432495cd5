"""The task `verify`: may this cache fly? Ends with the exit status of the verifier."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from preflight import wiring
from preflight.commands.verify import verify
from preflight.errors import PreflightError
from recipes.context import context
from takeoff.verdict import MOST_SHOWN


def task_verify() -> dict[str, Any]:
    """Re-hash every artifact and refuse on any doubt."""

    def run() -> None:
        given = context()
        given.start_logging()
        try:
            variables, cache = given.variables, given.cache_path()
            given.announce_demo()
            status, text = verify(
                given.places(),
                given.mission,
                variables.mode,
                cache,
                wiring.wall_clock,
                as_json=variables.log_json,
                deep=variables.deep,
            )
        except PreflightError as error:
            given.log_failure(error)
            status, text = 1, "" if given.log_json else f"verify failed: {error}"
        if text and given.log_json:
            _log(json.loads(text))
        elif text:
            print(text)  # noqa: T201 - the verdict
        sys.stdout.flush()
        raise SystemExit(status)

    return {
        "actions": [run],
        "uptodate": [False],
        "verbosity": 2,
        "doc": "re-hash every artifact of the current cache and refuse on any doubt",
    }


def _log(verdict: dict[str, Any]) -> None:
    """Logs the verdict as one line: INFO for a pass, ERROR for a refusal."""
    if verdict["outcome"] == "pass":
        level, event, message = logging.INFO, "c10.verify.pass", "verification passed"
    else:
        found, more = verdict["fail_reasons"][:MOST_SHOWN], len(verdict["fail_reasons"]) - MOST_SHOWN
        reasons = "; ".join(": ".join(filter(None, (reason["file"], reason["message"]))) for reason in found)
        reasons += f"; and {more} more" if more > 0 else ""
        level, event, message = logging.ERROR, "c10.verify.fail", f"takeoff refused: {reasons}"
    logging.getLogger("c10_provisioning").log(level, message, extra={"event": event, "fields": verdict})
