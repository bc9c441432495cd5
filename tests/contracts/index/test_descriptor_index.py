"""The contract of `DescriptorIndexFactory`."""

from __future__ import annotations

import hashlib
import itertools
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from preflight.adapters.faiss.index import FaissIndexFactory
from preflight.errors import IndexBuildError
from preflight.records import IndexParameters

_PARAMETERS = IndexParameters(m=16, ef_construction=80, ef_search=64)

_BUILD_PROGRAM = """
import sys
from pathlib import Path
import numpy
from preflight.adapters.faiss.index import FaissIndexFactory
from preflight.records import IndexParameters
factory = FaissIndexFactory()
factory.identity()
import faiss
faiss.omp_set_num_threads(int(sys.argv[1]))
factory.build(numpy.load(sys.argv[2]), [numpy.load(sys.argv[3])], 32, IndexParameters(16, 80, 64), Path(sys.argv[4]))
"""

_IDENTITY_PROGRAM = """
import faiss
from preflight.adapters.faiss.index import FaissIndexFactory
from preflight.errors import IndexBuildError
try:
    FaissIndexFactory().identity()
except IndexBuildError as error:
    print(error)
"""


def _python(source, *arguments, **environment):
    process = subprocess.run(
        [sys.executable, "-c", source, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index_path(built, tmp_path):
    path = tmp_path / "tiles.faiss"
    path.write_bytes(built)
    return path


def test_search_agrees_with_brute_force(factory, ids, vectors, index_path):
    queries = vectors[:200] + np.random.default_rng(1).normal(scale=0.05, size=(200, 32)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    scores, result_ids = factory.open(index_path).search(queries, 10)
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    assert result_ids.dtype == np.int64
    assert scores.shape == result_ids.shape == (200, 10)
    assert (result_ids[:, 0] == ids[exact[:, 0]]).mean() >= 0.99
    hits = [len(set(row) & set(ids[best])) for row, best in zip(result_ids.tolist(), exact, strict=True)]
    assert np.mean(hits) >= 9.5
    assert (np.diff(scores, axis=1) <= 0).all()


def test_every_vector_finds_itself_under_its_id(factory, ids, vectors, index_path):
    _, result_ids = factory.open(index_path).search(vectors, 1)
    assert (result_ids[:, 0] == ids).mean() > 0.995


def test_results_beyond_the_number_of_vectors_have_the_id_minus_one(factory, vectors, tmp_path):
    factory.build(np.array([5, -7], np.int64), [vectors[:2]], 32, _PARAMETERS, tmp_path / "two")
    _, result_ids = factory.open(tmp_path / "two").search(vectors[:1], 4)
    assert result_ids.tolist() == [[5, -7, -1, -1]]


def test_chunk_borders_do_not_change_the_bytes(factory, ids, vectors, index_path, tmp_path):
    borders = [0, 1, 1, 700, 2999, 3000]
    chunks = (vectors[start:end] for start, end in itertools.pairwise(borders))
    factory.build(ids, chunks, 32, _PARAMETERS, tmp_path / "other")
    assert _sha256(tmp_path / "other") == _sha256(index_path)


def test_chunk_borders_do_not_change_the_bytes_of_several_adds(factory, tmp_path):
    many = np.random.default_rng(2).normal(size=(17_000, 4)).astype(np.float32)
    many /= np.linalg.norm(many, axis=1, keepdims=True)
    numbers = np.arange(17_000, dtype=np.int64)
    small = IndexParameters(m=4, ef_construction=8, ef_search=8)
    factory.build(numbers, [many], 4, small, tmp_path / "one")
    factory.build(numbers, (many[start : start + 999] for start in range(0, 17_000, 999)), 4, small, tmp_path / "many")
    assert _sha256(tmp_path / "one") == _sha256(tmp_path / "many")


def test_another_process_or_thread_count_does_not_change_the_bytes(ids, vectors, index_path, tmp_path):
    np.save(tmp_path / "ids.npy", ids)
    np.save(tmp_path / "vectors.npy", vectors)
    for threads in (1, 2):
        _python(_BUILD_PROGRAM, threads, tmp_path / "ids.npy", tmp_path / "vectors.npy", tmp_path / f"{threads}")
        assert _sha256(tmp_path / f"{threads}") == _sha256(index_path)


def test_the_order_of_rows_changes_the_bytes(factory, ids, vectors, index_path, tmp_path):
    factory.build(ids[::-1].copy(), [vectors[::-1].copy()], 32, _PARAMETERS, tmp_path / "reversed")
    assert _sha256(tmp_path / "reversed") != _sha256(index_path)


def test_search_depth_is_stored(factory, ids, vectors, tmp_path):
    for depth in (1, 64):
        parameters = IndexParameters(m=4, ef_construction=20, ef_search=depth)
        factory.build(ids, [vectors], 32, parameters, tmp_path / str(depth))
    queries = np.random.default_rng(4).normal(size=(300, 32)).astype(np.float32)
    best = ids[np.argmax(queries @ vectors.T, axis=1)]
    recall = {
        depth: (factory.open(tmp_path / str(depth)).search(queries, 1)[1][:, 0] == best).mean() for depth in (1, 64)
    }
    assert recall[64] > recall[1] + 0.2


@pytest.mark.parametrize("depth", [1, 64, 500])
def test_retune_gives_the_bytes_of_a_new_build(factory, ids, vectors, index_path, tmp_path, depth):
    before = _sha256(index_path)
    factory.retune(index_path, depth, tmp_path / "retuned")
    factory.build(ids, [vectors], 32, IndexParameters(m=16, ef_construction=80, ef_search=depth), tmp_path / "fresh")
    assert (tmp_path / "retuned").read_bytes() == (tmp_path / "fresh").read_bytes()
    assert _sha256(index_path) == before


def test_a_second_retune_restores_the_bytes(factory, index_path, tmp_path):
    factory.retune(index_path, 7, tmp_path / "changed")
    assert _sha256(tmp_path / "changed") != _sha256(index_path)
    factory.retune(tmp_path / "changed", 64, tmp_path / "back")
    assert _sha256(tmp_path / "back") == _sha256(index_path)


@pytest.mark.parametrize("content", [b"", b"x" * 500], ids=["empty", "garbage"])
def test_a_file_that_is_no_index_is_not_retuned(factory, tmp_path, content):
    (tmp_path / "index").write_bytes(content)
    with pytest.raises(IndexBuildError, match="index"):
        factory.retune(tmp_path / "index", 10, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_retune_refuses_a_search_depth_of_zero(factory, index_path, tmp_path):
    with pytest.raises(IndexBuildError, match="ef_search"):
        factory.retune(index_path, 0, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_opened_index_is_a_memory_map(factory, index_path):
    opened = factory.open(index_path)
    assert str(index_path) in Path("/proc/self/maps").read_text()
    assert opened.search(np.eye(1, 32, dtype=np.float32), 1)[1].shape == (1, 1)


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "longer", "half", "absent"])
def test_damaged_files_are_refused(factory, index_path, damage):
    content = index_path.read_bytes()
    index_path.unlink()
    if damage != "absent":
        damaged = {
            "empty": b"",
            "garbage": b"x" * 500,
            "truncated": content[:-1],
            "longer": content + b"x",
            "half": content[: len(content) // 2],
        }
        index_path.write_bytes(damaged[damage])
    with pytest.raises(IndexBuildError, match=r"tiles\.faiss"):
        factory.open(index_path)


def test_an_index_without_ids_is_refused(factory, tmp_path, vectors):
    factory.identity()
    import faiss

    bare = faiss.IndexFlatIP(32)
    bare.add(vectors[:5])
    faiss.write_index(bare, str(tmp_path / "bare"))
    with pytest.raises(IndexBuildError, match="tile ids"):
        factory.open(tmp_path / "bare")


def _with(vectors, row, value):
    changed = vectors.copy()
    changed[row] = value
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, v: (_with(i, 9, -1), v), "-1"),
        (lambda i, v: (_with(i, 9, i[3]), v), "same id"),
        (lambda i, v: (i[:-1], v), "ids"),
        (lambda i, v: (i, v[:-1]), "ids"),
        (lambda i, v: (i.astype(np.int32), v), "int64"),
        (lambda i, v: (i, _with(v, 2500, np.nan)), "row 2500"),
        (lambda i, v: (i, _with(v, 2500, np.inf)), "row 2500"),
        (lambda i, v: (i, _with(v, 0, 0)), "row 0"),
        (lambda i, v: (i, v * np.float32(1.01)), "L2"),
        (lambda i, v: (i, v[:, :31]), "32"),
        (lambda i, v: (i, v.astype(np.float64)), "float32"),
    ],
    ids=["none", "twice", "few ids", "few vectors", "int32", "nan", "inf", "zero", "long", "dim", "double"],
)
def test_bad_rows_are_refused_and_nothing_is_written(factory, ids, vectors, tmp_path, change, message):
    bad_ids, bad_vectors = change(ids, vectors)
    with pytest.raises(IndexBuildError, match=message):
        factory.build(bad_ids, [bad_vectors], 32, _PARAMETERS, tmp_path / "index")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    "bad", [{"m": 1}, {"ef_construction": 0}, {"ef_search": 0}, {"metric": "l2"}, {"storage": "fp16"}]
)
def test_bad_parameters_are_refused(factory, ids, vectors, tmp_path, bad):
    with pytest.raises(IndexBuildError):
        factory.build(ids, [vectors], 32, IndexParameters(**bad), tmp_path / "index")


