"""doit's state, kept so that a killed run loses nothing that was finished.

doit's own back-ends save when the run ends. This one commits as each task succeeds, and opens its file only when there
is something to read or write: `doit list` beside a cache root that is not there makes none.
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

log = logging.getLogger("preflight")

_IGNORED = "ignore:"  # what doit calls it


class DurableSqlite(SqliteDB):  # type: ignore[misc]  # doit ships no types
    """doit's SQLite back-end in WAL mode. A damaged file is set aside: that costs re-hashing, never a rebuild."""

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
        """What `act` returns; `lost` when the row or the file is damaged (the file is then made anew) or out of reach."""
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
        """Make a damaged file anew; go on without one that a full disk or a broken medium refuses."""
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
        # What decides is in the build records.
        log.warning(
            f"{self.name}: {error}; what doit itself remembers of this run is not kept, which costs re-hashing only",
            extra={"event": "doit_state_not_kept", "fields": {}},
        )

    def _open(self) -> sqlite3.Connection:
        with closing(sqlite3.connect(self.name)) as probe:
            # doit's own opening would leave its connection to a damaged file open.
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
        """Is anything known of the task?"""
        return task_id in self._cache or (self._known() and self._tried(partial(super().in_, task_id), False))

    def get(self, task_id: str, dependency: str) -> Any:  # noqa: ANN401 - doit's signature
        """A value as it was set. No task is ever ignored, whatever the file says: a provision would silently do nothing."""
        return None if dependency == _IGNORED else super().get(task_id, dependency)

    def set(self, task_id: str, dependency: str, value: Any) -> None:  # noqa: ANN401 - doit's signature
        """Keep a value; the last one doit sets for a finished task commits them all. Raises InvalidCommand for `doit ignore`."""
        if dependency == _IGNORED:
            raise InvalidCommand("doit's ignore is not used here: a cache is built whole; no task was ignored")
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
            # The file was made anew, or there is none any more.
            self._tried(write, False)
        self._dirty.discard(task_id)

    def remove(self, task_id: str) -> None:
        """Forget a task. Touches the file only if it knows the task."""
        self._dirty.discard(task_id)

        def delete() -> None:
            with self._conn:
                self._conn.execute("delete from doit where task_id=?", (task_id,))

        if self._known() and self._tried(partial(super().in_, task_id), False):
            self._tried(delete, None)
        self._cache.pop(task_id, None)

    def remove_all(self) -> None:
        """Forget every task."""
        if self._known():
            super().remove_all()
            self._conn.commit()

    def dump(self) -> None:
        """Save what is left and close."""
        for task_id in list(self._dirty):
            self._save(task_id)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
