"""The commands of `python -I -m takeoff_report`.

    verify [--config FILE] -- CACHE --trust DIR ...      verify once, report, exit with the verifier's status
    authorise --config FILE -- CACHE --trust DIR ...     answer the autopilot's arm requests until SIGTERM
    read FILE                                            print a flight recorder's file

The arguments after `--` go to the verifier. `verify` prints the JSON verdict of the verifier and exits with its status,
even if reports fail. `authorise` exits with 0 after SIGTERM or SIGINT, and with 1 if it cannot continue. No arming is
authorised then. `read` exits with 0, with 1 if nothing can be read, and with 3 if records are torn, damaged or missing.
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
    """Runs one command and returns its exit status."""
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
    """Runs the verifier, then reads the configuration and reports the verdict.

    Args:
        config: the configuration file, or None to report only to stdout and the journal.
        arguments: the arguments of the verifier.

    Returns:
        The exit status of the verifier.
    """
    verdict = run_verifier(arguments, clock=time.time, monotonic=time.monotonic)
    try:
        settings = _settings(config)
        deliver(verdict_sinks(verdict, settings), settings.patience_s)
    except Exception as error:  # noqa: BLE001 - an error of the reporter must not change the verdict
        complain("reporter", f"{type(error).__name__}: {error}")
    return verdict.exit_status


def authorise(config: Path, arguments: list[str]) -> int:
    """Answers arm requests until SIGTERM or SIGINT.

    Args:
        config: the configuration file. It must have the parts `mavlink` and `arm`.
        arguments: the arguments of the verifier.

    Returns:
        0 after a signal, 1 if the service cannot start or continue, or the usage status for wrong arguments.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        options, settings = parse([item for item in arguments if item != "--json"]), load(config)
        if settings.mavlink is None or settings.arm is None:
            raise ReportError(f"{config}: `authorise` needs the parts mavlink and arm: add them")
        with Link(settings.mavlink) as link:
            Authoriser(
                link,
                settings.arm,
                verify=lambda: run_verifier(arguments, clock=time.time, monotonic=time.monotonic),
                look=lambda: snapshot(options.cache, options.trust),
                clock=lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
                told=lambda verdict: _note(settings, events.priority(verdict), events.verification(verdict, "arm")),
                answered=lambda request, reply: _note(settings, *_arm_event(request, reply)),
            ).serve(stop)
    except (ReportError, UsageError) as error:
        complain("authorise", str(error))
        return error.exit_status if isinstance(error, UsageError) else 1
    return 0


def read(file: Path) -> int:
    """Prints the records of a flight recorder, one JSON line each.

    Writes to stderr which records are torn, damaged, missing, or were removed to make room. Returns 0, 1 if nothing can
    be read, or 3 if records are torn, damaged or missing.
    """
    try:
        log = flight_log.read(file)
    except ReportError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for record_ in log.records:
        sys.stdout.write(json.dumps(record_, sort_keys=True) + "\n")
    if log.removed:
        sys.stderr.write(f"records 1 to {log.removed} were removed to make room\n")
    sys.stderr.writelines(f"{problem}\n" for problem in log.problems)
    sys.stdout.flush()
    return _DAMAGED if log.problems else 0


def _settings(config: Path | None) -> Config:
    """Returns the configuration. If it is not valid, writes that to the journal and returns the empty configuration."""
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


def _arm_event(request: Request, reply: Answer) -> tuple[int, dict[str, object]]:
    accepted = reply.result == ACCEPTED
    return events.INFO if accepted else events.ERROR, {
        "event": "arm_authorised" if accepted else "arm_denied",
        "time": events.utc(time.time()),
        "asked_by": f"{request.system}/{request.component}",
        "reason": reply.reason,
        "valid_for_s": reply.valid_for_s,
        "statustext": reply.text,
    }
