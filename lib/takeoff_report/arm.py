"""Arm authorisation: the autopilot sends a request before it arms, and the answer comes from a live verdict.

A verdict is live if its verification began at most `max_age_s` ago, and no stat signature in the cache or the trust
directory has changed since before it began. This comparison of signatures is not a verification. It can only refuse
more, never turn a refusal into a pass.

Without a live verdict the answer is a denial, and a verification starts for the next request. The autopilot cannot wait
for it, because a full verification takes longer than its time limit (PX4's COM_ARM_AUTH_TO, 1 s). No authorisation is
valid longer than its verdict.
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
"""The stat signatures of all files and folders below some folders."""


@dataclass(frozen=True)
class Held:
    """The last verdict.

    since: when its verification began, seconds of the clock that `Authoriser` uses.
    seen: the snapshot of the folders before the verification, or None if none could be taken.
    """

    verdict: Verdict
    since: float
    seen: Snapshot | None


@dataclass(frozen=True)
class Answer:
    """The answer to a request.

    result, reason: the fields of COMMAND_ACK.
    valid_for_s: how long an acceptance is valid, seconds. 0 for a denial.
    text: for the ground station, empty for an acceptance.
    """

    result: int
    reason: int
    valid_for_s: int
    text: str

    @property
    def live(self) -> bool:
        """Whether the answer comes from a live verdict. False if there was none."""
        return self.reason != TIMED_OUT


def answer(held: Held | None, now: float, seen: Snapshot | None, settings: Arm) -> Answer:
    """Returns the answer to a request.

    Args:
        held: the last verdict, or None.
        now: the time of the request, seconds of the clock that gave `held.since`.
        seen: the current snapshot of the folders, or None if none can be taken.
        settings: the configured time limits.
    """
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
    """Returns the stat signatures of everything below the folders, or None if they cannot be read.

    Links in the paths of the folders themselves are resolved.
    """
    try:
        return tuple(sorted(entry for folder in folders for entry in _entries(os.path.realpath(folder))))
    except OSError:
        return None


class Authoriser:
    """Answers requests over one link. Runs verifications in a thread, which waits for the verifier's process.

    Args:
        link: the MAVLink connection.
        settings: the configured time limits.
        verify: runs a full verification.
        look: takes the snapshot of what `verify` judges.
        clock: returns seconds that also count while the machine is suspended.
        told: receives each verdict. Must not raise.
        answered: receives each request and its answer. Must not raise.
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
        """Starts a verification, then answers requests until `stop` is set.

        Raises:
            ReportError: the connection broke.
        """
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
                stop.wait(HEARTBEAT_S / 4)  # the peer does not listen yet
            except OSError as error:
                raise ReportError(f"the MAVLink line broke: {error}; check mavlink.endpoint and its device") from error

    def _answer(self, request: Request) -> None:
        reply = answer(self._held, self._clock(), self._look(), self._settings)
        self._link.acknowledge(request, reply.result, reply.reason, reply.valid_for_s)
        if reply.text:
            self._link.statustext(_CRITICAL, reply.text)
        self._answered(request, reply)
        if not reply.live:
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
    yield _signature(folder, os.stat(folder))  # noqa: PTH116 - paths are strings here, as os.scandir gives them
    with os.scandir(folder) as entries:
        children = [
            (entry.path, entry.stat(follow_symlinks=False), entry.is_dir(follow_symlinks=False)) for entry in entries
        ]
    for path, status, is_folder in children:
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
