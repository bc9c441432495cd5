"""Paints the demo landscape from its plan and from noise, as one RGB mosaic.

Work on full-size arrays runs over strips of rows, to limit memory. It uses integers, or float32 operations with exact
rounding, so that the pixels do not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from preflight.adapters.demo.landscape_plan import Dice, Line, Plan, Village, fractal, make_plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["paint"]

_COARSE = 8  # cell size, in pixels, of the grid for relief, woods and water
_STRIP = 128  # rows
_TREE_STEP = 11
_WATER = (52, 74, 80)
_OVER_HALF = [0] * 129 + [255] * 127  # maps the levels of a mask to 0 or 255


def paint(seed: int, width: int, height: int) -> Image.Image:
    """Paint the mosaic.

    Args:
        seed: the seed of all random draws.
        width: width in pixels, a multiple of 8.
        height: height in pixels, a multiple of 8.

    Returns:
        An RGB image of this size.
    """
    dice = Dice(seed)
    rows, columns = height // _COARSE, width // _COARSE
    relief = fractal(dice, rows, columns, 192, 6)
    drift = np.stack([fractal(dice, rows, columns, 96, 2) for _ in range(2)]) * 180 - 90
    plan = make_plan(dice, width, height, drift)
    woods = _mask(fractal(dice, rows, columns, 72, 5), share=0.17, size=(width, height))
    lakes = _mask(1 - relief, share=0.025, size=(width, height))
    canvas = _ground(dice, plan, woods, lakes)
    draw = ImageDraw.Draw(canvas)
    roads = [line for line in plan.lines if line.kind == "road"]  # only they have bridges
    for line in (*(line for line in plan.lines if line.kind != "road"), *plan.river, *roads):
        _stroke(draw, line)
    canvas.paste(_WATER, mask=Image.fromarray(lakes).point(_OVER_HALF))  # after the lines, so that roads end at a lake
    _forest(dice, draw, np.where(lakes > 100, np.uint8(0), woods))
    for village in plan.villages:
        _settle(dice, draw, village)
    del woods, lakes  # each full-size layer takes tens of megabytes
    blurred = canvas.filter(ImageFilter.Kernel((3, 3), [1, 2, 1, 2, 4, 2, 1, 2, 1]))
    del canvas, draw
    _light(dice, blurred, _relief_light(dice, relief, (width, height)))
    return blurred


def _strips(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """Yield an image in strips of rows. Converting the whole image to an array would copy it twice."""
    for top in range(0, image.height, _STRIP):
        bottom = min(top + _STRIP, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def _mask(noise: NDArray[np.float64], share: float, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a full-size mask with smooth outlines. Its levels exceed 128 where the noise is in its highest `share`."""
    threshold = np.sort(noise, axis=None)[int(noise.size * (1 - share))]
    levels = np.clip((noise - threshold) * 2000 + 128, 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.BILINEAR))


def _ground(dice: Dice, plan: Plan, woods: NDArray[np.uint8], lakes: NDArray[np.uint8]) -> Image.Image:
    """Paint the fields with their crop rows, the forest floor and the lake shores."""
    height, width = woods.shape
    canvas, labels = Image.new("RGB", (width, height)), Image.new("I;16", (width, height))
    draw, draw_label = ImageDraw.Draw(canvas), ImageDraw.Draw(labels)
    for i, parcel in enumerate(plan.fields):
        draw.polygon(parcel.outline, fill=parcel.colour)
        draw_label.polygon(parcel.outline, fill=i)
    waves = np.array([f.wave for f in plan.fields], dtype=np.float32)
    amplitude = np.array([f.amplitude for f in plan.fields], dtype=np.float32)
    mottle = np.array([f.mottle for f in plan.fields], dtype=np.int16)
    patches = _upsampled_noise(dice, width, height, cell=44)
    specks = _upsampled_noise(dice, width, height, cell=7)
    x = np.arange(width, dtype=np.float32)
    for (rows, strip), (_, label_strip) in zip(_strips(canvas), _strips(labels), strict=True):
        pixels, label = np.array(strip), np.asarray(label_strip)
        phase = waves[:, 0].take(label) * x
        phase += waves[:, 1].take(label) * np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
        phase -= np.floor(phase)
        level = ((np.abs(phase - np.float32(0.5)) * 4 - 1) * amplitude.take(label)).astype(np.int16)
        soil = patches[rows].astype(np.int16)
        soil += specks[rows]
        soil -= 256
        soil *= mottle.take(label)
        soil >>= 6
        level += soil
        pixels = (pixels + level[..., None]).clip(0, 255).astype(np.uint8)
        pixels[woods[rows] > 128] = (44, 58, 36)
        pixels[lakes[rows] > 100] = (120, 116, 88)
        canvas.paste(Image.fromarray(pixels), (0, rows.start))
    return canvas


