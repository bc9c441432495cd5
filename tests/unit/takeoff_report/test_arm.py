"""Arm authorisation: the rule alone, and the service with a simulated autopilot that speaks real MAVLink."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takeoff_report import arm, command_line, flight_log
from takeoff_report.arm import Answer, Held, answer
from takeoff_report.config import Arm, Mavlink, endpoint
from takeoff_report.errors import ReportError
from takeoff_report.mavlink import ACCEPTED, DENIED, NO_REASON, TIMED_OUT, Link
from takeoff_report.verifier_run import judge

SETTINGS = Arm(max_age_s=60, valid_for_s=10)
SEEN = (("/cache/a", 1),)
GOOD = judge(0, b'{"outcome": "pass", "exit_status": 0, "manifest_hash": "ab", "generation": 1}', 0.0, 0.0)
BAD = judge(38, b'{"outcome": "fail", "exit_status": 38, "statustext": "CACHE REFUSED: expired"}', 0.0, 0.0)


@pytest.mark.parametrize(
    ("held", "now", "seen", "expected"),
    [
        (Held(GOOD, 100.0, SEEN), 100.0, SEEN, (ACCEPTED, 0, 10)),
        (Held(GOOD, 100.0, SEEN), 155.5, SEEN, (ACCEPTED, 0, 4)),  # not longer than the verdict is valid
        (Held(GOOD, 100.0, SEEN), 159.0, SEEN, (ACCEPTED, 0, 1)),
        (Held(GOOD, 100.0, SEEN), 159.1, SEEN, (DENIED, TIMED_OUT, 0)),  # too old
        (Held(GOOD, 100.0, SEEN), 99.9, SEEN, (DENIED, TIMED_OUT, 0)),  # from the future
        (None, 100.0, SEEN, (DENIED, TIMED_OUT, 0)),  # absent
        (Held(GOOD, 100.0, SEEN), 100.0, (("/cache/a", 2),), (DENIED, TIMED_OUT, 0)),  # changed since
        (Held(GOOD, 100.0, SEEN), 100.0, None, (DENIED, TIMED_OUT, 0)),  # no snapshot now
        (Held(GOOD, 100.0, None), 100.0, None, (DENIED, TIMED_OUT, 0)),  # no snapshot before the verification
        (Held(BAD, 100.0, SEEN), 100.0, SEEN, (DENIED, NO_REASON, 0)),
        (Held(BAD, 100.0, SEEN), 200.0, SEEN, (DENIED, TIMED_OUT, 0)),
    ],
)
def test_the_answer_to_a_request(held, now, seen, expected):
    reply = answer(held, now, seen, SETTINGS)
    assert (reply.result, reply.reason, reply.valid_for_s) == expected
    assert bool(reply.text) is (reply.result == DENIED)
    assert len(reply.text) <= 50


@given(
    st.sampled_from([None, Held(GOOD, 1000.0, SEEN), Held(BAD, 1000.0, SEEN), Held(GOOD, 1000.0, None)]),
    st.floats(0, 5000),
    st.sampled_from([SEEN, (("/cache/a", 2),), None]),
    st.builds(Arm, st.integers(1, 3600), st.integers(1, 3600)),
)
def test_only_a_live_pass_authorises_and_no_longer_than_it_lives(held, now, seen, settings):
    reply = answer(held, now, seen, settings)
    if reply.result == ACCEPTED:
        assert held is not None
        assert held.verdict.passed
        assert held.seen == seen is not None
        assert 1 <= reply.valid_for_s <= settings.valid_for_s
        assert held.since <= now <= now + reply.valid_for_s <= held.since + settings.max_age_s


CHANGES = {
    "content": lambda place: (place.cache / "camera.json").write_bytes(b"{}"),
    "more": lambda place: (place.cache / "engines" / "more").touch(),
    "less": lambda place: (place.cache / "SHA256SUMS").unlink(),
    "revoked": lambda place: (place.trust / "revoked").touch(),
    "times put back": lambda place: _edit_and_put_the_times_back(place.cache / "camera.json"),
    "another cache": lambda place: place.cache.rename(place.folder / "away"),
}


def _edit_and_put_the_times_back(path):
    before, data = path.stat(), bytearray(path.read_bytes())
    data[0] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_seen_and_reading_is_none(place, change):
    folders = (str(place.cache), str(place.trust))
    before = arm.snapshot(*folders)
    assert before is not None
    (place.cache / "camera.json").read_bytes()
    assert arm.snapshot(*folders) == before
    change(place)
    assert arm.snapshot(*folders) != before


def test_a_link_to_another_generation_is_a_change(place):
    import shutil

    shutil.copytree(place.cache, place.folder / "other")
    link = place.folder / "current"
    link.symlink_to("cache")
    before = arm.snapshot(str(link))
    link.unlink()
    link.symlink_to("other")
    assert arm.snapshot(str(link)) != before


class Autopilot:
    """Behaves as PX4 does before it arms (ArmAuthorization.cpp).

    It sends a request to a system whose heartbeat it has received, and accepts only an answer that is addressed to it.
    """

    def __init__(self, peer, authoriser=10):
        self.peer, self.authoriser = peer, authoriser

    def hear(self):
        """Waits for the heartbeat: before it, PX4 sends nothing to the system."""
        beat = self.peer.receive("HEARTBEAT")
        assert beat.get_srcSystem() == self.authoriser

    def ask(self, system=None, component=0, command=3001):
        system = self.authoriser if system is None else system
        self.peer.link.mav.command_long_send(system, component, command, 0, 0, 0, 0, 0, 0, 0, 0)

    def answer(self):
        """Returns result, reason, and seconds of the next COMMAND_ACK."""
        ack = self.peer.receive("COMMAND_ACK", command=3001)
        assert (ack.target_system, ack.target_component) == (1, 1)
        return ack.result, ack.progress, ack.result_param2

    def request(self):
        self.ask()
        return self.answer()


@pytest.fixture
def autopilot(peer):
    return Autopilot(peer)


@pytest.fixture
def service(place, configure, autopilot):
    """The real service as a process. `event` returns the next line of its journal."""
    log = place.folder / "log" / "flight.jsonl"
    log.parent.mkdir()
    with contextlib.ExitStack() as stack:

        def start(**settings):
            config = configure(
                flight_log={"path": str(log)},
                mavlink={"endpoint": autopilot.peer.endpoint, "system": 10},
                arm={"max_age_s": 600, "valid_for_s": 7, **settings},
            )
            command = [sys.executable, "-I", "-m", "takeoff_report", "authorise", "--config", config, "--"]
            process = stack.enter_context(
                subprocess.Popen([*command, *place.arguments], stderr=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            return SimpleNamespace(process=process, event=lambda: json.loads(process.stderr.readline()[3:]), log=log)

        yield start


def test_a_verified_cache_is_authorised(service, autopilot):
    running = service()
    autopilot.hear()
    assert running.event()["event"] == "verification_passed"
    assert autopilot.peer.receive("STATUSTEXT").text.startswith("CACHE VERIFIED: ")
    assert autopilot.request() == (ACCEPTED, 0, 7)
    assert running.event()["event"] == "arm_authorised"
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(20) == 0
    records = flight_log.read(running.log).records
    assert [(record["event"], record.get("asked_by")) for record in records] == [
        ("verification_passed", None),
        ("arm_authorised", "1/1"),
    ]


def test_a_refused_cache_is_denied_and_authorised_once_it_is_mended(service, autopilot, place):
    (place.cache / "more").touch()
    running = service()
    autopilot.hear()
    assert running.event()["event"] == "verification_refused"
    assert autopilot.peer.receive("STATUSTEXT").severity == 2
    assert autopilot.request() == (DENIED, NO_REASON, 0)
    assert autopilot.peer.receive("STATUSTEXT").text == "CACHE REFUSED: unlisted file"
    assert running.event()["event"] == "arm_denied"
    (place.cache / "more").unlink()
    assert autopilot.request() == (DENIED, TIMED_OUT, 0)  # the cache changed: a verification begins
    assert running.event()["statustext"] == "CACHE REFUSED: changed since verified, arm again"
    assert running.event()["event"] == "verification_passed"
    assert autopilot.request() == (ACCEPTED, 0, 7)


def test_what_changes_after_the_verdict_is_verified_anew_and_refused(service, autopilot, place):
    running = service()
    autopilot.hear()
    assert running.event()["event"] == "verification_passed"
    _edit_and_put_the_times_back(place.cache / "camera.json")
    assert autopilot.request() == (DENIED, TIMED_OUT, 0)
    assert [running.event()["event"] for _ in range(2)] == ["arm_denied", "verification_refused"]
    assert autopilot.request() == (DENIED, NO_REASON, 0)


def test_only_what_is_asked_of_us_is_answered(service, autopilot):
    running = service()
    autopilot.hear()
    assert running.event()["event"] == "verification_passed"
    autopilot.ask(system=99)
    autopilot.ask(component=42)
    autopilot.ask(command=400)
    autopilot.peer.link.write(b"\xfd\x00garbage" * 20)
    autopilot.ask(component=191)
    assert autopilot.answer() == (ACCEPTED, 0, 7)
    assert running.event()["event"] == "arm_authorised"
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(20) == 0
    assert [record["event"] for record in flight_log.read(running.log).records].count("arm_authorised") == 1


@pytest.fixture
def inside(peer):
    """The service in this process, with a fake verifier and a fake clock."""
    state = SimpleNamespace(
        now=1000.0, begin=threading.Event(), verdicts=[GOOD], told=[], answered=[], stop=threading.Event()
    )

    def verify():
        assert state.begin.wait(20)
        state.begin.clear()
        verdict = state.verdicts.pop(0)
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    with Link(Mavlink(endpoint(peer.endpoint), 10)) as link:
        service_ = arm.Authoriser(
            link,
            SETTINGS,
            verify=verify,
            look=lambda: SEEN,
            clock=lambda: state.now,
            told=state.told.append,
            answered=lambda request, reply: state.answered.append(reply),
        )
        thread = threading.Thread(target=service_.serve, args=(state.stop,))
        thread.start()

        def end():
            """Stops the service. Afterwards `told` and `answered` are complete."""
            state.stop.set()
            state.begin.set()
            thread.join(20)
            assert not thread.is_alive()

        state.end = end
        yield state
        end()


def test_before_the_first_verdict_and_after_it_grew_old_there_is_no_authorisation(inside, autopilot):
    autopilot.hear()
    assert autopilot.request() == (DENIED, TIMED_OUT, 0)
    assert autopilot.peer.receive("STATUSTEXT").text == "CACHE REFUSED: not verified yet, arm again"
    inside.begin.set()
    assert autopilot.peer.receive("STATUSTEXT").text == "CACHE VERIFIED: ab generation 1"
    assert autopilot.request() == (ACCEPTED, 0, 10)
    inside.verdicts = [BAD]
    inside.now += 100
    assert autopilot.request() == (DENIED, TIMED_OUT, 0)
    assert autopilot.peer.receive("STATUSTEXT").text == "CACHE REFUSED: verdict too old, arm again"
    inside.begin.set()
    assert autopilot.peer.receive("STATUSTEXT").text == "CACHE REFUSED: expired"
    assert autopilot.request() == (DENIED, NO_REASON, 0)
    inside.end()
    assert [reply.live for reply in inside.answered] == [False, True, False, True]
    assert inside.told == [GOOD, BAD]


def test_a_verification_that_crashes_takes_the_old_verdict_away(inside, autopilot, monkeypatch):
    crashed = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: crashed.set())
    autopilot.hear()
    inside.begin.set()
    assert autopilot.peer.receive("STATUSTEXT").text.startswith("CACHE VERIFIED")
    inside.verdicts = [RuntimeError("a bug"), GOOD]
    inside.now += 100
    assert autopilot.request() == (DENIED, TIMED_OUT, 0)
    inside.begin.set()
    while autopilot.request() != (ACCEPTED, 0, 10):  # denied until the next verification has passed
        inside.begin.set()
    inside.end()
    assert not any(reply.result == ACCEPTED for reply in inside.answered[:-1])
    assert inside.told == [GOOD, GOOD]
    assert crashed.wait(60)  # the thread reports the crash after it has discarded the verdict


def test_a_missing_peer_is_waited_for_and_a_broken_line_ends_the_service():
    class Line:
        """Refuses twice, as UDP does before the autopilot listens. Then it breaks, as an unplugged line does."""

        datagrams = True
        faults = iter(
            [ConnectionRefusedError(111, "refused"), ConnectionRefusedError(111, "refused"), OSError(5, "gone")]
        )

        def write(self, data):
            raise next(self.faults)

        def read(self, timeout_s):
            return b""

        def close(self):
            pass

    now = iter(range(10**6))
    with Link(Mavlink(endpoint("udpout:127.0.0.1:1"), 10), Line()) as link:
        service_ = arm.Authoriser(
            link, SETTINGS, verify=lambda: GOOD, look=lambda: SEEN, clock=lambda: next(now), told=id, answered=max
        )
        with pytest.raises(ReportError, match="the MAVLink line broke"):
            service_.serve(threading.Event())


@pytest.mark.parametrize(
    ("parts", "arguments", "status"),
    [
        ({}, None, 1),
        ({"mavlink": {"endpoint": "udpout:127.0.0.1:9"}}, None, 1),
        ({"mavlink": {"endpoint": "serial:/dev/none:9600"}, "arm": {}}, None, 1),
        ({"mavlink": {"endpoint": "udpout:127.0.0.1:9"}, "arm": {}}, ["cache"], 18),
        ({"more": 1}, None, 1),
    ],
)
def test_a_service_that_cannot_start_reports_why(reporter, configure, place, parts, arguments, status):
    done = reporter("authorise", "--config", configure(**parts), "--", *(arguments or place.arguments))
    assert done.status == status
    assert [event["sink"] for _, event in done.events] == ["authorise"]


def test_the_event_of_an_answer():
    request = SimpleNamespace(system=1, component=1)
    assert command_line._arm_event(request, Answer(ACCEPTED, 0, 5, ""))[0] == 6
    priority, event = command_line._arm_event(request, Answer(DENIED, 1, 0, "CACHE REFUSED: expired"))
    assert (priority, event["statustext"]) == (3, "CACHE REFUSED: expired")


def test_damage_on_a_serial_line_loses_some_requests_and_not_all():
    """In a byte stream, a damaged length field swallows up to 280 following bytes. The autopilot then asks again."""
    common = pytest.importorskip("pymavlink.dialects.v20.common", reason="the extra `aircraft` is not installed")
    autopilot = common.MAVLink(None, srcSystem=1, srcComponent=1)
    ask = autopilot.command_long_encode(10, 0, 3001, 0, 0, 0, 0, 0, 0, 0, 0)
    ours, theirs = os.openpty()
    try:
        with Link(Mavlink(endpoint(f"serial:{os.ttyname(theirs)}:921600"), 10)) as link:
            os.write(ours, b"noise\xfd\xff" + b"".join(ask.pack(autopilot) for _ in range(20)))
            requests = []
            while not requests:
                requests += link.requests(20)
    finally:
        os.close(ours)
        os.close(theirs)
    assert requests[0] == (1, 1)
