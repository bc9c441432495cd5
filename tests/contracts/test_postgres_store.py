"""Tests for the Postgres store only: migrations, rights, messages, and other programs that write to the tables."""

from __future__ import annotations

import socket
import threading
from contextlib import closing

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from preflight.adapters.postgres.tile_store import PostgresTileStore
from preflight.errors import DatabaseError, ImportSourceError


def insert(connection, x, sha="0" * 64):
    connection.execute(
        "INSERT INTO preflight.tiles (zoom, x, y, lat, lon, source, content_sha256, path, captured_at) "
        "VALUES (14, %s, 5000, 50, 10, 'c11', %s, 'p', now())",
        (x, sha),
    )


def _writer(conninfo):
    return closing(psycopg.connect(conninfo, autocommit=True))


def test_concurrent_programs_run_each_migration_once(embedded_database):
    failures = []

    def open_store():
        try:
            PostgresTileStore(embedded_database).close()
        except DatabaseError as error:
            failures.append(error)

    threads = [threading.Thread(target=open_store) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with psycopg.connect(embedded_database) as connection:
        query = "SELECT array_agg(version ORDER BY version) FROM preflight.schema_migrations"
        assert connection.execute(query).fetchone() == ([1, 2, 3, 4, 5],)
        assert connection.execute("SELECT count(*) FROM preflight.store_state").fetchone() == (1,)


def test_a_schema_of_a_newer_program_is_refused(embedded_database):
    PostgresTileStore(embedded_database).close()
    with psycopg.connect(embedded_database) as connection:
        connection.execute("INSERT INTO preflight.schema_migrations VALUES (9999)")
    with pytest.raises(DatabaseError, match=r"migration 9999.*Install the newer"):
        PostgresTileStore(embedded_database)


def test_a_store_keeps_its_identifier(embedded_database):
    with PostgresTileStore(embedded_database) as store:
        revision = store.revision()
    with PostgresTileStore(embedded_database) as store:
        assert store.revision() == revision


def test_the_transaction_of_any_writer_advances_the_revision(embedded_database):
    with PostgresTileStore(embedded_database) as store, closing(psycopg.connect(embedded_database)) as other:

        def advanced(change):
            before = store.revision().revision
            change()
            assert store.revision().revision == before, "the revision advanced before the commit"
            other.commit()
            return store.revision().revision - before

        assert advanced(lambda: insert(other, 8000)) == 1
        assert advanced(lambda: other.execute("UPDATE preflight.tiles SET path = 'q'")) == 1
        assert advanced(lambda: other.execute("UPDATE preflight.tiles SET path = 'q'")) == 0
        assert advanced(lambda: other.execute("DELETE FROM preflight.tiles WHERE x = 1")) == 0
        assert advanced(lambda: other.execute("DELETE FROM preflight.tiles")) == 1
        assert advanced(lambda: insert(other, 8000)) == 1
        assert advanced(lambda: other.execute("TRUNCATE preflight.tiles")) == 1


def test_an_impossible_row_is_refused(embedded_database):
    from datetime import datetime, timezone

    from preflight.records import TileRow

    bad = TileRow(3, 8, 0, 10.0, 10.0, "a", "0" * 64, "p", datetime.now(timezone.utc))
    with PostgresTileStore(embedded_database) as store:
        with pytest.raises(ImportSourceError, match="refuses a row"):
            store.upsert([bad], replace=False)
        assert store.count() == 0


def test_a_wrong_password_is_refused_and_not_shown(server_url):
    wrong = make_conninfo(server_url, password="hunter2-secret")
    with pytest.raises(DatabaseError, match=r"cannot connect to Postgres at 127\.0\.0\.1.*password") as caught:
        PostgresTileStore(wrong)
    assert "hunter2-secret" not in str(caught.value)


def test_the_message_names_a_server_that_does_not_answer():
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(DatabaseError, match=rf"127\.0\.0\.1, port {port}.*Start the server") as caught:
            PostgresTileStore(f"postgresql://me:hunter2@127.0.0.1:{port}/tiles")
    assert "hunter2" not in str(caught.value)


def test_the_message_for_an_invalid_url_does_not_contain_the_password():
    with pytest.raises(DatabaseError, match="no valid connection string") as caught:
        PostgresTileStore("postgresql://me:hun%ter2@host/tiles")
    assert "ter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_missing_right_is_explained(url_database):
    with psycopg.connect(url_database, autocommit=True) as owner:
        owner.execute("DROP ROLE IF EXISTS guest")
        owner.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    guest = make_conninfo(url_database, user="guest", password="guest")
    try:
        with pytest.raises(DatabaseError, match=r"permission denied.*GRANT CREATE ON DATABASE"):
            PostgresTileStore(guest)
        PostgresTileStore(url_database).close()
        with pytest.raises(DatabaseError, match="permission denied"):
            PostgresTileStore(guest)
    finally:
        with psycopg.connect(url_database, autocommit=True) as owner:
            owner.execute("DROP ROLE guest")


def test_a_lost_connection_raises_a_database_error(embedded_database):
    with PostgresTileStore(embedded_database) as store:
        with psycopg.connect(embedded_database) as other:
            name = conninfo_to_dict(embedded_database)["dbname"]
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid() "
                "AND backend_type = 'client backend'",
                (name,),
            )
        with pytest.raises(DatabaseError, match="run the same command again"):
            store.count()


