from __future__ import annotations

import errno
import json
import os
import socket
from datetime import datetime, timezone

import pytest

from preflight.errors import BuildLockHeldError, CacheRootError
from preflight.store.lock import BuildLock, FilelockFileLockFactory

NOW = datetime(2026, 5, 1, 12, 30, 5, 700_000, tzinfo=timezone.utc)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / ".c10.lock"


@pytest.fixture
def make(path):
    made = []

    def make_(pid=4711, host="field-1"):
        made.append(BuildLock(path, pid=pid, host=host))
        return made[-1]

    yield make_
    for lock in made:
        lock.release()


def test_the_lock_file_names_the_holder(make, path):
    lock = make()
    assert not lock.held
    lock.acquire(NOW)
    assert lock.held
    assert json.loads(path.read_text()) == {"pid": 4711, "host": "field-1", "since": "2026-05-01T12:30:05+00:00"}


def test_a_second_process_is_told_who_holds_the_lock(make):
    make().acquire(NOW)
    second = make(pid=1, host="field-2")
    with pytest.raises(BuildLockHeldError) as error:
        second.acquire(NOW)
    assert "pid 4711 on field-1 since 2026-05-01T12:30:05+00:00" in str(error.value)
    assert not second.held


def test_a_released_lock_is_free_and_its_file_is_kept(make, path):
    first, second = make(), make(pid=2)
    first.acquire(NOW)
    inode = path.stat().st_ino
    first.release()
    first.release()
    assert (first.held, path.stat().st_ino) == (False, inode)
    second.acquire(NOW)
    assert json.loads(path.read_text())["pid"] == 2


def test_a_longer_text_of_an_earlier_holder_is_replaced_completely(make, path):
    path.parent.mkdir()
    path.write_text("x" * 500)
    make().acquire(NOW)
    assert json.loads(path.read_text())["pid"] == 4711


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"pid": 1}', b"7"])
def test_an_unreadable_lock_file_still_reports_that_the_lock_is_held(make, path, text):
    make().acquire(NOW)
    path.write_bytes(text)
    with pytest.raises(BuildLockHeldError, match="a process that has not written its name yet"):
        make().acquire(NOW)


def test_child_processes_do_not_inherit_the_lock(make, path):
    lock = make()
    lock.acquire(NOW)
    assert lock._handle is not None
    assert not os.get_inheritable(lock._handle)


def test_a_root_that_is_a_file_is_refused(make, path):
    path.parent.write_text("")
    with pytest.raises(CacheRootError, match="cannot be written"):
        make().acquire(NOW)


@pytest.mark.parametrize("call", ["pwrite", "ftruncate"])
def test_a_full_disk_is_reported_and_the_lock_released(make, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(CacheRootError, match="No space left on device"):
            make().acquire(NOW)
    make().acquire(NOW)


def test_a_file_system_without_locks_is_reported(make, monkeypatch):
    import fcntl

    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(CacheRootError, match="No locks available"):
        make().acquire(NOW)


class FakeClock:
    """A fake clock that each sleep advances. `then` is called at sleep number `at`."""

    def __init__(self, at=0, then=lambda: None):
        self.now, self.slept, self.at, self.then = 100.0, 0, at, then

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.slept += 1
        if self.slept == self.at:
            self.then()


def test_a_waiting_process_gets_the_lock_when_it_is_released(make, path):
    first, second = make(), make(pid=2)
    first.acquire(NOW)
    clock = FakeClock(at=10, then=first.release)
    second.acquire(NOW, wait=60, monotonic=clock.monotonic, sleep=clock.sleep)
    assert (second.held, clock.slept) == (True, 10)
    # The time of taking the lock, not the time of the request.
    assert json.loads(path.read_text()) == {"pid": 2, "host": "field-1", "since": "2026-05-01T12:30:07+00:00"}


def test_a_process_waits_no_longer_than_requested(make):
    make().acquire(NOW)
    clock = FakeClock()
    with pytest.raises(BuildLockHeldError, match="pid 4711"):
        make(pid=2).acquire(NOW, wait=3, monotonic=clock.monotonic, sleep=clock.sleep)
    assert 3 <= clock.now - 100 < 3.5


def test_a_process_that_is_interrupted_while_it_waits_does_not_hold_the_lock(make):
    first = make()
    first.acquire(NOW)

    def stop():
        raise KeyboardInterrupt

    clock = FakeClock(at=2, then=stop)
    second = make(pid=2)
    with pytest.raises(KeyboardInterrupt):
        second.acquire(NOW, wait=60, monotonic=clock.monotonic, sleep=clock.sleep)
    first.release()
    make(pid=3).acquire(NOW)


def test_a_link_in_the_place_of_the_lock_is_not_followed(make, path, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.parent.mkdir()
    path.symlink_to(victim)
    with pytest.raises(CacheRootError):
        make().acquire(NOW)
    assert victim.read_text() == "precious"


def test_a_folder_with_other_files_is_not_a_cache_root(make, path):
    path.parent.mkdir()
    (path.parent / "thesis.txt").write_text("years")
    with pytest.raises(CacheRootError, match="is not a cache root: it is not empty"):
        make().acquire(NOW)
    assert [child.name for child in path.parent.iterdir()] == ["thesis.txt"]


def test_a_cache_root_copied_without_its_lock_file_is_accepted(make, path):
    for name in ("work", "staging", "gen"):
        (path.parent / name).mkdir(parents=True)
    make().acquire(NOW)
    assert path.is_file()


def test_the_lock_of_a_path_is_held_while_its_context_lasts(make, path):
    lock_of = FilelockFileLockFactory(lambda: NOW)
    with lock_of(path) as lock:
        assert lock.held
        with pytest.raises(BuildLockHeldError, match=f"pid {os.getpid()} on {socket.gethostname()} since 2026-05-01"):
            make().acquire(NOW)
    assert not lock.held
    make().acquire(NOW)
    with pytest.raises(BuildLockHeldError, match="pid 4711 on field-1"), lock_of(str(path)):
        pytest.fail("the lock of another holder was taken")


def test_the_lock_of_a_path_is_free_after_an_error(path):
    lock_of = FilelockFileLockFactory()
    with pytest.raises(ZeroDivisionError), lock_of(path):
        raise ZeroDivisionError
    with lock_of(path) as lock:
        assert lock.held
