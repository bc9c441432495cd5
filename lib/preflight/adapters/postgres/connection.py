"""How a Postgres database is reached, and what it says when it refuses: in errors of our own, never with the password."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from preflight.errors import DatabaseError, ImportSourceError

__all__ = ["Connection", "Database"]

_CONNECT_TIMEOUT_S = 10

Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"


class Database:
    """One database. where: a description of it, without the password."""

    def __init__(self, conninfo: str) -> None:
        """Nothing is connected yet. conninfo: a postgresql:// URL or libpq's key = value form.

        Raises:
            DatabaseError: it is neither.
        """
        self._conninfo, self.where, self._secret = _read_conninfo(conninfo)

    def connect(self) -> Connection:
        """A connection of its own. Raises DatabaseError."""
        with self.errors(connecting=True):
            return psycopg.connect(self._conninfo)

    def one(self, connection: Connection, query: str) -> tuple[Any, ...]:
        """The row of a query that has one, whatever the store holds. Raises DatabaseError."""
        with self.errors():
            row = connection.execute(query.encode()).fetchone()
        if row is None:
            raise DatabaseError(f"{self.where}: the schema `preflight` has lost a row; restore it from a backup")
        return row

    @contextmanager
    def errors(self, *, connecting: bool = False) -> Iterator[None]:
        """Turn what psycopg raises in the block into DatabaseError, or ImportSourceError where it refuses a row."""
        try:
            yield
        except psycopg.errors.InsufficientPrivilege as error:
            raise DatabaseError(
                f"{self.where}: {self._said(error)}. Let the user create and use the schema: GRANT CREATE ON DATABASE, "
                "or ask the owner of the schema `preflight` for its rights"
            ) from error
        except (psycopg.errors.IntegrityError, psycopg.errors.DataError) as error:
            raise ImportSourceError(f"{self.where} refuses a row: {self._said(error)}. Correct the source") from error
        except psycopg.Error as error:
            if connecting:
                raise DatabaseError(
                    f"cannot connect to {self.where}: {self._said(error)}. Start the server, or correct host, port, "
                    "user or password in tile_store.database"
                ) from error
            raise DatabaseError(
                f"{self.where}: {self._said(error)}. See the server's log, then run the same command again"
            ) from error

    def _said(self, error: psycopg.Error) -> str:
        text = " ".join(str(error).split()).rstrip(".")
        return text.replace(self._secret, "***") if self._secret else text


def _read_conninfo(conninfo: str) -> tuple[str, str, str]:
    """The completed connection string, a description without the password, and the password to keep out of messages."""
    try:
        parts = conninfo_to_dict(conninfo)
    except psycopg.Error:
        # Without the cause: libpq's message may quote a piece of the password.
        raise DatabaseError(
            "tile_store.database is no valid connection string: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, "
            "with special characters percent-encoded"
        ) from None
    parts.setdefault("connect_timeout", _CONNECT_TIMEOUT_S)
    parts.setdefault("application_name", "preflight")
    host = parts.get("host") or parts.get("hostaddr") or "the local socket"
    where = f"Postgres at {host}, port {parts.get('port', 5432)}, database {parts.get('dbname', 'default')}"
    return make_conninfo("", **parts), where, str(parts.get("password") or "")
