"""Migrates the schema `preflight`. The migrations are the numbered files in `sql/`; each is applied once, in order."""

from __future__ import annotations

from importlib import resources

from preflight.adapters.postgres.connection import Connection, Database
from preflight.errors import DatabaseError

__all__ = ["migrate"]

_LOCK = 0x70726566  # "pref"; key of the advisory lock for migrations


def migrate(database: Database, connection: Connection) -> None:
    """Apply the missing migrations. Concurrent programs wait for each other.

    Args:
        database: the database, for messages.
        connection: a connection to it, in autocommit mode.

    Raises:
        DatabaseError: the schema is newer than this program.
        psycopg.Error: the database refuses; the caller converts it.
    """
    files = _migrations()
    if _applied(database, connection) == [number for number, _ in files]:
        return
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        applied = _applied(database, connection)
        if applied is None:
            _make_schema(database, connection)
            applied = []
        if unknown := set(applied) - {number for number, _ in files}:
            raise DatabaseError(
                f"{database.where}: the schema has migration {max(unknown)}, but this program knows only migrations up "
                f"to {max(number for number, _ in files)}. Install the newer preflight that wrote the schema"
            )
        for number, script in files:
            if number not in applied:
                connection.execute(script)
                connection.execute("INSERT INTO preflight.schema_migrations VALUES (%s)", (number,))


def _make_schema(database: Database, connection: Connection) -> None:
    # Check first: CREATE SCHEMA IF NOT EXISTS needs the right to create schemas, even if the schema exists.
    if not database.one(connection, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'preflight')")[0]:
        connection.execute("CREATE SCHEMA preflight")
    connection.execute(
        "CREATE TABLE preflight.schema_migrations "
        "(version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
    )


def _applied(database: Database, connection: Connection) -> list[int] | None:
    """Return the numbers of the applied migrations, ascending; None if the schema has no table of migrations."""
    # Do not use to_regclass: it reads a cache, which waiting for the advisory lock does not refresh.
    if not database.one(
        connection,
        "SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace "
        "WHERE nspname = 'preflight' AND relname = 'schema_migrations')",
    )[0]:
        return None
    query = "SELECT version FROM preflight.schema_migrations ORDER BY version"
    return [row[0] for row in connection.execute(query)]


def _migrations() -> list[tuple[int, bytes]]:
    """Return (number, script) of each file in `sql/`, ascending."""
    folder = resources.files("preflight.adapters.postgres").joinpath("sql")
    files = (file for file in folder.iterdir() if file.name.endswith(".sql"))
    return sorted((int(file.name.split("_")[0]), file.read_bytes()) for file in files)
