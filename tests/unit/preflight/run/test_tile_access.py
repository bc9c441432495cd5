from __future__ import annotations

import pytest

from preflight.errors import DatabaseError
from preflight.run.tile_access import TileAccess


class Store:
    """Records what is opened and closed."""

    def __init__(self):
        self.calls = []

    def open_metadata(self, stack):
        self.calls.append("server")
        stack.callback(self.calls.append, "server stopped")
        self.calls.append("connection")
        stack.callback(self.calls.append, "connection closed")
        return object()

    def open_pixels(self):
        self.calls.append("pixels")
        return object()


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def access(store, tmp_path):
    return TileAccess(tmp_path / "tiles", store.open_metadata, store.open_pixels)


def test_nothing_is_opened_before_first_use(access, store):
    access.close()
    assert store.calls == []


def test_each_part_is_opened_once(access, store):
    assert access.metadata() is access.metadata()
    assert access.pixels() is access.pixels()
    assert store.calls == ["server", "connection", "pixels"]


def test_close_closes_in_reverse_order_and_only_once(access, store):
    access.metadata()
    access.close()
    access.close()
    assert store.calls == ["server", "connection", "connection closed", "server stopped"]


def test_the_store_can_be_opened_again_after_close(access, store):
    first = access.metadata()
    access.close()
    assert access.metadata() is not first
    access.close()
    assert store.calls.count("server stopped") == 2


def test_close_stops_the_server_after_a_failed_connection(tmp_path):
    calls = []

    def open_metadata(stack):
        stack.callback(calls.append, "server stopped")
        raise DatabaseError("no answer")

    access = TileAccess(tmp_path, open_metadata, lambda root: object())
    with pytest.raises(DatabaseError):
        access.metadata()
    access.close()
    assert calls == ["server stopped"]
