"""doit's state, kept so that a killed run loses nothing that was finished.

doit's own back-ends save at the end of a run. This one commits when a task succeeds. It opens its file only to read or
write something, so `doit list` does not create a cache root.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from doit.dependency import DatabaseException, SqliteDB
from doit.exceptions import InvalidCommand

T = TypeVar("T")

log = logging.getLogger("c10_provisioning")

_IGNORED = "ignore:"  # the key that doit uses


class DurableSqlite(SqliteDB):  # type: ignore[misc]  # doit ships no types
    """doit's SQLite back-end in WAL mode. A damaged file is replaced: that costs re-hashing, never a rebuild."""

    def __init__(self, name: str, codec: Any, *, module_name: str | None = None) -> None:  # noqa: ANN401, ARG002 - doit's signature
        self.name = name
        self.codec = codec
        self._connection: sqlite3.Connection | None = None
        self._cache: dict[str, dict[str, Any]] = {}
        self._dirty: set[str] = set()
        self._given_up = False

    @property
    def _conn(self) -> sqlite3.Connection:
        if self._connection is None:
            Path(self.name).parent.mkdir(parents=True, exist_ok=True)
            try:
                self._connection = self._open()
            except (DatabaseException, sqlite3.DatabaseError):
                self._start_anew()
        return self._connection  # type: ignore[return-value]  # opened above

    def _start_anew(self) -> None:
        if self._connection is not None:
            self._connection.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.name}{suffix}").unlink(missing_ok=True)
        self._connection = self._open()

    def _tried(self, act: Callable[[], T], lost: T) -> T:
        """Returns what `act` returns, or `lost` if the row or the file is damaged or cannot be reached."""
        if self._given_up:
            return lost
        try:
            return act()
        except ValueError:
            return lost
        except (sqlite3.DatabaseError, OSError) as error:
            self._recover(error)
            return lost

    def _recover(self, error: Exception) -> None:
        """Replaces a damaged file. Goes on without a file if a full disk or a broken medium refuses it."""
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            try:
                self._start_anew()
            except (sqlite3.DatabaseError, OSError) as second:
                error = second
            else:
                return
        self._given_up = True
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.DatabaseError):
                connection.close()
        # The build records decide what is up to date. doit's state only saves hashing.
        log.warning(
            f"{self.name}: {error}; doit's own state of this run is lost. That costs re-hashing only",
            extra={"event": "c10.doit.state_not_kept", "fields": {}},
        )

    def _open(self) -> sqlite3.Connection:
        with closing(sqlite3.connect(self.name)) as probe:
            # doit's own code would leave the connection to a damaged file open.
            probe.execute("select count(*) from sqlite_master").fetchone()
        connection: sqlite3.Connection = self._sqlite3(self.name)
        try:
            connection.execute("PRAGMA busy_timeout=10000")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _known(self) -> bool:
        return not self._given_up and (self._connection is not None or Path(self.name).is_file())

    def _get_task_data(self, task_id: str) -> dict[str, Any]:
        if not self._known():
            return {}
        return self._tried(partial(super()._get_task_data, task_id), {})

    def in_(self, task_id: str) -> bool:
        """Whether the task has a state."""
        return task_id in self._cache or (self._known() and self._tried(partial(super().in_, task_id), False))

    def get(self, task_id: str, dependency: str) -> Any:  # noqa: ANN401 - doit's signature
        """Returns a stored value. Never reports a task as ignored: a provision would silently do nothing."""
        return None if dependency == _IGNORED else super().get(task_id, dependency)

    def set(self, task_id: str, dependency: str, value: Any) -> None:  # noqa: ANN401 - doit's signature
        """Stores a value. The last value that doit sets for a finished task commits all of them.

        Raises InvalidCommand for `doit ignore`.
        """
        if dependency == _IGNORED:
            raise InvalidCommand("doit ignore cannot be used: a cache is built whole. No task is ignored")
        super().set(task_id, dependency, value)
        if dependency == "deps:":
            self._save(task_id)

    def _save(self, task_id: str) -> None:
        data = self.codec.encode(self._cache[task_id])

        def write() -> bool:
            with self._conn:
                self._conn.execute("insert or replace into doit values (?, ?)", (task_id, data))
            return True

        if not self._tried(write, False):
            # The file was replaced, or given up.
            self._tried(write, False)
        self._dirty.discard(task_id)

    def remove(self, task_id: str) -> None:
        """Removes a task's state. Touches the file only if it has that state."""
        self._dirty.discard(task_id)

        def delete() -> None:
            with self._conn:
                self._conn.execute("delete from doit where task_id=?", (task_id,))

        if self._known() and self._tried(partial(super().in_, task_id), False):
            self._tried(delete, None)
        self._cache.pop(task_id, None)

    def remove_all(self) -> None:
        """Removes the state of every task."""
        if self._known():
            super().remove_all()
            self._conn.commit()

    def dump(self) -> None:
        """Saves what is not saved yet and closes the file."""
        for task_id in list(self._dirty):
            self._save(task_id)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
