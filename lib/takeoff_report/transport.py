"""Sends and receives bytes over UDP or a serial line. Uses only the standard library. Every call has a time limit."""

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
    """A connection for MAVLink. datagrams: whether one read returns complete messages."""

    datagrams: bool

    def write(self, data: bytes) -> None:
        """Sends all bytes. Raises OSError."""

    def read(self, timeout_s: float) -> bytes:
        """Returns the bytes that arrive within `timeout_s` seconds, or no bytes. Raises OSError."""

    def close(self) -> None:
        """Closes the connection."""


def connect(endpoint: Endpoint) -> Transport:
    """Opens an endpoint. Raises ReportError."""
    try:
        return Serial(endpoint) if endpoint.kind == "serial" else Udp(endpoint)
    except (OSError, termios.error) as error:
        raise ReportError(
            f"{endpoint.kind}:{endpoint.where}:{endpoint.number} cannot be opened: {error}; correct mavlink.endpoint"
        ) from error


class Udp:
    """A UDP socket. `udpout` sends to one peer and receives only from it. `udpin` answers the peer that sent last."""

    datagrams = True

    def __init__(self, endpoint: Endpoint) -> None:
        """Opens the socket. Raises OSError."""
        family, kind, protocol, _, address = socket.getaddrinfo(
            endpoint.where, endpoint.number, type=socket.SOCK_DGRAM
        )[0]
        self._socket = socket.socket(family, kind, protocol)
        self._listens = endpoint.kind == "udpin"
        self._peer: tuple[Any, ...] | None = None
        try:
            self._socket.setblocking(False)
            (self._socket.bind if self._listens else self._socket.connect)(address)
        except OSError:
            self._socket.close()
            raise

    @property
    def port(self) -> int:
        """The local port."""
        return int(self._socket.getsockname()[1])

    def write(self, data: bytes) -> None:
        """Sends one datagram. Raises OSError, or ConnectionError if `udpin` has not received anything yet."""
        if not self._listens:
            self._socket.send(data)
        elif self._peer is None:
            raise ConnectionError("the peer is unknown: nothing has arrived at this endpoint yet")
        else:
            self._socket.sendto(data, self._peer)

    def read(self, timeout_s: float) -> bytes:
        """Returns one datagram, or no bytes after `timeout_s` seconds. Raises OSError."""
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return b""
        data, peer = self._socket.recvfrom(_DATAGRAM)
        self._peer = peer
        return data

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()


class Serial:
    """A serial line in raw mode: eight bits, no parity, no flow control."""

    datagrams = False

    def __init__(self, endpoint: Endpoint) -> None:
        """Opens the line and sets its mode. Raises OSError, termios.error, or ReportError for an unsupported speed."""
        speed = getattr(termios, f"B{endpoint.number}", None)
        if speed is None:
            raise ReportError(f"this system does not support {endpoint.number} baud: correct mavlink.endpoint")
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
        """Sends all bytes. Raises OSError, or TimeoutError if that takes longer than two seconds."""
        deadline = time.monotonic() + _WRITE_S
        while data:
            if not select.select([], [self._descriptor], [], max(deadline - time.monotonic(), 0))[1]:
                raise TimeoutError(f"the serial line did not accept all bytes within {_WRITE_S} s")
            data = data[os.write(self._descriptor, data) :]

    def read(self, timeout_s: float) -> bytes:
        """Returns the bytes that have arrived, or no bytes after `timeout_s` seconds. Raises OSError."""
        if not select.select([self._descriptor], [], [], timeout_s)[0]:
            return b""
        data = os.read(self._descriptor, _DATAGRAM)
        if not data:
            raise OSError(errno.EIO, "the serial line was disconnected")
        return data

    def close(self) -> None:
        """Closes the line."""
        os.close(self._descriptor)
