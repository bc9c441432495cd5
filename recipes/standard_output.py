"""Ends the run if standard output cannot be written: its reader ended (`doit provision | head`), it is full, or closed."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import NoReturn, TypeVar

T = TypeVar("T")

GONE = 128 + signal.SIGPIPE
UNREAD = 16  # the verifier's own status if its verdict cannot be written


def end_with_the_reader() -> None:
    """Guards standard output from now on. Calling it twice is harmless.

    If the reader has ended, the next line ends the run by SystemExit(128 + SIGPIPE), without a message. If a line cannot
    be written for another reason, such as a full disk, the run ends by SystemExit(UNREAD) with a sentence on standard
    error. A closed standard output ends the run the same way at once.

    doit then runs its teardowns, as after a signal: they keep finished work and stop the server. Their output is dropped.
    """
    stream = sys.stdout
    if stream is None:
        _end_unread("is closed; send it to a file, or to /dev/null")
    if stream is not sys.__stdout__ or not isinstance(stream, io.TextIOWrapper) or "write" in vars(stream):
        return  # a test's stream, or one that is guarded already
    # With line buffering a missing reader is noticed at the line, not when the interpreter ends.
    stream.reconfigure(line_buffering=True)
    # Replace the methods in place: doit keeps the stream object that it found at import.
    stream.write = _watched(stream.write, stream.fileno(), 0)  # type: ignore[method-assign]
    stream.flush = _watched(stream.flush, stream.fileno(), None)  # type: ignore[method-assign]


def _watched(act: Callable[..., T], number: int, lost: T) -> Callable[..., T]:
    @wraps(act)
    def watching(*arguments: str) -> T:
        try:
            return act(*arguments)
        except OSError as error:
            if threading.current_thread() is not threading.main_thread():
                return lost  # SystemExit would end only this thread; the main thread fails at its own next line
            _to_nowhere(number)
            if isinstance(error, BrokenPipeError):
                raise SystemExit(GONE) from None
            _end_unread(f"cannot be written: {error.strerror}; send it elsewhere, then run the command again")

    return watching


def _end_unread(why: str) -> NoReturn:
    with suppress(OSError):
        print(f"doit: standard output {why}", file=sys.stderr)  # noqa: T201 - the only place left
    raise SystemExit(UNREAD) from None


def _to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
