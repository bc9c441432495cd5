"""Ports onto this component itself: what a caller of the Python API may replace or stand in for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from preflight.records import BackboneSpec, BuildReport, BuildRequest, EngineCacheEntry


class FileLockFactory(Protocol):
    """Gives the lock of a path."""

    def __call__(self, path: Path) -> AbstractContextManager[object]:
        """Returns a context manager. It takes the lock when it is entered, and releases it at its end.

        Raises:
            BuildLockHeldError: on entering, if another holder has the lock. The message names the holder.
        """


class CacheProvisioner(Protocol):
    """Builds caches. `CacheProvisionerImpl` is the one of this package."""

    def build_cache_artifacts(
        self,
        request: BuildRequest,
        *,
        progress_callback: Callable[[int, int], None] | None = None,
        observer: Callable[[str, str], None] | None = None,
        cancel: object | None = None,
    ) -> BuildReport:
        """Builds, verifies and publishes everything that is not current.

        Args:
            request: what to build.
            progress_callback: called with (done, total) descriptors.
            observer: called with (stage, event) when a stage begins and ends.
            cancel: a callable that returns whether to stop, or an object with `is_set()`.

        Raises:
            PreflightError: the build failed. The last good cache is unharmed.
        """

    def compile_engines_for_corpus(self, backbones: Sequence[BackboneSpec]) -> list[EngineCacheEntry]:
        """Compiles backbones outside any cache and without a lock. Raises BackboneError or EngineBuildError."""
