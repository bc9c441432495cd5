from __future__ import annotations

import msgspec
import pytest

from preflight.errors import MissionError
from preflight.mission.fields import convert
from preflight.mission.reader import MAX_BYTES, Problems, read_yaml


@pytest.fixture
def read(tmp_path):
    def run(text, environment=None):
        path = tmp_path / "file.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        problems = Problems()
        value = read_yaml(path, environment or {}, problems)
        problems.check("file.yaml")
        return value

    return run


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("True", "True"),
        ("true", True),
        ("false", False),
        ("012", "012"),
        ("0x1F", "0x1F"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("190:20:30", "190:20:30"),
        ("2026-01-02", "2026-01-02"),
        ("1" * 64, "1" * 64),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("=", "="),
        ("<<", "<<"),
        ("~", None),
        ("null", None),
        ("Null", "Null"),
        ("", None),
        ("12", 12),
        ("-12", -12),
        ("+12", 12),
        ("0", 0),
        ("1" * 18, int("1" * 18)),
        ("1.5", 1.5),
        ("-.5", -0.5),
        ("2.", 2.0),
        ("1e3", 1000.0),
        ("1.5e-3", 0.0015),
        ("'12'", "12"),
        ('"true"', "true"),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("-", "-"),
    ],
)
def test_scalars_are_read_as_in_yaml_1_2(read, text, value):
    text = f"a: {text}" if text != "-" else "a: '-'"
    read_value = read(text)["a"]
    assert read_value == value
    assert type(read_value) is type(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: key 'a' is given twice"),
        ("a: {b: 1, b: 1}", "line 1: key 'b' is given twice"),
        ("a: &x 1\nb: *x", "line 2: aliases"),
        ("a: &x [*x]", "aliases"),
        ("a: [1", "line 1: "),
        ("a: b: c", "line 1: "),
        ("\ta: 1", "line 1: "),
        ("a: 1\n---\nb: 2", "line 2: "),
        ("a: !!python/object/apply:os.getcwd []", "tag"),
        ("a: !!int abc", "tag"),
        ("a: !!int 0o12", "tag"),
        ("a: !!float x", "tag"),
        ("a: !!bool maybe", "tag"),
        ("a: !!timestamp 2020-13-45", "tag"),
        ("a: !!binary x", "tag"),
        ("a: !thing {}", "tag"),
        ("? [a, b]\n: 1", "line 1: "),
        ("? {a: b}\n: 1", "line 1: "),
        (b"a: \xff", "not UTF-8 (byte 3)"),
        ("a: \0", "not YAML"),
        ("[" * 5000, ""),
        ("a: '" + "x" * MAX_BYTES + "'", "larger than"),
    ],
)
def test_invalid_text_is_refused_with_its_line(read, text, said):
    with pytest.raises(MissionError) as refusal:
        read(text)
    assert len(refusal.value.problems) == 1
    assert said in refusal.value.problems[0]


@pytest.mark.parametrize("text", [r'a: "\0"', r'a: "x\ud800"'])
def test_text_with_characters_that_no_path_allows_is_refused(read, text):
    with pytest.raises(MissionError, match="a: "):
        read(text)


def test_an_infinite_number_is_refused(read):
    with pytest.raises(MissionError, match=r"a\[0\]: "):
        read("a: [1e999]")


def test_environment_variables_are_expanded_in_every_text(read):
    value = read("a: ['x${A}y', {b: '${A}${B}'}, $A, '${a b}', 1]", {"A": "1", "B": "2"})
    assert value == {"a": ["x1y", {"b": "12"}, "$A", "${a b}", 1]}


def test_an_expanded_value_is_always_text(read):
    assert read("a: ${A}", {"A": "12"}) == {"a": "12"}


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    number: int
    table: dict[str, tuple[int, ...]] | None = None


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    inner: Inner
    many: tuple[Inner, ...] = ()
    maybe: Inner | None = None


def problems_of(value):
    problems = Problems()
    assert convert(value, Outer, problems) is None
    with pytest.raises(MissionError) as refusal:
        problems.check("file")
    return refusal.value.problems


def test_a_value_becomes_a_struct():
    problems = Problems()
    outer = convert({"inner": {"number": 1}, "many": [{"number": 2}], "maybe": None}, Outer, problems)
    problems.check("file")
    assert outer == Outer(Inner(1), (Inner(2),), None)


@pytest.mark.parametrize(
    ("value", "at"),
    [
        ([], ""),
        ("x", ""),
        (None, ""),
        ({}, "inner"),
        ({"inner": None}, "inner"),
        ({"inner": []}, "inner"),
        ({"inner": {}}, "inner.number"),
        ({"inner": {"number": "1"}}, "inner.number"),
        ({"inner": {"number": 1.5}}, "inner.number"),
        ({"inner": {"number": True}}, "inner.number"),
        ({"inner": {"number": 1, 5: 1}}, "inner.5"),
        ({"inner": {"number": 1}, "many": {}}, "many"),
        ({"inner": {"number": 1}, "many": [{"number": 1}, 7]}, "many[1]"),
        ({"inner": {"number": 1}, "many": [{"number": 1, "x": 1}]}, "many[0].x"),
        ({"inner": {"number": 1}, "maybe": 3}, "maybe"),
        ({"inner": {"number": 1, "table": {"a": [1, "x"]}}}, "inner.table.a[1]"),
        ({"inner": {"number": 1, "table": {"a": 1}}}, "inner.table.a"),
        ({"inner": {"number": 1, "table": {3: [1]}}}, "inner.table.3"),
        ({"inner": {"number": 1, "table": 3}}, "inner.table"),
    ],
)
def test_each_problem_has_its_path(value, at):
    (problem,) = problems_of(value)
    assert problem.startswith(f"{at}: " if at else "must be a mapping")


def test_all_problems_are_collected():
    found = problems_of({"inner": {"number": "1", "y": 2}, "many": [{"number": 1}, {}], "z": 1})
    assert [problem.split(":")[0] for problem in found] == ["z", "inner.y", "inner.number", "many[1].number"]


def test_no_problems_raise_nothing():
    Problems().check("file")
