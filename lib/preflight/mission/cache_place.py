"""Where a mission has its cache, and the keys it trusts: all that a verification needs to know of it.

At takeoff nothing else of the file is looked at, and nothing that only building needs is loaded or has to be there: models,
calibration, a tile store.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from preflight.mission.reader import Problems, check_keys, expanded, parse_yaml, placed

__all__ = ["KEYS", "CachePlace", "read_place", "trust_problem"]

# The file's own keys, as `mission_schema.MissionFile` has them: a misspelt one could hide what is asked for here.
KEYS = (
    "version", "cache_root", "tile_store", "area", "zoom_levels", "sector_class", "calibration", "trust", "components",
    "takeoff_origin", "flight_id",
)  # fmt: skip
_ASKED = ("version", "cache_root", "trust")


@dataclass(frozen=True, slots=True)
class CachePlace:
    """The cache root and the trust directory of a mission, as `Job` has them."""

    cache_root: Path
    trust: Path


def read_place(path: Path, environment: Mapping[str, str]) -> CachePlace:
    """The places a mission file names. environment: what `${NAME}` in a string stands for.

    Raises:
        MissionError: it is no mission file of this version, either place is missing or not text, or the trust directory
            lies in the cache root; each problem with its path in the file.
    """
    problems = Problems()
    source = path.absolute()
    value = parse_yaml(source, problems)
    problems.check(str(path))
    check_keys(value, KEYS, problems)
    problems.check(str(path))
    asked = {key: value.get(key) for key in _ASKED} if isinstance(value, dict) else {}
    # These alone: a password of the tile store need not be known.
    asked = {key: expanded(one, environment, problems, key) for key, one in asked.items()}
    version = asked.get("version")
    if version != 1 or type(version) is not int:
        problems.add("version", f"is {version!r}; this program knows version 1")
    root, trust = _place(asked, "cache_root", source, problems), _place(asked, "trust", source, problems)
    problem = trust_problem(trust, root)
    if problem is not None:
        problems.add("trust", problem)
    problems.check(str(path))
    return CachePlace(root, trust)


def trust_problem(place: Path, cache_root: Path) -> str | None:
    """Why keys may not lie there; None where they may."""
    # As it is written, and where links lead: a link to keys elsewhere is the operator's choice, one into the cache is not.
    spelt, real = (place, cache_root), (Path(os.path.realpath(place)), Path(os.path.realpath(cache_root)))
    if all(one != root and root not in one.parents for one, root in (spelt, real)):
        return None
    return f"lies inside cache_root ({cache_root}); who can write the cache must not choose its keys"


def _place(asked: Mapping[str, object], key: str, source: Path, problems: Problems) -> Path:
    """Of no use where a problem was found."""
    given = asked.get(key)
    if isinstance(given, str) and given:
        return placed(source, given)
    problems.add(key, "is missing" if given is None else "a path is needed")
    return source / key
