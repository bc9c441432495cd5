"""Plans the demo landscape: its geometry, in pixels, without any painting.

The plan uses only random integers and operations that IEEE 754 rounds exactly. So a seed gives the same plan anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Dice", "Field", "House", "Line", "Plan", "Village", "bend", "fractal", "make_plan"]

Point = tuple[float, float]
Colour = tuple[int, int, int]
_T = TypeVar("_T")

# Directions with rational sine and cosine (Pythagorean triples), so that the platform's sine does not affect a pixel.
_DIRECTIONS = [
    (1.0, 0.0),
    (0.8, 0.6),
    (0.6, 0.8),
    (12 / 13, 5 / 13),
    (15 / 17, -8 / 17),
    (24 / 25, -7 / 25),
    (0.8, -0.6),
]
_CROPS: list[Colour] = [
    (92, 112, 66), (108, 126, 74), (78, 100, 64), (126, 138, 84), (154, 148, 102), (168, 158, 118),
    (140, 122, 98), (118, 100, 82), (148, 136, 110), (166, 160, 92), (98, 116, 82), (126, 116, 90),
]  # fmt: skip
_ROOFS: list[Colour] = [(164, 92, 70), (150, 82, 64), (178, 112, 86), (118, 112, 108), (92, 90, 92), (188, 184, 178)]


class Dice:
    """Random integers from a seed."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.Generator(np.random.PCG64(seed))

    def between(self, low: int, high: int) -> int:
        """Draw an integer from low to high, both included."""
        return int(self.generator.integers(low, high + 1))

    def chance(self, percent: int) -> bool:
        """Return True with a probability in percent."""
        return self.between(0, 99) < percent

    def pick(self, values: Sequence[_T]) -> _T:
        """Draw one of the values."""
        return values[self.between(0, len(values) - 1)]

    def shade(self, colour: Colour, spread: int) -> Colour:
        """Return a similar colour: lighter or darker by at most `spread`, with a small change in each channel."""
        level = self.between(-spread, spread)
        red, green, blue = (min(250, max(5, c + level + self.between(-4, 4))) for c in colour)
        return red, green, blue


@dataclass(frozen=True, slots=True)
class Field:
    """A parcel of land.

    wave: the wave vector of the crop rows, in periods per pixel. amplitude: their amplitude, in levels. mottle: the
    strength of the noise of the soil.
    """

    outline: list[Point]
    colour: Colour
    wave: Point
    amplitude: int
    mottle: int


@dataclass(frozen=True, slots=True)
class Line:
    """A road, lane, hedge or stream."""

    points: list[Point]
    width: int
    colour: Colour
    kind: str


@dataclass(frozen=True, slots=True)
class House:
    """A house with a gabled roof. corners: its four corners; the ridge is parallel to the first side."""

    corners: list[Point]
    colour: Colour


@dataclass(frozen=True, slots=True)
class Village:
    """A village. Gardens are painted first, then streets, then houses."""

    gardens: list[tuple[list[Point], Colour]] = field(default_factory=list)
    streets: list[Line] = field(default_factory=list)
    houses: list[House] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Plan:
    """The geometry of the landscape."""

    fields: list[Field]
    lines: list[Line]
    villages: list[Village]
    river: list[Line]


