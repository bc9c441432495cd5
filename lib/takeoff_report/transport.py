"""Bytes to and from a UDP endpoint or a serial line, by the standard library alone. No call waits without an end."""

from __future__ import annotations

import errno
import os
import select
import socket
import termios
import time
from typing import Any, Protocol

from takeoff_report.config import Endpoint
from takeoff_report.errors import ReportError

_DATAGRAM = 65535
_WRITE_S = 2.0


class Transport(Protocol):
    """What MAVLink needs of a line; reading and writing raise OSError. datagrams: one read gives whole messages."""

    datagrams: bool

    def write(self, data: bytes) -> None:
        """Send all of it, or raise."""

    def read(self, timeout_s: float) -> bytes:
        """What arrived, at most after `timeout_s`; no bytes where nothing did."""

    def close(self) -> None:
        """Free the line."""


def connect(endpoint: Endpoint) -> Transport:
    """Open an endpoint. Raises ReportError."""
    try:
        return Serial(endpoint) if endpoint.kind == "serial" else Udp(endpoint)
    except (OSError, termios.error) as error:
        raise ReportError(f"{endpoint.kind}:{endpoint.where}:{endpoint.number} cannot be opened: {error}") from error


class Udp:
    """`udpout` talks to one peer, and hears nobody else. `udpin` waits at an address and talks to whoever sent last."""

    datagrams = True

    def __init__(self, endpoint: Endpoint) -> None:
        """Open the socket. Raises OSError."""
        family, kind, protocol, _, address = socket.getaddrinfo(
            endpoint.where, endpoint.number, type=socket.SOCK_DGRAM
        )[0]
        self._socket = socket.socket(family, kind, protocol)
        self._waits = endpoint.kind == "udpin"
        self._peer: tuple[Any, ...] | None = None
        try:
            self._socket.setblocking(False)
            (self._socket.bind if self._waits else self._socket.connect)(address)
        except OSError:
            self._socket.close()
            raise

    @property
    def port(self) -> int:
        """The local port."""
        return int(self._socket.getsockname()[1])

    def write(self, data: bytes) -> None:
        """One datagram. Where nobody has sent yet there is nobody to send to: ConnectionError."""
        if not self._waits:
            self._socket.send(data)
        elif self._peer is None:
            raise ConnectionError("nobody has sent anything to this endpoint yet")
        else:
            self._socket.sendto(data, self._peer)

    def read(self, timeout_s: float) -> bytes:
        """One datagram."""
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return b""
        data, peer = self._socket.recvfrom(_DATAGRAM)
        self._peer = peer
        return data

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class Serial:
    """A serial line: raw, eight bits, no parity, no flow control."""

    datagrams = False

    def __init__(self, endpoint: Endpoint) -> None:
        """Open and set the line. Raises OSError, termios.error or ReportError for a speed this system does not know."""
        speed = getattr(termios, f"B{endpoint.number}", None)
        if speed is None:
            raise ReportError(f"{endpoint.number} baud is not a speed of this system")
        self._descriptor = os.open(endpoint.where, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _, _, control, _, _, _, characters = termios.tcgetattr(self._descriptor)
            control &= ~(termios.CSIZE | termios.PARENB | termios.CSTOPB | termios.CRTSCTS)
            control |= termios.CS8 | termios.CREAD | termios.CLOCAL
            termios.tcsetattr(self._descriptor, termios.TCSANOW, [0, 0, control, 0, speed, speed, characters])
        except termios.error:
            os.close(self._descriptor)
            raise

    def write(self, data: bytes) -> None:
        """All bytes, within two seconds, or TimeoutError."""
        deadline = time.monotonic() + _WRITE_S
        while data:
            if not select.select([], [self._descriptor], [], max(deadline - time.monotonic(), 0))[1]:
                raise TimeoutError(f"the serial line took nothing for {_WRITE_S} s")
            data = data[os.write(self._descriptor, data) :]

    def read(self, timeout_s: float) -> bytes:
        """The bytes that are there."""
        if not select.select([self._descriptor], [], [], timeout_s)[0]:
            return b""
        data = os.read(self._descriptor, _DATAGRAM)
        if not data:
            raise OSError(errno.EIO, "the serial line hung up")
        return data

    def close(self) -> None:
        """Close the line."""
        os.close(self._descriptor)
