"""A source of tiles: an MBTiles file, which is an SQLite database with a table or view `tiles`.

The format is MBTiles 1.3, https://github.com/mapbox/mbtiles-spec. It counts rows from the south. The file is opened
read-only.
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
_DATES = ("captured_at", "capture_date", "acquisition_date")  # names in use; the format defines none
_LOCK_TIMEOUT_S = 5.0
_VECTOR = {"pbf", "mvt"}


class MbTiles:
    """A TileSource over an MBTiles file. Yields tiles in the order of the database rows."""

    def __init__(self, path: Path, zooms: Zooms | None = None, scheme: Literal["xyz", "tms"] | None = None) -> None:
        """Read the metadata of the file.

        Args:
            path: the MBTiles file.
            zooms: the first and last zoom; None for all.
            scheme: `xyz` for a file that counts rows from the north, which the format does not allow. None is `tms`.

        Raises:
            ImportSourceError: the file is no SQLite database, is truncated, has no table `tiles`, or holds vector
                tiles.
        """
        self._path = path
        self._zooms = zooms
        self._flip = scheme != "xyz"
        with self._open() as connection:
            self._check_complete(connection)
            metadata = _metadata(connection)
            if metadata.get("format", "").lower() in _VECTOR:
                self._refuse_vector()
            query = f"SELECT count(*) FROM tiles {self._where}"  # noqa: S608 - only integers are inserted
            self._count: int = connection.execute(query).fetchone()[0]
            first = connection.execute("SELECT substr(tile_data, 1, 8) FROM tiles LIMIT 1").fetchone()
        if first and isinstance(first[0], bytes) and looks_like_vector(first[0]):
            self._refuse_vector()
        self.captured_at: datetime | None = next(
            (date for date in (read_date(metadata.get(name)) for name in _DATES) if date), None
        )
        self.terms: str | None = plain_text(metadata.get("license")) or plain_text(metadata.get("attribution"))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[OfferedTile | BadTile]:
        # The query does not read a tile that is too large.
        query = (
            "SELECT zoom_level, tile_column, tile_row, length(tile_data), "  # noqa: S608 - only integers are inserted
            f"CASE WHEN length(tile_data) <= {MAX_TILE_BYTES} THEN tile_data END FROM tiles {self._where}"
        )
        with self._open() as connection:
            for zoom, column, row, length, content in connection.execute(query):
                if not (isinstance(zoom, int) and isinstance(column, int) and isinstance(row, int)):
                    raise ImportSourceError(
                        f"{self._path} has a tile at {zoom!r}/{column!r}/{row!r}: these must be integers. "
                        "Export it again"
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
                f"{self._path} is not an intact MBTiles file: {error}. Copy or export it again"
            ) from error

    def _check_complete(self, connection: sqlite3.Connection) -> None:
        """Refuse a truncated file before a tile is read. Raises ImportSourceError."""
        (pages,), (size,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
        if self._path.stat().st_size < pages * size and not _unfinished(self._path):
            raise ImportSourceError(
                f"{self._path} is truncated: it has {self._path.stat().st_size:,} of {pages * size:,} bytes. "
                "Copy it again"
            )
        # The page count in the header may be too low. So this also reads the schema.
        tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'tiles'").fetchone()[0]
        if not tables:
            raise ImportSourceError(f"{self._path} has no table `tiles`, so it is no MBTiles file. Export it again")

    def _refuse_vector(self) -> None:
        raise ImportSourceError(
            f"{self._path} holds vector tiles, but only images can be imported. "
            "Export the map as PNG, JPEG or WebP tiles"
        )


def _connect(path: Path) -> sqlite3.Connection:
    """Open a database read-only.

    Opens it without locks if SQLite cannot create its auxiliary files in the folder, and no writer left pages there.
    """
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
    """Return whether a log or journal beside the file holds pages of a writer."""
    logs = (path.with_name(path.name + end) for end in ("-wal", "-journal"))
    return any(log.exists() and log.stat().st_size for log in logs)


def _metadata(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the metadata that are text; empty for a file without a metadata table."""
    if not connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'metadata'").fetchone()[0]:
        return {}
    rows = connection.execute("SELECT name, value FROM metadata")
    return {name: value for name, value in rows if isinstance(name, str) and isinstance(value, str)}


def _offer(zoom: int, x: int, y: int, length: int | None, content: object) -> OfferedTile | BadTile:
    if length is not None and length > MAX_TILE_BYTES:
        return BadTile(zoom, x, y, f"has {length:,} bytes, but the limit is {MAX_TILE_BYTES:,}")
    return offered_tile(zoom, x, y, content if isinstance(content, bytes) else b"")
