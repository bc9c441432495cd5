"""Arm authorisation: the autopilot asks before it arms, and is answered from a live verdict.

Live means: the verification began at most `max_age_s` ago, and since before it began nothing in the cache or the trust
directory has changed by its stat signature. That look is no verification and never makes a pass; it only refuses more.
Without a live verdict the answer is no, and a verification is started for the next request: a full one takes longer
than an autopilot waits (PX4's COM_ARM_AUTH_TO, 1 s). No authorisation outlives its verdict.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from takeoff_report.config import Arm
from takeoff_report.errors import ReportError
from takeoff_report.mavlink import ACCEPTED, DENIED, NO_REASON, TIMED_OUT, Link, Request, severity
from takeoff_report.verifier_run import Verdict

HEARTBEAT_S = 1.0
_CRITICAL = 2

Snapshot = tuple[tuple[object, ...], ...]
"""The stat signatures of everything below some folders."""


@dataclass(frozen=True)
class Held:
    """A verdict, when its verification began (seconds of the clock handed in), and what the folders looked like before."""

    verdict: Verdict
    since: float
    seen: Snapshot | None


@dataclass(frozen=True)
class Answer:
    """What is sent: result and reason of COMMAND_ACK, seconds that an acceptance holds, and a text for a denial."""

    result: int
    reason: int
    valid_for_s: int
    text: str

    @property
    def live(self) -> bool:
        """Whether it comes from a live verdict, and not from the lack of one."""
        return self.reason != TIMED_OUT


def answer(held: Held | None, now: float, seen: Snapshot | None, settings: Arm) -> Answer:
    """The answer to a request at `now`, when the folders look like `seen`."""
    if held is None:
        return _no_verdict("CACHE REFUSED: not verified yet, arm again")
    if held.seen is None or held.seen != seen:
        return _no_verdict("CACHE REFUSED: changed since verified, arm again")
    left = held.since + settings.max_age_s - now
    if now < held.since or left < 1:
        return _no_verdict("CACHE REFUSED: verdict too old, arm again")
    if not held.verdict.passed:
        return Answer(DENIED, NO_REASON, 0, held.verdict.statustext)
    return Answer(ACCEPTED, 0, min(settings.valid_for_s, int(left)), "")


def snapshot(*folders: str) -> Snapshot | None:
    """What the folders look like, links in their own paths resolved; None where that cannot be seen."""
    try:
        return tuple(sorted(entry for folder in folders for entry in _entries(os.path.realpath(folder))))
    except OSError:
        return None


class Authoriser:
    """Answers requests over one link; verifies beside it, in a thread that waits for the verifier's process.

    verify: a whole verification; look: the snapshot of what it judges; clock: seconds that count on while the machine
    is suspended. told: each verdict; answered: each request with its answer. Neither may raise.
    """

    def __init__(
        self,
        link: Link,
        settings: Arm,
        *,
        verify: Callable[[], Verdict],
        look: Callable[[], Snapshot | None],
        clock: Callable[[], float],
        told: Callable[[Verdict], None],
        answered: Callable[[Request, Answer], None],
    ) -> None:
        self._link, self._settings = link, settings
        self._verify, self._look, self._clock = verify, look, clock
        self._told, self._answered = told, answered
        self._held: Held | None = None
        self._verifying = False
        self._finished: queue.SimpleQueue[Held | None] = queue.SimpleQueue()

    def serve(self, stop: threading.Event) -> None:
        """Verify, then answer until `stop` is set. Raises ReportError where the line breaks."""
        self._begin()
        beat = self._clock()
        while not stop.is_set():
            try:
                if self._clock() >= beat:
                    beat = self._clock() + HEARTBEAT_S
                    self._link.heartbeat()
                self._take_verdict()
                for request in self._link.requests(min(HEARTBEAT_S / 4, max(beat - self._clock(), 0))):
                    self._answer(request)
            except ConnectionError:
                stop.wait(HEARTBEAT_S / 4)  # nobody listens there yet
            except OSError as error:
                raise ReportError(f"the MAVLink line broke: {error}") from error

    def _answer(self, request: Request) -> None:
        given = answer(self._held, self._clock(), self._look(), self._settings)
        self._link.acknowledge(request, given.result, given.reason, given.valid_for_s)
        if given.text:
            self._link.statustext(_CRITICAL, given.text)
        self._answered(request, given)
        if not given.live:
            self._begin()

    def _begin(self) -> None:
        if not self._verifying:
            self._verifying = True
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        held = None
        try:
            since, seen = self._clock(), self._look()
            held = Held(self._verify(), since, seen)
        finally:
            self._finished.put(held)

    def _take_verdict(self) -> None:
        try:
            self._held = self._finished.get_nowait()
        except queue.Empty:
            return
        self._verifying = False
        if self._held is not None:
            self._told(self._held.verdict)
            self._link.statustext(severity(self._held.verdict), self._held.verdict.statustext)


def _no_verdict(text: str) -> Answer:
    return Answer(DENIED, TIMED_OUT, 0, text)


def _entries(folder: str) -> Iterator[tuple[object, ...]]:
    yield _signature(folder, os.stat(folder))  # noqa: PTH116 - beside scandir
    with os.scandir(folder) as entries:
        found = [
            (entry.path, entry.stat(follow_symlinks=False), entry.is_dir(follow_symlinks=False)) for entry in entries
        ]
    for path, status, is_folder in found:
        if is_folder:
            yield from _entries(path)
        else:
            yield _signature(path, status)


def _signature(path: str, status: os.stat_result) -> tuple[object, ...]:
    return (
        path,
        status.st_mode,
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
