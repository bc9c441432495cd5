"""A verdict is a pass only if the process exits with 0 and says so. Everything else is a refusal."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takeoff import errors
from takeoff_report import events, journal
from takeoff_report.verifier_run import judge, run_verifier, statustext

PASS = {"outcome": "pass", "exit_status": 0, "manifest_hash": "ab" * 32, "generation": 7, "statustext": None}
FAIL = {"outcome": "fail", "exit_status": 30, "statustext": "CACHE REFUSED: unlisted file", "fail_reasons": []}


def bytes_of(value):
    return json.dumps(value).encode() + b"\n"


def test_a_pass_names_manifest_and_generation():
    verdict = judge(0, bytes_of(PASS), 0.0, 1.0)
    assert verdict.passed
    assert verdict.statustext == "CACHE VERIFIED: abababababab generation 7"


def test_a_refusal_keeps_status_and_text():
    verdict = judge(30, bytes_of(FAIL), 0.0, 1.0)
    assert (verdict.passed, verdict.exit_status, verdict.statustext) == (False, 30, FAIL["statustext"])


@pytest.mark.parametrize(
    ("status", "output", "expected"),
    [
        (0, b"", 16),  # exit status 0 without output
        (0, b"PASSED", 16),
        (0, bytes_of(FAIL), 16),
        (0, bytes_of({**PASS, "exit_status": 30}), 16),
        (0, bytes_of({**PASS, "outcome": "fail"}), 16),
        (0, bytes_of(PASS)[:-3], 16),
        (0, bytes_of(PASS) * 2, 16),
        (0, bytes_of([PASS]), 16),
        (0, b"[" * 100_000, 16),
        (-9, bytes_of(PASS), 16),  # killed after the output
        (-9, b"", 16),
        (30, bytes_of(PASS), 30),
        (30, bytes_of({**FAIL, "outcome": "pass"}), 30),
        (1, b"", 1),
        (137, b"", 137),
    ],
)
def test_what_does_not_fit_together_is_refused(status, output, expected):
    verdict = judge(status, output, 0.0, 0.0)
    assert not verdict.passed
    assert verdict.exit_status == expected
    assert verdict.statustext == "CACHE REFUSED: verifier crashed"


@given(st.integers(-64, 255), st.one_of(st.binary(max_size=80), st.sampled_from([bytes_of(PASS), bytes_of(FAIL)])))
def test_only_the_one_way_passes(status, output):
    verdict = judge(status, output, 0.0, 0.0)
    assert verdict.passed == (status == 0 and output == bytes_of(PASS))


def test_a_verifier_that_cannot_be_started_is_a_refusal(tmp_path):
    verdict = run_verifier(["x"], clock=time.time, monotonic=time.monotonic, python=str(tmp_path / "none"))
    assert (verdict.passed, verdict.exit_status) == (False, 16)
    assert "cannot be started" in json.loads(verdict.raw)["fail_reasons"][0]["message"]


def test_exit_status_0_without_output_is_a_refusal():
    verdict = run_verifier(["x"], clock=time.time, monotonic=time.monotonic, python="/bin/true")
    assert verdict.exit_status == 16


@given(st.integers(0, 2**53))
def test_every_text_fits_into_50_bytes(generation):
    texts = [statustext({**PASS, "generation": generation})]
    texts += [
        statustext({"outcome": "fail", "statustext": kind.statustext}) for kind in kinds(errors.VerificationError)
    ]
    assert all(len(text.encode()) <= 50 for text in texts)
    assert all(text.startswith("CACHE ") for text in texts)


def kinds(base):
    return [base, *(kind for child in base.__subclasses__() for kind in kinds(child))]


@given(st.text())
def test_a_journal_line_is_one_line_whatever_is_in_it(text):
    line = journal.line(3, {"message": text})
    assert line.isascii()
    assert line.startswith("<3>{")
    assert line.count("\n") == 1
    assert json.loads(line[3:]) == {"message": text}


def test_the_event_of_a_verdict_counts_all_failures_and_lists_some():
    many = [{"code": "file_missing", "file": f"f{number}", "message": "is missing"} for number in range(100)]
    verdict = judge(30, bytes_of({**FAIL, "fail_reasons": many}), 1_800_000_000.25, 1.5)
    event = events.verification(verdict, "takeoff")
    assert event["failures"] == 100
    assert event["fail_reasons"][0] == "[file_missing] f0: is missing"
    assert len(event["fail_reasons"]) == events.MAX_REASONS
    assert event["time"] == "2027-01-15T08:00:00.250Z"
