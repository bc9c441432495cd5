"""SHA-256 of open files: 256 KiB at a time, two threads, the largest file first."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from threading import Thread
from typing import TypeVar

CHUNK_BYTES = 256 * 1024
THREADS = 2

_Result = TypeVar("_Result")


def sha256_descriptor(descriptor: int) -> str:
    """The SHA-256 of what a descriptor gives from its present offset to the end, 64 hex digits. Raises OSError."""
    digest = hashlib.sha256()
    buffer = bytearray(min(CHUNK_BYTES, os.fstat(descriptor).st_size + 1))
    view = memoryview(buffer)
    while count := os.readv(descriptor, [buffer]):
        digest.update(view[:count])
    return digest.hexdigest()


def largest_first(
    sizes: Sequence[tuple[str, int]], work: Callable[[str], _Result], threads: int = THREADS
) -> dict[str, _Result]:
    """`work(name)` for every (name, bytes), the largest first, on `threads` threads. What `work` raises is raised here.

    The GIL is released while hashing, so two threads are bounded by the larger of the largest file and half of all.
    """
    # One list iterator feeds all threads: its next() is a single step under the GIL.
    queue = iter(sorted(sizes, key=lambda item: item[1], reverse=True))
    results: dict[str, _Result] = {}
    raised: list[BaseException] = []

    def drain() -> None:
        try:
            for name, _ in queue:
                if raised:
                    return
                results[name] = work(name)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            raised.append(error)

    helpers = [Thread(target=drain, daemon=True) for _ in range(min(threads, len(sizes)) - 1)]
    for helper in helpers:
        helper.start()
    drain()
    for helper in helpers:
        # Not after a failure: it may be a time-out, and a helper may hang in a read for good.
        if not raised:
            helper.join()
    if raised:
        raise raised[0]
    return results
