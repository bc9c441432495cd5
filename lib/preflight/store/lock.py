"""The lock on a cache root: `.c10.lock`, which C11 honours too.

flock(2): the kernel frees it when the holder dies, however it dies; the file stays and only its text is rewritten.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from preflight.errors import BuildLockHeldError, CacheRootError

POLL_SECONDS = 0.2
# What a cache root holds beside the lock, which a copy may have lost.
OURS = frozenset({"work", "staging", "gen", "current", "previous"})


class BuildLock:
    """Exclusive for as long as this object holds it. Not re-entrant."""

    def __init__(self, path: Path, *, pid: int, host: str) -> None:
        self._path = path
        self._pid = pid
        self._host = host
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._handle is not None

    def acquire(
        self,
        now: datetime,
        *,
        wait: float = 0.0,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take the lock, waiting at most `wait` seconds for its holder to end. `now`, plus the wait, goes into the file.

        Raises:
            BuildLockHeldError: it is held; the message names the holder.
            CacheRootError: the cache root cannot be written.
        """
        handle = self._open()
        began = monotonic()
        try:
            while not _taken(handle):
                if monotonic() - began >= wait:
                    holder = _describe(os.pread(handle, 4096, 0))
                    raise BuildLockHeldError(
                        f"another build holds {self._path}: {holder}; wait for it to end (wait=SECONDS), "
                        "or stop that process"
                    )
                sleep(POLL_SECONDS)
            since = now + timedelta(seconds=monotonic() - began)
            text = json.dumps({"pid": self._pid, "host": self._host, "since": since.isoformat(timespec="seconds")})
            os.ftruncate(handle, 0)
            os.pwrite(handle, text.encode(), 0)
        except OSError as error:
            os.close(handle)
            raise CacheRootError(
                f"{self._path} cannot be locked ({error.strerror}); free space there, "
                "or set cache_root in the mission to a folder on another file system"
            ) from error
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle

    def _open(self) -> int:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(self._path) and any(path.name not in OURS for path in self._path.parent.iterdir()):
                raise CacheRootError(
                    f"{self._path.parent} is not empty and no cache root: it holds no {self._path.name}; "
                    "nothing in it is touched. Set cache_root in the mission to an empty folder, or to one that is not there yet"
                )
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise CacheRootError(
                f"cache root {self._path.parent} cannot be written ({error.strerror}); "
                "make it writable or set cache_root in the mission to a folder that is"
            ) from error

    def release(self) -> None:
        """Give the lock back. Idempotent."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _describe(content: bytes) -> str:
    try:
        holder = json.loads(content)
        return f"pid {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        # Between open and write of the holder: the lock is held all the same.
        return "a process that has not written its name yet"
