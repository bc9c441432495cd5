"""What an index must beat: 16 x 16 thumbnails, and drawing tiles at random."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["best_per_id", "chance_recall", "nearest_thumbnails"]


def nearest_thumbnails(
    queries: NDArray[np.uint8], chunks: Iterable[tuple[NDArray[np.int64], NDArray[np.uint8]]], k: int
) -> NDArray[np.int64]:
    """Ids (Q, k) of the thumbnails that correlate best, -1 where there are fewer.

    queries are (Q, 256) uint8; chunks are (ids, (n, 256) uint8). Thumbnails are compared by normalised correlation:
    mean removed, length one. Memory is bounded by one chunk. Equal scores are ordered by id.
    """
    scores = np.full((len(queries), k), -np.inf, dtype=np.float64)
    ids = np.full((len(queries), k), -1, dtype=np.int64)
    for chunk_ids, thumbnails in chunks:
        found = _correlations(queries, thumbnails)
        rows = np.broadcast_to(chunk_ids, found.shape)
        scores, ids = _top(np.hstack([scores, found]), np.hstack([ids, rows]), k)
    return ids


def _correlations(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(Q, n) normalised correlations; a blank thumbnail correlates with nothing.

    Sums of products of bytes are exact in double precision in any order, so that neither chunks nor the machine's
    matrix product change the ranking.
    """
    a, b = one.astype(np.float64), other.astype(np.float64)
    covariance = a.shape[1] * (a @ b.T) - np.outer(a.sum(axis=1), b.sum(axis=1))
    scale = np.outer(_spread(a), _spread(b))
    correlations: NDArray[np.float64] = covariance / np.maximum(scale, 1.0)
    return correlations


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    total = values.sum(axis=1)
    spread: NDArray[np.float64] = np.sqrt(values.shape[1] * (values * values).sum(axis=1) - total * total)
    return spread


def _top(scores: NDArray[np.float64], ids: NDArray[np.int64], k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)


def best_per_id(scores: NDArray[np.float32], ids: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Merge searches of several turns of the same queries: (S, Q, n) scores and ids -> (Q, k) ids, best first.

    Each id counts once, with its best score; -1 is none, and fills up. Equal scores are ordered by id.
    """
    merged = np.full((ids.shape[1], k), -1, dtype=np.int64)
    for query in range(ids.shape[1]):
        found_ids, found = ids[:, query].ravel(), scores[:, query].ravel()
        order = np.lexsort((found_ids, -found))
        ranked = found_ids[order]
        ranked = ranked[ranked != -1]
        first = np.sort(np.unique(ranked, return_index=True)[1])[:k]
        merged[query, : len(first)] = ranked[first]
    return merged


def chance_recall(hits: NDArray[np.int64], tiles: int, k: int) -> float:
    """Mean probability that k of `tiles` tiles, drawn without putting back, hold one of each query's hits[i] tiles."""
    draws = min(k, tiles)
    whole = math.comb(tiles, draws)
    return float(np.mean([1 - math.comb(tiles - int(m), draws) / whole for m in hits]))
