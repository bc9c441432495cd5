"""Reports a verdict to several places at once. No place can block another, delay the exit status, or change it."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from takeoff_report import events, flight_log, journal
from takeoff_report.config import Config, FlightLog, Mavlink
from takeoff_report.mavlink import Link, severity
from takeoff_report.verifier_run import Verdict

Sink = Callable[[], None]


def deliver(sinks: Mapping[str, Sink], patience_s: float) -> None:
    """Runs every sink in its own thread. Writes to the journal which sinks failed or did not end in time.

    Args:
        sinks: name -> function that reports to one place.
        patience_s: how long to wait for all sinks together, seconds.
    """
    threads = {name: _start(partial(_guarded, name, sink)) for name, sink in sinks.items()}
    deadline = time.monotonic() + patience_s
    for thread in threads.values():
        thread.join(max(deadline - time.monotonic(), 0))
    late = [name for name, thread in threads.items() if thread.is_alive()]
    for name in late:
        # Also in a thread, because the journal may be the sink that hangs.
        _start(partial(complain, name, f"did not end within {patience_s} s")).join(1)


def complain(sink: str, message: str) -> None:
    """Writes to the journal that a report failed. If that fails too, the error is ignored: no other place is left."""
    with contextlib.suppress(OSError, ValueError):
        journal.write(sys.stderr, events.ERROR, events.failed(sink, message, time.time()))


def verdict_sinks(verdict: Verdict, config: Config) -> dict[str, Sink]:
    """Returns the sinks for a verdict at takeoff: stdout and journal, and what the configuration names."""
    event = events.verification(verdict, "takeoff")
    sinks: dict[str, Sink] = {
        "stdout": lambda: _print(verdict.raw),
        "journal": lambda: journal.write(sys.stderr, events.priority(verdict), event),
    }
    log, mavlink = config.flight_log, config.mavlink
    if log is not None:
        sinks["flight_log"] = lambda: record(log, event)
    if mavlink is not None:
        sinks["mavlink"] = lambda: _send(mavlink, verdict)
    return sinks


def record(settings: FlightLog, event: Mapping[str, object]) -> None:
    """Appends an event to the flight recorder. Writes to the journal which files were removed to make room.

    Raises:
        ReportError: the event cannot be written.
    """
    done = flight_log.append(settings.path, event, max_bytes=settings.max_bytes, keep=settings.keep)
    if done.removed:
        complain("flight_log", f"removed to make room: {', '.join(done.removed)}")


def _send(settings: Mavlink, verdict: Verdict) -> None:
    with Link(settings) as link:
        link.heartbeat()
        link.statustext(severity(verdict), verdict.statustext)


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _guarded(name: str, sink: Sink) -> None:
    try:
        sink()
    except Exception as error:  # noqa: BLE001 - an error in a sink must not change the verdict
        complain(name, f"{type(error).__name__}: {error}")


def _start(work: Sink) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
