"""The lock on a cache root: `.c10.lock`, which C11 honours too.

flock(2): the kernel frees it when the holder dies, however it dies; the file stays and only its text is rewritten.
"""

from __future__ import annotations

import fcntl
import json
import os
from datetime import datetime
from pathlib import Path

from preflight.errors import BuildLockHeldError, CacheRootError


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

    def acquire(self, now: datetime) -> None:
        """Take the lock or raise BuildLockHeldError, which names the holder. `now` is written into the file."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise CacheRootError(
                f"cache root {self._path.parent} cannot be written ({error.strerror}); "
                "make it writable or set cache_root in the mission to a folder that is"
            ) from error
        text = json.dumps({"pid": self._pid, "host": self._host, "since": now.isoformat(timespec="seconds")})
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(handle, 0)
            os.pwrite(handle, text.encode(), 0)
        except BlockingIOError as error:
            holder = _describe(os.pread(handle, 4096, 0))
            os.close(handle)
            raise BuildLockHeldError(
                f"another build holds {self._path}: {holder}; wait for it to end, or stop that process"
            ) from error
        except OSError as error:
            os.close(handle)
            raise CacheRootError(
                f"{self._path} cannot be locked ({error.strerror}); free space there, "
                "or set cache_root in the mission to a folder on another file system"
            ) from error
        self._handle = handle

    def release(self) -> None:
        """Give the lock back. Idempotent."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _describe(content: bytes) -> str:
    try:
        holder = json.loads(content)
        return f"pid {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        # Between open and write of the holder: the lock is held all the same.
        return "a process that has not written its name yet"
