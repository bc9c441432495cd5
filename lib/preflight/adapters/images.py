"""Decodes and resizes tile images, and turns them into the input of a model and of the thumbnail baseline."""

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

MAX_SIDE = 4096  # pixels; the largest tiles in use have 1024, but the header of a small file can declare any size
THUMBNAIL_SIDE = 16

_SIXTEEN_BIT = ("I", "F")  # prefixes of Pillow's modes; also covers I;16 and its byte orders


def decode_rgb(content: bytes, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Decode a PNG, JPEG or WebP tile.

    Transparent pixels are blended with black. Of an animation, the first frame counts. EXIF orientation is ignored.

    Args:
        content: the bytes of the file.
        size: (height, width) of the result. An image of another size is resized with Pillow's bilinear filter, which
            averages when it shrinks an image. None keeps the size.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        TileContentError: the message says what is wrong with the image. It does not name the tile; the caller does.
    """
    image = _open(content)
    _check_dimensions(image)
    try:
        image.load()
        rgb = _to_rgb(image)
    except TileContentError:
        raise
    except Exception as error:  # decoders raise undocumented exceptions for invalid bytes
        msg = f"the {image.format} image is truncated or damaged ({_reason(error)})"
        raise TileContentError(msg) from error
    if size is not None and (rgb.height, rgb.width) != size:
        rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.array(rgb, dtype=np.uint8)


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image with the filter of `decode_rgb`.

    Args:
        image: (height, width, 3) uint8 RGB.
        size: (height, width) of the result.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    if image.shape[:2] == size:
        return image
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR), dtype=np.uint8)


def _open(content: bytes) -> Image.Image:
    # Image.open would try every plugin, and would warn about large images instead of refusing them.
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
    start = f"it begins with {content[:8].hex(' ')}" if content else "it is empty"
    msg = f"the file is neither PNG, JPEG nor WebP: {start}"
    raise TileContentError(msg)


def _check_dimensions(image: Image.Image) -> None:
    if not (1 <= image.width <= MAX_SIDE and 1 <= image.height <= MAX_SIDE):
        msg = f"the image has {image.width} x {image.height} pixels, but each side of a tile must have 1 to {MAX_SIDE}"
        raise TileContentError(msg)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(_SIXTEEN_BIT):
        msg = f"the image has more than 8 bits for each channel (mode {image.mode}). Convert the tiles to 8 bits"
        raise TileContentError(msg)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def to_batch(images: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Turn images into the input of a model: (pixel - mean) / std for each channel.

    Args:
        images: (N, height, width, 3) uint8 RGB.
        preprocessing: mean and std of each channel.

    Returns:
        (N, 3, height, width) float32.
    """
    batch = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)
    batch -= np.asarray(preprocessing.mean, dtype=np.float32).reshape(1, 3, 1, 1)
    batch /= np.asarray(preprocessing.std, dtype=np.float32).reshape(1, 3, 1, 1)
    return batch


def thumbnail16(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Compute the mean luminance of 16 x 16 equal areas.

    Args:
        image: (height, width, 3) uint8 RGB.

    Returns:
        (256,) uint8, row by row from the north-west.
    """
    grey = Image.fromarray(image).convert("L")
    small = grey.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
    return np.array(small, dtype=np.uint8).reshape(-1)
