from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from preflight.descriptors.descriptor_store import DescriptorStore
from preflight.descriptors.segment import Block
from preflight.errors import DescriptorBatchError

_SPACE = "ab" * 32
_DIM = 5
_BLOCK = Block(19, 1, 2)


def _write(path: Path, chunks) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
    temporary.replace(path)


def _rows(count, seed=0):
    random = np.random.default_rng(seed)
    keys = random.integers(0, 256, size=(count, 32), dtype=np.uint8)
    thumbs = random.integers(0, 256, size=(count, 256), dtype=np.uint8)
    return keys, thumbs, random.normal(size=(count, _DIM)).astype(np.float32)


def _all(chunks):
    return np.concatenate(list(chunks))


def _blocks(*parts):
    return np.concatenate([np.tile(np.array(block), (count, 1)) for block, count in parts])


@pytest.fixture
def open_store(tmp_path):
    return lambda space=_SPACE, dim=_DIM: DescriptorStore(tmp_path, space, dim, _write)


@pytest.fixture
def segment(open_store):
    return open_store().append(_BLOCK, *_rows(40))


def test_a_new_reader_finds_appended_rows(open_store):
    keys, thumbs, vectors = _rows(100)
    path = open_store().append(_BLOCK, keys[:60], thumbs[:60].reshape(-1, 16, 16), vectors[:60])
    store = open_store()
    assert store.segments() == [path]
    assert store.check(path)
    assert store.lookup(_BLOCK, keys).tolist() == [True] * 60 + [False] * 40
    assert not store.lookup(Block(19, 2, 2), keys).any()
    order = np.random.default_rng(1).permutation(60)
    np.testing.assert_array_equal(_all(store.gather(_blocks((_BLOCK, 60)), keys[order])), vectors[order])
    np.testing.assert_array_equal(_all(store.gather_thumbs(_blocks((_BLOCK, 60)), keys[order])), thumbs[order])


def test_names_and_bytes_follow_the_format(open_store, segment, tmp_path):
    keys, thumbs, vectors = _rows(40)
    content = segment.read_bytes()
    assert segment.parent == tmp_path / _SPACE[:16]
    assert segment.name == f"19-1-2-{content[-32:].hex()[:16]}.seg"
    assert content[:8] == b"PFDESCR\0"
    assert np.frombuffer(content, "<u4", 5, 8).tolist() == [1, _DIM, 19, 1, 2]
    assert np.frombuffer(content, "<u8", 1, 28).tolist() == [40]
    assert content[36:68].hex() == _SPACE
    assert content[68:128] == bytes(60)
    order = sorted(range(40), key=lambda row: keys[row].tobytes())
    assert content[128:-32] == keys[order].tobytes() + thumbs[order].tobytes() + vectors[order].tobytes()


def test_rows_come_in_the_requested_order_across_blocks_and_segments(open_store):
    store = open_store()
    blocks = [Block(19, 0, 0), Block(19, 0, 1), Block(20, 7, 2**14)]
    keys, thumbs, vectors = _rows(300)
    block_of_row = np.array([blocks[row % 3] for row in range(300)])
    for start in (0, 150):
        for number, block in enumerate(blocks):
            rows = [row for row in range(start, start + 150) if row % 3 == number]
            store.append(block, keys[rows], thumbs[rows], vectors[rows])
    assert len(store.segments()) == 6
    order = np.random.default_rng(2).permutation(300)
    for reader in (store, open_store()):
        chunks = list(reader.gather(block_of_row[order], keys[order], chunk_rows=64))
        assert [len(chunk) for chunk in chunks] == [64, 64, 64, 64, 44]
        assert chunks[0].dtype == np.float32
        np.testing.assert_array_equal(np.concatenate(chunks), vectors[order])
        np.testing.assert_array_equal(_all(reader.gather_thumbs(block_of_row[order], keys[order])), thumbs[order])


