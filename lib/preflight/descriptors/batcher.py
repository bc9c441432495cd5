"""Tiles to descriptors, in batches of one fixed size.

The size is fixed because it can change the last bits of a result: the last batch is padded. While batches are in the
engine the next is read and decoded by a thread, so that a million tiles stream through the memory of a few batches.
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

__all__ = ["DescriptorBatcher", "EmbeddedBatch", "thumbnail"]

KeyT = TypeVar("KeyT")
_NORM_TOLERANCE = 1e-3
_THUMB_SIDE = 16
# A queue is filled so many times at least: an engine gets itself ready for it, which few batches would not pay for.
_QUEUE_ROUNDS = 4
_LUMINANCE = (299, 587, 114)  # ITU-R BT.601, in thousandths


@dataclass(frozen=True, slots=True)
class EmbeddedBatch(Generic[KeyT]):
    """Descriptors of some tiles. thumbs: (n, 256) uint8, 16 x 16 luminance. vectors: (n, dim) float32, L2-normalised."""

    keys: list[KeyT]
    thumbs: NDArray[np.uint8]
    vectors: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Decoded(Generic[KeyT]):
    keys: list[KeyT]
    thumbs: NDArray[np.uint8]
    pixels: NDArray[np.float32]


class DescriptorBatcher:
    """Embeds images through one engine, several batches at a time where it takes them so.

    engine: gives one vector an image under its only output, or under `output_name`. input_name: of its image input.
    dim: of a descriptor. preprocess: (H, W, 3) uint8 RGB -> what the engine takes for one image, float32 (3, H, W).
    batch_size: halved at most `max_oom_retries` times when the engine runs out of memory, for good. Where several batches
    were under way, they are first computed again one at a time, which costs no retry and changes no bit.
    progress_callback: called with (done, total) each time another tenth is done; the same is a DEBUG log.
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
                f"batch_size {batch_size}, descriptor dimension {dim} and max_oom_retries {max_oom_retries} must be "
                "positive (the last may be 0)."
            )
        self._engine = engine
        self._queue = engine if isinstance(engine, QueueingEngine) and engine.depth > 1 else None
        self._input = input_name
        self._output = output_name
        self._dim = dim
        self._asked = batch_size
        self._batch = batch_size
        self._retries_left = max_oom_retries
        self._preprocess = preprocess
        self._progress = progress_callback
        self._logger = logging.getLogger("preflight.descriptors") if logger is None else logger

    @property
    def effective_batch_size(self) -> int:
        """The size in use: smaller than asked once memory ran out."""
        return self._batch

    def embed(self, items: Iterable[tuple[KeyT, Callable[[], Image]]], total: int) -> Iterator[EmbeddedBatch[KeyT]]:
        """Embed a stream of images, in order.

        items: (key, load); load returns (H, W, 3) uint8 and runs in a thread of its own, the stream itself is read in
        the caller's. total: how many there will be, for the progress. What load raises is raised here as it is, after
        the batches before it. The thread has ended when this iterator has, or is closed.

        Raises:
            DescriptorBatchError: out of memory also after the allowed retries, or an output that is no descriptor.
        """
        done = 0
        with ThreadPoolExecutor(1, "decode") as pool:
            if self._queue is not None and total < _QUEUE_ROUNDS * self._queue.depth * self._asked:
                self._queue = None
            for batch, vectors in self._inferred(self._decoded(pool, iter(items))):
                yield EmbeddedBatch(batch.keys, batch.thumbs, vectors)
                before, done = done, done + len(batch.keys)
                self._report(before, done, total)

    def _decoded(
        self, pool: ThreadPoolExecutor, source: Iterator[tuple[KeyT, Callable[[], Image]]]
    ) -> Iterator[_Decoded[KeyT]]:
        """The batches, each decoded while the one before it is used."""
        waiting = self._decode_next(pool, source)
        while waiting is not None:
            batch = waiting.result()
            waiting = self._decode_next(pool, source)
            yield batch

    def _inferred(self, batches: Iterator[_Decoded[KeyT]]) -> Iterator[tuple[_Decoded[KeyT], NDArray[np.float32]]]:
        """Each batch with its vectors, in order; several under way until memory runs out."""
        under_way: deque[_Decoded[KeyT]] = deque()
        failure: Exception | None = None
        try:
            while self._queue is not None:
                try:
                    batch = next(batches, None)
                except Exception as error:  # noqa: BLE001 - raised below, after the batches before it
                    failure, batch = error, None
                if batch is None:
                    break
                under_way.append(batch)
                if not self._submitted(batch) or len(under_way) == self._queue.depth:
                    yield under_way[0], self._collected(under_way)
            while under_way:
                yield under_way[0], self._collected(under_way)
        finally:
            if under_way and self._queue is not None:
                self._queue.discard()
        if failure is not None:
            raise failure
        for batch in batches:
            yield batch, self._infer(batch.pixels)

    def _submitted(self, batch: _Decoded[KeyT]) -> bool:
        """Start a batch; False where memory ran out, which ends the queue."""
        if self._queue is not None:
            try:
                self._queue.submit({self._input: _padded(batch.pixels, self._batch)})
            except OutOfDeviceMemory as error:
                self._one_at_a_time(error)
        return self._queue is not None

    def _collected(self, under_way: deque[_Decoded[KeyT]]) -> NDArray[np.float32]:
        """The vectors of the batch that is under way the longest, which then no longer is."""
        pixels = under_way[0].pixels
        vectors = None
        if self._queue is not None:
            try:
                vectors = self._descriptors(self._queue.collect())[: len(pixels)]
            except OutOfDeviceMemory as error:
                self._one_at_a_time(error)
        if vectors is None:
            vectors = self._infer(pixels)
        under_way.popleft()
        return vectors

    def _one_at_a_time(self, error: OutOfDeviceMemory) -> None:
        if self._queue is not None:
            self._queue.discard()
            self._queue = None
        self._logger.warning(
            f"Out of memory with several batches under way ({error}): going on with one at a time.",
            extra={"event": "out_of_memory", "fields": {"batch_size": self._batch, "under_way": 1}},
        )

    def _decode_next(
        self, pool: ThreadPoolExecutor, source: Iterator[tuple[KeyT, Callable[[], Image]]]
    ) -> Future[_Decoded[KeyT]] | None:
        items = list(islice(source, self._asked))
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
                pixels = np.empty((len(items), *prepared.shape), np.float32)
            pixels[row] = prepared
        if pixels is None:
            raise DescriptorBatchError("A batch without images cannot be embedded.")
        return _Decoded([key for key, _ in items], thumbs, pixels)

    def _infer(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        import numpy as np  # noqa: PLC0415 - heavy

        vectors = np.empty((len(pixels), self._dim), np.float32)
        at = 0
        while at < len(pixels):
            part = pixels[at : at + self._batch]
            try:
                outputs = self._engine.run({self._input: _padded(part, self._batch)})
            except OutOfDeviceMemory as error:
                self._halve(error)
                continue
            vectors[at : at + len(part)] = self._descriptors(outputs)[: len(part)]
            at += len(part)
        return vectors

    def _halve(self, error: OutOfDeviceMemory) -> None:
        if not self._retries_left or self._batch == 1:
            raise DescriptorBatchError(
                f"Out of memory with batches of {self._batch} tiles ({error}), after the retries the mission allows. "
                "Set descriptors.batch_size lower, or max_oom_retries higher, or free memory."
            ) from error
        self._retries_left -= 1
        self._batch //= 2
        self._logger.warning(
            f"Out of memory: going on with batches of {self._batch} tiles.",
            extra={"event": "out_of_memory", "fields": {"batch_size": self._batch}},
        )

    def _descriptors(self, outputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        import numpy as np  # noqa: PLC0415 - heavy

        name = self._output if self._output is not None else next(iter(outputs)) if len(outputs) == 1 else None
        if name is None or name not in outputs:
            raise DescriptorBatchError(
                f"A descriptor backbone has one output{'' if self._output is None else f' named {self._output}'}; this "
                f"engine has {sorted(outputs)}."
            )
        vectors = outputs[name]
        if vectors.shape != (self._batch, self._dim):
            raise DescriptorBatchError(
                f"The output {name} has the shape {vectors.shape}, not ({self._batch}, {self._dim})."
            )
        norms = np.linalg.norm(vectors, axis=1)
        if not bool((np.abs(norms - 1.0) <= _NORM_TOLERANCE).all()):  # so written that NaN fails
            worst = norms[int(np.argmax(np.where(np.isfinite(norms), np.abs(norms - 1.0), np.inf)))]
            raise DescriptorBatchError(
                f"The output {name} holds a vector of length {worst}: not finite, or not L2-normalised. The backbone "
                "must end in an L2 normalisation."
            )
        return vectors

    def _report(self, before: int, done: int, total: int) -> None:
        if total <= 0 or done * 10 // total == before * 10 // total:
            return
        percent = min(done * 10 // total, 10) * 10
        self._logger.debug(
            f"Descriptors: {percent} % ({done} of {total}).",
            extra={"event": "descriptor_progress", "fields": {"done": done, "total": total, "percent": percent}},
        )
        if self._progress is not None:
            self._progress(done, total)


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mean luminance of 16 x 16 equal fields, row by row: (H, W, 3) uint8 -> (256,) uint8.

    Luminance as ITU-R BT.601 weighs R, G and B. Whole numbers throughout, rounded down: the same on every machine.

    Raises:
        DescriptorBatchError: not (H, W, 3) uint8 with sides of at least 16.
    """
    import numpy as np  # noqa: PLC0415 - heavy

    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < _THUMB_SIDE or image.dtype != np.uint8:
        raise DescriptorBatchError(
            f"A tile's image is (H, W, 3) uint8 with sides of at least {_THUMB_SIDE}, not {image.shape} {image.dtype}."
        )
    edges = [np.arange(_THUMB_SIDE + 1) * side // _THUMB_SIDE for side in image.shape[:2]]
    red, green, blue = (image[..., channel].astype(np.int32) * _LUMINANCE[channel] for channel in range(3))
    sums = np.add.reduceat(red + green + blue, edges[0][:-1], axis=0, dtype=np.int64)
    sums = np.add.reduceat(sums, edges[1][:-1], axis=1)
    areas = np.diff(edges[0])[:, None] * np.diff(edges[1])[None, :]
    means: NDArray[np.uint8] = (sums // (areas * 1000)).astype(np.uint8)
    return means.reshape(-1)


def _padded(part: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The last batch filled up with its last image: real values, so that nothing degenerate runs beside them."""
    import numpy as np  # noqa: PLC0415 - heavy

    if len(part) == size:
        return part
    return np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
