from __future__ import annotations

import logging
import threading

import numpy as np
import pytest

from preflight.descriptors.batcher import EngineBatcher, thumbnail
from preflight.errors import DescriptorBatchError, TileContentError
from preflight.ports import OutOfDeviceMemory

_DIM = 4


class _Mean:
    """An engine that returns four moments of each image, L2-normalised. It runs out of memory above `limit` images."""

    def __init__(self, limit=1000, spoil=None):
        self.limit = limit
        self.spoil = spoil
        self.batches = []

    def run(self, inputs):
        images = inputs["image"]
        self.batches.append(len(images))
        if len(images) > self.limit:
            raise OutOfDeviceMemory("too many")
        flat = images.reshape(len(images), -1)
        vectors = np.stack([flat.mean(1), flat.std(1), flat.max(1), np.ones(len(flat))], axis=1).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return {"descriptor": vectors} if self.spoil is None else self.spoil(vectors)

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass


class _Queue(_Mean):
    """The same engine with a queue of three batches. It runs out of memory with more than `room` batches."""

    depth = 3

    def __init__(self, room=3, **more):
        super().__init__(**more)
        self.room = room
        self.pending = []
        self.most = 0

    def submit(self, inputs):
        assert len(self.pending) < self.depth
        if len(self.pending) == self.room:
            raise OutOfDeviceMemory("no room")
        self.pending.append(inputs)
        self.most = max(self.most, len(self.pending))

    def collect(self):
        return super().run(self.pending.pop(0))

    def discard(self):
        self.pending.clear()

    def run(self, inputs):
        assert not self.pending
        return super().run(inputs)


def _preprocess(image):
    return image.transpose(2, 0, 1).astype(np.float32)


def _image(number):
    return np.random.default_rng(number).integers(0, 256, size=(20, 33, 3), dtype=np.uint8)


def _items(count):
    return [(number, lambda number=number: _image(number)) for number in range(count)]


def _batcher(engine, **changes):
    values = {"input_name": "image", "dim": _DIM, "batch_size": 8, "preprocess": _preprocess}
    return EngineBatcher(engine, **(values | changes))


def _collect(batches):
    batches = list(batches)
    keys = [key for batch in batches for key in batch.keys]
    return keys, np.concatenate([b.thumbs for b in batches]), np.concatenate([b.vectors for b in batches])


def _decoders():
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert _decoders() == []


def test_vectors_come_in_the_order_of_the_images():
    engine = _Mean()
    keys, thumbs, vectors = _collect(_batcher(engine).embed(_items(19), 19))
    assert keys == list(range(19))
    assert engine.batches == [8, 8, 8]
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(thumbs, np.stack([thumbnail(_image(number)) for number in range(19)]))
    expected = _Mean().run({"image": np.stack([_preprocess(_image(number)) for number in range(19)])})["descriptor"]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_no_images_give_no_batches():
    assert list(_batcher(_Mean()).embed([], 0)) == []


def test_out_of_memory_halves_the_batch_size_permanently(caplog):
    engine = _Mean(limit=4)
    batcher = _batcher(engine)
    keys, _, vectors = _collect(batcher.embed(_items(19), 19))
    assert engine.batches == [8, 4, 4, 4, 4, 4]
    assert batcher.effective_batch_size == 4
    assert keys == list(range(19))
    np.testing.assert_allclose(vectors, _collect(_batcher(_Mean()).embed(_items(19), 19))[2], atol=1e-6)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(("limit", "retries", "batches"), [(2, 1, [8, 4]), (4, 0, [8]), (0, 9, [8, 4, 2, 1])])
def test_out_of_memory_after_the_allowed_retries_is_an_error(limit, retries, batches):
    engine = _Mean(limit=limit)
    with pytest.raises(DescriptorBatchError, match="Out of memory") as caught:
        list(_batcher(engine, max_oom_retries=retries).embed(_items(3), 3))
    assert engine.batches == batches
    assert isinstance(caught.value.__cause__, OutOfDeviceMemory)


def test_more_retries_allow_smaller_batches():
    engine = _Mean(limit=2)
    assert len(_collect(_batcher(engine, max_oom_retries=2).embed(_items(5), 5))[0]) == 5
    assert engine.batches == [8, 4, 2, 2, 2]


