from __future__ import annotations

from pathlib import Path

import pytest

from preflight.errors import CommandLineError
from recipes.variables import KNOWN, Variables, parse, repeated


def test_the_defaults_without_any_variable():
    assert parse({}) == Variables(None, "airborne", None, False, False, False)


def test_every_variable_is_read():
    given = {"mission": "m.yaml", "mode": "operator", "cache": "c", "log": "json", "repair": "1", "recalibrate": "1"}
    assert parse(given) == Variables(Path("m.yaml"), "operator", Path("c"), True, True, True)
    assert set(KNOWN) >= given.keys()
    assert parse({"deep": "1"}) == Variables(deep=True)


def test_zero_and_text_are_the_defaults():
    assert parse({"repair": "0", "recalibrate": "0", "log": "text", "mode": "airborne"}) == Variables()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"misson": "x.yaml"}, "unknown variable misson=x.yaml; known are mission=, mode="),
        ({"Mission": "x"}, "unknown variable Mission=x"),
        ({"": "x"}, "unknown variable =x"),
        ({"mode": "ground"}, "mode=ground: only airborne and operator are known"),
        ({"mode": ""}, "mode=: only"),
        ({"log": "xml"}, "log=xml: only json and text are known"),
        ({"repair": "yes"}, "repair=yes: only 0 and 1 are known"),
        ({"recalibrate": "01"}, "recalibrate=01: only 0 and 1 are known"),
        ({"repair": ""}, "repair=: only 0 and 1"),
        ({"deep": "2"}, "deep=2: only 0 and 1"),
    ],
)
def test_unknown_variables_and_values_are_refused(given, said):
    with pytest.raises(CommandLineError) as error:
        parse(given)
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["mission", "cache"])
def test_an_empty_path_is_refused(name):
    """If FILE is unset, `mission=$FILE` must not build the demo."""
    with pytest.raises(CommandLineError, match=f"{name}=: "):
        parse({name: ""})


def test_all_problems_are_reported_at_once():
    with pytest.raises(CommandLineError) as error:
        parse({"b": "1", "a": "2", "repair": "x", "mode": "y", "log": "z"})
    text = str(error.value)
    for part in ("unknown variable a=2", "unknown variable b=1", "repair=x", "mode=y", "log=z"):
        assert part in text
    assert "\n" not in text


def test_a_variable_that_is_given_twice_is_refused():
    """Doit itself uses the last value."""
    arguments = ["provision", "mission=a", "repair=1", "mission=b", "--zoom=1", "--zoom=2", ""]
    assert repeated(arguments) == ["mission"]
    with pytest.raises(CommandLineError, match="mission= is given more than once"):
        parse({"mission": "b"}, repeated(arguments))
