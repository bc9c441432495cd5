"""The two libraries that this adapter uses, TensorRT and TensorRT-RTX, and how their messages are collected.

TensorRT reports a failure by returning None or False. The reason goes to the error recorder if there is one, else to
the logger. Both write into `Words`.
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
# TensorRT skips a tactic that does not fit into the workspace, and continues with another. This is not a failure.
_NO_FAILURE = re.compile(r"[Ss]kipping tactic", re.ASCII)
_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemory|OutOfDeviceMemory|FAILED_ALLOCATION|[Ff]ailed to allocate|bad_alloc", re.ASCII
)
_LOUD = frozenset({"INTERNAL_ERROR", "ERROR", "WARNING"})


@dataclass(frozen=True, slots=True)
class TensorRtLibrary:
    """A library with TensorRT's Python interface.

    Attributes:
        module: the name of the module.
        title: the name in messages.
        builds_without_device: whether its builder works on a machine without a GPU.
        keeps_timings: whether the library uses a timing cache.
    """

    module: str
    title: str
    builds_without_device: bool
    keeps_timings: bool

    def imported(self, promised: str | None = None) -> Any:  # noqa: ANN401 - TensorRT ships no types
        """Import the library and return its module.

        promised: the release in engine file names, as the installer recorded it; None accepts any release.

        Raises:
            EngineBuildError: the library cannot be imported, and the message says how to install it; or it is another
                release.
        """
        try:
            module = importlib.import_module(self.module)
        except (ImportError, OSError) as error:
            raise EngineBuildError(
                f"{self.title} cannot be imported ({error}). Run pip install -e '.[gpu,tensorrt]'; on a Jetson, make the "
                "environment with --system-site-packages, so that JetPack's own TensorRT is found."
            ) from error
        if promised is not None and release(module.__version__) != promised:
            raise EngineBuildError(
                f"{self.title} is installed as release {promised}, but the imported module is {module.__version__}. Keep "
                "only one of them installed."
            )
        return module


TENSORRT = TensorRtLibrary("tensorrt", "TensorRT", builds_without_device=False, keeps_timings=True)
# In 1.7 its timing cache functions do nothing and warn. Its cache of kernels belongs to the execution, not to the
# build.
TENSORRT_RTX = TensorRtLibrary("tensorrt_rtx_bindings", "TensorRT-RTX", builds_without_device=True, keeps_timings=False)


def release(version: str) -> str:
    """Return the digits and dots at the start of a version: 10.13.3.9 for 10.13.3.9.post1. Raises EngineBuildError."""
    found = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    if found is None:
        raise EngineBuildError(
            f"TensorRT's version {version!r} does not begin with a number. Install a released version."
        )
    return found.group()


class Words:
    """The messages of a library at WARNING and above. Each line is kept once, and only the newest lines are kept.

    echo: called with each new line. A process that may crash needs this.
    """

    def __init__(self, echo: Callable[[str], object] | None = None) -> None:
        self._lines: deque[str] = deque(maxlen=_KEPT)
        self._echo = echo

    def add(self, severity: str, text: str) -> None:
        """Keep a message on one line. It never raises, because native code calls it."""
        line = f"{severity}: {' '.join(text.split())}"
        if line in self._lines or _NO_FAILURE.search(line):
            return
        self._lines.append(line)
        if self._echo is not None:
            self._echo(line)

    def clear(self) -> None:
        """Remove all messages."""
        self._lines.clear()

    @property
    def out_of_memory(self) -> bool:
        """Whether a message says that memory ran out."""
        return any(_OUT_OF_MEMORY.search(line) for line in self._lines)

    def __str__(self) -> str:
        said = [line for line in self._lines if not line.startswith("WARNING")] or list(self._lines)
        return "; ".join(said) or "it gave no reason"


def capturing_logger(library: Any, words: Words) -> Any:  # noqa: ANN401 - TensorRT ships no types
    """Return an ILogger that adds warnings and errors to `words`."""

    class CapturingLogger(library.ILogger):  # type: ignore[misc]  # TensorRT ships no types
        def __init__(self) -> None:
            library.ILogger.__init__(self)  # super() would not create the native part

        def log(self, severity: Any, msg: str) -> None:  # noqa: ANN401
            if severity.name in _LOUD:
                words.add(severity.name, msg)

    return CapturingLogger()


def error_recorder(library: Any, words: Words) -> Any:  # noqa: ANN401 - TensorRT ships no types
    """Return an IErrorRecorder that adds errors to `words`, each with the name of its code."""

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
            return False  # continue; the call that failed reports it

    return Recorder()


@cache
def process_logger(which: TensorRtLibrary) -> tuple[Any, Words]:
    """Return the logger of this process and its words.

    TensorRT uses the first logger that it gets and ignores later ones.
    """
    words = Words()
    return capturing_logger(which.imported(), words), words
