"""MAVLink 2 by pymavlink: what is said to the ground station, what the autopilot asks, and the answer.

Arm authorisation: https://mavlink.io/en/services/arm_authorization.html and PX4's ArmAuthorization.cpp. PX4 sends
COMMAND_LONG 3001 to the system COM_ARM_AUTH_ID, to any component of it, and only to one whose heartbeat it has heard. It takes
COMMAND_ACK with its own system as target: `result`; `progress`, the reason of a denial; `result_param2`, the seconds that an
acceptance holds. These three fields are extensions: MAVLink 1 does not carry them.
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
"""MAV_ARM_AUTH_DENIED_REASON: the reason goes to the ground station as text; the authoriser has no verdict in time."""

_CRITICAL = 2


class Request(NamedTuple):
    """Who asks for authorisation."""

    system: int
    component: int


def severity(verdict: Verdict) -> int:
    """MAV_SEVERITY: a ground station shows and speaks a refusal; a pass is information."""
    return INFO if verdict.passed else _CRITICAL


class Link:
    """One MAVLink line of this component."""

    def __init__(self, settings: Mavlink, transport: Transport | None = None) -> None:
        """Import pymavlink and open the line, unless one is given. Raises ReportError."""
        try:
            from pymavlink.dialects.v20 import common  # noqa: PLC0415 - 40 ms, and an extra
        except ImportError as error:
            raise ReportError("pymavlink is missing: install the extra `preflight[aircraft]`") from error
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
        """Say that this component is there: who is not heard is not shown, and not asked. Raises OSError."""
        names = self._dialect
        kind, autopilot = names.MAV_TYPE_ONBOARD_CONTROLLER, names.MAV_AUTOPILOT_INVALID
        self._codec.heartbeat_send(kind, autopilot, 0, 0, names.MAV_STATE_ACTIVE)

    def statustext(self, severity_: int, text: str) -> None:
        """Send a text of at most 50 bytes; longer ones are cut. severity_: MAV_SEVERITY. Raises OSError."""
        self._codec.statustext_send(severity_, text.encode("ascii", "replace")[:MAX_STATUSTEXT])

    def requests(self, timeout_s: float) -> list[Request]:
        """The authorisations asked of this component in what arrives next. Raises OSError."""
        data = self._transport.read(timeout_s)
        # A frame never spans datagrams: what a damaged one leaves must not swallow the next.
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
        """Answer a request. Raises OSError."""
        self._codec.command_ack_send(
            ARM_AUTHORIZATION_REQUEST, result, reason, valid_for_s, request.system, request.component
        )

    def _parser(self) -> Any:  # noqa: ANN401 - pymavlink ships no types
        parser = self._dialect.MAVLink(None)
        parser.robust_parsing = True  # damaged bytes are skipped, not raised
        return parser
