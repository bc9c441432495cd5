"""What a decoded JSON value may be: each check takes the value and its place, and returns what to keep or raises.

A record is a NamedTuple whose fields carry their checks, `Annotated[type, check]`: what a field means and what is
allowed in it stand in one place. Every failure is a ManifestFormatError that names the place.
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
    """The fields of a record that carry a check, in their order."""
    found = kind.__annotations__.items()
    return {name: annotation.__metadata__[0] for name, annotation in found if hasattr(annotation, "__metadata__")}


def record(make: Callable[..., Any], members: dict[str, Check] | None = None) -> Check:
    """An object with exactly these members, handed to `make` by name; without any, those of `make`, a record."""
    fields = members or fields_of(make)

    def check(value: object, where: str) -> Any:  # noqa: ANN401 - whatever `make` makes
        if not isinstance(value, dict):
            raise ManifestFormatError(f"{where} is not an object")
        for key in value.keys() ^ fields.keys():
            raise ManifestFormatError(f"{where}.{key[:80]} is {'missing' if key in fields else 'unknown'}")
        return make(**{key: field(value[key], f"{where}.{key}") for key, field in fields.items()})

    return check


def list_of(item: Check, least: int = 0) -> Check:
    """A list of at least so many; a tuple is kept."""

    def check(value: object, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) < least:
            raise ManifestFormatError(f"{where} is not a list of at least {least}")
        return tuple(item(member, f"{where}[{place}]") for place, member in enumerate(value))

    return check


def map_of(name: Check, item: Check) -> Check:
    """An object with members of any name."""

    def check(value: object, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ManifestFormatError(f"{where} is not an object")
        return {name(key, f"{where} key"): item(member, f"{where}.{key[:80]}") for key, member in value.items()}

    return check


def text(pattern: str, what: str) -> Check:
    """A string that the whole pattern matches."""

    def check(value: object, where: str) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ManifestFormatError(f"{where} is not {what}")
        return value

    return check


def one_of(*values: str) -> Check:
    """One of these strings."""
    return text("|".join(map(re.escape, values)), f"one of {', '.join(values)}")


def integer(least: int, most: int = SAFE_INTEGER) -> Check:
    """An integer in a closed range; true and false are none."""

    def check(value: object, where: str) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ManifestFormatError(f"{where} is not an integer from {least} to {most}")
        return value

    return check


def decimal(least: float, most: float) -> Check:
    """A string that is what `repr` prints for the double it reads as, in a closed range."""
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
    """Null, or what another check takes."""
    return lambda value, where: None if value is None else present(value, where)
