"""Checks of decoded JSON values: a check takes a value and its place, and returns the value to keep or raises.

A record is a NamedTuple whose fields carry their checks, `Annotated[type, check]`. So the meaning of a field and its
rule stand in one place. Every failure is a ManifestFormatError that names the place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from takeoff.canonical import SAFE_INTEGER
from takeoff.errors import ManifestFormatError

Check = Callable[[object, str], Any]


def fields_of(kind: Callable[..., Any]) -> dict[str, Check]:
    """Returns the fields of a record that carry a check, in their order."""
    found = kind.__annotations__.items()
    return {name: annotation.__metadata__[0] for name, annotation in found if hasattr(annotation, "__metadata__")}


def record(make: Callable[..., Any], members: dict[str, Check] | None = None) -> Check:
    """Returns the check of an object with exactly these members (by default those of the record `make`).

    make: called with the checked members, by name.
    """
    fields = members or fields_of(make)

    def check(value: object, where: str) -> Any:  # noqa: ANN401 - whatever `make` makes
        if not isinstance(value, dict):
            raise ManifestFormatError(f"{where} is not an object")
        for key in value.keys() ^ fields.keys():
            raise ManifestFormatError(f"{where}.{key[:80]} is {'missing' if key in fields else 'unknown'}")
        return make(**{key: field(value[key], f"{where}.{key}") for key, field in fields.items()})

    return check


def list_of(item: Check, least: int = 0) -> Check:
    """Returns the check of a list with `least` items or more, which keeps a tuple."""

    def check(value: object, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) < least:
            raise ManifestFormatError(f"{where} is not a list of at least {least}")
        return tuple(item(member, f"{where}[{place}]") for place, member in enumerate(value))

    return check


def map_of(name: Check, item: Check) -> Check:
    """Returns the check of an object whose members have any names that `name` accepts."""

    def check(value: object, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ManifestFormatError(f"{where} is not an object")
        return {name(key, f"{where} key"): item(member, f"{where}.{key[:80]}") for key, member in value.items()}

    return check


def text(pattern: str, what: str) -> Check:
    """Returns the check of a string that matches the whole pattern. what: the string in words, for the message."""

    def check(value: object, where: str) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ManifestFormatError(f"{where} is not {what}")
        return value

    return check


def one_of(*values: str) -> Check:
    """Returns the check of a string that is one of these."""
    return text("|".join(map(re.escape, values)), f"one of {', '.join(values)}")


def integer(least: int, most: int = SAFE_INTEGER) -> Check:
    """Returns the check of an integer in a closed range. Booleans are not integers."""

    def check(value: object, where: str) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ManifestFormatError(f"{where} is not an integer from {least} to {most}")
        return value

    return check


def decimal(least: float, most: float) -> Check:
    """Returns the check of a string that is the `repr` of a double in a closed range."""
    digits = text(r"-?[0-9][0-9.e+-]{0,30}", "a decimal string")

    def check(value: object, where: str) -> str:
        written: str = digits(value, where)
        try:
            number = float(written)
        except ValueError:
            number = math.nan
        if repr(number) != written or not least <= number <= most:
            raise ManifestFormatError(f"{where} is not a decimal from {least} to {most} as repr prints it")
        return written

    return check


def or_null(present: Check) -> Check:
    """Returns the check of null, or of a value that another check accepts."""
    return lambda value, where: None if value is None else present(value, where)
