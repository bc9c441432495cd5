from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from preflight.adapters import images
from preflight.adapters.tile_files import TileFiles
from preflight.area.web_mercator import tile_center
from preflight.errors import TileContentError
from preflight.records import TileRow
from preflight.stages.reading import intact, read_tile
from preflight.tileset.inventory import Inventory
from preflight.tileset.sealing import seal


def picture():
    import io

    from PIL import Image

    sink = io.BytesIO()
    pixels = np.zeros((256, 256, 3), np.uint8)
    pixels[:, :128] = (255, 0, 0)
    Image.fromarray(pixels).save(sink, "png")
    return sink.getvalue()


@pytest.fixture
def pixels(tmp_path):
    return TileFiles(tmp_path / "tiles")


@pytest.fixture
def sealed(tmp_path, pixels):
    """An inventory of one tile with the given bytes; its path on disk."""

    def run(content):
        digest = hashlib.sha256(content).hexdigest()
        path, _ = pixels.put(content, digest, ".png")
        lat, lon = tile_center(17, 5, 7)
        row = TileRow(17, 5, 7, lat, lon, "field", digest, path, datetime(2026, 1, 1, tzinfo=timezone.utc))
        with (tmp_path / "tiles.inventory").open("wb") as out:
            seal([row], out)
        return Inventory.open(tmp_path / "tiles.inventory"), next((tmp_path / "tiles").rglob(f"{digest}*"))

    return run


def test_a_tile_is_read_at_its_own_size_or_the_one_asked_for(sealed, pixels):
    inventory, _ = sealed(picture())
    whole = read_tile(inventory, 0, pixels, images, None)
    assert (whole.shape, whole.dtype) == ((256, 256, 3), np.uint8)
    assert tuple(whole[9, 9]) == (255, 0, 0)
    assert read_tile(inventory, 0, pixels, images, 64).shape == (64, 64, 3)
    assert read_tile(inventory, 0, pixels, images, (32, 48)).shape == (32, 48, 3)


def test_bytes_that_are_not_those_sealed_are_refused_by_name(sealed, pixels):
    inventory, path = sealed(picture())
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(TileContentError) as error:
        read_tile(inventory, 0, pixels, images, None)
    assert str(error.value).startswith("tile 17/5/7 of field (")
    assert "not those its row records" in str(error.value)
    assert "doit import SOURCE --update" in str(error.value)


def test_a_missing_tile_is_refused_by_name(sealed, pixels):
    inventory, path = sealed(picture())
    path.unlink()
    with pytest.raises(TileContentError, match="tile 17/5/7 of field"):
        read_tile(inventory, 0, pixels, images, None)


@pytest.mark.parametrize("content", [b"", b"no image", picture()[:200]])
def test_a_tile_that_does_not_decode_is_refused_by_name(sealed, pixels, content):
    inventory, _ = sealed(content)
    with pytest.raises(TileContentError, match="tile 17/5/7 of field"):
        read_tile(inventory, 0, pixels, images, None)


def test_a_tile_that_the_disk_does_not_give_is_refused_by_name(tmp_path):
    """A process's own memory, as a file: it opens, and its first byte is an I/O error."""
    lat, lon = tile_center(17, 5, 7)
    row = TileRow(17, 5, 7, lat, lon, "field", "ab" * 32, "mem", datetime(2026, 1, 1, tzinfo=timezone.utc))
    with (tmp_path / "tiles.inventory").open("wb") as out:
        seal([row], out)
    broken = TileFiles(Path("/proc/self"))
    assert not intact(broken, row.path, row.sha256)
    with pytest.raises(TileContentError, match=r"tile 17/5/7 of field .* cannot be read .* --update"):
        read_tile(Inventory.open(tmp_path / "tiles.inventory"), 0, broken, images, None)