def _queued(engine, **changes):
    """A batcher with small batches, so that there are enough of them for a queue."""
    return _batcher(engine, batch_size=2, **changes)


@pytest.mark.parametrize("count", [24, 25, 71])
def test_queued_batches_give_the_same_bits_as_single_ones(count):
    engine = _Queue()
    batches = list(_queued(engine).embed(_items(count), count))
    assert engine.most == 3
    assert engine.pending == []
    assert [key for batch in batches for key in batch.keys] == list(range(count))
    single = list(_queued(_Mean()).embed(_items(count), count))
    for batch, other in zip(batches, single, strict=True):
        np.testing.assert_array_equal(batch.vectors, other.vectors)
        np.testing.assert_array_equal(batch.thumbs, other.thumbs)


@pytest.mark.parametrize(("count", "depth"), [(23, 3), (1, 3), (0, 3), (60, 1)])
def test_the_queue_is_not_used_for_few_batches_or_with_depth_one(count, depth):
    engine = _Queue()
    engine.depth = depth
    assert sum(len(batch.keys) for batch in _queued(engine).embed(_items(count), count)) == count
    assert engine.most == 0


def test_fewer_images_than_the_given_total_are_embedded():
    engine = _Queue()
    assert _collect(_queued(engine).embed(_items(3), 100))[0] == [0, 1, 2]
    assert list(_queued(_Queue()).embed([], 100)) == []


@pytest.mark.parametrize("room", [0, 1, 2])
def test_out_of_memory_in_the_queue_continues_one_at_a_time_with_the_same_bits(room, caplog):
    engine = _Queue(room=room)
    batcher = _queued(engine, max_oom_retries=0)
    embedded = _collect(batcher.embed(_items(40), 40))
    expected = _collect(_queued(_Mean()).embed(_items(40), 40))
    assert embedded[0] == expected[0]
    np.testing.assert_array_equal(embedded[2], expected[2])
    assert batcher.effective_batch_size == 2
    assert engine.pending == []
    (record,) = caplog.records
    assert (record.levelname, record.event) == ("WARNING", "c10.descriptor.out_of_memory")
    assert record.fields == {"batch_size": 2, "under_way": 1}


def test_out_of_memory_while_collecting_halves_the_batch_size():
    engine = _Queue(limit=1)
    keys, _, vectors = _collect(_queued(engine).embed(_items(40), 40))
    # The first batch fails in the queue, then alone. Then the batch size is halved permanently.
    assert engine.batches == [2, 2, *[1] * 40]
    assert keys == list(range(40))
    np.testing.assert_allclose(vectors, _collect(_queued(_Mean()).embed(_items(40), 40))[2], atol=1e-6)
    with pytest.raises(DescriptorBatchError, match="Out of memory"):
        list(_queued(_Queue(limit=1), max_oom_retries=0).embed(_items(40), 40))


def test_a_failing_load_ends_a_queue_after_the_batches_before():
    def broken():
        raise TileContentError("tile 20 is broken")

    engine, items = _Queue(), _items(40)
    items[20] = (20, broken)
    batches = _queued(engine).embed(items, 40)
    assert [next(batches).keys[0] for _ in range(10)] == list(range(0, 20, 2))
    with pytest.raises(TileContentError, match="tile 20"):
        next(batches)
    assert engine.pending == []


@pytest.mark.parametrize("end", ["closed", "invalid"])
def test_ending_early_leaves_no_batch_pending(end):
    engine = _Queue(spoil=(lambda vectors: {"descriptor": vectors * 0}) if end == "invalid" else None)
    batches = _queued(engine).embed(_items(100), 100)
    if end == "invalid":
        with pytest.raises(DescriptorBatchError, match="L2"):
            next(batches)
    else:
        next(batches)
        assert len(engine.pending) == 2
        batches.close()
    assert engine.pending == []


def _nan(vectors):
    vectors[0, 0] = np.nan
    return {"descriptor": vectors}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_nan, "finite"),
        (lambda vectors: {"descriptor": vectors * np.float32(1.01)}, "L2"),
        (lambda vectors: {"descriptor": vectors * 0}, "L2"),
        (lambda vectors: {"descriptor": vectors[:, :3]}, "shape"),
        (lambda vectors: {"descriptor": vectors[:-1]}, "shape"),
        (lambda vectors: {"a": vectors, "b": vectors}, "one output"),
        (lambda _: {}, "one output"),
    ],
    ids=["nan", "long", "zero", "dim", "rows", "two outputs", "no output"],
)
def test_an_invalid_output_is_an_error(spoil, message):
    with pytest.raises(DescriptorBatchError, match=message):
        list(_batcher(_Mean(spoil=spoil)).embed(_items(3), 3))