def test_only_some_of_many_segments_stay_mapped(open_store, monkeypatch):
    monkeypatch.setattr("preflight.descriptors.descriptor_store._OPEN_MAPS", 3)
    store = open_store()
    keys, thumbs, vectors = _rows(12)
    for row in range(12):
        store.append(Block(19, row, 0), keys[row : row + 1], thumbs[row : row + 1], vectors[row : row + 1])
    blocks = np.array([(19, row, 0) for row in range(12)])
    np.testing.assert_array_equal(_all(store.gather(blocks, keys)), vectors)
    assert len(store._maps) == 3


def test_the_caller_may_change_the_chunks(open_store, segment):
    keys, _, vectors = _rows(40)
    store = open_store()
    for chunk in store.gather(_blocks((_BLOCK, 40)), keys):
        chunk[:] = 0
    np.testing.assert_array_equal(_all(store.gather(_blocks((_BLOCK, 40)), keys)), vectors)


def test_the_first_of_several_rows_with_the_same_key_is_kept(open_store):
    keys, thumbs, vectors = _rows(4)
    keys[2] = keys[0]
    store = open_store()
    store.append(_BLOCK, keys, thumbs, vectors)
    gathered = _all(store.gather(_blocks((_BLOCK, 4)), keys))
    np.testing.assert_array_equal(gathered, vectors[[0, 1, 0, 3]])


def test_keys_that_end_in_zeros_are_distinguished(open_store):
    keys, thumbs, vectors = _rows(3)
    keys[:] = 0
    keys[1, 30] = 1
    keys[2, 31] = 1
    store = open_store()
    store.append(_BLOCK, keys[[0, 2]], thumbs[[0, 2]], vectors[[0, 2]])
    assert store.lookup(_BLOCK, keys).tolist() == [True, False, True]
    np.testing.assert_array_equal(_all(store.gather(_blocks((_BLOCK, 2)), keys[[2, 0]])), vectors[[2, 0]])


def test_the_same_rows_in_another_order_are_the_same_file(open_store, segment):
    store = open_store()
    assert store.append(_BLOCK, *(rows[::-1] for rows in _rows(40))) == segment
    assert store.segments() == [segment]
    assert _all(store.gather(_blocks((_BLOCK, 40)), _rows(40)[0])).shape == (40, _DIM)


def test_no_rows_make_no_segment(open_store):
    store = open_store()
    assert store.append(_BLOCK, *_rows(0)) is None
    assert store.segments() == []
    assert list(store.gather(np.empty((0, 3), np.int64), _rows(0)[0])) == []
    assert store.lookup(_BLOCK, _rows(0)[0]).shape == (0,)


def test_a_missing_row_is_named_before_the_first_chunk(open_store, segment):
    keys = _rows(41, seed=0)[0]
    keys[:40] = _rows(40)[0]
    chunks = open_store().gather(_blocks((_BLOCK, 41)), keys, chunk_rows=1)
    with pytest.raises(DescriptorBatchError, match=keys[40].tobytes().hex()):
        next(chunks)


def test_spaces_are_separate(open_store, segment):
    other = open_store("cd" * 32)
    assert other.segments() == []
    assert not other.lookup(_BLOCK, _rows(40)[0]).any()


@pytest.mark.parametrize("at", [0, 8, 12, 16, 28, 36, 60, 130, 2000, -33, -32, -1])
def test_one_flipped_byte_is_found(open_store, segment, at):
    content = bytearray(segment.read_bytes())
    content[at] ^= 1
    segment.write_bytes(content)
    assert not open_store().check(segment)


@pytest.mark.parametrize("keep", [0, 1, 67, 68, 128, 5000, -32, -1])
def test_a_truncated_segment_is_found_and_refused_when_used(open_store, segment, keep):
    segment.write_bytes(segment.read_bytes()[:keep])
    store = open_store()
    assert not store.check(segment)
    with pytest.raises(DescriptorBatchError, match=segment.name):
        store.lookup(_BLOCK, _rows(40)[0])
    segment.unlink()
    store.forget()
    assert not store.lookup(_BLOCK, _rows(40)[0]).any()


