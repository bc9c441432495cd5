"""Tile pixels: decoding, resizing, and what a model or the thumbnail baseline is fed with."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from preflight.errors import TileContentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from preflight.records import Preprocessing

__all__ = ["MAX_SIDE", "THUMBNAIL_SIDE", "decode_rgb", "resize", "thumbnail16", "to_batch"]

MAX_SIDE = 4096  # pixels; the largest tiles in use are 1024, and a small file can claim any size
THUMBNAIL_SIDE = 16

_SIXTEEN_BIT = ("I", "F")  # also I;16 and its byte orders


def decode_rgb(content: bytes, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Decode a PNG, JPEG or WebP tile to (height, width, 3) uint8 RGB.

    `size` is (height, width); an image of another size is resized with Pillow's bilinear filter, which averages when it
    shrinks. Transparent pixels are laid over black. Of an animation the first frame is taken; EXIF orientation is not.

    Raises TileContentError, whose message says what is wrong with the image; the caller knows which tile it is.
    """
    image = _open(content)
    _check_dimensions(image)
    try:
        image.load()
        rgb = _to_rgb(image)
    except TileContentError:
        raise
    except Exception as error:  # decoders fail on foreign bytes in ways they do not document
        msg = f"the {image.format} image is truncated or damaged ({_reason(error)})"
        raise TileContentError(msg) from error
    if size is not None and (rgb.height, rgb.width) != size:
        rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.array(rgb, dtype=np.uint8)


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 RGB -> the same at `size` (height, width), with the filter of `decode_rgb`."""
    if image.shape[:2] == size:
        return image
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR), dtype=np.uint8)


def _open(content: bytes) -> Image.Image:
    # By signature and not by Image.open, which tries every plugin and warns about large images instead of refusing.
    try:
        if content.startswith(b"\x89PNG\r\n\x1a\n"):
            return PngImagePlugin.PngImageFile(BytesIO(content))
        if content.startswith(b"\xff\xd8\xff"):
            return JpegImagePlugin.JpegImageFile(BytesIO(content))
        if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
            return WebPImagePlugin.WebPImageFile(BytesIO(content))
    except Exception as error:  # as in decode_rgb
        msg = f"the image's header does not decode ({_reason(error)})"
        raise TileContentError(msg) from error
    what = f"it begins with {content[:8].hex(' ')}" if content else "it is empty"
    msg = f"the file is neither PNG, JPEG nor WebP: {what}"
    raise TileContentError(msg)


def _check_dimensions(image: Image.Image) -> None:
    if not (1 <= image.width <= MAX_SIDE and 1 <= image.height <= MAX_SIDE):
        msg = f"the image claims {image.width} x {image.height} pixels; a tile has 1 to {MAX_SIDE} a side"
        raise TileContentError(msg)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(_SIXTEEN_BIT):
        msg = f"the image has more than 8 bits a channel (mode {image.mode}); convert the tiles to 8 bits"
        raise TileContentError(msg)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def to_batch(images: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """(N, height, width, 3) uint8 RGB -> (N, 3, height, width) float32, (pixel - mean) / std for each channel."""
    batch = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)
    batch -= np.asarray(preprocessing.mean, dtype=np.float32).reshape(1, 3, 1, 1)
    batch /= np.asarray(preprocessing.std, dtype=np.float32).reshape(1, 3, 1, 1)
    return batch


def thumbnail16(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 RGB -> (256,) luminance of 16 x 16 equal areas, row by row from the north-west."""
    grey = Image.fromarray(image).convert("L")
    small = grey.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
    return np.array(small, dtype=np.uint8).reshape(-1)
