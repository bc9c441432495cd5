"""The self-test of an index: measures how well it finds simulated aerial photographs of its own area.

The module is pure: tiles, model and index are callables from the caller. Recall on simulated photographs is higher than
on real ones. What matters is the margin over the baselines, and whether it falls from one build to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from preflight.evaluation.baselines import best_per_id, chance_recall, nearest_thumbnails
from preflight.evaluation.metrics import Truth, figures, units_holding
from preflight.evaluation.queries import OpenRgb, Query, TileTable, draw_queries
from preflight.evaluation.result import RANKS, Figures, HeadingResult, SelftestResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from preflight.evaluation.backbone_card import BackboneCard

__all__ = ["Embed", "Search", "Thumbnail", "evaluate"]

Embed = Callable[["NDArray[np.uint8]"], "NDArray[np.float32]"]
"""(N, size, size, 3) uint8 RGB -> (N, dim) float32, L2-normalised."""
Search = Callable[["NDArray[np.float32]", int], "tuple[NDArray[np.float32], NDArray[np.int64]]"]
"""(Q, dim) and k -> scores (Q, k), descending, and ids (Q, k); -1 stands for no result."""
Thumbnail = Callable[["NDArray[np.uint8]"], "NDArray[np.uint8]"]
"""(size, size, 3) uint8 RGB -> (256,) uint8, the mean luminance of 16 x 16 equal areas."""

_CHUNK = 64  # photographs held in memory at a time


@dataclass(slots=True)
class _Views:
    """Descriptors and thumbnails of the photographs with one kind of heading. The photographs are not kept."""

    descriptors: list[NDArray[np.float32]] = field(default_factory=list)
    thumbnails: list[NDArray[np.uint8]] = field(default_factory=list)

    def add(self, images: NDArray[np.uint8], embed: Embed, thumbnail: Thumbnail) -> None:
        self.descriptors.append(embed(images))
        self.thumbnails.extend(thumbnail(image) for image in images)


def evaluate(
    tiles: TileTable,
    units: TileTable,
    card: BackboneCard,
    *,
    open_rgb: OpenRgb,
    embed: Embed,
    search: Search,
    thumbnail: Thumbnail,
    thumbnails: Callable[[], Iterable[tuple[NDArray[np.int64], NDArray[np.uint8]]]],
    queries: int,
    seed: int,
    size: int = 224,
) -> SelftestResult:
    """Measure an index with simulated queries, with the heading known and unknown.

    If the heading is unknown, all turns of the card are searched and their results merged. The thumbnail baseline has
    no such turns.

    Args:
        tiles: the tiles from which the queries are drawn.
        units: the units in the index: the tiles, or windows over them.
        card: facts about the backbone.
        open_rgb: opens a tile.
        embed: computes descriptors.
        search: searches the index.
        thumbnail: computes the thumbnail of a photograph.
        thumbnails: returns the thumbnails of the units in chunks of ids (n,) and (n, 256) uint8. It is called once.
        queries: the number of queries.
        seed: the seed of the queries.
        size: side of a photograph in pixels.

    Raises:
        ValueError: there are no queries or no tiles, a tile does not open, or the index returns an id of no unit.
    """
    if queries < 1:
        raise ValueError(f"a self-test needs at least one query, not {queries}")
    cells: list[tuple[int, int]] = []
    degrees: list[tuple[float, float]] = []
    known, unknown = _Views(), _Views()
    for chunk in _chunks(draw_queries(tiles, open_rgb, queries, seed, size)):
        cells.extend((query.column, query.row) for query in chunk)
        degrees.extend((query.lat, query.lon) for query in chunk)
        known.add(np.stack([query.heading_known for query in chunk]), embed, thumbnail)
        unknown.add(np.stack([query.heading_unknown for query in chunk]), embed, thumbnail)
    truth = Truth(cells, degrees)
    chance = _chance(truth, units, seed)

    # One pass over the units' thumbnails for both headings.
    by_thumbnail = nearest_thumbnails(np.stack(known.thumbnails + unknown.thumbnails), thumbnails(), RANKS[-1])

    def measure(by_index: NDArray[np.int64], by_thumbnail: NDArray[np.int64]) -> HeadingResult:
        return HeadingResult(figures(by_index, truth, units), figures(by_thumbnail, truth, units), chance)

    return SelftestResult(
        backbone=card.name,
        seed=seed,
        queries=queries,
        tiles=len(tiles),
        units=len(units),
        shifts=card.shift_count,
        heading_known=measure(search(np.concatenate(known.descriptors), RANKS[-1])[1], by_thumbnail[:queries]),
        heading_unknown=measure(
            _search_all_turns(card, np.concatenate(unknown.descriptors), search), by_thumbnail[queries:]
        ),
    )


def _chunks(queries: Iterator[Query]) -> Iterator[list[Query]]:
    while chunk := list(islice(queries, _CHUNK)):
        yield chunk


def _search_all_turns(card: BackboneCard, descriptors: NDArray[np.float32], search: Search) -> NDArray[np.int64]:
    turns = [search(np.ascontiguousarray(turned), RANKS[-1]) for turned in card.shifts(descriptors)]
    return best_per_id(np.stack([scores for scores, _ in turns]), np.stack([ids for _, ids in turns]), RANKS[-1])


def _chance(truth: Truth, table: TileTable, seed: int) -> Figures:
    """Compute the figures of a random choice: recall by combinatorics, errors from one random unit for each query."""
    rng = np.random.Generator(np.random.PCG64([seed, len(truth), len(table)]))
    drawn = table.ids[rng.integers(len(table), size=(len(truth), RANKS[-1]))]
    holding = units_holding(truth, table)
    recall = tuple(chance_recall(holding, len(table), k) for k in RANKS)
    by_draw = figures(drawn, truth, table)
    return Figures(recall, by_draw.median_error_m, by_draw.p90_error_m)
