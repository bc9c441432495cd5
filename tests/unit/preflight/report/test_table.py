from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest

from preflight.commands.sign import Awaited
from preflight.commands.status import GenerationStatus, status_json, status_text
from preflight.records import BuildReport
from preflight.report.run_log import StageResult
from preflight.report.table import CacheFacts, closing_table, size_text
from preflight.store.cache_layout import CacheLayout

HASH = "0123456789abcdef" * 4
STAGES = {
    "tiles": StageResult("reused", 0.012),
    "engine:weight_free_vpr": StageResult("built", 3.456),
    "descriptors": StageResult("built", 12.0),
}
FACTS = CacheFacts(
    generation="000007-0123456789ab",
    coverage={
        "present": 12_345,
        "expected": 12_400,
        "passed_over": {"old survey": 1_200},
        "poor_texture": 17,
        "unmeasured_texture": 0,
    },
    units=190_000,
    recall={"known": 0.951, "unknown": 0.8, "thumbnail": 0.42, "chance": 0.001},
    error_median_m=12.34,
    size=123_456_789,
    valid_until=datetime(2026, 6, 1, 8, 30, tzinfo=timezone.utc),
    manifest_hash=HASH,
)
REPORT = BuildReport(1, 2, 640, HASH, "success")


def table(width=100, report=REPORT, facts=FACTS):
    return closing_table(STAGES, report, facts, seconds=15.5, next_command="doit verify", width=width)


@pytest.fixture(autouse=True, params=[{}, {"FORCE_COLOR": "1"}, {"TTY_COMPATIBLE": "1", "TERM": "xterm-256color"}])
def _terminal(request, monkeypatch):
    """The table does not depend on the terminal."""
    for name, value in request.param.items():
        monkeypatch.setenv(name, value)


def words(text):
    return " ".join(text.split())


def test_the_table_holds_all_facts():
    text = words(table())
    for part in (
        "tiles reused 0.01",
        "engine:weight_free_vpr built 3.46",
        "descriptors built 12.00",
        "engines 1 built, 2 reused",
        "descriptors 640 embedded",
        "tiles 12,345",
        "recall@1 0.951 heading known, 0.800 unknown",
        "baselines 0.420 thumbnail, 0.001 chance",
        "median error 12.3 m",
        "cache 000007-0123456789ab, 123.5 MB",
        f"manifest {HASH}",
        "valid until 2026-06-01 08:30 UTC",
        "time 15.5 s",
        "outcome built and published",
        "next doit verify",
    ):
        assert part in text


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 140, 300])
def test_no_line_is_wider_than_the_terminal_and_none_holds_a_control_code(width):
    lines = table(width=width).split("\n")
    assert max(map(len, lines)) <= width
    assert all(line.isprintable() and line == line.rstrip() for line in lines)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_long_hash_is_wrapped_and_not_cut(width):
    assert HASH in table(width=width).replace("\n", "").replace(" ", "")


def test_an_idle_run_and_a_failure_are_described_in_words():
    assert "nothing to do (idempotent_no_op)" in table(report=BuildReport(0, 3, 0, HASH, "idempotent_no_op"))
    failed = table(report=BuildReport(0, 0, 0, None, "failure", "no tiles"), facts=None)
    assert "the last good cache is untouched" in failed
    assert "recall" not in failed


def test_brackets_in_a_name_are_shown_unchanged():
    """rich would interpret them as markup."""
    text = closing_table(
        {"engine:[bold]": StageResult("built", 1.0)}, REPORT, None, seconds=1, next_command="doit [x] y", width=80
    )
    assert "engine:[bold]" in text
    assert "doit [x] y" in text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (1_000_000, "1.0 MB"),
        (2_345_678_901, "2.3 GB"),
        (5 * 10**15, "5000000.0 GB"),
    ],
)
def test_sizes_are_formatted_for_people(size, text):
    assert size_text(size) == text


def status(mark="current", fault=None):
    return GenerationStatus(
        "000007-0123456789ab", mark, 640, None, HASH, "dev", "2026-06-01T08:30+00:00", 1_500_000, fault
    )


def test_status_shows_generations_signer_validity_and_size(tmp_path):
    text = words(status_text(CacheLayout(tmp_path), "m.yaml", [status("previous"), status()], width=130))
    assert f"mission m.yaml cache root {tmp_path}" in text
    assert "000007-0123456789ab current 640 none 0123456789ab (dev) 2026-06-01 08:30 1.5 MB" in text


def test_status_holds_no_control_code_and_no_wide_line(tmp_path):
    text = status_text(CacheLayout(tmp_path), "m.yaml", [status(), status("previous", "[red]not JSON")], width=80)
    lines = text.split("\n")[2:]
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) <= 80
    assert "[red]" in text


def test_status_of_an_empty_root_says_what_to_run(tmp_path):
    assert status_text(CacheLayout(tmp_path), "m.yaml", [], width=80).endswith("no generation yet: run doit provision")


FACTS = {"signer": HASH, "generation": "8", "flight_id": "none", "issued_at": "2026-06-01T08:30:00Z"}


def test_status_shows_what_waits_for_a_signature_and_the_next_command(tmp_path):
    def text_of(awaited, *generations):
        return words(status_text(CacheLayout(tmp_path), "m.yaml", list(generations), awaited, width=130))

    waits = "waits generation 8 for flight none, written 2026-06-01T08:30:00Z,"
    text = text_of(Awaited(FACTS, False, None, "doit sign"), status())
    assert text.endswith(f"1.5 MB {waits} waits for its signature by 0123456789ab next doit sign")
    text = text_of(Awaited(FACTS, True, None, "doit provision"))
    assert text.endswith(f"no generation yet {waits} has its signature by 0123456789ab next doit provision")
    text = text_of(Awaited({}, False, "it is too old", "doit provision"))
    assert text.endswith("no generation yet waits it is too old next doit provision")


def test_status_as_json(tmp_path):
    value = json.loads(
        status_json(CacheLayout(tmp_path), "m.yaml", [status()], Awaited(FACTS, False, None, "doit sign"))
    )
    assert value["generations"][0]["name"] == "000007-0123456789ab"
    assert value["awaited"] == {"facts": FACTS, "signed": False, "problem": None, "next": "doit sign"}
    assert json.loads(status_json(CacheLayout(tmp_path), "m.yaml", []))["awaited"] is None
