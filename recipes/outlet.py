"""Standard output when its reader has gone, as in `doit provision | head`."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

T = TypeVar("T")

GONE = 128 + signal.SIGPIPE


def end_with_the_reader() -> None:
    """From here on a line that nobody reads any more ends the run by SystemExit(128 + SIGPIPE), without a word. Idempotent.

    doit then runs its teardowns, which keep finished work and stop the server, as at a signal. What these say goes nowhere.
    """
    stream = sys.stdout
    if stream is not sys.__stdout__ or not isinstance(stream, io.TextIOWrapper) or "write" in vars(stream):
        return  # a test's, say; or ours already
    # Line by line: a reader that has gone is met where something is told, not when the interpreter ends.
    stream.reconfigure(line_buffering=True)
    # In place, since doit keeps the stream it found when it was imported.
    stream.write = _watched(stream.write, stream.fileno(), 0)  # type: ignore[method-assign]
    stream.flush = _watched(stream.flush, stream.fileno(), None)  # type: ignore[method-assign]


def _watched(act: Callable[..., T], number: int, lost: T) -> Callable[..., T]:
    @wraps(act)
    def watching(*arguments: str) -> T:
        try:
            return act(*arguments)
        except BrokenPipeError:
            if threading.current_thread() is not threading.main_thread():
                return lost  # SystemExit would end this thread alone: the main one meets the same with its next line
            _to_nowhere(number)
            raise SystemExit(GONE) from None

    return watching


def _to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
