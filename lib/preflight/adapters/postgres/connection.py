"""Connects to a Postgres database. Errors become errors of `preflight.errors`, and no message contains the password."""

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
    """One Postgres database. Its attribute `where` describes it in messages, without the password."""

    def __init__(self, conninfo: str) -> None:
        """Parse a connection string, without connecting.

        Args:
            conninfo: a postgresql:// URL, or libpq's key = value form.

        Raises:
            DatabaseError: the connection string is invalid.
        """
        self._conninfo, self.where, self._secret = _read_conninfo(conninfo)

    def connect(self) -> Connection:
        """Return a new connection. Raises DatabaseError."""
        with self.errors(connecting=True):
            return psycopg.connect(self._conninfo)

    def one(self, connection: Connection, query: str) -> tuple[Any, ...]:
        """Return the row of a query that gives a row for any content of the store.

        Raises:
            DatabaseError: the query fails, or gives no row.
        """
        with self.errors():
            row = connection.execute(query.encode()).fetchone()
        if row is None:
            raise DatabaseError(f"{self.where}: a row of the schema `preflight` is missing. Restore it from a backup")
        return row

    @contextmanager
    def errors(self, *, connecting: bool = False) -> Iterator[None]:
        """Turn psycopg's errors in the block into DatabaseError, or ImportSourceError if the database refuses a row.

        connecting: whether the block opens a connection.
        """
        try:
            yield
        except psycopg.errors.InsufficientPrivilege as error:
            raise DatabaseError(
                f"{self.where}: {self._text(error)}. Allow the user to create the schema (GRANT CREATE ON DATABASE), "
                "or let the owner of the schema `preflight` grant the rights on it"
            ) from error
        except (psycopg.errors.IntegrityError, psycopg.errors.DataError) as error:
            raise ImportSourceError(f"{self.where} refuses a row: {self._text(error)}. Correct the source") from error
        except psycopg.Error as error:
            if connecting:
                raise DatabaseError(
                    f"cannot connect to {self.where}: {self._text(error)}. Start the server, or correct host, port, "
                    "user or password in tile_store.database of the mission"
                ) from error
            raise DatabaseError(
                f"{self.where}: {self._text(error)}. Read the server's log, then run the same command again"
            ) from error

    def _text(self, error: psycopg.Error) -> str:
        text = " ".join(str(error).split()).rstrip(".")
        return text.replace(self._secret, "***") if self._secret else text


def _read_conninfo(conninfo: str) -> tuple[str, str, str]:
    """Return the connection string with defaults, a description without the password, and the password."""
    try:
        parts = conninfo_to_dict(conninfo)
    except psycopg.Error:
        # Leave out the cause: libpq's message may quote a part of the password.
        raise DatabaseError(
            "tile_store.database is no valid connection string. Write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, "
            "with special characters percent-encoded"
        ) from None
    parts.setdefault("connect_timeout", _CONNECT_TIMEOUT_S)
    parts.setdefault("application_name", "preflight")
    host = parts.get("host") or parts.get("hostaddr") or "the local socket"
    where = f"Postgres at {host}, port {parts.get('port', 5432)}, database {parts.get('dbname', 'default')}"
    return make_conninfo("", **parts), where, str(parts.get("password") or "")
