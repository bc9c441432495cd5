"""Stores the pixels of tiles in files named by their hash: `objects/<first two hex digits>/<sha256><suffix>`."""

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
    """TilePixelStore over a folder. Writes each file once, atomically and durably; never changes an intact file."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._folders: set[Path] = set()
        self._real: str | None = None

    def open_tile(self, path: str) -> AbstractContextManager[BinaryIO]:
        """Open the file of a tile. A caller may read it into memory at once.

        Args:
            path: the path in the row of the tile, relative to the root.

        Raises:
            TileContentError: the file does not exist, is no regular file, is larger than any tile, or is outside the
                root, possibly through a symbolic link.
        """
        full_path = f"{self._root}/{path}"
        try:
            # O_NONBLOCK: do not wait for a writer if the path is a named pipe. It has no effect on a file.
            handle = os.open(full_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise TileContentError(f"tile file {full_path} cannot be opened: {error}. Import the tile again") from error
        try:
            # Ask for the real path of the open file. Resolving each part of the path of a million tiles would be slow.
            real = os.readlink(f"/proc/self/fd/{handle}")  # noqa: PTH115 - a Path would double the cost
            inside = real.startswith(f"{self.folder()}/")
            status = os.fstat(handle)
            if not inside or not stat.S_ISREG(status.st_mode):
                raise TileContentError(
                    f"tile path {path!r} leaves the tile store {self._root}, or is no file. Import the tile again"
                )
            if status.st_size > MAX_TILE_BYTES:
                raise TileContentError(
                    f"tile file {full_path} has {status.st_size:,} bytes, but the limit is {MAX_TILE_BYTES:,}. Import "
                    "the tile again"
                )
            return os.fdopen(handle, "rb")
        except BaseException as error:
            os.close(handle)
            if isinstance(error, OSError):
                raise TileContentError(
                    f"tile file {full_path} cannot be opened: {error}. Import the tile again"
                ) from error
            raise

    def folder(self) -> str:
        """Return the root without symbolic links. The first call resolves them."""
        if self._real is None:
            self._real = os.path.realpath(self._root).rstrip("/")
        return self._real

    def put(self, content: bytes, sha256: str, suffix: str) -> tuple[str, bool]:
        """Store bytes durably under their hash. Replaces a damaged file, and does not write an intact file again.

        Args:
            content: the bytes of the file.
            sha256: their SHA-256 in hex. It is checked before the bytes are written.
            suffix: such as `.png`.

        Returns:
            The path for the row of the tile, and whether the bytes had to be written.

        Raises:
            TileContentError: the bytes have another hash, or the suffix is invalid.
            ImportSourceError: the file cannot be written.
        """
        path = _path(sha256, suffix)
        target = self._root / path
        # This program never writes other bytes to this path. So a file that differs is damaged, and is written again.
        if _has_content(target, content):
            return path, False
        if hashlib.sha256(content).hexdigest() != sha256:
            raise TileContentError(f"{len(content)} bytes have another hash than {sha256}. Import the tile again")
        try:
            self._make_folder(target.parent)
            atomic.atomic_write(target, content)
        except OSError as error:
            raise ImportSourceError(
                f"tile file {target} cannot be written: {error}. Free disk space, or make the folder writable"
            ) from error
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


def _has_content(path: Path, content: bytes) -> bool:
    """Return whether a file has these bytes. The size alone does not tell: most damaged files keep their size."""
    try:
        return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content
    except OSError:
        return False  # it cannot be read; if it cannot be written either, the attempt to write raises
