"""One SHA-256 digest cache for a whole run, kept between runs.

A file is hashed again only when its device, inode, size, mtime or ctime (nanoseconds) differ. The cache may be deleted or
damaged at any time: that costs re-hashing, nothing else.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

CHUNK = 1 << 18
# File times advance in ticks of the kernel's coarse clock, at most 10 ms. A file changed within the last tick could change
# again without a new time, so it is not hashed before the tick has passed.
SETTLE_NS = 20_000_000

Signature = tuple[int, int, int, int, int]


def signature(path: Path) -> Signature:
    """(device, inode, size, mtime ns, ctime ns). Raises OSError."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes as hex digits. Raises OSError."""
    digest = hashlib.sha256()
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


class DigestCache:
    """Digests of files by their stat signature. Not thread-safe.

    Args:
        database: where it is kept; made on the first `flush`, so that reading alone writes nothing.
        wall_ns: the clock file times are taken from.
        sleep: how to wait for a clock tick.
    """

    def __init__(
        self,
        database: Path | None,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._database = database
        self._wall_ns = wall_ns
        self._sleep = sleep
        self._known: dict[Signature, str] | None = None
        self._fresh: dict[Signature, str] = {}
        self._distrusting = False
        self._damaged = False
        self.hashed_files = 0
        self.hashed_bytes = 0

    def sha256(self, path: Path) -> str:
        """The digest of `path` as it is now, as hex digits. Raises OSError."""
        before = signature(path)
        known = self._fresh.get(before)
        if known is None and not self._distrusting:
            known = self._load().get(before)
        if known is not None:
            return known
        return self._hash(path, before)

    def _hash(self, path: Path, before: Signature) -> str:
        while True:
            if 0 <= self._wall_ns() - before[4] < SETTLE_NS:
                self._sleep(SETTLE_NS / 1e9)
            digest = hash_file(path)
            self.hashed_files += 1
            self.hashed_bytes += before[2]
            after = signature(path)
            if after == before:
                self._fresh[before] = digest
                return digest
            before = after

    def adopt(self, path: Path, digest: str) -> None:
        """Take a digest somebody else has just computed over `path`. Raises OSError."""
        self._fresh[signature(path)] = digest

    def distrust(self) -> None:
        """Forget what earlier runs knew: from now on every file is read once more (repair)."""
        self._distrusting = True
        self._fresh.clear()

    def flush(self) -> None:
        """Keep what was learnt for the next run, in a file made anew where it is damaged.

        Raises OSError where it cannot be written: a full disk, a read-only place, a lock that is not given up.
        """
        if not self._fresh or self._database is None:
            return
        known = self._load()
        self._database.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._write_anew_if_damaged()
        except sqlite3.Error as error:
            raise OSError(f"{self._database}: {error}") from error
        known.update(self._fresh)

    def _write_anew_if_damaged(self) -> None:
        if not self._damaged:
            try:
                self._write(self._fresh)
            except sqlite3.Error as error:
                if _is_the_places_fault(error):
                    raise
            else:
                return
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{self._database}{suffix}").unlink(missing_ok=True)
        self._write(self._fresh)
        self._damaged = False

    def _write(self, rows: dict[Signature, str]) -> None:
        connection = sqlite3.connect(os.fspath(self._database or ":memory:"), timeout=10)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS digests (device INTEGER, inode INTEGER, size INTEGER, mtime_ns INTEGER,"
                " ctime_ns INTEGER, sha256 TEXT NOT NULL, PRIMARY KEY (device, inode)) WITHOUT ROWID"
            )
            with connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO digests (device, inode, size, mtime_ns, ctime_ns, sha256)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    [(*_signed(key), value) for key, value in rows.items()],
                )
        finally:
            connection.close()

    def _load(self) -> dict[Signature, str]:
        if self._known is None:
            found = _read(self._database)
            self._damaged = found is None
            self._known = found or {}
        return self._known


def _signed(key: Signature) -> Signature:
    """SQLite's integers are signed 64 bit; device and inode numbers are unsigned."""
    device, inode, size, mtime, ctime = key
    return (
        device - (1 << 64) if device >= 1 << 63 else device,
        inode - (1 << 64) if inode >= 1 << 63 else inode,
        size,
        mtime,
        ctime,
    )


def _unsigned(value: int) -> int:
    return value + (1 << 64) if value < 0 else value


def _is_the_places_fault(error: sqlite3.Error) -> bool:
    """Whether a file made anew would fare no better. By SQLite's text: its codes reach Python from 3.11 on only."""
    return any(text in str(error) for text in ("is full", "readonly", "is locked", "unable to open"))


def _read(database: Path | None) -> dict[Signature, str] | None:
    """What is kept; None where the file is damaged: then everything is hashed once more, and `flush` makes it anew."""
    if database is None or not database.is_file():
        return {}
    try:
        # Without a log beside it nobody writes, and it is read as it is: SQLite would leave files of its own there.
        still = "" if Path(f"{database}-wal").exists() else "&immutable=1"
        connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro{still}", uri=True, timeout=10)
        try:
            rows = connection.execute("SELECT device, inode, size, mtime_ns, ctime_ns, sha256 FROM digests").fetchall()
        finally:
            connection.close()
        return dict(_entry(row) for row in rows)
    except (sqlite3.Error, TypeError, ValueError) as error:
        return {} if isinstance(error, sqlite3.Error) and _is_the_places_fault(error) else None


def _entry(row: tuple[object, ...]) -> tuple[Signature, str]:
    """A row as the cache holds it. Raises TypeError, ValueError for one that this module did not write."""
    device, inode, size, mtime, ctime, digest = row
    numbers = []
    for value in (device, inode, size, mtime, ctime):
        if not isinstance(value, int):
            raise TypeError(f"{value!r} is no whole number")
        numbers.append(value)
    if not isinstance(digest, str) or len(digest) != 64:
        raise ValueError(f"{digest!r} is no digest")
    return (_unsigned(numbers[0]), _unsigned(numbers[1]), numbers[2], numbers[3], numbers[4]), digest
