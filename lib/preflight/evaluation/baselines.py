"""The baselines that an index must beat: retrieval by 16 x 16 thumbnails, and random tiles."""

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
    """Find the k thumbnails with the highest normalised correlation (mean removed, length one) for each query.

    Memory is limited by one chunk. Equal scores are ordered by id.

    Args:
        queries: (Q, 256) uint8 thumbnails.
        chunks: pairs of ids (n,) and thumbnails (n, 256) uint8.
        k: the number of results for each query.

    Returns:
        (Q, k) ids, best first; -1 where there are fewer than k thumbnails.
    """
    scores = np.full((len(queries), k), -np.inf, dtype=np.float64)
    ids = np.full((len(queries), k), -1, dtype=np.int64)
    for chunk_ids, thumbnails in chunks:
        correlations = _correlations(queries, thumbnails)
        rows = np.broadcast_to(chunk_ids, correlations.shape)
        scores, ids = _top(np.hstack([scores, correlations]), np.hstack([ids, rows]), k)
    return ids


def _correlations(queries: NDArray[np.uint8], thumbnails: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Compute (Q, n) normalised correlations. A uniform thumbnail has correlation 0 with every other.

    Sums of products of bytes are exact in double precision in any order. The ranking therefore does not depend on the
    chunks or on the machine's matrix product.
    """
    a, b = queries.astype(np.float64), thumbnails.astype(np.float64)
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
    """Merge the results of searches with S turns of the same queries.

    An id counts once, with its best score. Equal scores are ordered by id.

    Args:
        scores: (S, Q, n) scores.
        ids: (S, Q, n) ids; -1 stands for no result.
        k: the number of results for each query.

    Returns:
        (Q, k) ids, best first; -1 where there are fewer than k.
    """
    merged = np.full((ids.shape[1], k), -1, dtype=np.int64)
    for query in range(ids.shape[1]):
        query_ids, query_scores = ids[:, query].ravel(), scores[:, query].ravel()
        order = np.lexsort((query_ids, -query_scores))
        ranked = query_ids[order]
        ranked = ranked[ranked != -1]
        first = np.sort(np.unique(ranked, return_index=True)[1])[:k]
        merged[query, : len(first)] = ranked[first]
    return merged


def chance_recall(hits: NDArray[np.int64], tiles: int, k: int) -> float:
    """Return the expected recall@k of a random choice: k of `tiles` tiles, drawn without replacement.

    hits: (Q,), the number of correct tiles for each query.
    """
    draws = min(k, tiles)
    combinations = math.comb(tiles, draws)
    return float(np.mean([1 - math.comb(tiles - int(m), draws) / combinations for m in hits]))
