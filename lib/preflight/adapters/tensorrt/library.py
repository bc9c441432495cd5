"""The two libraries one adapter drives, what they say, and how what they say is kept.

TensorRT says no by returning None or False; the reason goes to an error recorder where one is attached, else to the
logger. Both end in `Words` here.
"""

from __future__ import annotations

import importlib
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from preflight.errors import EngineBuildError

__all__ = ["TENSORRT", "TENSORRT_RTX", "TensorRtLibrary", "Words", "capturing_logger", "error_recorder", "release"]

_KEPT = 40  # lines; a failed build rarely says more than ten
# Said of a tactic that was left out because it did not fit the workspace: the build goes on with another.
_NO_FAILURE = re.compile(r"[Ss]kipping tactic", re.ASCII)
_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemory|OutOfDeviceMemory|FAILED_ALLOCATION|[Ff]ailed to allocate|bad_alloc", re.ASCII
)
_LOUD = frozenset({"INTERNAL_ERROR", "ERROR", "WARNING"})


@dataclass(frozen=True, slots=True)
class TensorRtLibrary:
    """One library with TensorRT's Python interface.

    module: what is imported. title: what messages call it. builds_without_device: whether its builder works on a machine
    without a GPU. keeps_timings: whether a timing cache means anything to it.
    """

    module: str
    title: str
    builds_without_device: bool
    keeps_timings: bool

    def imported(self, promised: str | None = None) -> Any:  # noqa: ANN401 - TensorRT ships no types
        """The module.

        promised: the release engine names carry, as the installer records it; None to take any.

        Raises:
            EngineBuildError: it is not there, which says how to get it, or is of another release.
        """
        try:
            module = importlib.import_module(self.module)
        except (ImportError, OSError) as error:
            raise EngineBuildError(
                f"{self.title} cannot be imported ({error}). Run pip install -e '.[gpu,tensorrt]'; on a Jetson, make the "
                "environment with --system-site-packages, so that JetPack's own is found."
            ) from error
        if promised is not None and release(module.__version__) != promised:
            raise EngineBuildError(
                f"{self.title} is recorded as {promised}, but what is imported is {module.__version__}. Keep one of them "
                "installed."
            )
        return module


TENSORRT = TensorRtLibrary("tensorrt", "TensorRT", builds_without_device=False, keeps_timings=True)
# Its timing cache calls are no-ops and warn (1.7); what it keeps instead, a cache of kernels, belongs to its execution.
TENSORRT_RTX = TensorRtLibrary("tensorrt_rtx_bindings", "TensorRT-RTX", builds_without_device=True, keeps_timings=False)


def release(version: str) -> str:
    """The digits and dots a version begins with: 10.13.3.9 of 10.13.3.9.post1. Raises EngineBuildError."""
    found = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    if found is None:
        raise EngineBuildError(f"TensorRT calls its version {version!r}, which does not begin with a number.")
    return found.group()


class Words:
    """What a library said at WARNING and above, each line once; the newest are kept.

    echo: called with each line as it comes, for a process that may not live to tell.
    """

    def __init__(self, echo: Callable[[str], object] | None = None) -> None:
        self._lines: deque[str] = deque(maxlen=_KEPT)
        self._echo = echo

    def add(self, severity: str, text: str) -> None:
        """Keep a message, on one line. Never raises: the caller is native code."""
        line = f"{severity}: {' '.join(text.split())}"
        if line in self._lines or _NO_FAILURE.search(line):
            return
        self._lines.append(line)
        if self._echo is not None:
            self._echo(line)

    def clear(self) -> None:
        """Forget."""
        self._lines.clear()

    @property
    def out_of_memory(self) -> bool:
        """Whether memory ran out, by what was said."""
        return any(_OUT_OF_MEMORY.search(line) for line in self._lines)

    def __str__(self) -> str:
        said = [line for line in self._lines if not line.startswith("WARNING")] or list(self._lines)
        return "; ".join(said) or "it gave no reason"


def capturing_logger(library: Any, words: Words) -> Any:  # noqa: ANN401 - TensorRT ships no types
    """An ILogger that hands warnings and errors to `words`."""

    class CapturingLogger(library.ILogger):  # type: ignore[misc]  # TensorRT ships no types
        def __init__(self) -> None:
            library.ILogger.__init__(self)  # super() would not make the native half

        def log(self, severity: Any, msg: str) -> None:  # noqa: ANN401
            if severity.name in _LOUD:
                words.add(severity.name, msg)

    return CapturingLogger()


def error_recorder(library: Any, words: Words) -> Any:  # noqa: ANN401 - TensorRT ships no types
    """An IErrorRecorder that hands errors to `words` under the name of their code."""

    class Recorder(library.IErrorRecorder):  # type: ignore[misc]  # TensorRT ships no types
        def __init__(self) -> None:
            library.IErrorRecorder.__init__(self)
            self._errors: list[tuple[Any, str]] = []

        def num_errors(self) -> int:
            return len(self._errors)

        def get_error_code(self, index: int) -> Any:  # noqa: ANN401
            return self._errors[index][0]

        def get_error_desc(self, index: int) -> str:
            return self._errors[index][1]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            self._errors.clear()

        def report_error(self, code: Any, desc: str) -> bool:  # noqa: ANN401
            self._errors.append((code, desc))
            words.add(code.name, desc)
            return False  # go on; the call that failed says so

    return Recorder()


@cache
def process_logger(which: TensorRtLibrary) -> tuple[Any, Words]:
    """The logger of this process: TensorRT takes the first one it is given and ignores any later."""
    words = Words()
    return capturing_logger(which.imported(), words), words
