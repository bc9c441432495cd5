from __future__ import annotations

import pytest

from preflight.errors import DatabaseError
from preflight.run.tile_access import TileAccess


class Store:
    """Counts what is opened and closed."""

    def __init__(self):
        self.said = []

    def open_metadata(self, stack):
        self.said.append("server")
        stack.callback(self.said.append, "server stopped")
        self.said.append("connection")
        stack.callback(self.said.append, "connection closed")
        return object()

    def open_pixels(self, root):
        self.said.append(f"pixels of {root.name}")
        return object()


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def access(store, tmp_path):
    return TileAccess(tmp_path / "tiles", store.open_metadata, store.open_pixels)


def test_nothing_is_opened_before_it_is_asked_for(access, store):
    access.close()
    assert store.said == []


def test_each_part_is_opened_once(access, store):
    assert access.metadata() is access.metadata()
    assert access.pixels() is access.pixels()
    assert store.said == ["server", "connection", "pixels of tiles"]


def test_close_closes_the_last_opened_first_and_once(access, store):
    access.metadata()
    access.close()
    access.close()
    assert store.said == ["server", "connection", "connection closed", "server stopped"]


def test_it_may_be_opened_again_after_close(access, store):
    first = access.metadata()
    access.close()
    assert access.metadata() is not first
    access.close()
    assert store.said.count("server stopped") == 2


def test_a_server_started_for_a_connection_that_fails_is_stopped_by_close(tmp_path):
    said = []

    def open_metadata(stack):
        stack.callback(said.append, "server stopped")
        raise DatabaseError("no answer")

    access = TileAccess(tmp_path, open_metadata, lambda root: object())
    with pytest.raises(DatabaseError):
        access.metadata()
    access.close()
    assert said == ["server stopped"]
