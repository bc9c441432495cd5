"""The stack that signals of a thread are handled on, kept as it was while a library is let in.

OpenVINO's CPU plug-in gives the thread that loads it an alternate signal stack, just large enough for the registers of a CPU with
AMX, and frees it when it goes, in whichever thread that happens. Python's handlers run on such a stack where there is one: on
freed memory, SIGTERM would end the program as SIGSEGV, with nothing tidied up.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["kept_signal_stack", "signal_stack"]


class _Stack(ctypes.Structure):
    """stack_t of Linux (sigaltstack(2)). flags: SS_DISABLE, 2, where there is none."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def _now() -> _Stack:
    found = _Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
    return found


def signal_stack() -> tuple[int | None, int]:
    """Where this thread's alternate signal stack lies, and its size; (None, 0) where there is none."""
    found = _now()
    return found.pointer, found.size


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Give the thread back the alternate signal stack that it had before the block, or none."""
    before = _now()
    try:
        yield
    finally:
        ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)
