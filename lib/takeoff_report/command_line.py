"""The commands of `python -I -m takeoff_report`.

    verify [--config FILE] -- CACHE --trust DIR ...      verify once, report, end with the verifier's status
    authorise --config FILE -- CACHE --trust DIR ...     answer the autopilot's arm requests until SIGTERM
    read FILE                                            print a flight recorder's file

What stands behind `--` is the verifier's. `verify` prints the verifier's JSON verdict and ends with its status, whatever
becomes of the reports. `authorise` ends with 0 when it was asked to, 1 when it cannot go on; nobody is authorised then.
`read` ends with 0, 1 where nothing can be read, and 3 where records are torn, damaged or missing.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path

from takeoff.command_line import parse
from takeoff.errors import UsageError
from takeoff_report import events, flight_log, journal
from takeoff_report.arm import Answer, Authoriser, snapshot
from takeoff_report.config import Config, load
from takeoff_report.errors import ReportError
from takeoff_report.mavlink import ACCEPTED, Link, Request
from takeoff_report.sinks import complain, deliver, record, verdict_sinks
from takeoff_report.verifier_run import run_verifier

USAGE = (
    "usage: python -I -m takeoff_report verify [--config FILE] -- CACHE --trust DIR ..."
    " | authorise --config FILE -- CACHE --trust DIR ... | read FILE"
)
_DAMAGED = 3


def main(arguments: list[str]) -> int:
    """Run one command and return the exit status."""
    match arguments:
        case ["verify", "--", *rest]:
            return verify(None, rest)
        case ["verify", "--config", config, "--", *rest]:
            return verify(Path(config), rest)
        case ["authorise", "--config", config, "--", *rest]:
            return authorise(Path(config), rest)
        case ["read", file]:
            return read(Path(file))
    complain("usage", USAGE)
    return UsageError.exit_status


def verify(config: Path | None, arguments: list[str]) -> int:
    """Verify first; only then is the configuration looked at. Returns the verifier's status."""
    verdict = run_verifier(arguments, clock=time.time, monotonic=time.monotonic)
    try:
        settings = _settings(config)
        deliver(verdict_sinks(verdict, settings), settings.patience_s)
    except Exception as error:  # noqa: BLE001 - no fault of the reporter is one of the cache
        complain("reporter", f"{type(error).__name__}: {error}")
    return verdict.exit_status


def authorise(config: Path, arguments: list[str]) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0, or 1 or the usage status."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        options, settings = parse([item for item in arguments if item != "--json"]), load(config)
        if settings.mavlink is None or settings.arm is None:
            raise ReportError(f"{config}: `authorise` needs the parts mavlink and arm")
        with Link(settings.mavlink) as link:
            Authoriser(
                link,
                settings.arm,
                verify=lambda: run_verifier(arguments, clock=time.time, monotonic=time.monotonic),
                look=lambda: snapshot(options.cache, options.trust),
                clock=lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
                told=lambda verdict: _note(settings, events.priority(verdict), events.verification(verdict, "arm")),
                answered=lambda request, given: _note(settings, *_arm_event(request, given)),
            ).serve(stop)
    except (ReportError, UsageError) as error:
        complain("authorise", str(error))
        return error.exit_status if isinstance(error, UsageError) else 1
    return 0


def read(file: Path) -> int:
    """Print the records, a JSON line each; on stderr what is torn, damaged, missing or was removed."""
    try:
        found = flight_log.read(file)
    except ReportError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for one in found.records:
        sys.stdout.write(json.dumps(one, sort_keys=True) + "\n")
    if found.removed:
        sys.stderr.write(f"records 1 to {found.removed} were removed to make room\n")
    sys.stderr.writelines(f"{problem}\n" for problem in found.problems)
    sys.stdout.flush()
    return _DAMAGED if found.problems else 0


def _settings(config: Path | None) -> Config:
    """A configuration that cannot be used leaves the journal and stdout, and says so there."""
    try:
        return Config() if config is None else load(config)
    except ReportError as error:
        complain("config", str(error))
        return Config()


def _note(settings: Config, priority: int, event: dict[str, object]) -> None:
    log = settings.flight_log
    sinks = {"journal": lambda: journal.write(sys.stderr, priority, event)}
    if log is not None:
        sinks["flight_log"] = lambda: record(log, event)
    deliver(sinks, settings.patience_s)


def _arm_event(request: Request, given: Answer) -> tuple[int, dict[str, object]]:
    accepted = given.result == ACCEPTED
    return events.INFO if accepted else events.ERROR, {
        "event": "arm_authorised" if accepted else "arm_denied",
        "time": events.utc(time.time()),
        "asked_by": f"{request.system}/{request.component}",
        "reason": given.reason,
        "valid_for_s": given.valid_for_s,
        "statustext": given.text,
    }
