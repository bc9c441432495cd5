"""Findings on sealed tiles are counted and stored, and stay right after a few tiles changed."""

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


def collected(rows, order=()):
    collector = FindingCollector()
    ordered = sorted(rows, key=lambda r: (r.zoom, r.lat, r.lon, r.source))
    for kept in choose_sources(ordered, order, collector.passed_over):
        collector.sealed(kept)
    return collector.findings()


def counts(findings):
    return {
        "poor": findings.count(Kind.POOR),
        "unmeasured": findings.count(Kind.UNMEASURED),
        "passed over": findings.passed_over(),
    }


def test_findings_are_counted_by_kind():
    findings = collected(
        [
            row((22, 1, 5), texture=LEAST_TEXTURE),
            row((22, 2, 5), texture=LEAST_TEXTURE - 0.1),
            row((22, 3, 5), texture=None),
            row((22, 4, 5), "b", texture=1.0),  # not sealed: its texture does not count
            row((22, 4, 5), "a"),
            row((22, 5, 5), "b"),
            row((22, 5, 5), "c"),
        ]
    )
    assert counts(findings) == {"poor": 1, "unmeasured": 1, "passed over": {"b": 1, "c": 1}}


def test_the_order_of_sources_decides_which_are_passed_over():
    rows = [row((22, 1, 5), source) for source in ("a", "b", "c")]
    assert counts(collected(rows))["passed over"] == {"b": 1, "c": 1}
    assert counts(collected(rows, ["c"]))["passed over"] == {"a": 1, "b": 1}


def test_a_good_tile_has_no_findings():
    findings = collected([row((22, 1, 5))])
    assert counts(findings) == {"poor": 0, "unmeasured": 0, "passed over": {}}
    assert findings.records.tobytes() == b""


ROWS = st.dictionaries(st.tuples(TILES, st.sampled_from("abcd")), TEXTURES, max_size=20)


@given(ROWS, ROWS, st.sets(TILES, max_size=4))
def test_replacing_gives_the_same_as_collecting_all(before, replaced, removed):
    """Names and bytes are the same, even if the old findings were stored in between."""

    def rows_of(textures):
        return [row(tile, source, texture) for (tile, source), texture in textures.items()]

    changed = removed | {tile for tile, _ in replaced}
    after = {key: texture for key, texture in before.items() if key[0] not in changed} | replaced
    old = collected(rows_of(before))
    stored = Findings.read(old.records.tobytes(), old.names)
    findings = stored.replaced(changed, collected(rows_of(replaced)))
    expected = collected(rows_of(after))
    assert findings.names == expected.names
    assert findings.records.tobytes() == expected.records.tobytes()


@pytest.mark.parametrize(("content", "names"), [(b"\0" * 9, ["a"]), (b"\0" * 8 + b"\1\0", ["a"])])
def test_malformed_findings_are_refused(content, names):
    with pytest.raises(ValueError, match=r"buffer size|no name"):
        Findings.read(content, names)


def test_more_sources_than_can_be_numbered_are_refused():
    collector = FindingCollector()
    for number in range(1 << 16):
        collector.passed_over(row((22, 1, 5), f"s{number}"))
    with pytest.raises(TileContentError, match=r"more than 65,536 sources .*--source"):
        collector.passed_over(row((22, 1, 5), "one more"))
