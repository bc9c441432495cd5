from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preflight.records import SourceRecord
from preflight.stages.provenance import provenance_step
from preflight.store.cache_layout import CacheLayout
from preflight.trace.digests import DigestCache
from preflight.trace.record import action_key, canonical_json
from preflight.trace.rule import Tracer

THEN = datetime(2025, 6, 1, 12, 30, 15, 999999, tzinfo=timezone(timedelta(hours=3)))
COVERAGE = {"expected": 9, "present": 8, "missing": 1, "oldest_captured_us": 5, "aggregate": "ab" * 32}


class Sources:
    """A tile store that knows where tiles come from, and counts how often it is asked."""

    def __init__(self, *records):
        self.records = list(records)
        self.asked = 0

    def sources(self):
        self.asked += 1
        return self.records


@pytest.fixture
def layout(tmp_path):
    found = CacheLayout(tmp_path)
    found.coverage.parent.mkdir(parents=True)
    found.manifest.parent.mkdir(parents=True)
    return found


def seal(layout, sources):
    layout.coverage.write_bytes(canonical_json({**COVERAGE, "sources": sources}))


def written(layout, store):
    provenance_step(layout, lambda: store).build()
    return json.loads(layout.provenance.read_bytes())


def record(name, origin="/media/a", terms=None, captured_at=None, imported_at=THEN):
    return SourceRecord(name, origin, terms, captured_at, imported_at)


def test_sources_with_sealed_tiles_are_told_with_each_of_their_origins(layout):
    seal(layout, {"zeta": 5, "c11": 3})
    store = Sources(
        record("zeta", "/media/b.tif", "© Ünit", THEN),
        record("other", "/media/unused"),
        record("zeta", "/media/a.mbtiles"),
    )
    assert written(layout, store) == {
        "coverage": COVERAGE,
        "sources": [
            {"name": "c11", "tiles": 3, "origins": []},
            {
                "name": "zeta",
                "tiles": 5,
                "origins": [
                    {
                        "origin": "/media/a.mbtiles",
                        "terms": None,
                        "captured_at": None,
                        "imported_at": "2025-06-01T09:30:15Z",
                    },
                    {
                        "origin": "/media/b.tif",
                        "terms": "© Ünit",
                        "captured_at": "2025-06-01T09:30:15Z",
                        "imported_at": "2025-06-01T09:30:15Z",
                    },
                ],
            },
        ],
    }


def test_nothing_is_asked_before_something_is_sealed(layout):
    store = Sources()
    with pytest.raises(FileNotFoundError):
        provenance_step(layout, lambda: store).components()
    assert store.asked == 0


def test_the_step_is_current_until_what_it_would_write_changes(layout):
    seal(layout, {"a": 5})
    store = Sources(record("a", terms="CC0"), record("b", terms="CC0"))
    tracer = Tracer(DigestCache(None), lambda path, content: path.write_bytes(content))
    step = provenance_step(layout, lambda: store)
    tracer.run(step)
    assert tracer.judge(step).current

    store.records[1] = record("b", terms="none of this cache")
    assert tracer.judge(step).current
    store.records[0] = record("a", terms="CC BY 4.0")
    verdict = tracer.judge(step)
    assert [change.component for change in verdict.changes] == ["source a"]
    assert '"CC BY 4.0"' in verdict.changes[0].new
    tracer.run(step)
    assert tracer.judge(step).current

    seal(layout, {"a": 5, "b": 1})
    assert [change.component for change in tracer.judge(step).changes] == ["source b"]


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
moments = st.integers(0, 4_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds + 0.25, timezone.utc))
records = st.builds(SourceRecord, names, names, st.none() | names, st.none() | moments, moments)


@given(found=st.lists(records, max_size=6, unique_by=lambda one: (one.name, one.origin)), data=st.data())
def test_the_file_is_canonical_ascii_whatever_the_records_hold(tmp_path_factory, found, data):
    layout = CacheLayout(tmp_path_factory.mktemp("provenance"))
    layout.coverage.parent.mkdir(parents=True)
    layout.manifest.parent.mkdir(parents=True)
    sealed = data.draw(
        st.dictionaries(names | st.sampled_from([one.name for one in found] or ["a"]), st.integers(1, 99))
    )
    seal(layout, sealed)
    step = provenance_step(layout, lambda: Sources(*found))
    step.build()
    content = layout.provenance.read_bytes()
    assert content.isascii()
    value = json.loads(content)
    assert canonical_json(value) + b"\n" == content
    assert {one["name"]: one["tiles"] for one in value["sources"]} == sealed
    told = {
        (one["name"], origin["origin"]): (origin["terms"], origin["captured_at"], origin["imported_at"])
        for one in value["sources"]
        for origin in one["origins"]
    }
    assert set(told) == {(one.name, one.origin) for one in found if one.name in sealed}
    for one in found:
        if one.name in sealed:
            terms, captured_at, imported_at = told[one.name, one.origin]
            assert terms == one.terms
            assert (captured_at is None) == (one.captured_at is None)
            assert datetime.fromisoformat(imported_at.replace("Z", "+00:00")) == one.imported_at.replace(microsecond=0)
    # The order the store answers in decides nothing.
    turned = provenance_step(layout, lambda: Sources(*found[::-1]))
    assert action_key("p", 1, turned.components()) == action_key("p", 1, step.components())
