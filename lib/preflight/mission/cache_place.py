"""The cache root and the trust directory of a mission: all that a verification needs to know.

At takeoff the rest of the file is not read. Nothing that only a build needs is loaded or must exist: models, calibration,
tile store.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from preflight.mission.reader import Problems, check_keys, expanded, parse_yaml, placed

__all__ = ["KEYS", "CachePlace", "read_place", "trust_problem"]

# The keys of `schema.MissionFile`. An unknown key is refused: it could be a misspelt `trust`.
KEYS = (
    "version", "cache_root", "tile_store", "area", "zoom_levels", "sector_class", "calibration", "trust", "components",
    "takeoff_origin", "flight_id",
)  # fmt: skip
_ASKED = ("version", "cache_root", "trust")


@dataclass(frozen=True, slots=True)
class CachePlace:
    """The cache root and the trust directory of a mission, as absolute paths."""

    cache_root: Path
    trust: Path


def read_place(path: Path, environment: Mapping[str, str]) -> CachePlace:
    """Reads both paths from a mission file. environment: values for `${NAME}` in a string.

    Raises:
        MissionError: this is not a mission file of this version, a path is missing or not text, or the trust directory lies in
            the cache root. Names every fault with its path in the file.
    """
    problems = Problems()
    source = path.absolute()
    value = parse_yaml(source, problems)
    problems.check(str(path))
    check_keys(value, KEYS, problems)
    problems.check(str(path))
    asked = {key: value.get(key) for key in _ASKED} if isinstance(value, dict) else {}
    # Only these two, so that a password of the tile store is not needed.
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
    """Returns why keys must not lie at a path; None if they may."""
    # Check the path as written and with links resolved. A link to keys elsewhere is allowed; a link into the cache is not.
    spelt, real = (place, cache_root), (Path(os.path.realpath(place)), Path(os.path.realpath(cache_root)))
    if all(one != root and root not in one.parents for one, root in (spelt, real)):
        return None
    return f"lies inside cache_root ({cache_root}): move it out, or whoever writes the cache chooses the trusted keys"


def _place(asked: Mapping[str, object], key: str, source: Path, problems: Problems) -> Path:
    """Returns the path. The result is meaningless if `problems` holds a fault of it."""
    given = asked.get(key)
    if isinstance(given, str) and given:
        return placed(source, given)
    problems.add(key, "is missing" if given is None else "a path is needed")
    return source / key
