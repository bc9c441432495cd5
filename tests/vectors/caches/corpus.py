"""Unpacks the golden corpus and returns the verifier's verdicts. The corpus test and the mutation check use it."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent


class Case(NamedTuple):
    """An unpacked case. expected: (code, file) of each failure. floor_text: the content of the floor file."""

    name: str
    root: Path
    trust: Path
    floor: Path | None
    floor_text: str | None
    now: int
    expect: dict[str, Any]
    expected: list[tuple[str, str]]


def paths() -> list[Path]:
    """Return the files of all cases of all schema versions."""
    return sorted(HERE.glob("*/*.json"))


def unpack(path: Path, folder: Path) -> Case:
    """Write the cache and the trust directory of a case below `folder`, which must be empty."""
    found = json.loads(path.read_text())
    root, trust, floor = folder / "cache", folder / found.get("trust_at", "trust"), folder / "floor"
    lay(root, found["entries"])
    lay(trust, found["trust"])
    return Case(
        f"{path.parent.name}/{path.stem}",
        root,
        trust,
        None if found["floor"] is None else floor,
        found["floor"],
        found["now"],
        {name: found[name] for name in ("flight_id", "position", "host", "sm")},
        [(code, file) for code, file in found["failures"]],
    )


def lay(root: Path, entries: dict[str, Any]) -> None:
    """Create a folder with these entries: name -> text, or a mapping that says what to create."""
    root.mkdir(parents=True)
    for name, entry in entries.items():
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        match entry:
            case str(text):
                place.write_bytes(text.encode())
            case {"file": content}:
                place.write_bytes(base64.b64decode(content))
            case {"text": text, "times": times}:
                place.write_bytes(text.encode() * times)
            case {"link": target}:
                place.symlink_to(target)
            case {"fifo": True}:
                os.mkfifo(place)
            case {"folder": True}:
                place.mkdir()
            case _:
                raise ValueError(entry)


def verdict(case: Case) -> tuple[list[tuple[str, str]], bool]:
    """Return the verifier's verdict on a case.

    It is (code, file) of each failure, sorted, and whether the verifier returned something that only a verified cache
    may give.
    """
    from takeoff import errors, policy, verify
    from takeoff.host import Host

    if case.floor is not None and case.floor_text is not None:
        case.floor.write_text(case.floor_text)
    host = case.expect["host"] and Host(
        case.expect["host"]["arch"], frozenset(case.expect["host"]["flags"]), case.expect["host"]["sm"]
    )
    position = case.expect["position"] and tuple(case.expect["position"])
    expect = policy.Expectations(case.expect["flight_id"], position, host, case.expect["sm"])
    settings: dict[str, Any] = {"trust": case.trust, "now": lambda: case.now, "expect": expect, "floor": case.floor}
    gave = False
    try:
        result = verify.verify_manifest(case.root, **settings)
        failures = result.failures
        gave = any(value is not None for value in (result.cache, result.takeoff_origin, result.flight_id))
    except errors.ManifestNotFoundError as error:
        failures = (error,)
    places = {str(case.trust): "TRUST", str(case.floor): "FLOOR"}
    return sorted((failure.code, places.get(failure.file, failure.file)) for failure in failures), gave
