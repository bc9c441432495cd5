from __future__ import annotations

import errno
import os

import pytest

from preflight.report.run_log import RunLog
from preflight.run.rates import RATE_UNITS, keep_rates, read_rates
from preflight.store import atomic
from preflight.store.cache_layout import CacheLayout


@pytest.fixture
def layout(tmp_path):
    return CacheLayout(tmp_path)


def run_log(embedded=0, **seconds):
    log = RunLog()
    for name, value in seconds.items():
        log.stage(name, "built", value)
    log.counts["descriptors_generated"] = embedded
    return log


def test_there_are_no_rates_before_a_build_or_from_a_damaged_file(layout):
    assert read_rates(layout) == {}
    layout.rates.parent.mkdir()
    for damaged in ("", "[]", '{"index": {}}', '{"index": {"seconds": "x", "units": 1}}'):
        layout.rates.write_text(damaged)
        assert read_rates(layout) == {}


def test_new_rates_are_stored_beside_the_old_ones(layout):
    keep_rates(layout, run_log(embedded=600, descriptors=2.0, index=0.5))
    later = run_log(index=0.25)
    later.stage("descriptors", "reused", 0.0)
    keep_rates(layout, later)
    assert read_rates(layout) == {
        "descriptors": {"seconds": 2.0, "units": 600.0},
        "index": {"seconds": 0.25, "units": 1.0},
    }


@pytest.mark.parametrize(("embedded", "kept"), [(3, 600), (RATE_UNITS - 1, 600), (RATE_UNITS, RATE_UNITS), (0, 600)])
def test_a_few_units_do_not_replace_the_rate_of_many(layout, embedded, kept):
    keep_rates(layout, run_log(embedded=600, descriptors=2.0))
    keep_rates(layout, run_log(embedded=embedded, descriptors=1.0))
    assert read_rates(layout)["descriptors"]["units"] == kept


def test_a_run_that_built_nothing_writes_nothing(layout):
    idle = RunLog()
    idle.stage("index", "reused", 0.0)
    keep_rates(layout, idle)
    assert not layout.rates.exists()


def test_a_failed_write_of_the_rates_is_a_warning(layout, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic, "atomic_write", full)
    keep_rates(layout, run_log(index=1.0))
    assert [record.event for record in caplog.records] == ["c10.build.rates_not_kept"]