def fractal(dice: Dice, height: int, width: int, cell: int, octaves: int) -> NDArray[np.float64]:
    """Compute value noise in 0..1.

    Args:
        dice: the source of random integers.
        height: number of rows.
        width: number of columns.
        cell: cell size of the first layer.
        octaves: number of layers. Each layer has half the cell size and half the weight of the previous one.

    Returns:
        (height, width) float64.
    """
    total = np.zeros((height, width))
    weight, weights = 1.0, 0.0
    for _ in range(octaves):
        total += weight * _value_noise(dice, height, width, cell)
        weights += weight
        weight, cell = weight / 2, max(2, cell // 2)
    return total / weights


def _value_noise(dice: Dice, height: int, width: int, cell: int) -> NDArray[np.float64]:
    grid = dice.generator.integers(0, 1 << 16, (height // cell + 2, width // cell + 2)) / 65535.0
    y, x = np.arange(height) / cell, np.arange(width) / cell
    row, column = y.astype(np.int64), x.astype(np.int64)
    v, u = y - row, x - column
    v, u = v * v * (3 - 2 * v), u * u * (3 - 2 * u)
    upper, lower = grid[row], grid[row + 1]
    rows = upper + (lower - upper) * v[:, None]
    left, right = rows[:, column], rows[:, column + 1]
    noise: NDArray[np.float64] = left + (right - left) * u
    return noise


def make_plan(dice: Dice, width: int, height: int, drift: NDArray[np.float64]) -> Plan:
    """Lay out fields, roads, hedges, villages and a river.

    Args:
        dice: the source of random integers.
        width: width of the landscape in pixels.
        height: height of the landscape in pixels.
        drift: (2, height / 8, width / 8) shifts in x and y, in pixels. They move points, so that lines bend.

    Returns:
        The plan.
    """
    fields: list[Field] = []
    lines: list[Line] = []
    margin = 300
    frame = [
        (-margin, -margin),
        (width + margin, -margin),
        (width + margin, height + margin),
        (-margin, height + margin),
    ]
    for outline, cuts in _divide(dice, [(float(x), float(y)) for x, y in frame], 0):
        if outline:
            fields.append(_field(dice, bend(outline, drift, closed=True)))
        lines.extend(_border(dice, bend(list(ends), drift, closed=False), depth) for ends, depth in cuts)
    order = {"hedge": 0, "lane": 1, "road": 2}
    lines.sort(key=lambda line: order[line.kind])
    villages = [_village(dice, centre) for centre in _sites(dice, width, height)]
    return Plan(fields, lines, villages, _river(dice, width, height))


_Cut = tuple[tuple[Point, Point], int]


def _divide(dice: Dice, outline: list[Point], depth: int) -> Iterator[tuple[list[Point], list[_Cut]]]:
    """Divide a convex polygon recursively into small parcels. Yields the parcels, and the cuts between them."""
    area = _area(outline)
    if area < dice.between(9_000, 80_000) or depth > 16:
        yield outline, []
        return
    a, b = _longest_side(outline)
    share = dice.between(35, 65) / 100
    through = (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share)
    skew = dice.between(-28, 28) / 100
    along = (b[0] - a[0], b[1] - a[1])
    normal = (along[0] - along[1] * skew, along[1] + along[0] * skew)
    first, second, ends = _clip(outline, through, normal)
    if ends is None:
        yield outline, []
        return
    yield [], [(ends, depth)]
    yield from _divide(dice, first, depth + 1)
    yield from _divide(dice, second, depth + 1)


def _area(outline: list[Point]) -> float:
    ring = zip(outline, outline[1:] + outline[:1], strict=True)
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in ring)) / 2


def _longest_side(outline: list[Point]) -> tuple[Point, Point]:
    ring = list(zip(outline, outline[1:] + outline[:1], strict=True))
    return max(ring, key=lambda s: (s[1][0] - s[0][0]) ** 2 + (s[1][1] - s[0][1]) ** 2)


def _clip(
    outline: list[Point], through: Point, normal: Point
) -> tuple[list[Point], list[Point], tuple[Point, Point] | None]:
    """Cut a convex polygon along the line through a point with a normal. Returns both parts and the ends of the cut.

    If there is no useful cut, returns the polygon, an empty list and None.
    """
    distances = [(p[0] - through[0]) * normal[0] + (p[1] - through[1]) * normal[1] for p in outline]
    first: list[Point] = []
    second: list[Point] = []
    ends: list[Point] = []
    for i, p in enumerate(outline):
        q, s, t = outline[(i + 1) % len(outline)], distances[i], distances[(i + 1) % len(outline)]
        (first if s >= 0 else second).append(p)
        if (s >= 0) != (t >= 0):
            share = s / (s - t)
            cut = (p[0] + (q[0] - p[0]) * share, p[1] + (q[1] - p[1]) * share)
            first.append(cut)
            second.append(cut)
            ends.append(cut)
    if len(ends) != 2 or min(len(first), len(second)) < 3:
        return outline, [], None
    return first, second, (ends[0], ends[1])


def bend(points: list[Point], drift: NDArray[np.float64], *, closed: bool) -> list[Point]:
    """Divide the sides into steps of at most 48 pixels, and move each point by the drift at its position.

    Args:
        points: the corners, in pixels.
        drift: (2, rows, columns) shifts in x and y, in pixels; one cell has 8 x 8 pixels.
        closed: whether a side joins the last corner and the first.

    Returns:
        The moved points.
    """
    ring = points + points[:1] if closed else points
    steps: list[Point] = []
    for a, b in pairwise(ring):
        count = 1 + int(max(abs(b[0] - a[0]), abs(b[1] - a[1])) // 48)
        steps.extend((a[0] + (b[0] - a[0]) * i / count, a[1] + (b[1] - a[1]) * i / count) for i in range(count))
    if not closed:
        steps.append(ring[-1])
    _, rows, columns = drift.shape
    moved = []
    for x, y in steps:
        row, column = min(rows - 1, max(0, int(y) // 8)), min(columns - 1, max(0, int(x) // 8))
        moved.append((x + float(drift[0, row, column]), y + float(drift[1, row, column])))
    return moved


def _field(dice: Dice, outline: list[Point]) -> Field:
    a, b = _longest_side(outline[:: max(1, len(outline) // 6)])
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = (dx * dx + dy * dy) ** 0.5 or 1.0
    period = dice.between(5, 17)
    wave = (-dy / length / period, dx / length / period)
    return Field(outline, dice.shade(dice.pick(_CROPS), 14), wave, dice.pick([0, 3, 6, 9, 14, 20]), dice.between(2, 9))


def _border(dice: Dice, points: list[Point], depth: int) -> Line:
    """Turn a cut between parcels into a road, lane or hedge. depth: how many cuts came before it."""
    if depth < 3:
        return Line(points, dice.between(11, 17), dice.shade((128, 126, 124), 16), "road")
    if depth < 6 and dice.chance(60):
        return Line(points, dice.between(5, 8), dice.shade((172, 158, 130), 16), "lane")
    if dice.chance(45):
        return Line(points, dice.between(4, 10), dice.shade((54, 74, 44), 8), "hedge")
    return Line(points, dice.between(2, 4), dice.shade((150, 142, 110), 20), "lane")


def _sites(dice: Dice, width: int, height: int) -> Iterator[Point]:
    """Yield the centres of villages. About half of the cells of a coarse grid have one, at a random position."""
    cell = 1024
    for top in range(0, height, cell):
        for left in range(0, width, cell):
            if dice.chance(48):
                yield float(left + dice.between(150, cell - 150)), float(top + dice.between(150, cell - 150))


def _village(dice: Dice, centre: Point) -> Village:
    """Plan a village: streets on an uneven grid, rotated and clipped to an ellipse, with houses along them."""
    c, s = dice.pick(_DIRECTIONS)
    reach = (dice.between(200, 520), dice.between(160, 440))

    def to_pixels(u: float, v: float) -> Point:
        return centre[0] + u * c - v * s, centre[1] + u * s + v * c

    def inside(u: float, v: float) -> bool:
        return (u / reach[0]) ** 2 + (v / reach[1]) ** 2 <= 1

    across = _street_positions(dice, reach[0], 95, 170)
    along = _street_positions(dice, reach[1], 90, 140)
    village = Village()
    for u0, u1 in pairwise(across):
        for v0, v1 in pairwise(along):
            if not inside((u0 + u1) / 2, (v0 + v1) / 2):
                continue
            block = [(u0, v0), (u1, v0), (u1, v1), (u0, v1)]
            village.gardens.append(([to_pixels(*p) for p in block], dice.shade((104, 118, 80), 18)))
            asphalt = dice.shade((138, 136, 134), 10)
            edges = zip(block, block[1:] + block[:1], strict=True)
            village.streets.extend(Line([to_pixels(*p), to_pixels(*q)], 9, asphalt, "road") for p, q in edges)
            _build_block(dice, village, to_pixels, (u0, v0, u1, v1))
    return village


def _street_positions(dice: Dice, reach: int, least: int, most: int) -> list[int]:
    positions = [-reach]
    while positions[-1] < reach:
        positions.append(positions[-1] + dice.between(least, most))
    return positions


def _build_block(
    dice: Dice, village: Village, to_pixels: Callable[[float, float], Point], block: tuple[int, int, int, int]
) -> None:
    u0, v0, u1, v1 = block
    if dice.chance(9):  # one large flat roof instead of houses
        corners = [(u0 + 18, v0 + 18), (u1 - 16, v0 + 18), (u1 - 16, v1 - 20), (u0 + 18, v1 - 20)]
        village.houses.append(House([to_pixels(*p) for p in corners], dice.shade((178, 180, 182), 24)))
        return
    for row in (v0 + 12, v1 - 12 - 24):
        u = u0 + dice.between(10, 22)
        while u + 34 < u1 - 8:
            length, depth = dice.between(18, 34), dice.between(16, 24)
            if dice.chance(84):
                v = row + dice.between(0, 5)
                ring = [(u, v), (u + length, v), (u + length, v + depth), (u, v + depth)]
                if dice.chance(35):
                    ring = ring[1:] + ring[:1]  # the gable faces the street
                village.houses.append(House([to_pixels(*p) for p in ring], dice.shade(dice.pick(_ROOFS), 14)))
            u += length + dice.between(8, 26)


def _river(dice: Dice, width: int, height: int) -> list[Line]:
    """Plan a river from the northern to the southern edge, and a stream that joins it. Banks come first, then water."""
    x = dice.between(width // 5, width * 4 // 5)
    main = _meander(dice, (float(x), -80.0), (dice.between(-width // 8, width // 8), 260), height // 260 + 3)
    joint = main[len(main) // 2]
    step = (300 if joint[0] < width / 2 else -300, dice.between(-60, 60))
    stream = _meander(dice, joint, step, width // 300 + 2)
    water = (58, 76, 78)
    banks = [Line(main, 84, (98, 112, 72), "river"), Line(stream, 30, (84, 104, 62), "river")]
    return [*banks, Line(main, 58, water, "river"), Line(stream, 12, water, "river")]


def _meander(dice: Dice, start: Point, step: tuple[int, int], count: int) -> list[Point]:
    """Return a Catmull-Rom curve through points that deviate randomly from a straight course."""
    sway = 170
    control = [start]
    for i in range(1, count + 1):
        share = step[0] / 6 if abs(step[0]) < abs(step[1]) else step[0]
        control.append(
            (
                start[0] + i * share + dice.between(-sway, sway),
                start[1] + i * step[1] + dice.between(-sway // 2, sway // 2),
            )
        )
    control = [control[0], *control, control[-1]]
    curve: list[Point] = []
    for p0, p1, p2, p3 in zip(control, control[1:], control[2:], control[3:], strict=False):
        for i in range(12):
            t = i / 12
            curve.append((_spline(p0[0], p1[0], p2[0], p3[0], t), _spline(p0[1], p1[1], p2[1], p3[1], t)))
    return curve


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t * t + (3 * b - 3 * c + d - a) * t * t * t)
