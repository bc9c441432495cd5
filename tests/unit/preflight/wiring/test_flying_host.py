"""`doit verify` identifies the machine as the verifier does. It calls an NVIDIA driver only if one is loaded."""

from __future__ import annotations

from preflight import wiring
from preflight.adapters import host
from preflight.records import HostCapabilities
from takeoff import host as takeoff_host

JETSON = takeoff_host.Host("aarch64", frozenset(), "87")
PLAIN = takeoff_host.Host("x86_64", frozenset({"avx2"}))


def with_gpu(monkeypatch, found):
    asked = []

    def ask(*, nvml):
        asked.append(nvml)
        return HostCapabilities("x86_64", "avx2", "89")

    monkeypatch.setattr(takeoff_host, "probe", lambda: found)
    monkeypatch.setattr(host, "probe_host", ask)
    return asked


def test_without_a_loaded_driver_none_is_called(monkeypatch, tmp_path):
    asked = with_gpu(monkeypatch, PLAIN)
    assert wiring.flying_host(tmp_path / "none") == PLAIN
    assert asked == []


def test_a_loaded_driver_names_the_gpu(monkeypatch, tmp_path):
    with_gpu(monkeypatch, PLAIN)
    assert wiring.flying_host(tmp_path) == PLAIN._replace(sm="89")


def test_a_jetson_is_identified_by_its_chip(monkeypatch, tmp_path):
    asked = with_gpu(monkeypatch, JETSON)
    assert wiring.flying_host(tmp_path) == JETSON
    assert asked == []
