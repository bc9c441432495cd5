from __future__ import annotations

import io
import json
import logging
from datetime import datetime, timezone
from pathlib import Path

import pytest

from preflight.report.logs import log_to


@pytest.fixture
def out():
    """Give a stream for the logs, and restore the `preflight` logger afterwards."""
    logger = logging.getLogger("c10_provisioning")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield io.StringIO()
    logger.handlers, level, logger.propagate = before[0], before[1], before[2]
    logger.setLevel(level)


@pytest.fixture
def log():
    return logging.getLogger("c10_provisioning")


def lines(out):
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_each_line_is_one_json_object_with_time_level_event_and_fields(out, log):
    log_to(lambda: out, as_json=True)
    log.info("build\nstarted", extra={"event": "c10.build.start", "fields": {"cache_root": Path("/c"), "n": 1}})
    log.debug("plain %s", "text")
    first, second = lines(out)
    assert first.keys() == {"time", "level", "logger", "event", "message", "cache_root", "n"}
    assert (first["level"], first["event"], first["message"]) == ("INFO", "c10.build.start", "build\nstarted")
    assert (first["cache_root"], first["n"], first["logger"]) == ("/c", 1, "c10_provisioning")
    assert (second["level"], second["event"], second["message"]) == ("DEBUG", "message", "plain text")


def test_the_time_is_utc_with_milliseconds(out, log):
    log_to(lambda: out, as_json=True)
    record = log.makeRecord("c10_provisioning", logging.INFO, "f", 1, "x", (), None)
    record.created = 1_777_777_777.25
    log.handle(record)
    (line,) = lines(out)
    assert line["time"] == "2026-05-03T03:09:37.250+00:00"
    assert datetime.fromisoformat(line["time"]).tzinfo == timezone.utc


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (logging.DEBUG, "DEBUG"),
        (logging.INFO, "INFO"),
        (logging.WARNING, "WARN"),
        (logging.ERROR, "ERROR"),
        (logging.CRITICAL, "ERROR"),
    ],
)
def test_levels_have_the_names_of_the_specification(out, log, level, name):
    log_to(lambda: out, as_json=True)
    log.log(level, "x")
    assert lines(out)[0]["level"] == name


def test_a_traceback_stays_in_the_line_of_its_record(out, log):
    log_to(lambda: out, as_json=True)
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("failed")
    (line,) = lines(out)
    assert line["traceback"].endswith("ValueError: no")


def test_messages_may_be_in_any_script(out, log):
    log_to(lambda: out, as_json=True)
    log.info("→ Київ")
    assert lines(out)[0]["message"] == "→ Київ"


def test_plain_output_holds_only_warnings(out, log):
    log_to(lambda: out, as_json=False)
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        log.log(level, logging.getLevelName(level))
    logging.getLogger("c10_provisioning.deep.inside").warning("another")
    assert out.getvalue() == "   warning: WARNING\n   warning: another\n"


def test_the_stream_is_looked_up_for_each_record(log, out):
    """doit replaces sys.stdout while a task runs."""
    other = io.StringIO()
    streams = [out, other]
    log_to(lambda: streams.pop(0), as_json=True)
    log.info("one")
    log.info("two")
    assert (lines(out)[0]["message"], lines(other)[0]["message"]) == ("one", "two")


def test_a_second_call_replaces_the_first(log, out):
    log_to(lambda: out, as_json=False)
    log_to(lambda: out, as_json=True)
    log.warning("once")
    assert len(lines(out)) == 1


def test_other_loggers_are_not_changed(out):
    before = list(logging.getLogger().handlers)
    log_to(lambda: out, as_json=True)
    assert logging.getLogger().handlers == before
    logging.getLogger("elsewhere").error("not ours")
    assert out.getvalue() == ""
