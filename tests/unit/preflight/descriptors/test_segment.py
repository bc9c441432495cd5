from __future__ import annotations

import numpy as np
import pytest

from preflight.descriptors.segment import (
    Block,
    Segment,
    Space,
    block_of,
    encode_segment,
    is_intact,
    is_segment_name,
    open_segment,
)
from preflight.errors import DescriptorBatchError

_SPACE = Space(bytes(range(32)), 3)
_BLOCK = Block(19, 1, 2)


@pytest.fixture
def written(tmp_path):
    keys = np.arange(64, dtype=np.uint8).reshape(2, 32)
    name, content = encode_segment(_SPACE, _BLOCK, keys, np.zeros((2, 256), np.uint8), np.ones((2, 3), np.float32))
    path = tmp_path / name
    path.write_bytes(b"".join(content))
    return path


def test_a_block_is_256_tiles_wide():
    assert block_of(19, 511, 512) == (19, 1, 2)


def test_a_written_segment_can_be_opened(written):
    assert is_segment_name(written.name)
    assert is_intact(written, _SPACE)
    segment = open_segment(written, _SPACE)
    assert segment == Segment(written, _BLOCK, 2, 3)
    content = written.read_bytes()
    assert content[segment.keys_at : segment.thumbs_at] == bytes(range(64))
    assert content[segment.thumbs_at : segment.vectors_at] == bytes(512)
    assert content[segment.vectors_at : segment.trailer_at] == np.ones(6, "<f4").tobytes()
    assert len(content) == segment.trailer_at + 32


@pytest.mark.parametrize("name", ["19-1-2.seg", "19-1-2-0123456789abcdef.seg.tmp", "19-1-2-0123456789ABCDEF.seg", ""])
def test_other_names_are_no_segment_names(name):
    assert not is_segment_name(name)


@pytest.mark.parametrize("space", [Space(bytes(32), 3), Space(_SPACE.digest, 4)])
def test_a_segment_of_another_space_is_refused(written, space):
    assert not is_intact(written, space)
    with pytest.raises(DescriptorBatchError, match="another descriptor space"):
        open_segment(written, space)
