"""The build lock of a cache root, `.c10.lock`. C11 uses the same lock.

The lock is a flock(2). The kernel releases it when the holder ends for any reason. The file is never removed, only its
text is rewritten.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

from preflight.errors import BuildLockHeldError, CacheRootError

POLL_SECONDS = 0.2
# The entries of a cache root beside the lock file. A copied cache root may have them without the lock file.
OURS = frozenset({"work", "staging", "gen", "current", "previous"})


class BuildLock:
    """An exclusive lock. Not re-entrant.

    Args:
        path: the lock file.
        pid: the process id that is written into the file.
        host: the host name that is written into the file.
    """

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
        """Takes the lock. Creates the cache root and the lock file if they do not exist.

        Args:
            now: the current time. The file gets the time when the lock was taken: `now` plus the time of waiting.
            wait: how long to wait for another holder, seconds.
            monotonic: a monotonic clock, seconds.
            sleep: waits a number of seconds.

        Raises:
            BuildLockHeldError: another process still holds the lock. The message names it.
            CacheRootError: the cache root cannot be written, or the folder is not a cache root.
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
                    f"{self._path.parent} is not a cache root: it is not empty and holds no {self._path.name}; "
                    "nothing in it was changed. "
                    "Set cache_root in the mission to an empty folder, or to one that does not exist yet"
                )
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise CacheRootError(
                f"cache root {self._path.parent} cannot be written ({error.strerror}); "
                "make it writable or set cache_root in the mission to a folder that is"
            ) from error

    def release(self) -> None:
        """Releases the lock. Further calls have no effect."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class FilelockFileLockFactory:
    """`ports.FileLockFactory`: gives the lock of a path, as a build takes it. It waits for nobody, and says who holds it.

    clock: tells the time that the lock file states.
    """

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc)) -> None:
        self._clock = clock

    @contextmanager
    def __call__(self, path: Path | str) -> Iterator[BuildLock]:
        """Holds the lock while the context lasts. path: the lock file, such as `CACHE_ROOT/.c10.lock`.

        Raises:
            BuildLockHeldError: another process, or another lock of this one, holds it. The message names the holder.
            CacheRootError: the folder of the lock file cannot be written, or is not a cache root.
        """
        lock = BuildLock(Path(path), pid=os.getpid(), host=socket.gethostname())
        lock.acquire(self._clock())
        try:
            yield lock
        finally:
            lock.release()


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
        # The holder has taken the lock and not yet written the file.
        return "a process that has not written its name yet"
