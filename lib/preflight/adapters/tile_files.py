"""The pixels of tiles as files named by their content: `objects/<first two hex digits>/<sha256><suffix>`."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from preflight.errors import ImportSourceError, TileContentError
from preflight.store import atomic
from preflight.tile_import.source import MAX_TILE_BYTES

__all__ = ["TileFiles"]

_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")


class TileFiles:
    """TilePixelStore over a folder. Files are written once, whole and durably, and never changed."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._folders: set[Path] = set()
        self._real: str | None = None

    def open_tile(self, path: str) -> AbstractContextManager[BinaryIO]:
        """Open a tile by its row's path, relative to the root.

        Raises:
            TileContentError: the path leaves the root, also through a link, or there is no such file, or one larger than
                any tile: who reads it may read it whole.
        """
        place = f"{self._root}/{path}"
        try:
            # Not to wait for a writer where somebody put a pipe; on a file it has no effect.
            handle = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise TileContentError(f"tile file {place} cannot be opened: {error}. Import the tile again") from error
        try:
            # What was opened is asked where it lies: a million tiles are not each resolved name by name.
            real = os.readlink(f"/proc/self/fd/{handle}")  # noqa: PTH115 - a Path of it would cost as much again
            inside = real.startswith(f"{self.folder()}/")
            found = os.fstat(handle)
            if not inside or not stat.S_ISREG(found.st_mode):
                raise TileContentError(f"tile path {path!r} leaves the tile store {self._root}. Import the tile again")
            if found.st_size > MAX_TILE_BYTES:
                raise TileContentError(
                    f"tile file {place} has {found.st_size:,} bytes; no tile has more than {MAX_TILE_BYTES:,}. Import the "
                    "tile again"
                )
            return os.fdopen(handle, "rb")
        except BaseException as error:
            os.close(handle)
            if isinstance(error, OSError):
                raise TileContentError(f"tile file {place} cannot be opened: {error}. Import the tile again") from error
            raise

    def folder(self) -> str:
        """As `ports.TilePixelStore`; resolved when it is first asked."""
        if self._real is None:
            self._real = os.path.realpath(self._root).rstrip("/")
        return self._real

    def put(self, content: bytes, sha256: str, suffix: str) -> tuple[str, bool]:
        """As `ports.TilePixelStore`.

        Raises:
            TileContentError: the bytes have another hash; not asked where they lie already.
            ImportSourceError: they cannot be written.
        """
        path = _path(sha256, suffix)
        target = self._root / path
        # A file with other bytes was spoilt by something else than this program: it is written again.
        if _holds(target, content):
            return path, False
        if hashlib.sha256(content).hexdigest() != sha256:
            raise TileContentError(f"{len(content)} bytes were offered as {sha256}, which is not their hash. Try again")
        try:
            self._make_folder(target.parent)
            atomic.atomic_write(target, content)
        except OSError as error:
            raise ImportSourceError(f"tile file {target} cannot be written: {error}. Free space or rights") from error
        return path, True

    def _make_folder(self, folder: Path) -> None:
        if folder in self._folders:
            return
        missing = [step for step in (folder, *folder.parents) if not step.exists()]
        for step in reversed(missing):
            step.mkdir(exist_ok=True)
            atomic.fsync_directory(step.parent)
        self._folders.add(folder)


def _path(sha256: str, suffix: str) -> str:
    if not _SUFFIX.fullmatch(suffix):
        raise TileContentError(f"{suffix!r} is no file suffix such as .png")
    return f"objects/{sha256[:2]}/{sha256}{suffix}"


def _holds(path: Path, content: bytes) -> bool:
    """Compared byte by byte: importing a tile again is how a spoilt file is repaired, and most keep their length."""
    try:
        return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError:
        return False  # it cannot be read: what cannot be written either is told by the attempt