def test_deleted_and_moved_tiles_count_as_changes(embedded_database):
    with PostgresTileStore(embedded_database) as store, _writer(embedded_database) as other:
        other.execute(
            "INSERT INTO preflight.tiles SELECT 14, 8000, y, 50, 10, 'c11', repeat('0', 64), 'p', now(), now() "
            "FROM generate_series(5000, 5003) AS y"
        )
        before = store.revision().revision
        other.execute("DELETE FROM preflight.tiles WHERE y = 5001")
        other.execute("UPDATE preflight.tiles SET y = 5009 WHERE y = 5002")
        other.execute("UPDATE preflight.tiles SET path = path")
        assert store.changed_since(before) == {(14, 8000, 5001), (14, 8000, 5002), (14, 8000, 5009)}


def test_the_tiles_of_a_bulk_change_are_not_listed(embedded_database):
    with PostgresTileStore(embedded_database) as store, _writer(embedded_database) as other:
        insert(other, 8000)
        before = store.revision().revision
        other.execute(
            "INSERT INTO preflight.tiles SELECT 14, n, 1, 0, 0, 'bulk', repeat('0', 64), 'p', now(), now() "
            "FROM generate_series(1, 10001) AS n"
        )
        assert store.changed_since(before) is None
        bulk = store.revision().revision
        assert store.changed_since(bulk) == frozenset()
        other.execute("TRUNCATE preflight.tiles")
        assert store.changed_since(bulk) is None


@pytest.mark.parametrize("texture", [-0.1, 127.6, float("nan")])
def test_the_schema_refuses_an_impossible_texture(embedded_database, texture):
    with PostgresTileStore(embedded_database), _writer(embedded_database) as other:
        insert(other, 8000)
        other.execute("UPDATE preflight.tiles SET texture = 127.5")
        with pytest.raises(psycopg.errors.CheckViolation):
            other.execute("UPDATE preflight.tiles SET texture = %s", [texture])
        other.execute("UPDATE preflight.tiles SET texture = NULL")


def test_a_migration_adds_texture_to_an_older_store(embedded_database):
    """The migration changes neither rows nor revision nor the log of changes."""
    with PostgresTileStore(embedded_database) as store, _writer(embedded_database) as other:
        insert(other, 8000)
        other.execute("ALTER TABLE preflight.tiles DROP COLUMN texture")
        other.execute("DELETE FROM preflight.schema_migrations WHERE version = 4")
        before = store.revision()
    with PostgresTileStore(embedded_database) as store:
        assert store.revision() == before
        assert [row.texture for row in store.rows_of_tiles([(14, 8000, 5000)])] == [None]
