"""Where a mission has its cache, and the keys it trusts: all that a verification needs to know of it.

At takeoff nothing else of the file is looked at, and nothing that only building needs is loaded or has to be there: models,
calibration, a tile store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from preflight.mission_reader import Problems, check_keys, placed, read_yaml

__all__ = ["KEYS", "CachePlace", "read_place", "trust_problem"]

# The file's own keys, as `mission_schema.MissionFile` has them: a misspelt one could hide what is asked for here.
KEYS = (
    "version", "cache_root", "tile_store", "area", "zoom_levels", "sector_class", "calibration", "trust", "components",
    "takeoff_origin", "flight_id",
)  # fmt: skip


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
    value = read_yaml(source, environment, problems)
    problems.check(str(path))
    check_keys(value, KEYS, problems)
    problems.check(str(path))
    version = value.get("version") if isinstance(value, dict) else None
    if version != 1 or isinstance(version, bool):
        problems.add("version", f"is {version!r}; this program knows version 1")
    root, trust = _place(value, "cache_root", source, problems), _place(value, "trust", source, problems)
    problem = trust_problem(trust, root)
    if problem is not None:
        problems.add("trust", problem)
    problems.check(str(path))
    return CachePlace(root, trust)


def trust_problem(place: Path, cache_root: Path) -> str | None:
    """Why keys may not lie there; None where they may."""
    if place != cache_root and cache_root not in place.parents:
        return None
    return f"lies inside cache_root ({cache_root}); who can write the cache must not choose its keys"


def _place(value: object, key: str, source: Path, problems: Problems) -> Path:
    """Of no use where a problem was found."""
    given = value.get(key) if isinstance(value, dict) else None
    if isinstance(given, str) and given:
        return placed(source, given)
    problems.add(key, "is missing" if given is None else "a path is needed")
    return source / key