@pytest.mark.parametrize("target", ["/dev/full", "absent/index"])
def test_a_target_that_cannot_be_written_is_an_error(factory, ids, vectors, tmp_path, target):
    with pytest.raises(IndexBuildError, match="cannot be written"):
        factory.build(ids, [vectors], 32, _PARAMETERS, tmp_path / target)


@pytest.mark.parametrize("bad", [np.zeros((1, 31), np.float32), np.zeros(32, np.float32), np.zeros((1, 32))])
def test_bad_queries_are_refused(factory, index_path, bad):
    with pytest.raises(IndexBuildError):
        factory.open(index_path).search(bad, 1)


def test_identity_names_version_and_simd_level(factory):
    level = {"x86_64": "AVX2", "aarch64": "ARM_NEON"}[platform.machine()]
    assert factory.identity() == {"faiss": "1.15.1", "simd": level}


def test_another_simd_level_is_refused():
    assert "NONE" in _python(_IDENTITY_PROGRAM, FAISS_SIMD_LEVEL="NONE")


def test_the_factory_overrides_another_level_in_the_environment(factory):
    output = _python(
        "from preflight.adapters.faiss.index import FaissIndexFactory as F; print(F().identity()['simd'])",
        FAISS_SIMD_LEVEL="NONE",
    )
    assert output.strip() == factory.identity()["simd"]


def test_an_unknown_machine_is_refused():
    with pytest.raises(IndexBuildError, match="riscv64"):
        FaissIndexFactory("riscv64").identity()
