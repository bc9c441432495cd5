from __future__ import annotations

import logging

from preflight.report.run_log import RunLog, StageResult


def test_a_stage_that_was_built_stays_built_when_it_is_judged_again():
    run_log = RunLog()
    run_log.stage("index", "built", 2.0)
    run_log.stage("index", "reused", 0.1)
    assert run_log.stages == {"index": StageResult("built", 2.0)}
    assert run_log.built


def test_a_reused_stage_that_is_built_later_counts_as_built():
    run_log = RunLog()
    run_log.stage("index", "reused", 0.1)
    assert not run_log.built
    run_log.stage("index", "built", 2.0)
    assert run_log.stages == {"index": StageResult("built", 2.0)}
    assert run_log.built


def test_stages_keep_the_order_in_which_they_ended():
    run_log = RunLog()
    for name in ("tiles", "engine:a", "index"):
        run_log.stage(name, "reused", 0.0)
    assert list(run_log.stages) == ["tiles", "engine:a", "index"]


def test_a_warning_is_logged_with_its_event_and_fields():
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append(record)

    log = logging.getLogger("c10_provisioning")
    handler = Keep()
    log.addHandler(handler)
    try:
        run_log = RunLog()
        run_log.warn("c10.signing.dev_key_made", "made a key", fingerprint="ab")
    finally:
        log.removeHandler(handler)
    (record,) = records
    assert record.getMessage() == "made a key"
    assert (record.levelno, record.event, record.fields) == (
        logging.WARNING,
        "c10.signing.dev_key_made",
        {"fingerprint": "ab"},
    )


def test_a_counter_starts_at_zero():
    assert RunLog().counts["engines_built"] == 0
