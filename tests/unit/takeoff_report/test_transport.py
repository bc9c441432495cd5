"""UDP on the loopback and a pseudo-terminal: real lines, no call that waits without an end."""

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
def test_there_and_back(opened, host):
    if host == "::1" and not _has_ipv6():
        pytest.skip("this machine has no IPv6 on the loopback")
    waiting = opened("udpin", host, 0)
    calling = opened("udpout", host, waiting.port)
    with pytest.raises(ConnectionError, match="nobody has sent"):
        waiting.write(b"x")
    calling.write(b"ask")
    assert waiting.read(20) == b"ask"
    waiting.write(b"answer")
    assert calling.read(20) == b"answer"
    assert calling.read(0) == b""


def _has_ipv6():
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_who_calls_one_peer_hears_nobody_else(opened):
    waiting, stranger = opened("udpin", "127.0.0.1", 0), opened("udpin", "127.0.0.1", 0)
    calling = opened("udpout", "127.0.0.1", waiting.port)
    calling.write(b"ask")
    waiting.read(20)
    stranger._socket.sendto(b"forged", ("127.0.0.1", calling.port))
    waiting.write(b"answer")
    assert calling.read(20) == b"answer"


def test_an_address_that_is_taken_or_unknown(opened):
    taken = opened("udpin", "127.0.0.1", 0)
    with pytest.raises(ReportError, match="cannot be opened"):
        opened("udpin", "127.0.0.1", taken.port)
    with pytest.raises(ReportError, match="cannot be opened"):
        opened("udpout", "no-such-host.invalid", 1)


@pytest.fixture
def terminal():
    """Both ends of a pseudo-terminal: our descriptor, and the device's path."""
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
    assert _exactly(ours, 256) == data
    os.write(ours, data)
    received = b""
    while len(received) < 256:
        received += line.read(20)
    assert received == data


def _exactly(descriptor, count):
    data = b""
    while len(data) < count:
        data += os.read(descriptor, count)
    return data


def test_a_serial_line_that_takes_nothing_is_given_up(opened, terminal, monkeypatch):
    monkeypatch.setattr(transport, "_WRITE_S", 0.05)
    line = opened("serial", terminal[1], 921600)
    with pytest.raises(TimeoutError, match="took nothing"):
        line.write(b"x" * 2**20)


def test_a_serial_line_that_is_none(opened, tmp_path, terminal):
    (tmp_path / "file").touch()
    for where, number, message in [
        (tmp_path / "none", 115200, "cannot be opened"),
        (tmp_path / "file", 115200, "cannot be opened"),
        (terminal[1], 12345, "not a speed"),
    ]:
        with pytest.raises(ReportError, match=message):
            opened("serial", str(where), number)
