"""Keeps a thread's alternate signal stack unchanged while a library is used.

OpenVINO's CPU plug-in gives an alternate signal stack to the thread that loads it. The stack is just large enough for
the registers of a CPU with AMX. The plug-in frees it when it is unloaded, in any thread. Python's signal handlers run
on such a stack if there is one. On freed memory, SIGTERM would end the program as SIGSEGV, without any clean-up.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["kept_signal_stack", "signal_stack"]


class _Stack(ctypes.Structure):
    """stack_t of Linux (sigaltstack(2)). flags: SS_DISABLE, which is 2, if there is no stack."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def _now() -> _Stack:
    found = _Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
    return found


def signal_stack() -> tuple[int | None, int]:
    """Return the address and the size in bytes of this thread's alternate signal stack; (None, 0) if there is none."""
    found = _now()
    return found.pointer, found.size


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Restore the thread's alternate signal stack at the end of the block. If there was none, remove it."""
    before = _now()
    try:
        yield
    finally:
        ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)
