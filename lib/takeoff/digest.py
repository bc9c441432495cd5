"""SHA-256 of open files: 256 KiB at a time, two threads, the file with most left to read first."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Callable, Generator, Mapping
from threading import Lock, Thread
from typing import TypeVar

CHUNK_BYTES = 256 * 1024

_Result = TypeVar("_Result")

Steps = Generator[int, None, _Result]
"""Work that can be laid down and taken up again: yields the bytes that each step read, returns the result."""


def sha256_steps(descriptor: int) -> Steps[str]:
    """The SHA-256 of what a descriptor gives from its present offset to the end, 64 hex digits. Raises OSError."""
    digest, left = hashlib.sha256(), os.fstat(descriptor).st_size
    buffer = bytearray(min(CHUNK_BYTES, left + 1))
    view = memoryview(buffer)
    # Of a file that grows meanwhile one read too many is hashed, and no more: it has another digest already.
    while left >= 0 and (count := os.readv(descriptor, [buffer])):
        digest.update(view[:count])
        left -= count
        yield count
    return digest.hexdigest()


def sha256_descriptor(descriptor: int) -> str:
    """The result of `sha256_steps`."""
    return largest_first({"": 0}, lambda _: sha256_steps(descriptor))[""]


def largest_first(sizes: Mapping[str, int], work: Callable[[str], Steps[_Result]]) -> dict[str, _Result]:
    """`work(name)` for every name -> bytes, on two threads. What it raises is raised here.

    A thread takes what has most bytes left, and lays it down after 1/64 of all bytes where that is not its end. So all takes
    as long as the largest file or half of the bytes, whichever is more, and a slice; and fewer than 64 files lie open besides
    the two in hand. The GIL is released while hashing.
    """
    # Names differ, so that two generators are never compared.
    waiting: list[tuple[int, str, Steps[_Result] | None]] = [(-size, name, None) for name, size in sizes.items()]
    heapq.heapify(waiting)
    slice_bytes = sum(sizes.values()) // 64
    results: dict[str, _Result] = {}
    raised: list[BaseException] = []
    lock = Lock()

    def drain() -> None:
        try:
            while not raised:
                with lock:
                    if not waiting:
                        return
                    left, name, begun = heapq.heappop(waiting)
                steps, pause = begun or work(name), left + slice_bytes
                try:
                    while left <= pause:
                        left += next(steps)
                    with lock:
                        heapq.heappush(waiting, (left, name, steps))
                except StopIteration as end:
                    results[name] = end.value
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            raised.append(error)

    helper = Thread(target=drain, daemon=True)
    helper.start()
    drain()
    # Not after a failure: it may be a time-out, and the helper may hang in a read for good.
    if not raised:
        helper.join()
    if raised:
        raise raised[0]
    return results
