"""Decoding of tile images: correct pixels, and errors for damaged images."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from preflight.adapters.images import MAX_SIDE, decode_rgb, thumbnail16, to_batch
from preflight.errors import TileContentError
from preflight.records import Preprocessing


def encode(image, kind, **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(side=64):
    y, x = np.mgrid[:side, :side]
    return np.stack([x * 3, y * 3, (x * y) % 256], axis=2).astype(np.uint8)


LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_keep_the_pixels(kind):
    pixels = gradient()
    decoded = decode_rgb(encode(Image.fromarray(pixels), kind, **LOSSLESS[kind]))
    assert decoded.dtype == np.uint8
    assert (decoded == pixels).all()


def test_jpeg_keeps_the_pixels_approximately():
    smooth = np.asarray(Image.fromarray(gradient(8)).resize((64, 64), Image.Resampling.BICUBIC))
    decoded = decode_rgb(encode(Image.fromarray(smooth), "JPEG", quality=95))
    assert decoded.shape == (64, 64, 3)
    assert np.abs(decoded.astype(int) - smooth).mean() < 4


def test_size_is_height_then_width_and_the_filter_is_pillows_bilinear():
    image = Image.fromarray(gradient())
    expected = np.asarray(image.resize((48, 32), Image.Resampling.BILINEAR))
    assert (decode_rgb(encode(image, "PNG"), (32, 48)) == expected).all()


def test_transparent_pixels_are_blended_with_black():
    rgba = np.zeros((2, 2, 4), dtype=np.uint8)
    rgba[..., :3] = 200
    rgba[..., 3] = [[255, 0], [128, 0]]
    decoded = decode_rgb(encode(Image.fromarray(rgba), "PNG"))
    assert decoded[0, 0].tolist() == [200] * 3
    assert decoded[0, 1].tolist() == [0] * 3
    assert abs(int(decoded[1, 0, 0]) - 100) <= 1


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK"])
def test_other_modes_become_rgb(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    decoded = decode_rgb(encode(Image.fromarray(gradient()).convert(mode), kind))
    assert decoded.shape == (64, 64, 3)
    assert decoded.max() > 100


def test_a_transparent_colour_of_a_palette_becomes_black():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 210, 220])
    image.putpixel((1, 0), 1)
    decoded = decode_rgb(encode(image, "PNG", transparency=0))
    assert decoded[0].tolist() == [[0, 0, 0], [200, 210, 220]]


def test_sixteen_bits_are_refused():
    deep = Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16))
    with pytest.raises(TileContentError, match="more than 8 bits"):
        decode_rgb(encode(deep, "PNG"))


def png_with_dimensions(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("width", "height"), [(100_000, 100_000), (MAX_SIDE + 1, 1), (1, MAX_SIDE + 1), (2**31 - 1, 2)]
)
def test_absurd_dimensions_are_refused_before_decoding(width, height):
    with pytest.raises(TileContentError, match=f"has {width} x {height} pixels, but"):
        decode_rgb(png_with_dimensions(width, height))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_images_are_refused(kind, share):
    content = encode(Image.fromarray(gradient()), kind)
    with pytest.raises(TileContentError, match=r"truncated|damaged|header"):
        decode_rgb(content[: int(len(content) * share)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"GIF89a\0\0\0", "neither PNG, JPEG nor WebP: it begins with 47 49 46"),
        (b"<html>not found</html>", "neither"),
        (b"\x89PNG\r\n\x1a\n", "header does not decode"),
        (b"\xff\xd8\xff", "header does not decode|truncated"),
        (b"RIFF\x04\0\0\0WEBP", "header does not decode"),
    ],
)
def test_the_message_says_why_a_file_is_no_image(content, message):
    with pytest.raises(TileContentError, match=message):
        decode_rgb(content)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP"]),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=6),
)
def test_damaged_bytes_give_an_image_or_a_tile_content_error(kind, flips):
    content = bytearray(encode(Image.fromarray(gradient(32)), kind))
    for where, mask in flips:
        content[int(where * len(content))] ^= mask
    try:
        decoded = decode_rgb(bytes(content), (16, 16))
    except TileContentError:
        return
    assert decoded.shape == (16, 16, 3)


@given(st.binary(max_size=64), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x40\0\0\0WEBPVP8 "]))
def test_random_bytes_raise_a_tile_content_error(tail, head):
    with pytest.raises(TileContentError):
        decode_rgb(head + tail)


def test_batch_is_channels_first_and_normalised():
    images = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    batch = to_batch(images, Preprocessing(mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 4.0)))
    assert batch.shape == (2, 3, 3, 4)
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    assert batch[1, 2, 2, 3] == (float(images[1, 2, 3, 2]) - 3) / 4
    assert (to_batch(images, Preprocessing()) == images.transpose(0, 3, 1, 2)).all()


def test_thumbnail_is_the_mean_luminance_of_equal_areas():
    image = np.zeros((224, 224, 3), dtype=np.uint8)
    image[:14, :14] = 255
    image[14:28, :14] = (255, 0, 0)
    thumbnail = thumbnail16(image)
    assert thumbnail.shape == (256,)
    assert thumbnail.dtype == np.uint8
    assert thumbnail[0] == 255
    assert thumbnail[16] == 76  # 0.299 * 255
    assert thumbnail.sum() == 255 + 76


@given(st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_thumbnail_of_equal_areas_keeps_the_mean(rows, columns):
    shape = (16 * rows, 16 * columns, 3)
    image = np.random.default_rng(rows * 100 + columns).integers(0, 256, shape, dtype=np.uint8)
    luminance = np.asarray(Image.fromarray(image).convert("L"), dtype=float)
    assert abs(thumbnail16(image).mean() - luminance.mean()) < 1.0


@given(st.integers(16, 90), st.integers(16, 90), st.integers(0, 255))
@settings(max_examples=25, deadline=None)
def test_thumbnail_of_any_size_keeps_a_uniform_grey(height, width, grey):
    assert set(thumbnail16(np.full((height, width, 3), grey, dtype=np.uint8)).tolist()) == {grey}
