"""The tile store's rows in Postgres: TileMetadataStore over psycopg 3.

Everything lies in a schema named `preflight`. Its shape is the numbered files of `sql/`, applied in order, each once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timezone
from importlib import resources
from itertools import chain
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import IsolationLevel
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from preflight.area import TileRange, area_from_bbox, cover
from preflight.errors import DatabaseError, ImportSourceError
from preflight.ports import ManifestRow
from preflight.records import (
    BoundingBox,
    SectorClass,
    SourceRecord,
    StoreRevision,
    TileBboxRecord,
    TileHashRecord,
    TileRow,
)

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["PostgresTileStore"]

_LOCK = 0x70726566  # "pref": the advisory lock under which migrations run
_CONNECT_TIMEOUT_S = 10
_FETCH = 2000
_NAMED = 5
_MOST_CHANGES = 10_000
_TILE = "zoom, x, y, source"
_COLUMNS = "zoom, x, y, lat, lon, source, content_sha256, path, captured_at, texture"
_INCOMING = """
CREATE TEMPORARY TABLE IF NOT EXISTS incoming (
    number bigint, zoom smallint, x integer, y integer, lat double precision, lon double precision,
    source text COLLATE "C", content_sha256 text COLLATE "C", path text, captured_at timestamptz,
    texture double precision
) ON COMMIT DELETE ROWS
"""
_KEEP = "DO NOTHING"
_REPLACE = """DO UPDATE SET lat = excluded.lat, lon = excluded.lon, content_sha256 = excluded.content_sha256,
    path = excluded.path, captured_at = excluded.captured_at, texture = excluded.texture, imported_at = now()
    WHERE tiles.content_sha256 <> excluded.content_sha256"""
_MEASURED = """UPDATE preflight.tiles SET texture = incoming.texture FROM incoming
    WHERE tiles.zoom = incoming.zoom AND tiles.x = incoming.x AND tiles.y = incoming.y AND tiles.source = incoming.source
    AND tiles.content_sha256 = incoming.content_sha256 AND tiles.texture IS NULL AND incoming.texture IS NOT NULL"""
_MENDED = f"""UPDATE preflight.tiles SET path = last.path, captured_at = least(tiles.captured_at, last.captured_at)
    FROM (SELECT DISTINCT ON ({_TILE}) * FROM incoming ORDER BY {_TILE}, number DESC) AS last
    WHERE tiles.zoom = last.zoom AND tiles.x = last.x AND tiles.y = last.y AND tiles.source = last.source
    AND tiles.content_sha256 = last.content_sha256
    AND (tiles.path <> last.path OR tiles.captured_at > last.captured_at)"""  # noqa: S608 - made of constants
_CLASHES = f"""
SELECT {_TILE}, count(*) OVER () FROM (
    SELECT {_TILE} FROM incoming GROUP BY {_TILE} HAVING count(DISTINCT content_sha256) > 1
    UNION SELECT {_TILE} FROM incoming JOIN preflight.tiles USING ({_TILE})
        WHERE incoming.content_sha256 <> tiles.content_sha256
) AS clashes ORDER BY {_TILE} LIMIT {_NAMED}
"""  # noqa: S608 - made of the constants above


class PostgresTileStore:
    """An open store. One connection serves the short calls; each stream of rows has one of its own, and a snapshot.

    Not thread-safe. Close it, or use it as a context manager.
    """

    def __init__(self, conninfo: str) -> None:
        """Connect and bring the schema up to date. conninfo: a postgresql:// URL or libpq's key = value form.

        Raises:
            DatabaseError: the server cannot be reached or refuses, or the schema is newer than this program. No
                password is in the message.
        """
        self._conninfo, self._where, self._secret = _read_conninfo(conninfo)
        self._connection = self._connect()
        try:
            with self._errors():
                self._connection.autocommit = True
                self._migrate()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> PostgresTileStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._connection.close()

    def revision(self) -> StoreRevision:
        """The state the store is in; advanced by triggers, so that no other writer can forget to."""
        row = self._one("SELECT store_id::text, revision FROM preflight.store_state")
        return StoreRevision(store_id=row[0], revision=row[1])

    def count(self) -> int:
        """Rows in the store; reads an index of all of them."""
        count: int = self._one("SELECT count(*) FROM preflight.tiles")[0]
        return count

    def changed_since(self, revision: int) -> frozenset[tuple[int, int, int]] | None:
        """(zoom, x, y) of every tile changed after a revision; None where the log does not go back so far, or says too much."""
        with self._errors(), self._connection.transaction():
            if self._one("SELECT logged_from FROM preflight.store_state")[0] > revision:
                return None
            found = self._connection.execute(
                "SELECT DISTINCT zoom, x, y FROM preflight.tile_changes WHERE revision > %s LIMIT %s",
                (revision, _MOST_CHANGES + 1),
            ).fetchall()
        return frozenset(found) if len(found) <= _MOST_CHANGES else None

    def rows_of_tiles(self, tiles: Iterable[tuple[int, int, int]]) -> list[TileRow]:
        """The rows of a few tiles, all their sources, by (zoom, lat, lon, source)."""
        columns = [list(column) for column in zip(*tiles, strict=True)] or [[], [], []]
        with self._errors():
            found = self._connection.execute(
                f"SELECT {_COLUMNS} FROM preflight.tiles JOIN "  # noqa: S608 - made of constants
                "unnest(%s::smallint[], %s::integer[], %s::integer[]) AS wanted (zoom, x, y) USING (zoom, x, y) "
                "ORDER BY zoom, lat, lon, source",
                columns,
            ).fetchall()
        return [_tile_row(row) for row in found]

    def rows_in_box(self, zoom: int, x_range: tuple[int, int], y_range: tuple[int, int]) -> Iterator[TileRow]:
        """Rows of one zoom with x, y in the closed ranges, by (lat, lon, source), from one snapshot."""
        return self._stream([TileRange(zoom, x_range, y_range)])

    def tile_hashes_by_bbox(
        self,
        bbox: BoundingBox,
        zoom_levels: Sequence[int],
        sector_class: SectorClass,  # noqa: ARG002 - SPEC.md's port; it decides which age is stale, not which rows are
    ) -> Iterator[TileHashRecord]:
        """Every tile that shares interior with the box, by (zoom, lat, lon, source), from one snapshot."""
        for row in self._stream(cover(area_from_bbox(bbox), zoom_levels).ranges):
            yield TileHashRecord(row.zoom, row.lat, row.lon, row.source, row.sha256)

    def tiles_by_bbox(
        self,
        bbox: BoundingBox,
        zoom_levels: Sequence[int],
        sector_class: SectorClass,  # noqa: ARG002 - as above
    ) -> Iterator[TileBboxRecord]:
        """Every tile that shares interior with the box, by (zoom, lat, lon, source), from one snapshot."""
        for row in self._stream(cover(area_from_bbox(bbox), zoom_levels).ranges):
            yield TileBboxRecord(row.zoom, row.lat, row.lon, row.source)

    def upsert(self, rows: Iterable[TileRow], *, replace: bool) -> int:
        """Insert rows in one transaction; returns how many were new or replaced. See TileMetadataStore.

        Where one call offers a tile twice with other bytes, the last wins if `replace`, else the call is refused.
        """
        with self._errors(), self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.execute(_INCOMING)
            number = 0
            with cursor.copy(f"COPY incoming (number, {_COLUMNS}) FROM STDIN") as copy:
                for number, row in enumerate(rows, 1):
                    copy.write_row((number, *_values(row)))
            cursor.execute(
                f"INSERT INTO preflight.tiles ({_COLUMNS}) "  # noqa: S608 - made of constants
                f"SELECT DISTINCT ON ({_TILE}) {_COLUMNS} FROM incoming ORDER BY {_TILE}, number DESC "
                f"ON CONFLICT ({_TILE}) {_REPLACE if replace else _KEEP}"
            )
            changed = cursor.rowcount
            if not replace:
                # After the insert, which waits for other writers of the same tiles: their bytes are seen too.
                _refuse_clashes(cursor.execute(_CLASHES).fetchall())
            if changed < number:
                cursor.execute(_MEASURED)
                if replace:
                    cursor.execute(_MENDED)
        return changed

    def record_source(self, record: SourceRecord) -> None:
        """Insert or update the provenance of one source."""
        with self._errors():
            self._connection.execute(
                "INSERT INTO preflight.sources (name, origin, terms, captured_at, imported_at) VALUES (%s, %s, %s, %s, %s) "
                "ON CONFLICT (name, origin) DO UPDATE SET terms = excluded.terms, captured_at = excluded.captured_at, "
                "imported_at = excluded.imported_at",
                (record.name, record.origin, record.terms, record.captured_at, record.imported_at),
            )

    def sources(self) -> list[SourceRecord]:
        """The provenance of every source, by (name, origin)."""
        with self._errors():
            found = self._connection.execute(
                "SELECT name, origin, terms, captured_at, imported_at FROM preflight.sources ORDER BY name, origin"
            ).fetchall()
        return [_source_record(row) for row in found]

    def record_manifest(self, row: ManifestRow) -> None:
        """Insert or update the row of one generation."""
        with self._errors():
            self._connection.execute(
                "INSERT INTO preflight.manifests (cache_root, generation, manifest_hash, manifest_sha256, flight_id, "
                "signer, issued_at, valid_until, status) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) "
                "ON CONFLICT (cache_root, generation) DO UPDATE SET manifest_hash = excluded.manifest_hash, "
                "manifest_sha256 = excluded.manifest_sha256, flight_id = excluded.flight_id, signer = excluded.signer, "
                "issued_at = excluded.issued_at, valid_until = excluded.valid_until, status = excluded.status",
                (
                    row.cache_root,
                    row.generation,
                    row.manifest_hash,
                    row.manifest_sha256,
                    row.flight_id,
                    row.signer,
                    row.issued_at,
                    row.valid_until,
                    row.status,
                ),
            )

    def manifests(self, cache_root: str) -> list[ManifestRow]:
        """The rows of one cache root, by generation, ascending."""
        with self._errors():
            found = self._connection.execute(
                "SELECT cache_root, generation, manifest_hash, manifest_sha256, flight_id, signer, issued_at, "
                "valid_until, status FROM preflight.manifests WHERE cache_root = %s ORDER BY generation",
                (cache_root,),
            ).fetchall()
        return [_manifest_row(row) for row in found]

    def _stream(self, ranges: Sequence[TileRange]) -> Iterator[TileRow]:
        if not ranges:
            return
        box = "(zoom = %s AND x BETWEEN %s AND %s AND y BETWEEN %s AND %s)"
        query = (
            f"SELECT {_COLUMNS} FROM preflight.tiles WHERE {' OR '.join([box] * len(ranges))} "  # noqa: S608 - constants
            "ORDER BY zoom, lat, lon, source"
        )
        values = list(chain.from_iterable((zoom, *columns, *rows) for zoom, columns, rows in ranges))
        connection = self._connect()
        try:
            with self._errors():
                connection.isolation_level = IsolationLevel.REPEATABLE_READ
                connection.read_only = True
                # All rows are read; by default a cursor is planned for the first tenth of them.
                connection.execute("SET LOCAL cursor_tuple_fraction = 1")
                with connection.cursor("tiles", binary=True) as cursor:
                    cursor.itersize = _FETCH
                    cursor.execute(query, values)
                    for row in cursor:
                        yield _tile_row(row)
        finally:
            connection.close()

    def _one(self, query: str) -> tuple[Any, ...]:
        with self._errors():
            row = self._connection.execute(query.encode()).fetchone()
        if row is None:
            raise DatabaseError(f"{self._where}: the schema `preflight` has lost a row; restore it from a backup")
        return row

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        with self._errors(connecting=True):
            return psycopg.connect(self._conninfo)

    def _migrate(self) -> None:
        """Apply what has not been applied; concurrent programs wait for each other."""
        files = _migrations()
        if self._applied() == [number for number, _ in files]:
            return
        with self._connection.transaction():
            self._connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            applied = self._applied()
            if applied is None:
                # Asked first: even IF NOT EXISTS needs the right to create schemas.
                if not self._one("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'preflight')")[0]:
                    self._connection.execute("CREATE SCHEMA preflight")
                self._connection.execute(
                    "CREATE TABLE preflight.schema_migrations "
                    "(version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
                )
                applied = []
            if unknown := set(applied) - {number for number, _ in files}:
                raise DatabaseError(
                    f"{self._where}: its schema has migration {max(unknown)}, which this program does not know: "
                    "install the newer preflight that made it"
                )
            for number, script in files:
                if number not in applied:
                    self._connection.execute(script)
                    self._connection.execute("INSERT INTO preflight.schema_migrations VALUES (%s)", (number,))

    def _applied(self) -> list[int] | None:
        # Not to_regclass: it answers from a cache that waiting for the advisory lock does not refresh.
        if not self._one(
            "SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace "
            "WHERE nspname = 'preflight' AND relname = 'schema_migrations')"
        )[0]:
            return None
        query = "SELECT version FROM preflight.schema_migrations ORDER BY version"
        return [row[0] for row in self._connection.execute(query)]

    @contextmanager
    def _errors(self, *, connecting: bool = False) -> Iterator[None]:
        """Turn what psycopg raises into errors of our own, without the password."""
        try:
            yield
        except psycopg.errors.InsufficientPrivilege as error:
            raise DatabaseError(
                f"{self._where}: {self._said(error)}. Let the user create and use the schema: GRANT CREATE ON DATABASE, "
                "or ask the owner of the schema `preflight` for its rights"
            ) from error
        except (psycopg.errors.IntegrityError, psycopg.errors.DataError) as error:
            raise ImportSourceError(f"{self._where} refuses a row: {self._said(error)}. Correct the source") from error
        except psycopg.Error as error:
            if connecting:
                raise DatabaseError(
                    f"cannot connect to {self._where}: {self._said(error)}. Start the server, or correct host, port, "
                    "user or password in tile_store.database"
                ) from error
            raise DatabaseError(
                f"{self._where}: {self._said(error)}. See the server's log, then run the same command again"
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


def _migrations() -> list[tuple[int, bytes]]:
    """(number, script) of each file in sql/, ascending."""
    folder = resources.files("preflight.adapters").joinpath("sql")
    files = (file for file in folder.iterdir() if file.name.endswith(".sql"))
    return sorted((int(file.name.split("_")[0]), file.read_bytes()) for file in files)


def _values(row: TileRow) -> tuple[object, ...]:
    return row.zoom, row.x, row.y, row.lat, row.lon, row.source, row.sha256, row.path, row.captured_at, row.texture


def _tile_row(row: tuple[Any, ...]) -> TileRow:
    zoom, x, y, lat, lon, source, sha256, path, captured_at, texture = row
    return TileRow(zoom, x, y, lat, lon, source, sha256, path, captured_at.astimezone(timezone.utc), texture)


def _source_record(row: tuple[Any, ...]) -> SourceRecord:
    name, origin, terms, captured_at, imported_at = row
    captured = None if captured_at is None else captured_at.astimezone(timezone.utc)
    return SourceRecord(name, origin, terms, captured, imported_at.astimezone(timezone.utc))


def _manifest_row(row: tuple[Any, ...]) -> ManifestRow:
    cache_root, generation, manifest_hash, manifest_sha256, flight_id, signer, issued_at, valid_until, status = row
    times = issued_at.astimezone(timezone.utc), valid_until.astimezone(timezone.utc)
    return ManifestRow(cache_root, generation, manifest_hash, manifest_sha256, flight_id, signer, *times, status)


def _refuse_clashes(clashes: Sequence[tuple[Any, ...]]) -> None:
    if clashes:
        names = ", ".join(f"{zoom}/{x}/{y} of {source}" for zoom, x, y, source, _ in clashes)
        raise ImportSourceError(
            f"{clashes[0][4]} tiles are in the store, or come twice, with other bytes, such as {names}. Import with "
            "replacement (--update) to take the new bytes, or under another source name to keep both"
        )
