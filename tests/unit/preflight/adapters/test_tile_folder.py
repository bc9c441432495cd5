from __future__ import annotations

import hashlib
import stat

import atomicwrites
import pytest

from preflight.adapters.tile_files import TileFiles
from preflight.adapters.tile_folder import TileFolder
from preflight.errors import ImportSourceError, TileContentError
from preflight.tile_import.source import MAX_TILE_BYTES, BadTile, OfferedTile


def lay(folder, *paths):
    for path in paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.encode())
    return folder


def test_tiles_come_by_zoom_x_y_with_their_bytes(tmp_path):
    lay(tmp_path, "9/10/3.png", "9/2/3.JPG", "10/1/1.jpeg", "9/2/20.webp")
    tiles = TileFolder(tmp_path)
    assert len(tiles) == 4
    assert list(tiles) == [
        OfferedTile(9, 2, 3, b"9/2/3.JPG", ".jpg"),
        OfferedTile(9, 2, 20, b"9/2/20.webp", ".webp"),
        OfferedTile(9, 10, 3, b"9/10/3.png", ".png"),
        OfferedTile(10, 1, 1, b"10/1/1.jpeg", ".jpg"),
    ]


def test_what_is_no_tile_is_passed_by(tmp_path):
    lay(tmp_path, "9/2/3.png", "index.html", "9/metadata.json", "9/2/3.pbf", "9/a/1.png", "x/1/1.png", "9/2/-1.png")
    (tmp_path / "8").write_text("a file where a folder would be")
    assert [(one.zoom, one.x, one.y) for one in TileFolder(tmp_path)] == [(9, 2, 3)]


def test_rows_from_the_south_are_turned(tmp_path):
    lay(tmp_path, "2/0/0.png", "2/1/3.png", "99/1/1.png")
    assert [(one.zoom, one.x, one.y) for one in TileFolder(tmp_path, scheme="tms")] == [
        (2, 0, 3),
        (2, 1, 0),
        (99, 1, 1),
    ]


def test_a_folder_that_describes_itself_as_tms_asks_for_the_scheme(tmp_path):
    lay(tmp_path, "2/0/0.png", "tilemapresource.xml")
    with pytest.raises(ImportSourceError, match=r"--scheme=tms, or --scheme=xyz"):
        TileFolder(tmp_path)
    assert [one.y for one in TileFolder(tmp_path, scheme="xyz")] == [0]


def test_zooms_are_chosen(tmp_path):
    lay(tmp_path, *(f"{zoom}/0/0.png" for zoom in range(5)))
    assert [one.zoom for one in TileFolder(tmp_path, (1, 3))] == [1, 2, 3]
    with pytest.raises(ImportSourceError, match="holds no tiles at zooms 7 to 9"):
        TileFolder(tmp_path, (7, 9))


def test_vector_tiles_are_refused(tmp_path):
    with pytest.raises(ImportSourceError, match="holds vector tiles"):
        TileFolder(lay(tmp_path, "2/0/0.pbf", "2/0/1.mvt"))


def test_a_file_too_large_is_not_read(tmp_path):
    lay(tmp_path, "2/0/1.png")
    with (tmp_path / "2/0/0.png").open("wb") as file:
        file.truncate(MAX_TILE_BYTES + 1)
    bad, good = TileFolder(tmp_path)
    assert isinstance(bad, BadTile)
    assert (bad.zoom, bad.x, bad.y) == (2, 0, 0)
    assert isinstance(good, OfferedTile)


def test_no_folder_and_no_tiles_are_refused(tmp_path):
    with pytest.raises(ImportSourceError, match="is not a folder"):
        TileFolder(tmp_path / "gone")
    with pytest.raises(ImportSourceError, match="is not a folder"):
        TileFolder(lay(tmp_path, "file") / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImportSourceError, match="holds no tiles"):
        TileFolder(tmp_path / "empty")


def test_a_tile_that_vanishes_is_named(tmp_path):
    tiles = TileFolder(lay(tmp_path, "9/2/3.png"))
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
    assert [one.name for one in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize("spoilt", [b"pix", b"pixelz"])
def test_a_file_that_was_spoilt_is_written_again(tmp_path, spoilt):
    store, sha = TileFiles(tmp_path), hashlib.sha256(b"pixels").hexdigest()
    target = tmp_path / store.put(b"pixels", sha, ".png")[0]
    target.write_bytes(spoilt)
    store.put(b"pixels", sha, ".png")
    assert target.read_bytes() == b"pixels"


@pytest.mark.parametrize("suffix", ["", "png", "./x", ".PNG", "../x"])
def test_a_suffix_that_is_none_is_refused(tmp_path, suffix):
    with pytest.raises(TileContentError, match="no file suffix"):
        TileFiles(tmp_path).put(b"x", hashlib.sha256(b"x").hexdigest(), suffix)


def test_a_link_out_of_the_root_is_refused(tmp_path):
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "tiles"
    root.mkdir()
    (root / "link.png").symlink_to(tmp_path / "secret")
    with pytest.raises(TileContentError, match="leaves the tile store"):
        TileFiles(root).open_tile("link.png")


def test_a_failed_write_leaves_nothing_and_is_explained(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomicwrites, "_proper_fsync", full)
    (tmp_path / "objects" / hashlib.sha256(b"x").hexdigest()[:2]).mkdir(parents=True)
    with pytest.raises(ImportSourceError, match="No space left"):
        TileFiles(tmp_path).put(b"x", hashlib.sha256(b"x").hexdigest(), ".png")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
