"""The descriptor index, over a C6 index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from preflight.errors import IndexBuildError, PreflightError
from preflight.ports import C6DescriptorIndex, DescriptorIndexRebuilder
from preflight.records import HnswParams, TileBboxRecord, TileId

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["c6_descriptor_index_to_rebuilder"]


def c6_descriptor_index_to_rebuilder(index: C6DescriptorIndex) -> DescriptorIndexRebuilder:
    """Returns the port that rebuilds an index, over a C6 index."""
    return _Rebuilder(index)


class _Rebuilder:
    def __init__(self, index: C6DescriptorIndex) -> None:
        self._index = index

    def rebuild(
        self,
        *,
        descriptors: NDArray[np.float32],
        tile_records: Sequence[TileBboxRecord],
        hnsw_m: int,
        hnsw_ef_construction: int,
        hnsw_ef_search: int,
        hnsw_metric: str,
    ) -> None:
        """As `ports.DescriptorIndexRebuilder`. The array is handed on as it is, without a copy."""
        tile_ids = [TileId(record.zoom, record.lat, record.lon) for record in tile_records]
        params = HnswParams(hnsw_m, hnsw_ef_construction, hnsw_ef_search, hnsw_metric)
        try:
            self._index.rebuild_from_descriptors(descriptors=descriptors, tile_ids=tile_ids, hnsw_params=params)
        except PreflightError:
            raise
        except Exception as error:
            raise IndexBuildError(
                f"the descriptor index cannot be rebuilt: {type(error).__name__}: {error}. Check the index"
            ) from error
