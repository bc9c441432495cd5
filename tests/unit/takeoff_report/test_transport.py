"""Real connections: UDP on the loopback and a pseudo-terminal. Every call has a time limit."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest

from takeoff_report import transport
from takeoff_report.config import Endpoint
from takeoff_report.errors import ReportError


@pytest.fixture
def opened():
    with contextlib.ExitStack() as stack:

        def connect(kind, where, number):
            line = transport.connect(Endpoint(kind, where, number))
            stack.callback(line.close)
            return line

        yield connect


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_udp_endpoints_exchange_datagrams(opened, host):
    if host == "::1" and not _has_ipv6():
        pytest.skip("this machine has no IPv6 on the loopback")
    server = opened("udpin", host, 0)
    client = opened("udpout", host, server.port)
    with pytest.raises(ConnectionError, match="the peer is unknown"):
        server.write(b"x")
    client.write(b"ask")
    assert server.read(20) == b"ask"
    server.write(b"answer")
    assert client.read(20) == b"answer"
    assert client.read(0) == b""


def _has_ipv6():
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_udpout_receives_only_from_its_peer(opened):
    server, stranger = opened("udpin", "127.0.0.1", 0), opened("udpin", "127.0.0.1", 0)
    client = opened("udpout", "127.0.0.1", server.port)
    client.write(b"ask")
    server.read(20)
    stranger._socket.sendto(b"forged", ("127.0.0.1", client.port))
    server.write(b"answer")
    assert client.read(20) == b"answer"


def test_an_address_that_is_in_use_or_unknown_is_reported(opened):
    taken = opened("udpin", "127.0.0.1", 0)
    with pytest.raises(ReportError, match="cannot be opened"):
        opened("udpin", "127.0.0.1", taken.port)
    with pytest.raises(ReportError, match="cannot be opened"):
        opened("udpout", "no-such-host.invalid", 1)


@pytest.fixture
def terminal():
    """A pseudo-terminal: the descriptor of the test's end, and the device path of the other end."""
    ours, theirs = os.openpty()
    yield ours, os.ttyname(theirs)
    for descriptor in (ours, theirs):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def test_a_serial_line_carries_every_byte_both_ways(opened, terminal):
    ours, device = terminal
    line = opened("serial", device, 115200)
    data = bytes(range(256))
    line.write(data)
    assert _read_exactly(ours, 256) == data
    os.write(ours, data)
    received = b""
    while len(received) < 256:
        received += line.read(20)
    assert received == data


def _read_exactly(descriptor, count):
    data = b""
    while len(data) < count:
        data += os.read(descriptor, count)
    return data


def test_a_serial_line_that_accepts_nothing_raises_timeout_error(opened, terminal, monkeypatch):
    monkeypatch.setattr(transport, "_WRITE_S", 0.05)
    line = opened("serial", terminal[1], 921600)
    with pytest.raises(TimeoutError, match="did not accept all bytes"):
        line.write(b"x" * 2**20)


def test_invalid_serial_lines_are_refused(opened, tmp_path, terminal):
    (tmp_path / "file").touch()
    for where, number, message in [
        (tmp_path / "none", 115200, "cannot be opened"),
        (tmp_path / "file", 115200, "cannot be opened"),
        (terminal[1], 12345, "does not support 12345 baud"),
    ]:
        with pytest.raises(ReportError, match=message):
            opened("serial", str(where), number)
