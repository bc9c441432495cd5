"""Writes, links and removes files so that they survive a power cut. All code of this package uses these functions.

The order is always: write, fsync, rename over the target, fsync the directory. A killed write leaves at most one
temporary file, whose name begins with `TEMPORARY_PREFIX`. `sweep_temporaries` removes it at the next start.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from atomicwrites import AtomicWriter

TEMPORARY_PREFIX = ".preflight-"
CHUNK = 1 << 20

Buffer = bytes | bytearray | memoryview


class _Writer(AtomicWriter):  # type: ignore[misc]  # atomicwrites ships no types
    """An AtomicWriter with temporary names that `sweep_temporaries` recognises. The default prefix is only `tmp`."""

    def get_fileobject(self, suffix: str = "", prefix: str = TEMPORARY_PREFIX, **kwargs: Any) -> IO[bytes]:  # noqa: ANN401 - upstream's signature
        file: IO[bytes] = super().get_fileobject(suffix=suffix, prefix=prefix, **kwargs)
        return file


def atomic_write(path: Path, content: Buffer | Iterable[Buffer], *, mode: int = 0o644) -> str:
    """Replaces a file as a whole. After an error, the old file is unchanged.

    Args:
        path: the file. Missing parent folders are created.
        content: the bytes, or an iterable of pieces.
        mode: the permissions of the file.

    Returns:
        The SHA-256 of the content as hex digits.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    # By default, atomicwrites does not overwrite files, and creates them with mode 0600.
    with _naming(path), _Writer(str(path), mode="wb", overwrite=True).open() as file:
        for chunk in (content,) if isinstance(content, (bytes, bytearray, memoryview)) else content:
            file.write(chunk)
            digest.update(chunk)
        os.fchmod(file.fileno(), mode)
    return digest.hexdigest()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Adds the file name to errors of write and fsync, which lack it."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic_path(path: Path, *, mode: int = 0o644) -> Iterator[Path]:
    """Yields a temporary path for a library that writes a file itself.

    If the block ends without an error, the temporary file replaces `path`. Otherwise it is removed.

    Args:
        path: the final file. Missing parent folders are created.
        mode: the permissions of the file.

    Raises:
        OSError: the file cannot be written, or the block removed it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with _naming(path):
            yield temporary
            temporary.chmod(mode)
            fsync_file(temporary)
            temporary.replace(path)
            fsync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_new(path: Path, content: Buffer, *, mode: int) -> None:
    """Creates a file and syncs its content, but not its directory entry.

    Raises:
        FileExistsError: the file exists.
        OSError: the file cannot be written. A part of it may be left.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with _naming(path), os.fdopen(handle, "wb", buffering=0) as file:
        _write_all(file, memoryview(content))
        os.fsync(file.fileno())


def copy_hashed(source: Path, target: Path, *, mode: int) -> str:
    """Copies `source` to the new file `target`, syncs its content, and returns its SHA-256 as hex digits.

    Raises:
        FileExistsError: the target exists.
        OSError: a file cannot be read or written.
    """
    digest = hashlib.sha256()
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    with _naming(target), source.open("rb", buffering=0) as reader, target.open("xb", buffering=0) as writer:
        while count := reader.readinto(buffer):
            digest.update(view[:count])
            _write_all(writer, view[:count])
        os.fchmod(writer.fileno(), mode)
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _write_all(writer: IO[bytes], view: memoryview) -> None:
    while view:
        view = view[writer.write(view) :]


def link_or_copy(source: Path, target: Path, *, mode: int) -> bool:
    """Creates `target` as a hard link to `source`, or as a copy if no link can be made. Returns whether it is a link.

    Raises:
        FileExistsError: the target exists.
        OSError: a file cannot be read or written.
    """
    try:
        target.hardlink_to(source)
    except OSError:
        copy_hashed(source, target, mode=mode)
        return False
    return True


def replace_symlink(link: Path, target: str) -> None:
    """Points a symbolic link at `target`, in one atomic step. Raises OSError."""
    temporary = link.with_name(f"{TEMPORARY_PREFIX}{link.name}-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    fsync_directory(link.parent)


def rename_directory(source: Path, target: Path) -> None:
    """Renames a finished directory and syncs the folder that contains it. Raises OSError."""
    source.rename(target)
    fsync_directory(target.parent)


def remove_tree(path: Path) -> None:
    """Removes a directory with all its files, also read-only ones. Raises OSError."""
    shutil.rmtree(path)
    fsync_directory(path.parent)


def remove_file(path: Path) -> None:
    """Removes a file if it exists. Raises OSError."""
    path.unlink(missing_ok=True)


def fsync_file(path: Path) -> None:
    """Writes a file's bytes to the disk (fsync). Raises OSError."""
    _fsync(path, os.O_RDONLY)


def fsync_directory(path: Path) -> None:
    """Writes a directory's entries to the disk (fsync). Raises OSError."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def _fsync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        with _naming(path):
            os.fsync(handle)
    finally:
        os.close(handle)


def sweep_temporaries(directory: Path) -> list[Path]:
    """Removes the temporary files that killed writes left below `directory`. Returns their paths. Raises OSError."""
    temporaries = [path for path in directory.rglob(f"{TEMPORARY_PREFIX}*") if path.is_file() or path.is_symlink()]
    for path in temporaries:
        path.unlink(missing_ok=True)
    return temporaries
