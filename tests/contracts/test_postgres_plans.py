"""Query plans: with a million rows, Postgres answers the queries of the tile store by an index and in its order."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from preflight.adapters.postgres.tile_store import PostgresTileStore
from preflight.area.web_mercator import tile_bounds
from preflight.records import BoundingBox

X0, Y0 = 109_056, 93_184  # the north-west tile at zoom 18
COLUMNS, ROWS = 1000, 800  # at zoom 18; zoom 17 has half of each, so there are a million tiles in all
# The triggers run. The centres of the tiles are real, because rows are ordered by them.
FILL = f"""
INSERT INTO preflight.tiles (zoom, x, y, lat, lon, source, content_sha256, path, captured_at)
SELECT zoom, x, y, degrees(atan(sinh(pi() * (1 - 2 * (y + 0.5::float8) / (1 << zoom))))),
    (x + 0.5::float8) * 360 / (1 << zoom) - 180, 'made-up', repeat('0', 64), 'p', '2026-01-01Z'
FROM (
    SELECT 18 AS zoom, {X0} + n % {COLUMNS} AS x, {Y0} + n / {COLUMNS} AS y
        FROM generate_series(0, {COLUMNS * ROWS - 1}) AS n
    UNION ALL SELECT 17, {X0 // 2} + n % {COLUMNS // 2}, {Y0 // 2} + n / {COLUMNS // 2}
        FROM generate_series(0, {COLUMNS * ROWS // 4 - 1}) AS n
) AS places
"""  # noqa: S608 - only the numbers above are inserted


class Plans:
    """Explains each query about tiles when the store sends it, with its values, and collects the plans."""

    def __init__(self, monkeypatch):
        self.collected = []
        plans = self

        class Explaining(psycopg.Cursor):
            def execute(self, query, params=None, **options):
                plans.explain(self.connection, query, params)
                return super().execute(query, params, **options)

        class ExplainingOnServer(psycopg.ServerCursor):
            def execute(self, query, params=None, **options):
                plans.explain(self.connection, f"DECLARE explained CURSOR FOR {query}", params)
                return super().execute(query, params, **options)

        def connect(conninfo, before=psycopg.connect):
            connection = before(conninfo)
            connection.cursor_factory, connection.server_cursor_factory = Explaining, ExplainingOnServer
            return connection

        monkeypatch.setattr(psycopg, "connect", connect)

    def explain(self, connection, query, params):
        if isinstance(query, str) and ("preflight.tiles" in query or "preflight.tile_changes" in query):
            with psycopg.Cursor(connection) as cursor:
                (plan,) = cursor.execute(f"EXPLAIN (FORMAT JSON) {query}", params).fetchone()
            self.collected.append(plan[0]["Plan"])

    def of(self, call):
        """The nodes of the plan of a call that sends one query."""
        self.collected.clear()
        call()
        (plan,) = self.collected
        return list(_nodes(plan))


def _nodes(plan):
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _node_types(nodes):
    return {node["Node Type"] for node in nodes}


def _first(rows):
    with closing(rows):
        next(rows)


def _bbox(columns, rows):
    first, last = tile_bounds(18, X0, Y0), tile_bounds(18, X0 + columns - 1, Y0 + rows - 1)
    return BoundingBox(last.lat_min + 1e-7, first.lon_min + 1e-7, first.lat_max - 1e-7, last.lon_max - 1e-7)


@pytest.fixture(scope="module")
def million(embedded_conninfo):
    """A separate database with 1,000,000 tiles, before ANALYZE."""
    name = f"preflight_million_{os.getpid()}"
    with closing(psycopg.connect(embedded_conninfo, autocommit=True)) as server:
        server.execute(f"CREATE DATABASE {name}")
        conninfo = make_conninfo(embedded_conninfo, dbname=name)
        try:
            PostgresTileStore(conninfo).close()
            with closing(psycopg.connect(conninfo, autocommit=True)) as connection:
                connection.execute("ALTER TABLE preflight.tiles SET (autovacuum_enabled = false)")
                # This check takes half of the time of the insert, and no plan depends on it.
                connection.execute("ALTER TABLE preflight.tiles DROP CONSTRAINT tiles_content_sha256_check")
                connection.execute(FILL)
            yield conninfo
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def analysed(million):
    with closing(psycopg.connect(million, autocommit=True)) as connection:
        assert connection.execute("SELECT count(*) FROM preflight.tiles").fetchone() == (1_000_000,)
        connection.execute("ANALYZE preflight.tiles")
    return million


BOXES = {
    "all": (COLUMNS, ROWS),
    "a tenth": (COLUMNS * 3 // 10, ROWS * 3 // 10),
    "a column": (1, ROWS),
    "a row": (COLUMNS, 1),
    "a tile": (1, 1),
}


def test_a_box_is_read_by_an_index_even_without_statistics(million, monkeypatch):
    """After the first import there are none: the embedded server stops before it gathers statistics."""
    plans = Plans(monkeypatch)
    with PostgresTileStore(million) as store:
        for columns, rows in BOXES.values():
            box = (X0, X0 + columns - 1), (Y0, Y0 + rows - 1)
            nodes = plans.of(lambda box=box: _first(store.rows_in_box(18, *box)))
            assert "Seq Scan" not in _node_types(nodes)


@pytest.mark.parametrize("box", BOXES)
def test_a_box_is_read_by_an_index_and_a_large_box_is_not_sorted(analysed, monkeypatch, box):
    plans = Plans(monkeypatch)
    columns, rows = BOXES[box]
    x_range, y_range = (X0, X0 + columns - 1), (Y0, Y0 + rows - 1)
    with PostgresTileStore(analysed) as store:
        calls = [lambda: _first(store.rows_in_box(18, x_range, y_range))]
        for zooms in ([18], [17, 18]):
            query = {"bbox": _bbox(columns, rows), "zoom_levels": zooms, "sector_class": "stable_rear"}
            calls.append(lambda query=query: _first(store.query_by_bbox(**query)))
        calls.append(lambda: _first(store.query_by_bbox(bbox=_bbox(columns, rows), zoom=18)))
        for call in calls:
            nodes = plans.of(call)
            assert "Seq Scan" not in _node_types(nodes)
            if box == "all":
                assert _node_types(nodes) == {"Index Scan"}
                assert nodes[0]["Index Name"] == "tiles_in_order"
            else:
                # Only the rows of the box are read and sorted.
                assert nodes[0]["Node Type"] in {"Sort", "Incremental Sort", "Index Scan"}
                assert all("Filter" not in node for node in nodes)


@pytest.mark.parametrize("count", [1, 500, 10_000])
def test_each_of_some_tiles_is_looked_up_by_an_index(analysed, monkeypatch, count):
    plans = Plans(monkeypatch)
    tiles = [(18, X0 + n % COLUMNS, Y0 + n // COLUMNS * 7) for n in range(count)]
    with PostgresTileStore(analysed) as store:
        rows = []
        nodes = plans.of(lambda: rows.extend(store.rows_of_tiles(tiles)))
    assert len(rows) == count
    assert {node["Node Type"] for node in nodes if node.get("Relation Name") == "tiles"} == {"Index Scan"}


def test_an_update_of_a_chunk_looks_its_tiles_up_by_an_index(analysed, monkeypatch):
    """The upsert of an import with `replace`: it corrects stored rows and counts none of them."""
    plans = Plans(monkeypatch)
    with PostgresTileStore(analysed) as store:
        rows = store.rows_of_tiles([(18, X0 + n % COLUMNS, Y0 + n // COLUMNS * 7) for n in range(500)])
        plans.collected.clear()
        assert store.upsert([replace(row, path=f"{row.path}.new", texture=9.0) for row in rows], replace=True) == 0
        nodes = [node for plan in plans.collected for node in _nodes(plan)]
        assert {row.path for row in store.rows_of_tiles([(row.zoom, row.x, row.y) for row in rows])} == {
            f"{row.path}.new" for row in rows
        }
    assert len(plans.collected) >= 3
    looked_up = {node["Node Type"] for node in nodes if node.get("Relation Name") == "tiles" and "Plans" not in node}
    assert looked_up == {"Index Scan"}


def test_recent_changes_are_read_by_an_index(analysed, monkeypatch):
    with closing(psycopg.connect(analysed, autocommit=True)) as other:
        for row in range(50):
            other.execute("UPDATE preflight.tiles SET path = 'q' WHERE zoom = 18 AND y = %s", (Y0 + row,))
        other.execute("ANALYZE preflight.tile_changes")
    plans = Plans(monkeypatch)
    with PostgresTileStore(analysed) as store:
        before = store.revision().revision - 2
        changed = []
        nodes = plans.of(lambda: changed.extend(store.changed_since(before)))
    assert len(changed) == 2 * COLUMNS
    assert not any("Seq Scan" in kind for kind in _node_types(nodes))
