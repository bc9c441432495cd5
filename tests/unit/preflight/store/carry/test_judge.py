"""The shipped verifier judges a copy in a separate process."""

from __future__ import annotations

import platform
import time

import pytest

from preflight.commands.bundle import judge
from preflight.errors import BundleError
from takeoff import manifest as format_


def valid(target):
    now = int(time.time())
    return {"target": target, "issued_at": now - 60, "valid_from": now - 60, "valid_until": now + 3600}


def damage(folder):
    path = folder / "index.faiss"
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)


def test_a_cache_for_this_machine_fits(scene):
    target = format_.Target(platform.machine(), "sse4" if platform.machine() == "x86_64" else "neon", None, None)
    assert judge(scene.generation(1, **valid(target)), scene.trust)


def test_a_cache_for_another_machine_is_accepted_and_reported(scene):
    """For example a memory card for a Jetson Orin, written on a workstation."""
    folder = scene.generation(1, **valid(format_.Target("riscv64", "rvv", None, None)))
    assert not judge(folder, scene.trust)
    damage(folder)
    with pytest.raises(BundleError, match="the verifier refuses the copy"):
        judge(folder, scene.trust)


def test_a_damaged_copy_is_refused(scene):
    target = format_.Target(platform.machine(), "sse4" if platform.machine() == "x86_64" else "neon", None, None)
    folder = scene.generation(1, **valid(target))
    damage(folder)
    with pytest.raises(BundleError, match="the medium is bad"):
        judge(folder, scene.trust)
