"""Standard output that nobody can read: its reader has gone, as in `doit provision | head`, or it takes nothing, or is closed."""

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
UNREAD = 16  # as the verifier ends where nobody can read its verdict


def end_with_the_reader() -> None:
    """From here on a line that nobody reads any more ends the run by SystemExit(128 + SIGPIPE), without a word. Idempotent.

    A line that cannot be written for another reason, such as a full disk, ends it by SystemExit(UNREAD), with a sentence on
    standard error; so does, at once, a standard output that is closed.

    doit then runs its teardowns, which keep finished work and stop the server, as at a signal. What these say goes nowhere.
    """
    stream = sys.stdout
    if stream is None:
        _end_unread("is closed; send it to a file, or to /dev/null")
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
        except OSError as error:
            if threading.current_thread() is not threading.main_thread():
                return lost  # SystemExit would end this thread alone: the main one meets the same with its next line
            _to_nowhere(number)
            if isinstance(error, BrokenPipeError):
                raise SystemExit(GONE) from None
            _end_unread(f"cannot be written: {error.strerror}; give it another place, then run the command again")

    return watching


def _end_unread(why: str) -> NoReturn:
    with suppress(OSError):
        print(f"doit: standard output {why}", file=sys.stderr)  # noqa: T201 - the only place left
    raise SystemExit(UNREAD) from None


def _to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
