"""The configuration of the reporter: one JSON object (docs/adr/0014-a-reporter-beside-the-verifier.md).

    {
      "flight_log": {"path": "/var/lib/preflight/flight-log.jsonl", "max_bytes": 1048576, "keep": 4},
      "mavlink": {"endpoint": "udpout:127.0.0.1:14540", "system": 1, "component": 191},
      "arm": {"max_age_s": 60, "valid_for_s": 10},
      "patience_s": 5
    }

Each part is optional. The reporter does not use a place whose part is missing. Unknown members are errors.

Endpoints: `udpout:HOST:PORT` sends to this address. `udpin:HOST:PORT` listens at this address and answers the peer that
sent last. `serial:DEVICE:BAUD` uses a serial line.
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
    """The flight recorder. max_bytes: the largest size of a file. keep: how many full files are kept beside it."""

    path: Path
    max_bytes: int = 2**20
    keep: int = 4


@dataclass(frozen=True)
class Endpoint:
    """A MAVLink endpoint. kind: udpout, udpin or serial. where: host or device. number: port or baud."""

    kind: str
    where: str
    number: int


@dataclass(frozen=True)
class Mavlink:
    """The MAVLink connection.

    system, component: the sender of the messages. 191 is MAV_COMP_ID_ONBOARD_COMPUTER. For arm authorisation, `system`
    must be PX4's COM_ARM_AUTH_ID.
    """

    endpoint: Endpoint
    system: int = 1
    component: int = 191


@dataclass(frozen=True)
class Arm:
    """Arm authorisation.

    max_age_s: an older verdict authorises nothing, seconds.
    valid_for_s: how long an authorisation is valid at most, seconds.
    """

    max_age_s: int = 60
    valid_for_s: int = 10


@dataclass(frozen=True)
class Config:
    """The whole configuration. None means that a part is missing.

    patience_s: how long all reports may take, seconds. The exit status does not wait longer.
    """

    flight_log: FlightLog | None = None
    mavlink: Mavlink | None = None
    arm: Arm | None = None
    patience_s: float = 5.0


def load(path: Path) -> Config:
    """Reads a configuration file. Raises ReportError, which names the file."""
    try:
        with path.open("rb") as file:
            return parse(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {error.strerror}") from error
    except ReportError as error:
        raise ReportError(f"{path}: {error}") from error


def parse(data: bytes) -> Config:
    """Decodes the bytes of a configuration. Raises ReportError, which names the member that is not valid."""
    try:
        value = json.loads(data[: MAX_BYTES + 1], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"the file is not JSON: {error}") from error
    if len(data) > MAX_BYTES:
        raise ReportError(f"the file has more than {MAX_BYTES} bytes: name another file")
    parts = _members(value, "the configuration", {"flight_log", "mavlink", "arm", "patience_s"})
    return Config(
        _flight_log(parts["flight_log"]) if "flight_log" in parts else None,
        _mavlink(parts["mavlink"]) if "mavlink" in parts else None,
        _arm(parts["arm"]) if "arm" in parts else None,
        float(_integer(parts, "patience_s", 5, 1, 600)),
    )


def endpoint(text: object) -> Endpoint:
    """Decodes an endpoint `kind:where:number`. Raises ReportError."""
    match = _ENDPOINT.fullmatch(text) if isinstance(text, str) else None
    if match is None or (match[1] != "serial" and int(match[3]) > 65535):
        raise ReportError(f"mavlink.endpoint is {text!r}: give udpout:HOST:PORT, udpin:HOST:PORT or serial:DEVICE:BAUD")
    return Endpoint(match[1], match[2].strip("[]"), int(match[3]))


def _flight_log(value: object) -> FlightLog:
    parts = _members(value, "flight_log", {"path", "max_bytes", "keep"})
    path = parts.get("path")
    if not isinstance(path, str) or not path.startswith("/") or path.endswith("/"):
        raise ReportError(f"flight_log.path is {path!r}: give the absolute path of a file")
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
        raise ReportError(f"{where} is not a JSON object")
    unknown = sorted(set(value) - known)
    if unknown:
        raise ReportError(f"{where} has the unknown member {unknown[0]!r}: use only {', '.join(sorted(known))}")
    return value


def _integer(parts: dict[str, object], name: str, default: int, least: int, most: int) -> int:
    value = parts.get(name, default)
    if type(value) is not int or not least <= value <= most:
        raise ReportError(f"{name} is {value!r}: give an integer from {least} to {most}")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ReportError("a member is given twice: remove one")
    return members
