"""Speaks MAVLink 2 through pymavlink: texts for the ground station, requests of the autopilot, and the answers.

Arm authorisation follows https://mavlink.io/en/services/arm_authorization.html and PX4's ArmAuthorization.cpp. PX4
sends COMMAND_LONG 3001 to the system COM_ARM_AUTH_ID, to any component, and only after it has received a heartbeat of
that system. It accepts a COMMAND_ACK with its own system as target. It reads `result`; `progress`, the reason of a
denial; and `result_param2`, the seconds for which an acceptance is valid. The target, `progress` and `result_param2`
are extension fields, which MAVLink 1 does not carry.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from takeoff_report.config import Mavlink
from takeoff_report.errors import ReportError
from takeoff_report.events import INFO
from takeoff_report.transport import Transport, connect
from takeoff_report.verifier_run import MAX_STATUSTEXT, Verdict

ARM_AUTHORIZATION_REQUEST = 3001
ACCEPTED, DENIED = 0, 2
NO_REASON, TIMED_OUT = 1, 3
"""MAV_ARM_AUTH_DENIED_REASON. NO_REASON: the reason is sent as text. TIMED_OUT: there is no valid verdict yet."""

_CRITICAL = 2


class Request(NamedTuple):
    """The MAVLink system and component that request an authorisation."""

    system: int
    component: int


def severity(verdict: Verdict) -> int:
    """Returns the MAV_SEVERITY of a verdict: critical for a refusal, which ground stations speak, else information."""
    return INFO if verdict.passed else _CRITICAL


class Link:
    """A MAVLink connection of this component. A context manager that closes the connection."""

    def __init__(self, settings: Mavlink, transport: Transport | None = None) -> None:
        """Imports pymavlink and opens the connection, unless `transport` is given.

        Raises:
            ReportError: pymavlink is not installed, or the endpoint cannot be opened.
        """
        try:
            from pymavlink.dialects.v20 import common  # noqa: PLC0415 - takes 40 ms, and is an optional extra
        except ImportError as error:
            raise ReportError("pymavlink is not installed: install the extra `preflight[aircraft]`") from error
        self._settings = settings
        self._transport = transport or connect(settings.endpoint)
        self._dialect: Any = common
        self._codec: Any = common.MAVLink(self._transport, srcSystem=settings.system, srcComponent=settings.component)
        self._stream = self._parser()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close()

    def heartbeat(self) -> None:
        """Sends a heartbeat. Without it, ground stations do not show this component and PX4 sends no requests to it.

        Raises:
            OSError: it cannot be sent.
        """
        names = self._dialect
        kind, autopilot = names.MAV_TYPE_ONBOARD_CONTROLLER, names.MAV_AUTOPILOT_INVALID
        self._codec.heartbeat_send(kind, autopilot, 0, 0, names.MAV_STATE_ACTIVE)

    def statustext(self, severity_: int, text: str) -> None:
        """Sends a text to the ground station. Raises OSError.

        Args:
            severity_: MAV_SEVERITY.
            text: at most 50 bytes of ASCII are sent. The rest is cut.
        """
        self._codec.statustext_send(severity_, text.encode("ascii", "replace")[:MAX_STATUSTEXT])

    def requests(self, timeout_s: float) -> list[Request]:
        """Returns the requests to this component that arrive within `timeout_s` seconds. Raises OSError."""
        data = self._transport.read(timeout_s)
        # A frame never spans datagrams. So each datagram gets a new parser, and a damaged one cannot affect the next.
        parser = self._parser() if self._transport.datagrams else self._stream
        messages = parser.parse_buffer(data) if data else None
        return [
            Request(message.get_srcSystem(), message.get_srcComponent())
            for message in messages or ()
            if message.get_type() == "COMMAND_LONG"
            and message.command == ARM_AUTHORIZATION_REQUEST
            and message.target_system == self._settings.system
            and message.target_component in (0, self._settings.component)
        ]

    def acknowledge(self, request: Request, result: int, reason: int, valid_for_s: int) -> None:
        """Answers a request. Raises OSError.

        Args:
            request: the request.
            result: MAV_RESULT, `ACCEPTED` or `DENIED`.
            reason: MAV_ARM_AUTH_DENIED_REASON.
            valid_for_s: how long an acceptance is valid, seconds.
        """
        self._codec.command_ack_send(
            ARM_AUTHORIZATION_REQUEST, result, reason, valid_for_s, request.system, request.component
        )

    def _parser(self) -> Any:  # noqa: ANN401 - pymavlink ships no types
        parser = self._dialect.MAVLink(None)
        parser.robust_parsing = True  # damaged bytes are skipped, not raised
        return parser
