"""TileMetadataStore over Postgres, with psycopg 3.

All tables are in the schema `preflight`. The module `schema` migrates it; `connection` connects and converts errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from psycopg import IsolationLevel

from preflight.adapters.postgres.connection import Database
from preflight.adapters.postgres.rows import TILE_COLUMNS, manifest_row, source_record, tile_row
from preflight.adapters.postgres.schema import migrate
from preflight.adapters.postgres.upsert import upsert_tiles
from preflight.area.area import TileRange, area_from_bbox, cover
from preflight.ports import ManifestRow
from preflight.records import (
    BoundingBox,
    SectorClass,
    SourceRecord,
    StoreRevision,
    TileRow,
)

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["PostgresTileStore"]

_FETCH = 2000
_MOST_CHANGES = 10_000


class PostgresTileStore:
    """An open store. Short calls share one connection. Each stream of rows has its own connection and snapshot.

    It is not thread-safe. Close it, or use it as a context manager.
    """

    def __init__(self, conninfo: str) -> None:
        """Connect and migrate the schema.

        Args:
            conninfo: a postgresql:// URL, or libpq's key = value form.

        Raises:
            DatabaseError: the server cannot be reached or refuses, or the schema is newer than this program. The
                message does not contain the password.
        """
        self._database = Database(conninfo)
        self._connection = self._database.connect()
        try:
            with self._database.errors():
                self._connection.autocommit = True
                migrate(self._database, self._connection)
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
        """Return the current revision. Triggers advance it, so it also counts the changes of other programs."""
        row = self._one("SELECT store_id::text, revision FROM preflight.store_state")
        return StoreRevision(store_id=row[0], revision=row[1])

    def count(self) -> int:
        """Return the number of rows. Reads an index of all rows."""
        count: int = self._one("SELECT count(*) FROM preflight.tiles")[0]
        return count

    def changed_since(self, revision: int) -> frozenset[tuple[int, int, int]] | None:
        """Return (zoom, x, y) of the tiles changed after a revision.

        Returns None if the log does not reach back to that revision, or has more than 10,000 such tiles.
        """
        with self._database.errors(), self._connection.transaction():
            if self._one("SELECT logged_from FROM preflight.store_state")[0] > revision:
                return None
            tiles = self._connection.execute(
                "SELECT DISTINCT zoom, x, y FROM preflight.tile_changes WHERE revision > %s LIMIT %s",
                (revision, _MOST_CHANGES + 1),
            ).fetchall()
        return frozenset(tiles) if len(tiles) <= _MOST_CHANGES else None

    def rows_of_tiles(self, tiles: Iterable[tuple[int, int, int]]) -> list[TileRow]:
        """Return the rows of a few tiles with all their sources, ordered by (zoom, lat, lon, source)."""
        columns = [list(column) for column in zip(*tiles, strict=True)] or [[], [], []]
        with self._database.errors():
            rows = self._connection.execute(
                f"SELECT {TILE_COLUMNS} FROM preflight.tiles JOIN "  # noqa: S608 - only constants are inserted
                "unnest(%s::smallint[], %s::integer[], %s::integer[]) AS wanted (zoom, x, y) USING (zoom, x, y) "
                "ORDER BY zoom, lat, lon, source",
                columns,
            ).fetchall()
        return [tile_row(row) for row in rows]

    def rows_in_box(self, zoom: int, x_range: tuple[int, int], y_range: tuple[int, int]) -> Iterator[TileRow]:
        """Stream the rows of one zoom with x and y in the closed ranges, from one snapshot, by (lat, lon, source)."""
        return self._stream([TileRange(zoom, x_range, y_range)])

    def query_by_bbox(
        self,
        *,
        bbox: BoundingBox,
        zoom: int | None = None,
        zoom_levels: Sequence[int] = (),
        sector_class: SectorClass | None = None,  # noqa: ARG002 - C6's shape; the class decides which age is stale, not which rows
    ) -> Iterator[TileRow]:
        """Yields the rows of one zoom, or of several, whose tiles share interior with the box, as C6 has it.

        One snapshot, ordered by (zoom, lat, lon, source).
        """
        zooms = (*zoom_levels, *(() if zoom is None else (zoom,)))
        return self._stream(cover(area_from_bbox(bbox), sorted(set(zooms))).ranges)

    def upsert(self, rows: Iterable[TileRow], *, replace: bool) -> int:
        """Insert or update rows in one transaction, as `TileMetadataStore.upsert` describes.

        If the rows contain a tile twice with different bytes, the last one wins with `replace`. Without `replace` the
        call is refused.
        """
        with self._database.errors(), self._connection.transaction(), self._connection.cursor() as cursor:
            return upsert_tiles(cursor, rows, replace=replace)

    def record_source(self, record: SourceRecord) -> None:
        """Insert or update the provenance of one source."""
        with self._database.errors():
            self._connection.execute(
                "INSERT INTO preflight.sources (name, origin, terms, captured_at, imported_at) "
                "VALUES (%s, %s, %s, %s, %s) ON CONFLICT (name, origin) DO UPDATE SET terms = excluded.terms, "
                "captured_at = excluded.captured_at, imported_at = excluded.imported_at",
                (record.name, record.origin, record.terms, record.captured_at, record.imported_at),
            )

    def sources(self) -> list[SourceRecord]:
        """Return the provenance of every source, by (name, origin)."""
        with self._database.errors():
            rows = self._connection.execute(
                "SELECT name, origin, terms, captured_at, imported_at FROM preflight.sources ORDER BY name, origin"
            ).fetchall()
        return [source_record(row) for row in rows]

    def record_manifest(self, row: ManifestRow) -> None:
        """Insert or update the row of one generation."""
        with self._database.errors():
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
        """Return the rows of one cache root, in ascending order of generation."""
        with self._database.errors():
            rows = self._connection.execute(
                "SELECT cache_root, generation, manifest_hash, manifest_sha256, flight_id, signer, issued_at, "
                "valid_until, status FROM preflight.manifests WHERE cache_root = %s ORDER BY generation",
                (cache_root,),
            ).fetchall()
        return [manifest_row(row) for row in rows]

    def _stream(self, ranges: Sequence[TileRange]) -> Iterator[TileRow]:
        if not ranges:
            return
        box = "(zoom = %s AND x BETWEEN %s AND %s AND y BETWEEN %s AND %s)"
        query = (
            f"SELECT {TILE_COLUMNS} FROM preflight.tiles WHERE {' OR '.join([box] * len(ranges))} "  # noqa: S608 - only constants are inserted
            "ORDER BY zoom, lat, lon, source"
        )
        values = list(chain.from_iterable((zoom, *columns, *rows) for zoom, columns, rows in ranges))
        connection = self._database.connect()
        try:
            with self._database.errors():
                connection.isolation_level = IsolationLevel.REPEATABLE_READ
                connection.read_only = True
                # By default Postgres plans a cursor for the first tenth of its rows, but this one reads all rows.
                connection.execute("SET LOCAL cursor_tuple_fraction = 1")
                with connection.cursor("tiles", binary=True) as cursor:
                    cursor.itersize = _FETCH
                    cursor.execute(query, values)
                    for row in cursor:
                        yield tile_row(row)
        finally:
            connection.close()

    def _one(self, query: str) -> tuple[Any, ...]:
        return self._database.one(self._connection, query)
