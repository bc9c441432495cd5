"""Reads the text of a mission file into plain values. Collects every problem instead of raising the first one."""

from __future__ import annotations

import math
import os.path
import re
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from preflight.errors import MissionError

__all__ = ["MAX_BYTES", "Problems", "check_keys", "expanded", "join", "parse_yaml", "placed", "read_yaml"]

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_UNUSABLE = re.compile("[\\0\ud800-\udfff]")
# A mission is about a page of text. A file of a megabyte is the wrong file.
MAX_BYTES = 1 << 20


class Problems:
    """The faults found so far, each with its path in the file."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def add(self, at: str, text: str) -> None:
        """Notes a fault at a path such as `area.bbox`."""
        self._found.append(f"{at}: {text}" if at else text)

    def __len__(self) -> int:
        return len(self._found)

    def check(self, source: str) -> None:
        """Raises MissionError if there are any faults."""
        if self._found:
            raise MissionError(source, tuple(self._found))


class _Loader(yaml.SafeLoader):
    """Loads YAML 1.2 scalars (core schema). Refuses duplicate keys, aliases and tags."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own class-level registry

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401 - upstream's signature
        event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs leave it out
        mark: Any = event.start_mark  # the stubs also allow the mark of a C reader
        if isinstance(event, yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not used in mission files", mark)
        if getattr(event, "tag", None) is not None:
            # With tags, `!!int 012` would allow what the scalars below refuse.
            raise yaml.composer.ComposerError(None, None, "tags (!name) are not used in mission files", mark)
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:null|~|)$"), ["n", "~", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]{0,17})$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+|(?:0|[1-9][0-9]*)(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?$"),
    list("-+.0123456789"),
)


def read_yaml(path: Path, environment: Mapping[str, str], problems: Problems) -> object:
    """Returns the file's value, with `${NAME}` replaced in every string."""
    return expanded(parse_yaml(path, problems), environment, problems)


def parse_yaml(path: Path, problems: Problems) -> object:
    """Returns the file's value as written; None if it has none."""
    try:
        content = path.read_bytes()
        if len(content) > MAX_BYTES:
            problems.add("", f"the file is larger than {MAX_BYTES} bytes, too large for a mission file")
            return None
        value: object = yaml.load(content.decode("utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader with fewer types
    except OSError as error:
        problems.add("", f"the file cannot be read ({error.strerror})")
        return None
    except UnicodeDecodeError as error:
        problems.add("", f"the file is not UTF-8 (byte {error.start})")
        return None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        problems.add("", f"{line}{error.problem}")
        return None
    except (yaml.YAMLError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        problems.add("", f"the file is not YAML ({reason}): name a mission file, or write one with doit new")
        return None
    return value


def expanded(value: object, environment: Mapping[str, str], problems: Problems, at: str = "") -> object:
    """Returns a value with `${NAME}` replaced in every string of it."""
    if isinstance(value, dict):
        return {key: expanded(item, environment, problems, join(at, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [expanded(item, environment, problems, f"{at}[{number}]") for number, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        problems.add(at, "a number too large to hold")
    if not isinstance(value, str):
        return value
    if _UNUSABLE.search(value):
        problems.add(at, "holds a NUL or half of a surrogate pair, which no path or name can hold")

    def lookup(match: re.Match[str]) -> str:
        if match[1] not in environment:
            problems.add(at, f"the environment has no {match[1]}")
        return environment.get(match[1], "")

    return _VARIABLE.sub(lookup, value)


def placed(source: Path, text: str) -> Path:
    """Returns a path that a mission file names, relative to its folder. Links stay: a symbolic link is the operator's choice."""
    return Path(os.path.normpath(source.parent / text))


def check_keys(value: object, known: Collection[str], problems: Problems, at: str = "") -> bool:
    """Returns whether a value is a mapping with known keys only. If not, notes why in `problems`."""
    if not isinstance(value, dict):
        problems.add(at, f"must be a mapping, but is {_named(value)}")
        return False
    unknown = [key for key in value if key not in known]
    for key in unknown:
        problems.add(join(at, key), f"unknown key; known here: {', '.join(sorted(known))}")
    return not unknown


def join(at: str, key: object) -> str:
    """Returns the path in the file of something inside `at`."""
    return f"{at}.{key}" if at else str(key)


def _named(value: object) -> str:
    return {"NoneType": "empty", "str": "text", "list": "a list", "int": "a number", "float": "a number"}.get(
        type(value).__name__, type(value).__name__
    )
