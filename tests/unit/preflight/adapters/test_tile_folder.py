from __future__ import annotations

import hashlib
import stat

import atomicwrites
import pytest

from preflight.adapters.tile_files import TileFiles
from preflight.adapters.tile_folder import TileFolder
from preflight.errors import ImportSourceError, TileContentError
from preflight.tile_import.source import MAX_TILE_BYTES, BadTile, OfferedTile


def write_files(folder, *paths):
    for path in paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.encode())
    return folder


def test_tiles_are_ordered_by_zoom_x_y_and_have_their_bytes(tmp_path):
    write_files(tmp_path, "9/10/3.png", "9/2/3.JPG", "10/1/1.jpeg", "9/2/20.webp")
    tiles = TileFolder(tmp_path)
    assert len(tiles) == 4
    assert list(tiles) == [
        OfferedTile(9, 2, 3, b"9/2/3.JPG", ".jpg"),
        OfferedTile(9, 2, 20, b"9/2/20.webp", ".webp"),
        OfferedTile(9, 10, 3, b"9/10/3.png", ".png"),
        OfferedTile(10, 1, 1, b"10/1/1.jpeg", ".jpg"),
    ]


def test_other_files_are_skipped(tmp_path):
    write_files(
        tmp_path, "9/2/3.png", "index.html", "9/metadata.json", "9/2/3.pbf", "9/a/1.png", "x/1/1.png", "9/2/-1.png"
    )
    (tmp_path / "8").write_text("a file where a folder would be")
    assert [(tile.zoom, tile.x, tile.y) for tile in TileFolder(tmp_path)] == [(9, 2, 3)]


def test_rows_of_the_tms_scheme_are_flipped(tmp_path):
    write_files(tmp_path, "2/0/0.png", "2/1/3.png", "99/1/1.png")
    assert [(tile.zoom, tile.x, tile.y) for tile in TileFolder(tmp_path, scheme="tms")] == [
        (2, 0, 3),
        (2, 1, 0),
        (99, 1, 1),
    ]


def test_a_folder_with_a_tms_description_needs_the_scheme(tmp_path):
    write_files(tmp_path, "2/0/0.png", "tilemapresource.xml")
    with pytest.raises(ImportSourceError, match=r"--scheme=tms, or --scheme=xyz"):
        TileFolder(tmp_path)
    assert [tile.y for tile in TileFolder(tmp_path, scheme="xyz")] == [0]


def test_only_the_requested_zooms_are_read(tmp_path):
    write_files(tmp_path, *(f"{zoom}/0/0.png" for zoom in range(5)))
    assert [tile.zoom for tile in TileFolder(tmp_path, (1, 3))] == [1, 2, 3]
    with pytest.raises(ImportSourceError, match="holds no tiles at zooms 7 to 9"):
        TileFolder(tmp_path, (7, 9))


def test_vector_tiles_are_refused(tmp_path):
    with pytest.raises(ImportSourceError, match="holds vector tiles"):
        TileFolder(write_files(tmp_path, "2/0/0.pbf", "2/0/1.mvt"))


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    write_files(tmp_path, "2/0/1.png")
    with (tmp_path / "2/0/0.png").open("wb") as file:
        file.truncate(MAX_TILE_BYTES + 1)
    bad, good = TileFolder(tmp_path)
    assert isinstance(bad, BadTile)
    assert (bad.zoom, bad.x, bad.y) == (2, 0, 0)
    assert isinstance(good, OfferedTile)


def test_a_path_that_is_no_folder_or_has_no_tiles_is_refused(tmp_path):
    with pytest.raises(ImportSourceError, match="is not a folder"):
        TileFolder(tmp_path / "gone")
    with pytest.raises(ImportSourceError, match="is not a folder"):
        TileFolder(write_files(tmp_path, "file") / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImportSourceError, match="holds no tiles"):
        TileFolder(tmp_path / "empty")


def test_the_message_names_a_tile_that_disappeared(tmp_path):
    tiles = TileFolder(write_files(tmp_path, "9/2/3.png"))
    (tmp_path / "9/2/3.png").unlink()
    with pytest.raises(ImportSourceError, match=r"9/2/3\.png cannot be read"):
        list(tiles)


def test_files_are_named_by_their_content_and_written_once(tmp_path):
    store, sha = TileFiles(tmp_path / "tiles"), hashlib.sha256(b"pixels").hexdigest()
    path, _ = store.put(b"pixels", sha, ".png")
    assert path == f"objects/{sha[:2]}/{sha}.png"
    target = tmp_path / "tiles" / path
    assert target.read_bytes() == b"pixels"
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    before = target.stat()
    assert store.put(b"pixels", sha, ".png") == (path, False)
    assert target.stat() == before
    assert [tile.name for tile in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize("damaged", [b"pix", b"pixelz"])
def test_a_damaged_file_is_written_again(tmp_path, damaged):
    store, sha = TileFiles(tmp_path), hashlib.sha256(b"pixels").hexdigest()
    target = tmp_path / store.put(b"pixels", sha, ".png")[0]
    target.write_bytes(damaged)
    store.put(b"pixels", sha, ".png")
    assert target.read_bytes() == b"pixels"


@pytest.mark.parametrize("suffix", ["", "png", "./x", ".PNG", "../x"])
def test_an_invalid_suffix_is_refused(tmp_path, suffix):
    with pytest.raises(TileContentError, match="no file suffix"):
        TileFiles(tmp_path).put(b"x", hashlib.sha256(b"x").hexdigest(), suffix)


def test_a_link_out_of_the_root_is_refused(tmp_path):
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "tiles"
    root.mkdir()
    (root / "link.png").symlink_to(tmp_path / "secret")
    with pytest.raises(TileContentError, match="leaves the tile store"):
        TileFiles(root).open_tile("link.png")


def test_a_failed_write_leaves_no_file_and_the_message_gives_the_reason(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomicwrites, "_proper_fsync", full)
    (tmp_path / "objects" / hashlib.sha256(b"x").hexdigest()[:2]).mkdir(parents=True)
    with pytest.raises(ImportSourceError, match="No space left"):
        TileFiles(tmp_path).put(b"x", hashlib.sha256(b"x").hexdigest(), ".png")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
