"""Reads below one directory descriptor: follows no symbolic link and opens regular files only."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from takeoff.errors import FileKindError, FileMissingError, FileUnreadableError, VerificationError

# O_NONBLOCK: the open of a FIFO must not wait for a writer.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_FOLDER = _READ | os.O_DIRECTORY
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "FIFO"}


class Directory:
    """An open directory, a context manager. Names are relative to it, with `/` between folders."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens `path`; links in `path` itself are followed. Raises OSError."""
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def open(self, name: str) -> int:
        """Returns a descriptor of a regular file. Raises FileMissingError, FileKindError or FileUnreadableError."""
        *folders, last = name.split("/")
        opened: list[int] = []
        try:
            for folder in folders:
                opened.append(os.open(folder, _FOLDER, dir_fd=opened[-1] if opened else self._fd))
            return _regular(os.open(last, _READ, dir_fd=opened[-1] if opened else self._fd), name)
        except OSError as error:
            raise _refusal(error, name) from error
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def read(self, name: str, limit: int) -> bytes:
        """Returns the first `limit` + 1 bytes of a file: one more shows that it is too large. Raises as `open` does."""
        with os.fdopen(self.open(name), "rb") as file:
            try:
                return file.read(limit + 1)
            except OSError as error:
                raise _refusal(error, name) from error

    def walk(self, folders: frozenset[str] = frozenset()) -> dict[str, str]:
        """Returns every entry below: name -> file, directory, symbolic link, FIFO or other. Raises FileUnreadableError.

        It enters `folders` only. Of any other folder it returns the name and nothing below it.
        """
        try:
            return dict(_walk(self._fd, "", folders))
        except OSError as error:
            raise FileUnreadableError(f"the directory cannot be listed: {error}", ".") from error


def _walk(folder: int, prefix: str, folders: frozenset[str]) -> Iterator[tuple[str, str]]:
    with os.scandir(folder) as entries:
        modes = [(entry.name, entry.stat(follow_symlinks=False).st_mode) for entry in entries]
    for name, mode in modes:
        yield prefix + name, _KINDS.get(stat.S_IFMT(mode), "other")
        if stat.S_ISDIR(mode) and prefix + name in folders:
            child = os.open(name, _FOLDER, dir_fd=folder)
            try:
                yield from _walk(child, f"{prefix}{name}/", folders)
            finally:
                os.close(child)


def _regular(descriptor: int, name: str) -> int:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    raise FileKindError(f"is a {_KINDS.get(stat.S_IFMT(mode), 'special file')}, not a regular file", name)


def _refusal(error: OSError, name: str) -> VerificationError:
    if error.errno == errno.ENOENT:
        return FileMissingError("is missing", name)
    # ELOOP and ENOTDIR: a link, or a file in the place of a folder. ENXIO: a socket.
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
        return FileKindError("is not a regular file, or lies below something that is not a folder", name)
    return FileUnreadableError(f"cannot be read: {error.strerror}", name)
