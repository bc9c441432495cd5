"""Tiles offered by an MBTiles file: SQLite with a table or view `tiles`, rows counted from the south.

Format: MBTiles 1.3, https://github.com/mapbox/mbtiles-spec. The file is opened for reading only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from preflight.area.web_mercator import MAX_ZOOM
from preflight.errors import ImportSourceError
from preflight.tile_import.source import (
    MAX_TILE_BYTES,
    BadTile,
    OfferedTile,
    Zooms,
    looks_like_vector,
    offered_tile,
    plain_text,
    read_date,
)

__all__ = ["SIGNATURE", "MbTiles"]

SIGNATURE = b"SQLite format 3\0"
_DATES = ("captured_at", "capture_date", "acquisition_date")  # no standard names one
_LOCK_TIMEOUT_S = 5.0
_VECTOR = {"pbf", "mvt"}


class MbTiles:
    """A TileSource over an MBTiles file, in the order of its rows."""

    def __init__(self, path: Path, zooms: Zooms | None = None, scheme: Literal["xyz", "tms"] | None = None) -> None:
        """Read the file's metadata. scheme: xyz for a file that counts its rows from the north, against the format.

        Raises:
            ImportSourceError: it is no SQLite database, cut short, without tiles, or holds vector tiles.
        """
        self._path = path
        self._zooms = zooms
        self._flip = scheme != "xyz"
        with self._open() as connection:
            self._check_whole(connection)
            facts = _metadata(connection)
            if facts.get("format", "").lower() in _VECTOR:
                self._refuse_vector()
            query = f"SELECT count(*) FROM tiles {self._where}"  # noqa: S608 - made of integers
            self._count: int = connection.execute(query).fetchone()[0]
            first = connection.execute("SELECT substr(tile_data, 1, 8) FROM tiles LIMIT 1").fetchone()
        if first and isinstance(first[0], bytes) and looks_like_vector(first[0]):
            self._refuse_vector()
        self.captured_at: datetime | None = next(
            (date for date in (read_date(facts.get(name)) for name in _DATES) if date), None
        )
        self.terms: str | None = plain_text(facts.get("license")) or plain_text(facts.get("attribution"))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[OfferedTile | BadTile]:
        # A blob too large is not read at all.
        query = (
            "SELECT zoom_level, tile_column, tile_row, length(tile_data), "  # noqa: S608 - made of integers
            f"CASE WHEN length(tile_data) <= {MAX_TILE_BYTES} THEN tile_data END FROM tiles {self._where}"
        )
        with self._open() as connection:
            for zoom, column, row, length, content in connection.execute(query):
                if not (isinstance(zoom, int) and isinstance(column, int) and isinstance(row, int)):
                    raise ImportSourceError(
                        f"{self._path} has a tile at {zoom!r}/{column!r}/{row!r}, which are no whole numbers. Export it again"
                    )
                y = (1 << zoom) - 1 - row if self._flip and 0 <= zoom <= MAX_ZOOM else row
                yield _offer(zoom, column, y, length, content)

    @property
    def _where(self) -> str:
        return f"WHERE zoom_level BETWEEN {int(self._zooms[0])} AND {int(self._zooms[1])}" if self._zooms else ""

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(_connect(self._path)) as connection:
                yield connection
        except sqlite3.Error as error:
            raise ImportSourceError(
                f"{self._path} is no whole MBTiles file: {error}. Copy or export it again"
            ) from error

    def _check_whole(self, connection: sqlite3.Connection) -> None:
        """A file cut short is refused before a tile is read."""
        (pages,), (size,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
        if self._path.stat().st_size < pages * size and not _unfinished(self._path):
            raise ImportSourceError(
                f"{self._path} is cut short: {self._path.stat().st_size:,} of {pages * size:,} bytes. Copy it again"
            )
        # A header may understate its pages; the schema is read from them all the same.
        found = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'tiles'").fetchone()[0]
        if not found:
            raise ImportSourceError(f"{self._path} holds no table `tiles`, so it is no MBTiles file. Export it again")

    def _refuse_vector(self) -> None:
        raise ImportSourceError(
            f"{self._path} holds vector tiles; only pictures can be imported. Export the map as PNG, JPEG or WebP tiles"
        )


def _connect(path: Path) -> sqlite3.Connection:
    """For reading; without a lock only where nobody can be writing and the folder does not let SQLite make its files."""
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=_LOCK_TIMEOUT_S)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError as error:
        connection.close()
        if not str(error).startswith("unable to open") or _unfinished(path):
            raise
        return sqlite3.connect(uri + "&immutable=1", uri=True)
    except BaseException:
        connection.close()
        raise
    return connection


def _unfinished(path: Path) -> bool:
    """Whether a writer's pages are still beside the file."""
    logs = (path.with_name(path.name + end) for end in ("-wal", "-journal"))
    return any(log.exists() and log.stat().st_size for log in logs)


def _metadata(connection: sqlite3.Connection) -> dict[str, str]:
    """The file's own facts; a file without them is read all the same."""
    if not connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'metadata'").fetchone()[0]:
        return {}
    found = connection.execute("SELECT name, value FROM metadata")
    return {name: value for name, value in found if isinstance(name, str) and isinstance(value, str)}


def _offer(zoom: int, x: int, y: int, length: int | None, content: object) -> OfferedTile | BadTile:
    if length is not None and length > MAX_TILE_BYTES:
        return BadTile(zoom, x, y, f"has {length:,} bytes; no tile has more than {MAX_TILE_BYTES:,}")
    return offered_tile(zoom, x, y, content if isinstance(content, bytes) else b"")
