"""What every TilePixelStore does."""

from __future__ import annotations

import hashlib
import os

import pytest

from preflight.adapters.tile_files import TileFiles
from preflight.errors import TileContentError

CONTENT = b"pixels"
SHA = hashlib.sha256(CONTENT).hexdigest()


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


def test_a_link_that_leaves_the_root_is_refused_and_one_inside_is_not(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "tiles2").mkdir()
    (tmp_path / "tiles2" / "near.png").write_bytes(b"near")
    store = TileFiles(tmp_path / "tiles")
    place = store.put(CONTENT, SHA, ".png")
    folder = tmp_path / "tiles" / "objects"
    for name, target in (
        ("out.png", "../../secret.png"),
        ("near.png", "../../tiles2/near.png"),
        ("loop.png", "loop.png"),
    ):
        (folder / name).symlink_to(target)
        with pytest.raises(TileContentError), store.open_tile(f"objects/{name}"):
            pass
    (folder / "in.png").symlink_to(tmp_path / "tiles" / place)
    with store.open_tile("objects/in.png") as file:
        assert file.read() == CONTENT


def test_a_pipe_is_no_tile_and_nobody_waits_for_its_writer(tmp_path):
    store = TileFiles(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(TileContentError), store.open_tile("pipe.png"):
        pass


def test_a_root_reached_by_a_link_is_the_root(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    store = TileFiles(tmp_path / "link")
    with store.open_tile(store.put(CONTENT, SHA, ".png")) as file:
        assert file.read() == CONTENT
