"""What every TilePixelStore does."""

from __future__ import annotations

import hashlib

import pytest

from preflight.errors import TileContentError

SHA = hashlib.sha256(b"pixels").hexdigest()


def test_bytes_come_back_by_the_path_given(pixel_store):
    path = pixel_store.put(b"pixels", SHA, ".png")
    with pixel_store.open_tile(path) as file:
        assert file.read() == b"pixels"


def test_putting_twice_gives_the_same_path(pixel_store):
    assert pixel_store.put(b"pixels", SHA, ".png") == pixel_store.put(b"pixels", SHA, ".png")


def test_bytes_of_another_hash_are_refused(pixel_store):
    with pytest.raises(TileContentError):
        pixel_store.put(b"other", SHA, ".png")


@pytest.mark.parametrize("path", ["objects/00/none.png", "../secret.png", "/etc/passwd", "", ".", "a\0b"])
def test_what_is_no_tile_is_refused(pixel_store, path):
    with pytest.raises(TileContentError), pixel_store.open_tile(path):
        pass
