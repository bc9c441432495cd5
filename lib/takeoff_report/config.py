"""The reporter's configuration: one JSON object, read strictly (docs/adr/0014-a-reporter-beside-the-verifier.md).

    {
      "flight_log": {"path": "/var/lib/preflight/flight-log.jsonl", "max_bytes": 1048576, "keep": 4},
      "mavlink": {"endpoint": "udpout:127.0.0.1:14540", "system": 1, "component": 191},
      "arm": {"max_age_s": 60, "valid_for_s": 10},
      "patience_s": 5
    }

Each part may be left out, and is then not reported to. Endpoints: `udpout:HOST:PORT` sends there, `udpin:HOST:PORT` waits there
and answers whoever sent last, `serial:DEVICE:BAUD`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from takeoff_report.errors import ReportError
from takeoff_report.flight_log import MIN_BYTES

MAX_BYTES = 2**16
_ENDPOINT = re.compile(r"(udpout|udpin|serial):([^\s:]+|\[[0-9a-fA-F:]+\]):(\d{1,7})")


@dataclass(frozen=True)
class FlightLog:
    """The flight recorder's file. max_bytes: of one file; keep: how many full ones stay beside it."""

    path: Path
    max_bytes: int = 2**20
    keep: int = 4


@dataclass(frozen=True)
class Endpoint:
    """kind: udpout, udpin or serial; where: host or device; number: port or baud."""

    kind: str
    where: str
    number: int


@dataclass(frozen=True)
class Mavlink:
    """system, component: whom the messages come from; 191 is MAV_COMP_ID_ONBOARD_COMPUTER. PX4 asks COM_ARM_AUTH_ID."""

    endpoint: Endpoint
    system: int = 1
    component: int = 191


@dataclass(frozen=True)
class Arm:
    """max_age_s: a verdict older than that authorises nothing; valid_for_s: how long an authorisation is given for."""

    max_age_s: int = 60
    valid_for_s: int = 10


@dataclass(frozen=True)
class Config:
    """patience_s: how long reporting may take; the exit status waits no longer."""

    flight_log: FlightLog | None = None
    mavlink: Mavlink | None = None
    arm: Arm | None = None
    patience_s: float = 5.0


def load(path: Path) -> Config:
    """Read a file. Raises ReportError."""
    try:
        with path.open("rb") as file:
            return parse(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {error.strerror}") from error
    except ReportError as error:
        raise ReportError(f"{path}: {error}") from error


def parse(data: bytes) -> Config:
    """Decode the bytes of a configuration. Raises ReportError that names the member."""
    try:
        value = json.loads(data[: MAX_BYTES + 1], object_pairs_hook=_single)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"is not JSON: {error}") from error
    if len(data) > MAX_BYTES:
        raise ReportError(f"has more than {MAX_BYTES} bytes")
    parts = _members(value, "the configuration", {"flight_log", "mavlink", "arm", "patience_s"})
    return Config(
        _flight_log(parts["flight_log"]) if "flight_log" in parts else None,
        _mavlink(parts["mavlink"]) if "mavlink" in parts else None,
        _arm(parts["arm"]) if "arm" in parts else None,
        float(_integer(parts, "patience_s", 5, 1, 600)),
    )


def endpoint(text: object) -> Endpoint:
    """Read `kind:where:number`. Raises ReportError."""
    match = _ENDPOINT.fullmatch(text) if isinstance(text, str) else None
    if match is None or (match[1] != "serial" and int(match[3]) > 65535):
        raise ReportError(f"mavlink.endpoint is {text!r}, not udpout:HOST:PORT, udpin:HOST:PORT or serial:DEVICE:BAUD")
    return Endpoint(match[1], match[2].strip("[]"), int(match[3]))


def _flight_log(value: object) -> FlightLog:
    parts = _members(value, "flight_log", {"path", "max_bytes", "keep"})
    path = parts.get("path")
    if not isinstance(path, str) or not path.startswith("/") or path.endswith("/"):
        raise ReportError(f"flight_log.path is {path!r}, not the absolute path of a file")
    size = _integer(parts, "max_bytes", 2**20, MIN_BYTES, 2**30)
    return FlightLog(Path(path), size, _integer(parts, "keep", 4, 1, 1000))


def _mavlink(value: object) -> Mavlink:
    parts = _members(value, "mavlink", {"endpoint", "system", "component"})
    ids = _integer(parts, "system", 1, 1, 255), _integer(parts, "component", 191, 1, 255)
    return Mavlink(endpoint(parts.get("endpoint")), *ids)


def _arm(value: object) -> Arm:
    parts = _members(value, "arm", {"max_age_s", "valid_for_s"})
    return Arm(_integer(parts, "max_age_s", 60, 1, 3600), _integer(parts, "valid_for_s", 10, 1, 3600))


def _members(value: object, where: str, known: set[str]) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ReportError(f"{where} is no JSON object")
    unknown = sorted(set(value) - known)
    if unknown:
        raise ReportError(f"{where} holds {unknown[0]!r}; known are {', '.join(sorted(known))}")
    return value


def _integer(parts: dict[str, object], name: str, default: int, least: int, most: int) -> int:
    value = parts.get(name, default)
    if type(value) is not int or not least <= value <= most:
        raise ReportError(f"{name} is {value!r}, not an integer from {least} to {most}")
    return value


def _single(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ReportError("a member is given twice")
    return found
