from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from preflight.descriptors.descriptor_store import DescriptorStore
from preflight.descriptors.segment import Block

_DIM = 3


def _write(path, chunks):
    path.write_bytes(b"".join(bytes(chunk) for chunk in chunks))


_KEYS = st.integers(0, 20).map(lambda number: bytes([number % 3]) + bytes(30) + bytes([number // 3]))
_APPENDS = st.lists(
    st.tuples(st.tuples(st.sampled_from([19, 20]), st.integers(0, 1), st.integers(0, 1)), st.lists(_KEYS, max_size=6)),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(_APPENDS, st.randoms(use_true_random=False), st.integers(1, 5))
def test_the_store_maps_block_and_key_to_the_row(appends, random, chunk_rows):
    with tempfile.TemporaryDirectory() as folder:
        store = DescriptorStore(Path(folder), "0f" * 32, _DIM, _write)
        expected: dict[tuple[tuple[int, int, int], bytes], bytes] = {}
        for block, names in appends:
            fresh = [name for name in dict.fromkeys(names) if (block, name) not in expected]
            keys = np.frombuffer(b"".join(fresh), np.uint8).reshape(-1, 32)
            vectors = np.array([[random.random() for _ in range(_DIM)] for _ in fresh], np.float32).reshape(-1, _DIM)
            thumbs = np.array([[random.randrange(256)] * 256 for _ in fresh], np.uint8).reshape(-1, 256)
            if len(keys):
                assert not store.lookup(Block(*block), keys).any()
            store.append(Block(*block), keys, thumbs, vectors)
            expected |= {(block, name): row.tobytes() for name, row in zip(fresh, vectors, strict=True)}
        order = list(expected)
        random.shuffle(order)
        blocks = np.array([block for block, _ in order], np.int64).reshape(-1, 3)
        keys = np.frombuffer(b"".join(name for _, name in order), np.uint8).reshape(-1, 32)
        for reader in (store, DescriptorStore(Path(folder), "0f" * 32, _DIM, _write)):
            rows = [row.tobytes() for chunk in reader.gather(blocks, keys, chunk_rows) for row in chunk]
            assert rows == [expected[entry] for entry in order]
            assert all(reader.check(path) for path in reader.segments())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255), st.integers(1, 4))
def test_a_change_of_any_byte_is_found(position, change, count):
    with tempfile.TemporaryDirectory() as folder:
        store = DescriptorStore(Path(folder), "0f" * 32, _DIM, _write)
        keys = np.arange(count * 32, dtype=np.uint8).reshape(count, 32)
        path = store.append(Block(1, 0, 0), keys, np.ones((count, 256), np.uint8), np.ones((count, _DIM), np.float32))
        content = bytearray(path.read_bytes())
        content[position % len(content)] ^= change
        path.write_bytes(content)
        assert not store.check(path)
