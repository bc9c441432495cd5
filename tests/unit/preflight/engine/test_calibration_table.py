"""Calibration tables are read exactly as they were written, or refused."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preflight.engine.calibration_table import METHOD, CalibrationKey, CalibrationTable, merged
from preflight.errors import CalibrationCacheError

KEY = CalibrationKey("a" * 64, "b" * 64, "{}", METHOD, "onnxruntime 1.31.1")
FLOATS = st.floats(width=32, allow_nan=False)
RANGES = st.dictionaries(
    st.text(max_size=20), st.tuples(FLOATS, FLOATS).map(lambda pair: tuple(sorted(pair))), min_size=1
)


@given(RANGES, st.integers(1, 2**31), st.text())
def test_a_table_is_read_as_it_was_written(ranges, samples, tool):
    key = CalibrationKey("a" * 64, "b" * 64, "{}", METHOD, tool)
    table = CalibrationTable(key, samples, ranges)
    content = table.encode()
    assert CalibrationTable.decode(content, "t") == table
    assert CalibrationTable.decode(content, "t").encode() == content
    assert CalibrationTable(key, samples, dict(reversed(ranges.items()))).encode() == content


@given(RANGES, st.data())
def test_a_changed_byte_of_a_table_is_detected(ranges, data):
    content = bytearray(CalibrationTable(KEY, 8, ranges).encode())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CalibrationCacheError, match=r"table t is damaged.*recalibrate=1"):
        CalibrationTable.decode(bytes(content), "t")


@given(st.binary(max_size=200))
def test_what_is_no_table_is_refused(content):
    with pytest.raises(CalibrationCacheError, match="damaged, or is not a calibration table"):
        CalibrationTable.decode(content, "t")


@pytest.mark.parametrize("content", [b"[]", b"null", b"{}", b"1", b"[" * 100_000])
def test_other_json_is_refused(content):
    with pytest.raises(CalibrationCacheError, match="damaged"):
        CalibrationTable.decode(content, "t")


@pytest.mark.parametrize("change", [{"extra": 1}, {"schema": 2}, {"samples": 0}, {"samples": True}, {"ranges": {}}])
def test_an_invalid_table_with_a_correct_digest_is_refused(change):
    value = json.loads(CalibrationTable(KEY, 8, {"x": (0.0, 1.0)}).encode())
    from preflight.engine.calibration_table import _digest

    value |= change
    value["sha256"] = _digest({name: value[name] for name in ("schema", "key", "samples", "ranges")})
    with pytest.raises(CalibrationCacheError, match="damaged"):
        CalibrationTable.decode(json.dumps(value).encode(), "t")


@pytest.mark.parametrize("reach", [(1.0, 0.0), (math.nan, 1.0)])
def test_an_invalid_range_is_refused(reach):
    with pytest.raises(CalibrationCacheError, match="damaged"):
        CalibrationTable.decode(CalibrationTable(KEY, 8, {"x": reach}).encode(), "t")


def test_a_table_for_another_key_is_refused_with_the_differences():
    table = CalibrationTable(KEY, 8, {"x": (0.0, 1.0)})
    table.check_made_for(KEY, "t")
    other = CalibrationKey("a" * 64, "c" * 64, "{}", METHOD, "onnxruntime 1.32.0")
    with pytest.raises(
        CalibrationCacheError, match=rf"another sample {'b' * 64}, not {'c' * 64}; tool .*1\.31\.1, not .*1\.32\.0"
    ):
        table.check_made_for(other, "t")


@given(st.lists(RANGES, max_size=4))
def test_merged_ranges_contain_every_part(parts):
    found = {}
    for part in parts:
        found = merged(found, part)
    assert found.keys() == {name for part in parts for name in part}
    for name, (least, most) in found.items():
        assert least == min(part[name][0] for part in parts if name in part)
        assert most == max(part[name][1] for part in parts if name in part)


def test_nan_stays_nan_when_ranges_are_merged():
    nan = merged({"x": (0.0, 1.0)}, {"x": (math.nan, 0.5)})
    assert all(math.isnan(bound) for bound in merged(nan, {"x": (0.0, 2.0)})["x"])
