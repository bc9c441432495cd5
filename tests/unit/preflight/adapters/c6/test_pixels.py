from __future__ import annotations

from contextlib import contextmanager
from io import BytesIO

import pytest

import preflight.adapters.c6.pixels as pixels_module
from preflight.adapters.c6 import c6_tile_store_to_pixel_opener
from preflight.adapters.c6.pixels import C6Pixels
from preflight.errors import DatabaseError, TileContentError
from preflight.records import TileId

TILE = TileId(17, 45.5, -30.25)


class Store:
    """A tile store that yields what it was given, and remembers when it is left."""

    def __init__(self, content):
        self.content = content
        self.asked = []
        self.left = 0

    @contextmanager
    def read_tile_pixels(self, tile_id):
        self.asked.append(tile_id)
        try:
            yield self.content
        finally:
            self.left += 1


@pytest.mark.parametrize("content", [b"pixels", bytearray(b"pixels"), memoryview(b"pixels"), BytesIO(b"pixels")])
def test_a_tile_may_come_as_bytes_or_as_a_file(content):
    store = Store(content)
    with c6_tile_store_to_pixel_opener(store).open_tile(zoom=17, lat=45.5, lon=-30.25) as file:
        assert file.read() == b"pixels"
    assert (store.asked, store.left) == ([TILE], 1)


def test_a_path_that_no_row_has_is_refused():
    store = Store(b"pixels")
    pixels = C6Pixels(store, {"memory/17/1/2": TILE})
    with pytest.raises(TileContentError, match=r"not in the tile store any more\. Run the build again"):
        pixels.open_tile("memory/17/9/9")
    assert store.asked == []


def test_the_tile_id_of_the_store_is_handed_back_as_it_is():
    class OwnId:
        zoom_level, lat, lon = 17, 45.5, -30.25

    store, own = Store(b"pixels"), OwnId()
    with C6Pixels(store, {"path": own}).open_tile("path") as file:
        assert file.read() == b"pixels"
    assert store.asked[0] is own


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (KeyError("gone"), TileContentError, "has no"),
        (RuntimeError("no route"), DatabaseError, "cannot read"),
        (ConnectionError("reset"), DatabaseError, "cannot read"),
    ],
)
def test_an_error_of_the_store_is_translated_and_kept_as_the_cause(error, kind, said):
    class Broken:
        def read_tile_pixels(self, tile_id):
            raise error

    opener = c6_tile_store_to_pixel_opener(Broken())
    with (
        pytest.raises(kind, match=rf"{said} tile 17 at \(45.5, -30.25\)") as caught,
        opener.open_tile(zoom=17, lat=45.5, lon=-30.25),
    ):
        pass
    assert caught.value.__cause__ is error


def test_an_object_that_is_no_context_manager_is_refused():
    class Plain:
        def read_tile_pixels(self, tile_id):
            return BytesIO

    with pytest.raises(DatabaseError, match="cannot read tile"), C6Pixels(Plain(), {"p": TILE}).open_tile("p"):
        pass


def test_content_of_another_form_is_refused():
    with pytest.raises(DatabaseError, match="cannot read tile"), C6Pixels(Store(None), {"p": TILE}).open_tile("p"):
        pass


@pytest.mark.parametrize("error", [DatabaseError("no server"), FileNotFoundError("gone")])
def test_errors_of_this_package_and_of_files_are_raised_as_they_are(error):
    class Broken:
        def read_tile_pixels(self, tile_id):
            raise error

    with pytest.raises(type(error)) as caught, C6Pixels(Broken(), {"p": TILE}).open_tile("p"):
        pass
    assert caught.value is error


def test_an_error_while_the_pixels_are_read_is_the_store_s():
    class Torn(BytesIO):
        def read(self, *size):
            raise RuntimeError("torn")

    with (
        pytest.raises(DatabaseError, match="RuntimeError: torn"),
        C6Pixels(Store(Torn()), {"p": TILE}).open_tile("p"),
    ):
        pass


@pytest.mark.parametrize("form", [bytes, BytesIO])
def test_a_tile_larger_than_any_tile_is_refused(form, monkeypatch):
    monkeypatch.setattr(pixels_module, "MAX_TILE_BYTES", 6)
    with C6Pixels(Store(form(b"pixels")), {"p": TILE}).open_tile("p") as file:
        assert file.read() == b"pixels"
    with (
        pytest.raises(TileContentError, match="more than 6 bytes"),
        C6Pixels(Store(form(b"pixels7")), {"p": TILE}).open_tile("p"),
    ):
        pass


def test_an_error_of_the_reader_is_not_blamed_on_the_store():
    pixels = C6Pixels(Store(b"pixels"), {"p": TILE})
    with pytest.raises(ZeroDivisionError), pixels.open_tile("p"):
        raise ZeroDivisionError


def test_nothing_is_ever_put_into_a_c6_store():
    pixels = C6Pixels(Store(b""), {})
    assert pixels.folder() is None
    with pytest.raises(TileContentError, match="C11 TileDownloader"):
        pixels.put(b"pixels", "0" * 64, ".jpg")