def _upsampled_noise(dice: Dice, width: int, height: int, cell: int) -> NDArray[np.uint8]:
    grid = dice.generator.integers(0, 256, (height // cell + 2, width // cell + 2), dtype=np.uint8)
    big = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(big)


def _stroke(draw: ImageDraw.ImageDraw, line: Line) -> None:
    draw.line(line.points, fill=line.colour, width=line.width, joint="curve")
    if line.kind == "road" and line.width > 12:
        draw.line(line.points, fill=(214, 212, 206), width=1)


def _forest(dice: Dice, draw: ImageDraw.ImageDraw, woods: NDArray[np.uint8]) -> None:
    """Paint tree crowns with a shadow, from north to south: dense in the woods, scattered elsewhere."""
    height, width = woods.shape
    shape = (height // _TREE_STEP, width // _TREE_STEP)
    draws = dice.generator.integers(0, 256, (5, *shape))
    ys = np.arange(shape[0])[:, None] * _TREE_STEP + draws[0] * _TREE_STEP // 256
    xs = np.arange(shape[1])[None, :] * _TREE_STEP + draws[1] * _TREE_STEP // 256
    inside = woods[ys, xs] > 128
    has_tree = np.where(inside, draws[4] < 235, (draws[4] == 255) & (draws[2] < 150))
    trees = np.nonzero(has_tree)
    radii, tones = 4 + draws[2][trees] // 56, draws[3][trees] // 6
    for x, y, r, tone in zip(xs[trees].tolist(), ys[trees].tolist(), radii.tolist(), tones.tolist(), strict=True):
        draw.ellipse((x - r + 3, y - r + 3, x + r + 3, y + r + 3), fill=(26, 36, 24))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(44 + tone, 66 + tone, 36 + tone // 2))


def _settle(dice: Dice, draw: ImageDraw.ImageDraw, village: Village) -> None:
    for outline, colour in village.gardens:
        draw.polygon(outline, fill=colour)
        for _ in range(dice.between(3, 14)):
            _garden_tree(dice, draw, outline)
    for street in village.streets:
        _stroke(draw, street)
    for house in village.houses:
        a, b, c, d = house.corners
        draw.polygon([(x + 6, y + 6) for x, y in house.corners], fill=(48, 50, 48))
        left, right = ((a[0] + d[0]) / 2, (a[1] + d[1]) / 2), ((b[0] + c[0]) / 2, (b[1] + c[1]) / 2)
        red, green, blue = house.colour
        lit = (a[0] - d[0]) + (a[1] - d[1]) < 0
        sides = ((a, b, right, left), (left, right, c, d))
        for side, bright in zip(sides, (lit, not lit), strict=True):
            tint = 16 if bright else -20
            draw.polygon(side, fill=(red + tint, green + tint, blue + tint) if min(house.colour) > 20 else house.colour)


def _garden_tree(dice: Dice, draw: ImageDraw.ImageDraw, outline: list[tuple[float, float]]) -> None:
    (ax, ay), (bx, by), _, (dx, dy) = outline
    u, v, r, tone = dice.between(12, 88) / 100, dice.between(12, 88) / 100, dice.between(3, 8), dice.between(0, 34)
    x, y = ax + (bx - ax) * u + (dx - ax) * v, ay + (by - ay) * u + (dy - ay) * v
    draw.ellipse((x - r + 3, y - r + 3, x + r + 3, y + r + 3), fill=(44, 52, 38))
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(56 + tone, 80 + tone, 44 + tone // 2))


def _relief_light(dice: Dice, relief: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Compute the brightness, 128 for flat ground. North-west slopes are bright, and soil varies slightly."""
    slope = np.zeros_like(relief)
    slope[1:, 1:] = 2 * relief[1:, 1:] - relief[:-1, 1:] - relief[1:, :-1]
    rows, columns = relief.shape
    soil = fractal(dice, rows, columns, 40, 4) - 0.5
    light = np.clip(128 + slope * 1500 + soil * 36, 72, 184).astype(np.uint8)
    return np.asarray(Image.fromarray(light).resize(size, Image.Resampling.BICUBIC))


def _light(dice: Dice, canvas: Image.Image, light: NDArray[np.uint8]) -> None:
    """Apply the brightness to every pixel in place, and add sensor noise."""
    for rows, strip in _strips(canvas):
        shaded = np.asarray(strip) * light[rows].astype(np.uint16)[..., None]
        shaded >>= 7
        grain = dice.generator.integers(0, 16, shaded.shape[:2], dtype=np.uint8)
        shaded += grain[..., None]
        shaded = shaded.clip(8, 255 + 8) - 8
        canvas.paste(Image.fromarray(shaded.astype(np.uint8)), (0, rows.start))