def test_output_name_selects_one_of_several_outputs():
    engine = _Mean(spoil=lambda vectors: {"tokens": vectors[:, :1], "descriptor": vectors})
    assert len(_collect(_batcher(engine, output_name="descriptor").embed(_items(3), 3))[0]) == 3
    with pytest.raises(DescriptorBatchError, match="named other"):
        list(_batcher(engine, output_name="other").embed(_items(3), 3))


def test_progress_is_reported_after_each_tenth(caplog):
    reported = []
    caplog.set_level(logging.DEBUG, "c10_provisioning.descriptor_batcher")
    batcher = _batcher(_Mean(), batch_size=3, progress_callback=lambda done, total: reported.append((done, total)))
    list(batcher.embed(_items(100), 100))
    tenths = [done * 10 // 100 for done, _ in reported]
    assert tenths == list(range(1, 11))
    assert reported[-1] == (100, 100)
    assert [(r.levelname, r.event, r.fields) for r in caplog.records] == [
        ("DEBUG", "c10.descriptor.progress", {"done": done, "total": 100, "percent": tenth * 10})
        for (done, _), tenth in zip(reported, tenths, strict=True)
    ]


def test_a_failing_load_ends_the_stream_after_the_batches_before():
    def broken():
        raise TileContentError("tile 10 is broken")

    items = _items(20)
    items[10] = (10, broken)
    batches = _batcher(_Mean()).embed(items, 20)
    assert next(batches).keys == list(range(8))
    with pytest.raises(TileContentError, match="tile 10"):
        next(batches)


def test_a_keyboard_interrupt_is_raised():
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(_batcher(_Mean(spoil=interrupt)).embed(_items(30), 30))


def test_closing_early_ends_the_decoding_thread():
    batches = _batcher(_Mean()).embed(_items(100), 100)
    next(batches)
    assert len(_decoders()) == 1
    batches.close()
    assert _decoders() == []


def test_the_stream_is_read_in_the_callers_thread_and_at_most_two_batches_ahead():
    read, threads, loaders = [], set(), set()

    def load(number):
        loaders.add(threading.current_thread().name)
        return _image(number)

    def stream():
        for number in range(100):
            read.append(number)
            threads.add(threading.current_thread())
            yield number, lambda number=number: load(number)

    batches = _batcher(_Mean()).embed(stream(), 100)
    next(batches)
    assert len(read) == 16
    assert threads == {threading.current_thread()}
    assert all(name.startswith("decode") for name in loaders)
    batches.close()


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"dim": 0}, {"max_oom_retries": -1}])
def test_invalid_settings_are_refused(bad):
    with pytest.raises(DescriptorBatchError):
        _batcher(_Mean(), **bad)


def test_a_thumbnail_is_the_mean_luminance_of_its_areas():
    image = np.random.default_rng(1).integers(0, 256, size=(64, 48, 3), dtype=np.uint8)
    luminance = image.astype(np.float64) @ [0.299, 0.587, 0.114]
    expected = np.floor(luminance.reshape(16, 4, 16, 3).mean(axis=(1, 3)) + 1e-9).reshape(-1)
    np.testing.assert_array_equal(thumbnail(image), expected)


@pytest.mark.parametrize("level", [0, 1, 128, 255])
@pytest.mark.parametrize("shape", [(16, 16), (17, 31), (256, 256), (255, 1000)])
def test_the_thumbnail_of_a_uniform_grey_is_that_grey(level, shape):
    assert (thumbnail(np.full((*shape, 3), level, np.uint8)) == level).all()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((15, 16, 3), np.uint8),
        np.zeros((16, 16, 4), np.uint8),
        np.zeros((16, 16), np.uint8),
        np.zeros((16, 16, 3)),
    ],
)
def test_thumbnail_refuses_an_invalid_image(image):
    with pytest.raises(DescriptorBatchError):
        thumbnail(image)
