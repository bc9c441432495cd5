"""Inserts and updates tiles: copies them into a temporary table, then moves all of them with a few statements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg

from preflight.adapters.postgres.rows import TILE_COLUMNS, tile_values
from preflight.errors import ImportSourceError
from preflight.records import TileRow

__all__ = ["upsert_tiles"]

_EXAMPLES = 5  # tiles that an error message names
_TILE = "zoom, x, y, source"
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
_FILL_TEXTURE = """UPDATE preflight.tiles SET texture = incoming.texture FROM incoming
    WHERE tiles.zoom = incoming.zoom AND tiles.x = incoming.x AND tiles.y = incoming.y AND tiles.source = incoming.source
    AND tiles.content_sha256 = incoming.content_sha256 AND tiles.texture IS NULL AND incoming.texture IS NOT NULL"""
_CORRECT_ROWS = f"""UPDATE preflight.tiles SET path = last.path, captured_at = least(tiles.captured_at, last.captured_at)
    FROM (SELECT DISTINCT ON ({_TILE}) * FROM incoming ORDER BY {_TILE}, number DESC) AS last
    WHERE tiles.zoom = last.zoom AND tiles.x = last.x AND tiles.y = last.y AND tiles.source = last.source
    AND tiles.content_sha256 = last.content_sha256
    AND (tiles.path <> last.path OR tiles.captured_at > last.captured_at)"""  # noqa: S608 - only constants are inserted
_CLASHES = f"""
SELECT {_TILE}, count(*) OVER () FROM (
    SELECT {_TILE} FROM incoming GROUP BY {_TILE} HAVING count(DISTINCT content_sha256) > 1
    UNION SELECT {_TILE} FROM incoming JOIN preflight.tiles USING ({_TILE})
        WHERE incoming.content_sha256 <> tiles.content_sha256
) AS clashes ORDER BY {_TILE} LIMIT {_EXAMPLES}
"""  # noqa: S608 - only the constants above are inserted


def upsert_tiles(cursor: psycopg.Cursor[tuple[Any, ...]], rows: Iterable[TileRow], *, replace: bool) -> int:
    """Do the work of `PostgresTileStore.upsert` in the open transaction. Passes psycopg's errors to the caller."""
    cursor.execute(_INCOMING)
    number = 0
    with cursor.copy(f"COPY incoming (number, {TILE_COLUMNS}) FROM STDIN") as copy:
        for number, row in enumerate(rows, 1):
            copy.write_row((number, *tile_values(row)))
    cursor.execute(
        f"INSERT INTO preflight.tiles ({TILE_COLUMNS}) "  # noqa: S608 - only constants are inserted
        f"SELECT DISTINCT ON ({_TILE}) {TILE_COLUMNS} FROM incoming ORDER BY {_TILE}, number DESC "
        f"ON CONFLICT ({_TILE}) {_REPLACE if replace else _KEEP}"
    )
    changed = cursor.rowcount
    if not replace:
        # Check after the insert: it waits for other writers of the same tiles, so this check sees their rows too.
        _refuse_clashes(cursor.execute(_CLASHES).fetchall())
    if changed < number:
        cursor.execute(_FILL_TEXTURE)
        if replace:
            cursor.execute(_CORRECT_ROWS)
    return changed


def _refuse_clashes(clashes: Sequence[tuple[Any, ...]]) -> None:
    if clashes:
        names = ", ".join(f"{zoom}/{x}/{y} of {source}" for zoom, x, y, source, _ in clashes)
        raise ImportSourceError(
            f"{clashes[0][4]} tiles have other bytes than the tiles in the store, or than a second tile of this "
            f"import, such as {names}. Import with --update to take the new bytes, or under another source name to "
            "keep both"
        )
