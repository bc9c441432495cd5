"""The lock of the cache root between real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

import preflight
from preflight.errors import BuildLockHeldError
from preflight.store.lock import BuildLock

LIB = Path(preflight.__file__).parents[1]
NOW = datetime(2026, 5, 1, 12, 30, tzinfo=timezone.utc)
NOBODY = 65534
HOLD = """
import os, sys, time
from datetime import datetime, timezone
from pathlib import Path
from preflight.store.lock import BuildLock
lock = BuildLock(Path(sys.argv[1]), pid=os.getpid(), host="other-host")
lock.acquire(datetime(2026, 5, 1, 11, 0, tzinfo=timezone.utc))
print("held", flush=True)
sys.stdin.read()
"""
TRY = """
import os, sys
from datetime import datetime, timezone
from pathlib import Path
from preflight.errors import CacheRootError
from preflight.store.lock import BuildLock
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    BuildLock(Path(sys.argv[1]), pid=1, host="h").acquire(datetime.now(timezone.utc))
except CacheRootError as error:
    print(error)
    raise SystemExit(7)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".c10.lock"


@pytest.fixture
def holder(path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        env={**os.environ, "PYTHONPATH": str(LIB)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_told_who_holds_the_lock(path, holder):
    with pytest.raises(BuildLockHeldError) as error:
        BuildLock(path, pid=1, host="h").acquire(NOW)
    assert f"pid {holder.pid} on other-host since 2026-05-01T11:00:00+00:00" in str(error.value)
    assert str(path) in str(error.value)


def test_the_lock_of_a_killed_process_is_free(path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock = BuildLock(path, pid=1, host="h")
    lock.acquire(NOW)
    assert lock.held
    lock.release()


def test_the_lock_of_a_process_that_ended_is_free(path, holder):
    holder.communicate(input="")
    lock = BuildLock(path, pid=1, host="h")
    lock.acquire(NOW)
    lock.release()


def test_a_root_that_cannot_be_written_gives_one_message(tmp_path_factory):
    """Runs as a user without rights, because root may write everywhere."""
    import shutil
    import tempfile

    # Other users cannot enter the folders of pytest.
    place = Path(tempfile.mkdtemp(dir="/tmp", prefix="preflight-lock-"))
    try:
        place.chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", TRY, str(place / "cache" / ".c10.lock")],
            env={**os.environ, "PYTHONPATH": str(LIB), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        place.chmod(0o755)
        shutil.rmtree(place)
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith(
        f"cache root {place / 'cache'} cannot be written (Permission denied); make it writable"
    )
