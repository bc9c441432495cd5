from __future__ import annotations

import numpy as np
import pytest

from preflight.adapters.faiss.index import FaissIndexFactory
from preflight.ports import DescriptorIndexFactory
from preflight.records import IndexParameters


@pytest.fixture(scope="session", params=[FaissIndexFactory])
def factory(request: pytest.FixtureRequest) -> DescriptorIndexFactory:
    return request.param()


@pytest.fixture(scope="session")
def vectors() -> np.ndarray:
    values = np.random.default_rng(11).normal(size=(3000, 32)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.fixture(scope="session")
def ids() -> np.ndarray:
    values = np.random.default_rng(12).integers(-(2**63), 2**63 - 1, size=3000, dtype=np.int64)
    values[0], values[1] = -(2**63), 2**63 - 1
    return values


@pytest.fixture(scope="session")
def built(
    factory: DescriptorIndexFactory, ids: np.ndarray, vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> bytes:
    """The bytes of an index of all vectors, with the parameters of the tests."""
    path = tmp_path_factory.mktemp("index") / "tiles"
    factory.build(ids, [vectors], 32, IndexParameters(m=16, ef_construction=80, ef_search=64), path)
    return path.read_bytes()
