"""A cache of SHA-256 file digests. One run uses one cache, and the next run reuses it.

A file is hashed again only if its device, inode, size, mtime or ctime (nanoseconds) differ. The cache may be deleted or
damaged at any time: the next run then hashes every file again, and nothing else changes.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

CHUNK = 1 << 18
# File times advance in ticks of the kernel's coarse clock, at most 10 ms apart. A file that changed within the last
# tick can change again without a new time. So it is not hashed before the tick has passed.
SETTLE_NS = 20_000_000

Signature = tuple[int, int, int, int, int]


def signature(path: Path) -> Signature:
    """Returns (device, inode, size, mtime ns, ctime ns) of a file. Raises OSError."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes as hex digits. Raises OSError."""
    digest = hashlib.sha256()
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


class DigestCache:
    """Maps the stat signature of a file to its digest. Not thread-safe.

    Args:
        database: the SQLite file that keeps the cache, or None to keep nothing. The first `flush` creates it, so that
            reading alone writes nothing.
        wall_ns: the clock that file times come from, nanoseconds.
        sleep: waits a number of seconds. Used to wait for a clock tick.

    Attributes:
        hashed_files: number of files that this object has hashed.
        hashed_bytes: number of bytes that this object has hashed.
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
        self._stored: dict[Signature, str] | None = None
        self._fresh: dict[Signature, str] = {}
        self._ignore_stored = False
        self._damaged = False
        self.hashed_files = 0
        self.hashed_bytes = 0

    def sha256(self, path: Path) -> str:
        """Returns the digest of the current content of `path` as hex digits. Raises OSError."""
        before = signature(path)
        digest = self._fresh.get(before)
        if digest is None and not self._ignore_stored:
            digest = self._load().get(before)
        if digest is not None:
            return digest
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
        """Stores a digest that other code has just computed for `path`. Raises OSError."""
        self._fresh[signature(path)] = digest

    def distrust(self) -> None:
        """Ignores all digests that the cache holds so far, so that every file is read again (repair)."""
        self._ignore_stored = True
        self._fresh.clear()

    def flush(self) -> None:
        """Writes the new digests to the database, for the next run. A damaged database is replaced.

        Raises:
            OSError: the database cannot be written, for example because the disk is full or read-only, or another
                process keeps its lock.
        """
        if not self._fresh or self._database is None:
            return
        stored = self._load()
        self._database.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._write_or_replace()
        except sqlite3.Error as error:
            raise OSError(f"{self._database}: {error}") from error
        stored.update(self._fresh)

    def _write_or_replace(self) -> None:
        if not self._damaged:
            try:
                self._write(self._fresh)
            except sqlite3.Error as error:
                if _is_environment_error(error):
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
        if self._stored is None:
            stored = _read(self._database)
            self._damaged = stored is None
            self._stored = stored or {}
        return self._stored


def _signed(key: Signature) -> Signature:
    """Converts device and inode numbers, which are unsigned, to the signed 64-bit integers of SQLite."""
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


def _is_environment_error(error: sqlite3.Error) -> bool:
    """Returns whether the disk, permissions or a lock cause the error, so that a new database would fail too.

    It compares the text of the error, because Python provides SQLite's error codes only from 3.11 on.
    """
    return any(text in str(error) for text in ("is full", "readonly", "is locked", "unable to open"))


def _read(database: Path | None) -> dict[Signature, str] | None:
    """Returns the stored digests, or None if the database is damaged. `flush` then replaces it."""
    if database is None or not database.is_file():
        return {}
    try:
        # Without a write-ahead log, no process writes. `immutable` then keeps SQLite from creating files beside it.
        immutable = "" if Path(f"{database}-wal").exists() else "&immutable=1"
        connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro{immutable}", uri=True, timeout=10)
        try:
            rows = connection.execute("SELECT device, inode, size, mtime_ns, ctime_ns, sha256 FROM digests").fetchall()
        finally:
            connection.close()
        return dict(_entry(row) for row in rows)
    except (sqlite3.Error, TypeError, ValueError) as error:
        return {} if isinstance(error, sqlite3.Error) and _is_environment_error(error) else None


def _entry(row: tuple[object, ...]) -> tuple[Signature, str]:
    """Converts a row of the database. Raises TypeError or ValueError if this module did not write the row."""
    device, inode, size, mtime, ctime, digest = row
    numbers = []
    for value in (device, inode, size, mtime, ctime):
        if not isinstance(value, int):
            raise TypeError(f"{value!r} is not a whole number")
        numbers.append(value)
    if not isinstance(digest, str) or len(digest) != 64:
        raise ValueError(f"{digest!r} is not a digest")
    return (_unsigned(numbers[0]), _unsigned(numbers[1]), numbers[2], numbers[3], numbers[4]), digest
