"""The reporter as an aircraft runs it. If any part of it fails, it still exits with the verifier's status."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from takeoff_report import command_line, flight_log, mavlink


def test_a_pass_is_reported_everywhere(place, reporter, configure, peer):
    log = place.folder / "log.jsonl"
    config = configure(flight_log={"path": str(log)}, mavlink={"endpoint": peer.endpoint, "system": 42})
    done = reporter("verify", "--config", config, "--", *place.arguments)
    said = json.loads(done.out)
    assert (done.status, said["outcome"]) == (0, "pass")
    ((priority, event),) = done.events
    assert (priority, event["event"], event["manifest_hash"]) == (6, "verification_passed", said["manifest_hash"])
    (record,) = flight_log.read(log).records
    assert {**event, "number": 1} == record
    beat = peer.receive("HEARTBEAT")
    assert (beat.get_srcSystem(), beat.get_srcComponent()) == (42, 191)
    text = peer.receive("STATUSTEXT")
    assert (text.severity, text.text) == (6, f"CACHE VERIFIED: {said['manifest_hash'][:12]} generation 1")


def test_a_refusal_is_reported_everywhere(place, reporter, configure, peer):
    (place.cache / "more").write_bytes(b"")
    (place.cache / "camera.json").unlink()
    log = place.folder / "log.jsonl"
    config = configure(flight_log={"path": str(log)}, mavlink={"endpoint": peer.endpoint})
    done = reporter("verify", "--config", config, "--", *place.arguments)
    assert done.status == json.loads(done.out)["exit_status"] == 28
    ((priority, event),) = done.events
    assert (priority, event["failures"], event["remedy"]) == (3, 2, "run `doit provision` again")
    assert flight_log.read(log).records[0]["exit_status"] == 28
    text = peer.receive("STATUSTEXT")
    assert (text.severity, text.text) == (2, "CACHE REFUSED: file missing")


def test_a_serial_ground_station(place, reporter, configure):
    """A real MAVLink parser reads the other end of a pseudo-terminal."""
    common = pytest.importorskip("pymavlink.dialects.v20.common", reason="the extra `aircraft` is not installed")
    ours, theirs = os.openpty()
    try:
        config = configure(mavlink={"endpoint": f"serial:{os.ttyname(theirs)}:921600"})
        assert reporter("verify", "--config", config, "--", *place.arguments).status == 0
        messages, parser = [], common.MAVLink(None)
        while len(messages) < 2:
            messages += parser.parse_buffer(os.read(ours, 4096)) or []
    finally:
        os.close(ours)
        os.close(theirs)
    assert [message.get_type() for message in messages] == ["HEARTBEAT", "STATUSTEXT"]
    assert messages[1].text.startswith("CACHE VERIFIED: ")


def test_without_a_configuration_stdout_and_journal_are_used(place, reporter):
    done = reporter("verify", "--", *place.arguments, "--json")
    assert done.status == 0
    assert json.loads(done.out)["outcome"] == "pass"
    assert [event["event"] for _, event in done.events] == ["verification_passed"]


@pytest.mark.parametrize("spoil", [False, True])
@pytest.mark.parametrize(
    "fault", ["no config", "broken config", "no folder", "log is a folder", "no device", "port in use", "nobody there"]
)
def test_a_sink_that_fails_changes_no_verdict(place, reporter, configure, fault, spoil):
    if spoil:
        (place.cache / "more").write_bytes(b"")
    (place.folder / "folder").mkdir()
    parts = {
        "no folder": {"flight_log": {"path": "/nowhere/at/all/log.jsonl"}},
        "log is a folder": {"flight_log": {"path": str(place.folder / "folder")}},
        "no device": {"mavlink": {"endpoint": "serial:/dev/none:921600"}},
        "port in use": {"mavlink": {"endpoint": "udpin:203.0.113.1:14550"}},  # not an address of this machine
        "nobody there": {"mavlink": {"endpoint": "udpin:127.0.0.1:0"}},
        "broken config": {"unknown": 1},
    }
    config = "/nowhere/report.json" if fault == "no config" else configure(**parts[fault])
    done = reporter("verify", "--config", config, "--", *place.arguments)
    assert done.status == (30 if spoil else 0)
    assert json.loads(done.out)["exit_status"] == done.status
    kinds = [event["event"] for _, event in done.events]
    assert sorted(kinds) == ["report_failed", "verification_refused" if spoil else "verification_passed"]


@pytest.mark.parametrize("spoil", [False, True])
def test_a_sink_that_hangs_delays_no_verdict(place, reporter, configure, spoil):
    """Another process keeps the lock on the recorder's folder."""
    if spoil:
        (place.cache / "more").write_bytes(b"")
    held = os.open(place.folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        config = configure(flight_log={"path": str(place.folder / "log.jsonl")}, patience_s=1)
        done = reporter("verify", "--config", config, "--", *place.arguments)
    finally:
        os.close(held)
    assert done.status == (30 if spoil else 0)
    assert [event["message"] for _, event in done.events if event["event"] == "report_failed"] == [
        "did not end within 1.0 s"
    ]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_takes_nothing_changes_no_verdict(place, reporter, stream):
    with Path("/dev/full").open("wb") as full:
        assert reporter("verify", "--", *place.arguments, **{stream: full}).status == 0
        (place.cache / "more").write_bytes(b"")
        assert reporter("verify", "--", *place.arguments, **{stream: full}).status == 30


def test_a_reporter_that_crashes_changes_no_verdict(place, monkeypatch, capsys):
    def crash(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(command_line, "verdict_sinks", crash)
    assert command_line.main(["verify", "--", *place.arguments]) == 0
    (place.cache / "more").write_bytes(b"")
    assert command_line.main(["verify", "--", *place.arguments]) == 30
    assert "RuntimeError: a bug" in capsys.readouterr().err


def test_without_pymavlink_all_other_reports_are_made(place, monkeypatch, capsys, configure):
    monkeypatch.setitem(sys.modules, "pymavlink.dialects.v20", None)
    config = configure(mavlink={"endpoint": "udpout:127.0.0.1:9"}, flight_log={"path": str(place.folder / "log")})
    assert command_line.main(["verify", "--config", config, "--", *place.arguments]) == 0
    assert "preflight[aircraft]" in capsys.readouterr().err
    assert len(flight_log.read(place.folder / "log").records) == 1


@pytest.mark.parametrize(
    "arguments",
    [[], ["--help"], ["verify"], ["verify", "cache"], ["verify", "--config", "--", "x"], ["authorise", "--", "x"]],
)
def test_wrong_command_lines_are_usage_errors(reporter, arguments):
    done = reporter(*arguments)
    assert (done.status, done.out) == (18, "")
    assert "usage: " in done.events[0][1]["message"]


def test_wrong_arguments_of_the_verifier_are_refused_by_the_verifier(place, reporter):
    done = reporter("verify", "--", str(place.cache))
    assert done.status == 18
    assert json.loads(done.out)["fail_reasons"][0]["code"] == "usage"


def test_an_interpreter_that_is_not_isolated_refuses(place):
    """Otherwise, a module that somebody placed in the working directory would run."""
    (place.cache / "json.py").write_text("print('planted'); raise SystemExit(0)")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "takeoff_report", "verify", "--", *place.arguments]
    done = subprocess.run(command, cwd=place.cache, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (18, "")
    assert "python -I -m takeoff_report" in done.stderr
    isolated = [sys.executable, "-I", *command[1:]]
    done = subprocess.run(isolated, cwd=place.cache, capture_output=True, text=True, check=False)
    assert done.returncode == 30  # the only failure is the unlisted file


def test_read_prints_the_records(place, reporter):
    log = place.folder / "log.jsonl"
    for number in range(3):
        flight_log.append(log, {"event": f"e{number}"}, max_bytes=2**20, keep=1)
    done = reporter("read", log, stderr=subprocess.DEVNULL)
    assert done.status == 0
    assert [json.loads(line)["event"] for line in done.out.splitlines()] == ["e0", "e1", "e2"]


def test_read_reports_damaged_and_missing_records(place, capsys):
    log = place.folder / "log.jsonl"
    assert command_line.main(["read", str(log)]) == 1
    for number in range(3):
        flight_log.append(log, {"event": f"e{number}"}, max_bytes=2**20, keep=1)
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[1:]) + b'{"torn')
    capsys.readouterr()
    assert command_line.main(["read", str(log)]) == 3
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "records 1 to 1 were removed to make room",
        "log.jsonl line 3 is torn or damaged (6 bytes)",
    ]
    assert len(said.out.splitlines()) == 2


def test_texts_are_cut_to_the_size_of_the_field(peer):
    from takeoff_report import config

    with mavlink.Link(config.Mavlink(config.endpoint(peer.endpoint))) as link:
        link.statustext(2, "é" * 60)
    assert peer.receive("STATUSTEXT").text == "?" * 50


def test_a_report_without_mavlink_imports_no_pymavlink(place):
    program = (
        "import sys\nfrom takeoff_report.command_line import main\nstatus = main(sys.argv[1:])\n"
        "assert not [name for name in sys.modules if name.startswith('pymavlink')], 'pymavlink'\nraise SystemExit(status)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program, "verify", "--", *place.arguments], check=False)
    assert done.returncode == 0
