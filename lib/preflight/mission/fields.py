"""Converts plain values into typed structs. Collects every problem instead of raising the first one."""

from __future__ import annotations

from typing import Any, TypeVar, get_args, get_origin

import msgspec

from preflight.mission.reader import Problems, check_keys, join

__all__ = ["convert"]

T = TypeVar("T", bound=msgspec.Struct)


def convert(value: object, kind: type[T], problems: Problems, at: str = "") -> T | None:
    """Converts `value` into the struct `kind`. Returns None if anything in it is wrong; `problems` then lists all of it."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    sound = check_keys(value, fields, problems, at)
    if not isinstance(value, dict):
        return None
    arguments: dict[str, object] = {}
    for name, field in fields.items():
        if name not in value:
            if field.required:
                problems.add(join(at, name), "is missing")
                sound = False
            continue
        before = len(problems)
        arguments[field.name] = _field(value[name], field.type, problems, join(at, name))
        sound = sound and len(problems) == before
    return kind(**arguments) if sound else None


def _field(value: object, kind: Any, problems: Problems, at: str) -> object:  # noqa: ANN401 - a type annotation of any form
    struct = _struct_in(kind)
    if struct is not None and not (value is None and type(None) in get_args(kind)):
        return convert(value, struct, problems, at)
    item = _struct_item(kind)
    if item is not None and isinstance(value, list) and value:
        return tuple(convert(entry, item, problems, f"{at}[{number}]") for number, entry in enumerate(value))
    inner = _dict_in(kind)
    if inner is not None and isinstance(value, dict):
        return {
            _field(key, inner[0], problems, join(at, key)): _field(entry, inner[1], problems, join(at, key))
            for key, entry in value.items()
        }
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$")
        problems.add(f"{at}{place.rstrip('`')}", f"{text[0].lower()}{text[1:]}")
        return None


def _struct_in(kind: Any) -> type[msgspec.Struct] | None:  # noqa: ANN401
    """The struct in `Struct` or `Struct | None`."""
    for candidate in (kind, *(arg for arg in get_args(kind) if type(None) in get_args(kind))):
        if isinstance(candidate, type) and issubclass(candidate, msgspec.Struct):
            return candidate
    return None


def _dict_in(kind: Any) -> tuple[Any, ...] | None:  # noqa: ANN401
    """The key and value types in `dict[K, V]` or `dict[K, V] | None`."""
    for candidate in (kind, *get_args(kind)):
        if get_origin(candidate) is dict:
            return get_args(candidate)
    return None


def _struct_item(kind: Any) -> type[msgspec.Struct] | None:  # noqa: ANN401
    """The struct in `tuple[Struct, ...]`, annotated or not."""
    inner = get_args(kind)[0] if hasattr(kind, "__metadata__") else kind
    if get_origin(inner) is tuple:
        return _struct_in(get_args(inner)[0])
    return None
