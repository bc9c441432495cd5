"""A small cache that is valid now, the reporter as a process, and a real MAVLink peer on the loopback."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest


def _verifier_helpers() -> ModuleType:
    """Loads the helpers of the verifier's tests."""
    path = Path(__file__).parent.parent / "takeoff" / "conftest.py"
    spec = importlib.util.spec_from_file_location("takeoff_test_kit", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def kit():
    return _verifier_helpers()


@pytest.fixture
def place(tmp_path, kit):
    """A cache that the verifier accepts now, and its trust directory."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from takeoff import keys

    private, now = Ed25519PrivateKey.generate(), int(time.time())
    trust = tmp_path / "trust"
    trust.mkdir()
    (trust / "operator.pem").write_bytes(keys.to_pem(private.public_key().public_bytes_raw()))
    made = kit.make_manifest(issued_at=now - 10, valid_from=now - 10, valid_until=now + kit.DAY)
    cache = kit.write_cache(tmp_path / "cache", private, made)
    return SimpleNamespace(cache=cache, trust=trust, folder=tmp_path, arguments=[str(cache), "--trust", str(trust)])


@pytest.fixture
def configure(tmp_path):
    """Writes a configuration and returns its path."""

    def write(**parts):
        path = tmp_path / "report.json"
        path.write_text(json.dumps(parts))
        return str(path)

    return write


@pytest.fixture
def reporter():
    """Runs the reporter as an aircraft does. Returns status, stdout, and the events on stderr as (priority, object)."""

    def run(*arguments, **options):
        command = [sys.executable, "-I", "-m", "takeoff_report", *map(str, arguments)]
        done = subprocess.run(
            command, check=False, timeout=60, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        )
        lines = (done.stderr or b"").decode().splitlines()
        events = [(int(line[1]), json.loads(line[3:])) for line in lines]
        return SimpleNamespace(status=done.returncode, out=(done.stdout or b"").decode(), events=events)

    return run


@pytest.fixture
def peer(monkeypatch):
    """A pymavlink connection on the loopback: a ground station or an autopilot (system 1, component 1)."""
    pytest.importorskip("pymavlink", reason="pymavlink (the extra `aircraft`) is not installed")
    monkeypatch.setitem(os.environ, "MAVLINK20", "1")
    from pymavlink import mavutil

    mavutil.set_dialect("common")
    connection = mavutil.mavlink_connection("udpin:127.0.0.1:0", source_system=1, source_component=1)
    yield SimpleNamespace(
        link=connection,
        endpoint=f"udpout:127.0.0.1:{connection.port.getsockname()[1]}",
        receive=lambda kind, **fields: _receive(connection, kind, fields),
    )
    connection.close()


def _receive(connection, kind, fields):
    """Returns the next message of a kind with these fields. Waits up to 20 seconds."""
    condition = " and ".join(f"{kind}.{name}=={value!r}" for name, value in fields.items()) or None
    message = connection.recv_match(type=kind, condition=condition, blocking=True, timeout=20)
    assert message is not None, f"no {kind} arrived"
    return message