def test_a_longer_a_missing_and_a_renamed_segment_are_found(open_store, segment):
    store = open_store()
    with segment.open("ab") as file:
        file.write(b"x")
    assert not store.check(segment)
    assert not store.check(segment.with_name("19-1-2-0000000000000000.seg"))
    segment.write_bytes(segment.read_bytes()[:-1])
    assert store.check(segment)
    moved = segment.rename(segment.with_name(segment.name.replace("19-1-2", "19-1-3")))
    assert not store.check(moved)
    again = moved.rename(moved.with_name("19-1-2-0000000000000000.seg"))
    assert not store.check(again)


def test_a_segment_of_another_space_is_refused(open_store, segment, tmp_path):
    foreign = tmp_path / ("cd" * 8) / segment.name
    foreign.parent.mkdir()
    foreign.write_bytes(segment.read_bytes())
    other = open_store("cd" * 32)
    assert not other.check(foreign)
    with pytest.raises(DescriptorBatchError, match="another descriptor space"):
        other.lookup(_BLOCK, _rows(40)[0])
    assert not open_store(dim=_DIM + 1).check(segment)


def test_other_files_are_ignored(open_store, segment):
    for name in ("19-1-2-aaaaaaaaaaaaaaaa.seg.tmp", "tmpabc", "19-1-2.seg", ".19-1-2-aaaaaaaaaaaaaaaa.seg"):
        (segment.parent / name).write_bytes(b"half")
    assert open_store().segments() == [segment]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda k, t, v: (k[:, :31], t, v),
        lambda k, t, v: (k, t[:, :255], v),
        lambda k, t, v: (k, t, v[:, :4]),
        lambda k, t, v: (k, t, v[:-1]),
        lambda k, t, v: (k, t[:0], v),
        lambda k, t, v: (k, t, v.astype(np.float64)),
        lambda k, t, v: (k.astype(np.int64), t, v),
    ],
)
def test_rows_of_other_shapes_are_refused(open_store, spoil):
    store = open_store()
    with pytest.raises(DescriptorBatchError):
        store.append(_BLOCK, *spoil(*_rows(3)))
    assert store.segments() == []


def test_keys_of_other_shapes_are_refused(open_store, segment):
    with pytest.raises(DescriptorBatchError):
        open_store().lookup(_BLOCK, np.zeros((2, 16), np.uint8))
    with pytest.raises(DescriptorBatchError, match="39 blocks"):
        list(open_store().gather(_blocks((_BLOCK, 39)), _rows(40)[0]))


@pytest.mark.parametrize(("space", "dim"), [("ab", 5), ("AB" * 32, 5), ("zz" * 32, 5), (_SPACE, 0)])
def test_a_space_is_64_hex_digits(open_store, space, dim):
    with pytest.raises(DescriptorBatchError):
        open_store(space, dim)


def test_a_failed_write_leaves_no_segment(tmp_path):
    def full(path, chunks):
        next(iter(chunks))
        raise OSError(28, "No space left on device")

    store = DescriptorStore(tmp_path, _SPACE, _DIM, full)
    with pytest.raises(OSError, match="No space"):
        store.append(_BLOCK, *_rows(3))
    assert store.segments() == []
    assert not store.lookup(_BLOCK, _rows(3)[0]).any()


_KILLED = """
import os, signal, sys
from pathlib import Path
import numpy
from preflight.descriptors.segment import Block
from preflight.descriptors.descriptor_store import DescriptorStore
def write(path, chunks):
    with path.with_name(path.name + ".tmp").open("wb", buffering=0) as file:
        for number, chunk in enumerate(chunks):
            if number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            file.write(chunk)
store = DescriptorStore(Path(sys.argv[1]), "ab" * 32, 5, write)
store.append(Block(19, 1, 2), numpy.ones((3, 32), "u1"), numpy.ones((3, 256), "u1"), numpy.ones((3, 5), "f4"))
"""


def test_a_kill_during_a_write_leaves_no_segment(tmp_path, open_store):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    killed = subprocess.run([sys.executable, "-c", _KILLED, tmp_path], check=False, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.rglob("*.tmp"))) == 1
    assert open_store().segments() == []
    assert not open_store().lookup(_BLOCK, np.ones((3, 32), np.uint8)).any()
