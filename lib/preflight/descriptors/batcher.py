"""Computes descriptors of images in batches of a fixed size.

The size is fixed because it can change the last bits of a result; the last batch is therefore padded. While the engine
computes, a thread reads and decodes the next batch. A million images need the memory of only a few batches.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

from preflight.errors import DescriptorBatchError
from preflight.ports import Engine, OutOfDeviceMemory, QueueingEngine

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Preprocess = Callable[[Image], NDArray[np.float32]]

__all__ = ["EmbeddedBatch", "EngineBatcher", "thumbnail"]

KeyT = TypeVar("KeyT")
_NORM_TOLERANCE = 1e-3
_THUMB_SIDE = 16
# The queue is used only if it is filled at least this many times: its preparation does not pay for fewer batches.
_QUEUE_ROUNDS = 4
_LUMINANCE = (299, 587, 114)  # ITU-R BT.601, in thousandths


@dataclass(frozen=True, slots=True)
class EmbeddedBatch(Generic[KeyT]):
    """The descriptors of n images.

    Attributes:
        keys: the keys of the images.
        thumbs: (n, 256) uint8, the mean luminance of 16 x 16 areas.
        vectors: (n, dim) float32, L2-normalised.
    """

    keys: list[KeyT]
    thumbs: NDArray[np.uint8]
    vectors: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Decoded(Generic[KeyT]):
    keys: list[KeyT]
    thumbs: NDArray[np.uint8]
    pixels: NDArray[np.float32]


class EngineBatcher:
    """Embeds images with one engine. A `QueueingEngine` computes several batches concurrently.

    If the engine runs out of memory, the batch size is halved permanently, at most `max_oom_retries` times. If several
    batches are pending at that time, they are first computed again one at a time. This costs no retry and gives the
    same bits.

    Args:
        engine: an engine with one vector for each image in its only output, or in the output `output_name`.
        input_name: the name of the engine's image input.
        dim: length of a descriptor.
        batch_size: the number of images in a batch.
        preprocess: converts (H, W, 3) uint8 RGB to the engine's input for one image, (3, H, W) float32.
        output_name: the output with the descriptors; None if the engine has one output.
        max_oom_retries: how often the batch size may be halved.
        progress_callback: called with (done, total) after each tenth of the images. The same goes to the DEBUG log.
        logger: the logger; None for `preflight.descriptors`.

    Raises:
        DescriptorBatchError: batch_size or dim is below 1, or max_oom_retries is below 0.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        input_name: str,
        dim: int,
        batch_size: int,
        preprocess: Preprocess,
        output_name: str | None = None,
        max_oom_retries: int = 1,
        progress_callback: Callable[[int, int], None] | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        if batch_size < 1 or dim < 1 or max_oom_retries < 0:
            raise DescriptorBatchError(
                f"Invalid settings: batch_size {batch_size}, descriptor dimension {dim}, max_oom_retries "
                f"{max_oom_retries}. The first two must be at least 1, the last at least 0."
            )
        self._engine = engine
        self._queue = engine if isinstance(engine, QueueingEngine) and engine.depth > 1 else None
        self._input = input_name
        self._output = output_name
        self._dim = dim
        self._requested = batch_size
        self._batch = batch_size
        self._retries_left = max_oom_retries
        self._preprocess = preprocess
        self._progress = progress_callback
        self._logger = logging.getLogger("c10_provisioning.descriptor_batcher") if logger is None else logger

    @property
    def effective_batch_size(self) -> int:
        """The batch size in use. It is smaller than the requested size after the engine ran out of memory."""
        return self._batch

    def embed(self, items: Iterable[tuple[KeyT, Callable[[], Image]]], total: int) -> Iterator[EmbeddedBatch[KeyT]]:
        """Embed a stream of images, in order.

        An exception of `load` is raised here unchanged, after the batches before it were yielded. The decoding thread
        ends when this iterator ends or is closed.

        Args:
            items: pairs (key, load). `load` returns (H, W, 3) uint8 RGB and runs in the decoding thread. The caller's
                thread iterates over the stream.
            total: the expected number of images, for the progress.

        Yields:
            The descriptors of each batch.

        Raises:
            DescriptorBatchError: memory ran out after all allowed retries, or an output is no valid descriptor.
        """
        done = 0
        with ThreadPoolExecutor(1, "decode") as pool:
            if self._queue is not None and total < _QUEUE_ROUNDS * self._queue.depth * self._requested:
                self._queue = None
            for batch, vectors in self._inferred(self._decoded(pool, iter(items))):
                yield EmbeddedBatch(batch.keys, batch.thumbs, vectors)
                before, done = done, done + len(batch.keys)
                self._report(before, done, total)

    def _decoded(
        self, pool: ThreadPoolExecutor, source: Iterator[tuple[KeyT, Callable[[], Image]]]
    ) -> Iterator[_Decoded[KeyT]]:
        """Yield the decoded batches. The next batch is decoded while the caller uses the current one."""
        future = self._decode_next(pool, source)
        while future is not None:
            batch = future.result()
            future = self._decode_next(pool, source)
            yield batch

    def _inferred(self, batches: Iterator[_Decoded[KeyT]]) -> Iterator[tuple[_Decoded[KeyT], NDArray[np.float32]]]:
        """Yield each batch with its vectors, in order. Several batches are pending until memory runs out."""
        pending: deque[_Decoded[KeyT]] = deque()
        failure: Exception | None = None
        try:
            while self._queue is not None:
                try:
                    batch = next(batches, None)
                except Exception as error:  # noqa: BLE001 - raised below, after the batches before it
                    failure, batch = error, None
                if batch is None:
                    break
                pending.append(batch)
                if not self._submitted(batch) or len(pending) == self._queue.depth:
                    yield pending[0], self._collected(pending)
            while pending:
                yield pending[0], self._collected(pending)
        finally:
            if pending and self._queue is not None:
                self._queue.discard()
        if failure is not None:
            raise failure
        for batch in batches:
            yield batch, self._infer(batch.pixels)

    def _submitted(self, batch: _Decoded[KeyT]) -> bool:
        """Submit a batch to the queue. Returns False if memory ran out; the queue is not used any more then."""
        if self._queue is not None:
            try:
                self._queue.submit({self._input: _padded(batch.pixels, self._batch)})
            except OutOfDeviceMemory as error:
                self._one_at_a_time(error)
        return self._queue is not None

    def _collected(self, pending: deque[_Decoded[KeyT]]) -> NDArray[np.float32]:
        """Return the vectors of the oldest pending batch and remove it from `pending`."""
        pixels = pending[0].pixels
        vectors = None
        if self._queue is not None:
            try:
                vectors = self._descriptors(self._queue.collect())[: len(pixels)]
            except OutOfDeviceMemory as error:
                self._one_at_a_time(error)
        if vectors is None:
            vectors = self._infer(pixels)
        pending.popleft()
        return vectors

    def _one_at_a_time(self, error: OutOfDeviceMemory) -> None:
        if self._queue is not None:
            self._queue.discard()
            self._queue = None
        self._logger.warning(
            f"Out of memory with several batches in the engine ({error}): going on with one at a time.",
            extra={"event": "c10.descriptor.out_of_memory", "fields": {"batch_size": self._batch, "under_way": 1}},
        )

    def _decode_next(
        self, pool: ThreadPoolExecutor, source: Iterator[tuple[KeyT, Callable[[], Image]]]
    ) -> Future[_Decoded[KeyT]] | None:
        items = list(islice(source, self._requested))
        return pool.submit(self._decode, items) if items else None

    def _decode(self, items: list[tuple[KeyT, Callable[[], Image]]]) -> _Decoded[KeyT]:
        import numpy as np  # noqa: PLC0415 - heavy

        thumbs = np.empty((len(items), _THUMB_SIDE * _THUMB_SIDE), np.uint8)
        pixels: NDArray[np.float32] | None = None
        for row, (_, load) in enumerate(items):
            image = load()
            thumbs[row] = thumbnail(image)
            prepared = self._preprocess(image)
            if pixels is None:
                pixels = np.empty((len(items), *prepared.shape), prepared.dtype)
            pixels[row] = prepared
        if pixels is None:
            raise DescriptorBatchError("A batch without images cannot be decoded.")
        return _Decoded([key for key, _ in items], thumbs, pixels)

    def _infer(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        import numpy as np  # noqa: PLC0415 - heavy

        vectors = np.empty((len(pixels), self._dim), np.float32)
        done = 0
        while done < len(pixels):
            part = pixels[done : done + self._batch]
            try:
                outputs = self._engine.run({self._input: _padded(part, self._batch)})
            except OutOfDeviceMemory as error:
                self._halve(error)
                continue
            vectors[done : done + len(part)] = self._descriptors(outputs)[: len(part)]
            done += len(part)
        return vectors

    def _halve(self, error: OutOfDeviceMemory) -> None:
        if not self._retries_left or self._batch == 1:
            raise DescriptorBatchError(
                f"Out of memory with batches of {self._batch} tiles ({error}); the mission allows no further retry. "
                "Set descriptors.batch_size lower or max_oom_retries higher, or free memory."
            ) from error
        self._retries_left -= 1
        self._batch //= 2
        self._logger.warning(
            f"Out of memory: going on with batches of {self._batch} tiles.",
            extra={"event": "c10.descriptor.out_of_memory", "fields": {"batch_size": self._batch}},
        )

    def _descriptors(self, outputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        import numpy as np  # noqa: PLC0415 - heavy

        name = self._output if self._output is not None else next(iter(outputs)) if len(outputs) == 1 else None
        if name is None or name not in outputs:
            raise DescriptorBatchError(
                f"A descriptor backbone has one output{'' if self._output is None else f' named {self._output}'}, but "
                f"this engine has {sorted(outputs)}."
            )
        vectors = outputs[name]
        if vectors.shape != (self._batch, self._dim):
            raise DescriptorBatchError(
                f"The output {name} has the shape {vectors.shape}; expected ({self._batch}, {self._dim})."
            )
        norms = np.linalg.norm(vectors, axis=1)
        if not bool((np.abs(norms - 1.0) <= _NORM_TOLERANCE).all()):  # this form of the comparison also catches NaN
            worst = norms[int(np.argmax(np.where(np.isfinite(norms), np.abs(norms - 1.0), np.inf)))]
            raise DescriptorBatchError(
                f"The output {name} holds a vector of length {worst}, which is not finite or not L2-normalised. The "
                "backbone must end in an L2 normalisation."
            )
        return vectors

    def _report(self, before: int, done: int, total: int) -> None:
        if total <= 0 or done * 10 // total == before * 10 // total:
            return
        percent = min(done * 10 // total, 10) * 10
        self._logger.debug(
            f"Descriptors: {percent} % ({done} of {total}).",
            extra={"event": "c10.descriptor.progress", "fields": {"done": done, "total": total, "percent": percent}},
        )
        if self._progress is not None:
            self._progress(done, total)


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Compute the thumbnail of an image: the mean luminance (ITU-R BT.601) of 16 x 16 equal areas.

    All arithmetic is in integers, rounded down, so that the result is the same on every machine.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (256,) uint8, row by row.

    Raises:
        DescriptorBatchError: the image has another shape or type, or a side shorter than 16 pixels.
    """
    import numpy as np  # noqa: PLC0415 - heavy

    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < _THUMB_SIDE or image.dtype != np.uint8:
        raise DescriptorBatchError(
            f"An image must be (H, W, 3) uint8 with sides of at least {_THUMB_SIDE} pixels; it is {image.shape} "
            f"{image.dtype}."
        )
    edges = [np.arange(_THUMB_SIDE + 1) * side // _THUMB_SIDE for side in image.shape[:2]]
    red, green, blue = (image[..., channel].astype(np.int32) * _LUMINANCE[channel] for channel in range(3))
    sums = np.add.reduceat(red + green + blue, edges[0][:-1], axis=0, dtype=np.int64)
    sums = np.add.reduceat(sums, edges[1][:-1], axis=1)
    areas = np.diff(edges[0])[:, None] * np.diff(edges[1])[None, :]
    means: NDArray[np.uint8] = (sums // (areas * 1000)).astype(np.uint8)
    return means.reshape(-1)


def _padded(part: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Fill up the last batch with copies of its last image. Real values avoid degenerate computations."""
    import numpy as np  # noqa: PLC0415 - heavy

    if len(part) == size:
        return part
    return np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
