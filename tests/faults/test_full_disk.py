"""A real file system that is too small, or that becomes full while a provision writes."""

from __future__ import annotations

import subprocess

import pytest

SMALL_MB, LARGE_MB = 48, 160
# When the disk becomes full in the second provision, as a share of its operations before `current` is switched.
MOMENTS = (0.05, 0.35, 0.65, 0.95)


@pytest.fixture
def disk(scene):
    """disk(megabytes): mount or resize a tmpfs. Returns its folder."""
    folder = scene.folder / "disk"
    folder.mkdir()
    mounted = False

    def sized(megabytes):
        nonlocal mounted
        remount = ["-o", f"remount,size={megabytes}m"] if mounted else ["-o", f"size={megabytes}m,mode=755"]
        done = subprocess.run(
            ["mount", "-t", "tmpfs", *remount, "tmpfs", folder], check=False, capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no tmpfs may be mounted here: {done.stderr.strip()}")
        mounted = True
        return folder

    try:
        yield sized
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)
        folder.rmdir()


def test_a_disk_that_is_too_small_is_refused_with_the_sizes(harness, scene, disk):
    place = scene.copy(at=disk(SMALL_MB) / "place")
    before = harness.Before.of(place, harness.FIRST, harness.SECOND)
    done = place.provision()
    assert done.status == 1, done.said
    assert "Traceback" not in done.said
    assert f"{place.cache} has" in done.sentences
    assert "MB free, this build needs about" in done.sentences
    assert harness.finished(place, before) == set()
    assert harness.check_current(place, before) == "old"
    disk(LARGE_MB)
    harness.check_next(scene.server, place, before)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_disk_that_becomes_full_fails_the_provision_and_damages_nothing(harness, scene, disk, moment):
    calls = harness.operations(scene)
    flip = max(at for at, call in enumerate(calls, 1) if call == "symlink")
    place = scene.copy(at=disk(LARGE_MB) / "place")
    before = harness.Before.of(place, harness.FIRST, harness.SECOND)
    run = scene.server.provision(place, fault=("fill", int(flip * moment)))
    assert "Traceback" not in run.said, run.said
    assert run.status == 1, run.said
    (failed,) = run.event("c10.build.failed")
    # SQLite reports an I/O error if it cannot map its log.
    assert any(text in failed["message"] for text in ("No space left", "disk is full", "disk I/O error")), failed
    assert str(place.folder) in failed["message"], failed
    assert "free space" in failed["message"]
    # Near the switch of `current`, the last writes may fit into the space that the clean-up has freed.
    assert harness.check_current(place, before) == "old" or moment > 0.9
    assert harness.lock_is_free(place)
    (place.folder / "ballast").unlink()
    harness.check_next(scene.server, place, before)
    harness.check_rows(scene.address, place)
