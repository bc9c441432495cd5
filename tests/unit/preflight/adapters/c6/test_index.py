from __future__ import annotations

import numpy as np
import pytest

from preflight.adapters.c6 import c6_descriptor_index_to_rebuilder
from preflight.errors import DatabaseError, IndexBuildError
from preflight.records import HnswParams, TileBboxRecord, TileId

DESCRIPTORS = np.eye(2, 8, dtype=np.float32)
RECORDS = [TileBboxRecord(17, 45.5, -30.25, "a"), TileBboxRecord(18, 45.75, -30.5, "b")]


class Index:
    def __init__(self, error=None):
        self.error = error
        self.got = []

    def rebuild_from_descriptors(self, *, descriptors, tile_ids, hnsw_params):
        if self.error is not None:
            raise self.error
        self.got.append((descriptors, tile_ids, hnsw_params))


def rebuild(index):
    c6_descriptor_index_to_rebuilder(index).rebuild(
        descriptors=DESCRIPTORS,
        tile_records=RECORDS,
        hnsw_m=32,
        hnsw_ef_construction=200,
        hnsw_ef_search=64,
        hnsw_metric="inner_product",
    )


def test_the_index_gets_the_array_itself_and_the_tile_ids_in_its_order():
    index = Index()
    rebuild(index)
    ((descriptors, tile_ids, params),) = index.got
    assert descriptors is DESCRIPTORS
    assert list(tile_ids) == [TileId(17, 45.5, -30.25), TileId(18, 45.75, -30.5)]
    assert params == HnswParams(32, 200, 64, "inner_product")


def test_an_error_of_the_index_is_translated_and_kept_as_the_cause():
    error = RuntimeError("full")
    with pytest.raises(IndexBuildError, match="cannot be rebuilt: RuntimeError: full") as caught:
        rebuild(Index(error))
    assert caught.value.__cause__ is error


def test_an_error_of_this_package_is_raised_as_it_is():
    with pytest.raises(DatabaseError, match="no server"):
        rebuild(Index(DatabaseError("no server")))
