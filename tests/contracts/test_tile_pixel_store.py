"""The contract of TilePixelStore."""

from __future__ import annotations

import hashlib
import os

import pytest

from preflight.adapters.tile_files import TileFiles
from preflight.errors import TileContentError
from preflight.tile_import.source import MAX_TILE_BYTES

CONTENT = b"pixels"
SHA = hashlib.sha256(CONTENT).hexdigest()


def test_bytes_are_read_back_by_the_returned_path(pixel_store):
    path, _ = pixel_store.put(b"pixels", SHA, ".png")
    with pixel_store.open_tile(path) as file:
        assert file.read() == b"pixels"


def test_an_intact_file_is_written_once_and_keeps_its_path(pixel_store):
    path, written = pixel_store.put(b"pixels", SHA, ".png")
    assert written
    assert pixel_store.put(b"pixels", SHA, ".png") == (path, False)
    other, written = pixel_store.put(b"pixels", SHA, ".jpg")
    assert (other != path, written) == (True, True)


def test_a_damaged_file_is_written_again(tmp_path):
    store = TileFiles(tmp_path)
    path, _ = store.put(CONTENT, SHA, ".png")
    for damaged in (b"pixelS", b"pixels\0", b""):
        (tmp_path / path).chmod(0o644)
        (tmp_path / path).write_bytes(damaged)
        assert store.put(CONTENT, SHA, ".png") == (path, True)
        assert (tmp_path / path).read_bytes() == CONTENT


def test_a_file_larger_than_any_tile_is_not_opened(tmp_path):
    """A caller reads a tile into memory at once, and a row of another program may name any file."""
    store = TileFiles(tmp_path)
    for name, size in (("largest.png", MAX_TILE_BYTES), ("disk.img", 10 << 30)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    with store.open_tile("largest.png") as file:
        assert file.seek(0, os.SEEK_END) == MAX_TILE_BYTES
    with pytest.raises(TileContentError, match=r"disk\.img has 10,737,418,240 bytes, but the limit is"):
        store.open_tile("disk.img")


def test_bytes_of_another_hash_are_refused(pixel_store):
    with pytest.raises(TileContentError):
        pixel_store.put(b"other", SHA, ".png")


@pytest.mark.parametrize("path", ["objects/00/none.png", "../secret.png", "/etc/passwd", "", ".", "a\0b"])
def test_a_path_that_is_no_tile_is_refused(pixel_store, path):
    with pytest.raises(TileContentError), pixel_store.open_tile(path):
        pass


def test_a_link_that_leaves_the_root_is_refused_and_one_inside_is_not(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "tiles2").mkdir()
    (tmp_path / "tiles2" / "near.png").write_bytes(b"near")
    store = TileFiles(tmp_path / "tiles")
    path, _ = store.put(CONTENT, SHA, ".png")
    folder = tmp_path / "tiles" / "objects"
    for name, target in (
        ("out.png", "../../secret.png"),
        ("near.png", "../../tiles2/near.png"),
        ("loop.png", "loop.png"),
    ):
        (folder / name).symlink_to(target)
        with pytest.raises(TileContentError), store.open_tile(f"objects/{name}"):
            pass
    (folder / "in.png").symlink_to(tmp_path / "tiles" / path)
    with store.open_tile("objects/in.png") as file:
        assert file.read() == CONTENT


def test_a_named_pipe_is_refused_without_waiting_for_its_writer(tmp_path):
    store = TileFiles(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(TileContentError), store.open_tile("pipe.png"):
        pass


def test_the_root_may_be_a_symbolic_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    store = TileFiles(tmp_path / "link")
    path, _ = store.put(CONTENT, SHA, ".png")
    with store.open_tile(path) as file:
        assert file.read() == CONTENT
