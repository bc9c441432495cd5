"""Findings on sealed tiles: counted, kept, and right after a few tiles changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preflight.errors import TileContentError
from preflight.records import TileRow
from preflight.tileset.findings import LEAST_TEXTURE, FindingCollector, Findings, Kind
from preflight.tileset.source_choice import choose_sources

TILES = st.tuples(st.integers(22, 24), st.integers(0, 3), st.integers(0, 3).map(lambda y: (1 << 22) - 1 - y))
TEXTURES = st.none() | st.sampled_from([0.0, LEAST_TEXTURE - 0.001, LEAST_TEXTURE, 40.0])


def row(tile, source="a", texture=40.0):
    return TileRow(*tile, -float(tile[2]), float(tile[1]), source, "ab" * 32, "p", None, texture)


def taken(rows, order=()):
    taker = FindingCollector()
    for kept in choose_sources(sorted(rows, key=lambda r: (r.zoom, r.lat, r.lon, r.source)), order, taker.passed_over):
        taker.sealed(kept)
    return taker.findings()


def told(findings):
    return {
        "poor": findings.count(Kind.POOR),
        "unmeasured": findings.count(Kind.UNMEASURED),
        "passed over": findings.passed_over(),
    }


def test_what_is_counted():
    found = taken(
        [
            row((22, 1, 5), texture=LEAST_TEXTURE),
            row((22, 2, 5), texture=LEAST_TEXTURE - 0.1),
            row((22, 3, 5), texture=None),
            row((22, 4, 5), "b", texture=1.0),  # not sealed: its texture says nothing of the set
            row((22, 4, 5), "a"),
            row((22, 5, 5), "b"),
            row((22, 5, 5), "c"),
        ]
    )
    assert told(found) == {"poor": 1, "unmeasured": 1, "passed over": {"b": 1, "c": 1}}


def test_the_order_of_sources_decides_who_is_passed_over():
    rows = [row((22, 1, 5), source) for source in ("a", "b", "c")]
    assert told(taken(rows))["passed over"] == {"b": 1, "c": 1}
    assert told(taken(rows, ["c"]))["passed over"] == {"a": 1, "b": 1}


def test_nothing_to_say():
    found = taken([row((22, 1, 5))])
    assert told(found) == {"poor": 0, "unmeasured": 0, "passed over": {}}
    assert found.records.tobytes() == b""


ROWS = st.dictionaries(st.tuples(TILES, st.sampled_from("abcd")), TEXTURES, max_size=20)


@given(ROWS, ROWS, st.sets(TILES, max_size=4))
def test_replacing_gives_what_taking_all_gives(before, replaced, removed):
    """Bytes and names, also after a round through a file."""

    def rows_of(found):
        return [row(tile, source, texture) for (tile, source), texture in found.items()]

    changed = removed | {tile for tile, _ in replaced}
    after = {place: texture for place, texture in before.items() if place[0] not in changed} | replaced
    old = taken(rows_of(before))
    kept = Findings.read(old.records.tobytes(), old.names)
    found = kept.replaced(changed, taken(rows_of(replaced)))
    expected = taken(rows_of(after))
    assert found.names == expected.names
    assert found.records.tobytes() == expected.records.tobytes()


@pytest.mark.parametrize(("content", "names"), [(b"\0" * 9, ["a"]), (b"\0" * 8 + b"\1\0", ["a"])])
def test_bytes_that_are_no_remarks_are_refused(content, names):
    with pytest.raises(ValueError, match=r"buffer size|no name"):
        Findings.read(content, names)


def test_more_sources_than_can_be_numbered_are_refused():
    taker = FindingCollector()
    for number in range(1 << 16):
        taker.passed_over(row((22, 1, 5), f"s{number}"))
    with pytest.raises(TileContentError, match=r"more than 65,536 sources .*--source"):
        taker.passed_over(row((22, 1, 5), "one more"))
