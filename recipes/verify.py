"""Verify: may this cache be flown with? Ends with the verifier's own exit status."""

from __future__ import annotations

import sys
from typing import Any

from preflight import wiring
from preflight.commands.verify import verify
from preflight.errors import PreflightError
from recipes.context import context


def task_verify() -> dict[str, Any]:
    """Re-hash every artifact and refuse on any doubt."""

    def run() -> None:
        given = context()
        given.start_logging()
        try:
            variables = given.variables
            if variables.cache is None:
                given.announce_demo()
            status, text = verify(
                given.mission(), variables.mode, variables.cache, wiring.wall_clock, as_json=variables.log_json
            )
        except PreflightError as error:
            given.log_failure(error)
            status, text = 1, "" if given.log_json else f"verify failed: {error}"
        if text:
            print(text)  # noqa: T201 - the verdict
        sys.stdout.flush()
        raise SystemExit(status)

    return {
        "actions": [run],
        "uptodate": [False],
        "verbosity": 2,
        "doc": "re-hash every artifact of the current cache and refuse on any doubt",
    }
