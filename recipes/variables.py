"""The variables of the command line. An unknown one is refused: doit itself ignores `misson=x.yaml` without a word."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from preflight.errors import CommandLineError

Mode = Literal["airborne", "operator"]
KNOWN = ("mission", "mode", "deep", "cache", "log", "repair", "recalibrate", "wait")


@dataclass(frozen=True, slots=True)
class Variables:
    """The values that the operator gave as name=value."""

    mission: Path | None = None
    mode: Mode = "airborne"
    cache: Path | None = None
    log_json: bool = False
    repair: bool = False
    recalibrate: bool = False
    wait: float = 0.0
    deep: bool = False


def repeated(arguments: Iterable[str]) -> list[str]:
    """Returns the variables that a command line gives more than once: doit itself takes the last one without a word."""
    names = Counter(argument.partition("=")[0] for argument in arguments if "=" in argument and argument[0] != "-")
    return [name for name, times in names.items() if times > 1]


def parse(given: Mapping[str, str], twice: Iterable[str] = ()) -> Variables:
    """Reads the variables. Raises CommandLineError with every problem at once."""
    problems = _unknown(given, twice, KNOWN)
    flags = {name: _flag(given, name, problems) for name in ("repair", "recalibrate", "deep")}
    paths = {name: _path(given, name, problems) for name in ("mission", "cache")}
    if given.get("mode", "airborne") not in {"airborne", "operator"}:
        problems.append(f"mode={given['mode']}: only airborne and operator are known")
    if given.get("log", "text") not in {"json", "text"}:
        problems.append(f"log={given['log']}: only json and text are known")
    wait = _seconds(given, problems)
    if problems:
        raise CommandLineError("; ".join(problems))
    return Variables(
        mission=paths["mission"],
        mode="operator" if given.get("mode") == "operator" else "airborne",
        cache=paths["cache"],
        log_json=given.get("log") == "json",
        wait=wait,
        **flags,
    )


def parse_flags(given: Mapping[str, str], twice: Iterable[str], known: tuple[str, ...]) -> dict[str, bool]:
    """Reads the variables of a task that knows these flags and nothing else. Raises CommandLineError as `parse` does."""
    problems = _unknown(given, twice, known)
    flags = {name: _flag(given, name, problems) for name in known}
    if problems:
        raise CommandLineError("; ".join(problems))
    return flags


def _unknown(given: Mapping[str, str], twice: Iterable[str], known: tuple[str, ...]) -> list[str]:
    listed = f"known are {', '.join(f'{name}=' for name in known)}" if known else "none is known here"
    return [
        *(f"{name}= is given more than once: give it once" for name in twice),
        *(f"unknown variable {name}={given[name]}; {listed}" for name in sorted(given.keys() - set(known))),
    ]


def _flag(given: Mapping[str, str], name: str, problems: list[str]) -> bool:
    value = given.get(name, "0")
    if value not in {"0", "1"}:
        problems.append(f"{name}={value}: only 0 and 1 are known")
    return value == "1"


def _seconds(given: Mapping[str, str], problems: list[str]) -> float:
    text = given.get("wait", "0")
    if not re.fullmatch(r"[0-9]{1,6}", text):
        problems.append(f"wait={text}: give a whole number of seconds")
        return 0.0
    return float(text)


def _path(given: Mapping[str, str], name: str, problems: list[str]) -> Path | None:
    if name not in given:
        return None
    if not given[name]:
        problems.append(f"{name}=: a path is missing")
    return Path(given[name])
