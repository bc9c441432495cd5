"""SHA-256 of open files: 256 KiB at a time, on two threads, the file with most bytes left first."""

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
"""Work that can pause and continue: yields the number of bytes that each step read, and returns the result."""


def sha256_steps(descriptor: int) -> Steps[str]:
    """Hashes an open file from its current offset to the end; returns 64 hex digits. Raises OSError."""
    digest, left = hashlib.sha256(), os.fstat(descriptor).st_size
    buffer = bytearray(min(CHUNK_BYTES, left + 1))
    view = memoryview(buffer)
    # A file that grows meanwhile costs one read too many at most: its digest differs already.
    while left >= 0 and (count := os.readv(descriptor, [buffer])):
        digest.update(view[:count])
        left -= count
        yield count
    return digest.hexdigest()


def sha256_descriptor(descriptor: int) -> str:
    """Returns the result of `sha256_steps`."""
    return largest_first({"": 0}, lambda _: sha256_steps(descriptor))[""]


def largest_first(sizes: Mapping[str, int], work: Callable[[str], Steps[_Result]]) -> dict[str, _Result]:
    """Runs `work(name)` for every name on two threads; returns name -> result. Raises what `work` raises.

    sizes: name -> bytes. A thread takes the name with most bytes left and pauses it after 1/64 of all bytes. So the
    whole takes as long as the largest file or half of the bytes, whichever is more, plus one slice. Fewer than 64 files
    are open besides the two in work. The GIL is released while hashing.
    """
    # Names differ, so two generators are never compared.
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
    # Not after a failure: it may be a time-out, and the helper may hang in a read for ever.
    if not raised:
        helper.join()
    if raised:
        raise raised[0]
    return results
