from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from preflight.trace.record import BuildRecord, action_key, canonical_json, read_record

TEXT = st.text(max_size=12)
NAMES = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=12)
COMPONENTS = st.dictionaries(NAMES, TEXT, max_size=6)


@given(COMPONENTS, st.randoms())
def test_the_order_of_components_does_not_change_the_key(components, random):
    items = list(components.items())
    random.shuffle(items)
    assert action_key("step", 1, dict(items)) == action_key("step", 1, components)


@given(NAMES, st.integers(0, 99), COMPONENTS, NAMES, st.integers(0, 99), COMPONENTS)
def test_keys_differ_if_step_version_or_components_differ(step, version, components, other, later, changed):
    same = (step, version, components) == (other, later, changed)
    assert (action_key(step, version, components) == action_key(other, later, changed)) == same


@given(COMPONENTS, st.data())
def test_keys_differ_if_one_component_differs(components, data):
    assume(components)
    name = data.draw(st.sampled_from(sorted(components)))
    new = data.draw(TEXT.filter(lambda text: text != components[name]))
    key = action_key("step", 1, components)
    assert action_key("step", 1, {**components, name: new}) != key
    assert action_key("step", 1, {key: value for key, value in components.items() if key != name}) != key


@given(st.text("ab|=,\"'", max_size=6), st.text("ab|=,\"'", max_size=6), st.text("ab|=,\"'", max_size=6))
def test_separators_in_values_never_give_equal_keys(name, first, second):
    assume((first, second) != (first + second, ""))
    assert action_key("s", 1, {"a": first, "b": second}) != action_key("s", 1, {"a": first + second, "b": ""})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.dictionaries(TEXT, inner, max_size=3)
    )
)
def test_canonical_json_is_ascii_and_can_be_read_back(value):
    content = canonical_json(value)
    assert content.isascii()
    assert json.loads(content) == value


@settings(deadline=None, max_examples=60)
@given(
    NAMES,
    st.integers(0, 99),
    COMPONENTS,
    st.dictionaries(NAMES, st.text("0123456789abcdef", min_size=64, max_size=64), max_size=4),
)
def test_a_record_is_read_back_as_written(step, version, components, outputs):
    record = BuildRecord(step, version, action_key(step, version, components), components, outputs)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x.record.json"
        path.write_bytes(record.encode())
        assert read_record(path) == record


RECORD = BuildRecord("step", 3, action_key("step", 3, {"a": "1", "b": "2"}), {"a": "1", "b": "2"}, {"out": "f" * 64})


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_damaged_record_is_rejected_or_keeps_its_key_and_components(data):
    """The key detects a flipped bit in the components. A flipped bit in a digest makes the output count as edited."""
    content = bytearray(RECORD.encode())
    index = data.draw(st.integers(0, len(content) - 1))
    content[index] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(0, len(content)))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x.record.json"
        path.write_bytes(bytes(content))
        read = read_record(path)
        assert read is None or (read.step, read.version, read.components) == ("step", 3, RECORD.components)
        path.write_bytes(RECORD.encode()[:cut])
        assert (read_record(path) is not None) == (cut == len(content))


@settings(deadline=None, max_examples=100)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | TEXT,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["schema", "step", "version", "action_key", "components", "outputs"]), inner, max_size=6
            )
        ),
    )
)
def test_foreign_json_is_not_a_record(value):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x.record.json"
        path.write_text(json.dumps(value))
        assert read_record(path) is None
