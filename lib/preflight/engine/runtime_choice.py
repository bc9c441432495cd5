"""A runtime that was chosen for a build, and what its adapter says of it.

The package that a row of `preflight.engine.runtimes` names as its adapter has one function:

    def installed(setup: RuntimeSetup) -> InstalledRuntime

It reads the library's version without importing it, and says how to make the runtime. It raises EngineBuildError where the
library is not installed; `RuntimeSetup.version` does so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from preflight.engine.runtimes import Runtime
from preflight.errors import EngineBuildError
from preflight.ports import InferenceRuntime
from preflight.records import HostCapabilities

__all__ = ["InstalledRuntime", "RuntimeChoice", "RuntimeSetup", "installed_version", "is_installed"]


@dataclass(frozen=True, slots=True)
class RuntimeSetup:
    """What an adapter gets when a runtime is chosen.

    Attributes:
        row: the runtime's row in the table.
        host: the host whose GPU engines are built for; None for a runtime of the CPU.
        gpu: whether the engines are for a GPU. The caller refuses a host without one.
        timings: a folder in which the runtime may keep measurements; None: it keeps none.
    """

    row: Runtime
    host: HostCapabilities | None = None
    gpu: bool = False
    timings: Path | None = None

    @property
    def install_command(self) -> str:
        """The command that installs the library."""
        return self.row.install_command(gpu=self.gpu)

    def version(self, *distributions: str, hint: str = "") -> str:
        """Returns the library's version, as `installed_version` reads it. Raises EngineBuildError."""
        return installed_version(self.row.title, self.install_command, *distributions, hint=hint)


@dataclass(frozen=True, slots=True)
class InstalledRuntime:
    """A runtime whose library is installed. version: digits and dots. make: imports the library and returns the runtime."""

    version: str
    make: Callable[[], InferenceRuntime]


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """A chosen runtime. Its library is imported only by `make`. gpu: its engines are for a GPU."""

    row: Runtime
    version: str
    make: Callable[[], InferenceRuntime]
    gpu: bool = False

    @property
    def name(self) -> str:
        """The name in mission files."""
        return self.row.name

    @property
    def aside(self) -> bool:
        """Whether it can compile engines in parallel. On a GPU they would disturb each other and share its memory."""
        return self.row.concurrent and not self.gpu


def installed_version(title: str, install: str, *distributions: str, hint: str = "") -> str:
    """Returns a library's version, from the metadata of its package.

    Args:
        title: the library's name in the message.
        install: the command that installs it.
        distributions: packages that contain the library; the first installed one counts.
        hint: added to the message.

    Raises:
        EngineBuildError: none of the packages is installed.
    """
    for name in distributions:
        if is_installed(name):
            return metadata.version(name)
    raise EngineBuildError(f"{title} is not installed: run {install}{hint}")


def is_installed(distribution: str) -> bool:
    """Whether a package is installed."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
