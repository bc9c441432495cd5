"""Every file this package writes, links or removes goes through here, so that one place decides what survives a power cut.

The order is always: write, fsync, rename over the target, fsync the directory. A killed write leaves at most one temporary
file whose name starts with `TEMPORARY_PREFIX`; `sweep_temporaries` removes it at the next start.
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
    """atomicwrites with names that the sweep recognises (its own default is a bare `tmp`)."""

    def get_fileobject(self, suffix: str = "", prefix: str = TEMPORARY_PREFIX, **kwargs: Any) -> IO[bytes]:  # noqa: ANN401 - upstream's signature
        file: IO[bytes] = super().get_fileobject(suffix=suffix, prefix=prefix, **kwargs)
        return file


def atomic_write(path: Path, content: Buffer | Iterable[Buffer], *, mode: int = 0o644) -> str:
    """Replace `path` by `content` or leave it as it was; returns the content's SHA-256 as hex digits.

    Parents are made. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    # atomicwrites refuses to overwrite and makes files 0600 unless told otherwise.
    with _naming(path), _Writer(str(path), mode="wb", overwrite=True).open() as file:
        for chunk in (content,) if isinstance(content, (bytes, bytearray, memoryview)) else content:
            file.write(chunk)
            digest.update(chunk)
        os.fchmod(file.fileno(), mode)
    return digest.hexdigest()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """A failed write or fsync does not say which file it was for: an operator must know."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic_path(path: Path, *, mode: int = 0o644) -> Iterator[Path]:
    """A temporary path for a library to write; put in the place of `path` when the block ends well, removed otherwise."""
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
    """Make a file that must not be there, durable but for its name. Raises OSError, FileExistsError among them."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with _naming(path), os.fdopen(handle, "wb", buffering=0) as file:
        _write_all(file, memoryview(content))
        os.fsync(file.fileno())


def copy_hashed(source: Path, target: Path, *, mode: int) -> str:
    """Copy `source` to the new file `target`, durable, hashed on the way; returns the SHA-256. Raises OSError."""
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
    """Hard-link `source` at `target`; copies where the file system has no links. Returns whether it is a link."""
    try:
        target.hardlink_to(source)
    except OSError:
        copy_hashed(source, target, mode=mode)
        return False
    return True


def replace_symlink(link: Path, target: str) -> None:
    """Point `link` at `target` in one step."""
    temporary = link.with_name(f"{TEMPORARY_PREFIX}{link.name}-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    fsync_directory(link.parent)


def rename_directory(source: Path, target: Path) -> None:
    """Give a finished directory its final name, durably."""
    source.rename(target)
    fsync_directory(target.parent)


def remove_tree(path: Path) -> None:
    """Remove a directory of read-only files. Raises OSError."""
    shutil.rmtree(path)
    fsync_directory(path.parent)


def remove_file(path: Path) -> None:
    """Remove a file if it is there."""
    path.unlink(missing_ok=True)


def fsync_file(path: Path) -> None:
    """Make a file's bytes durable."""
    _fsync(path, os.O_RDONLY)


def fsync_directory(path: Path) -> None:
    """Make a directory's entries durable."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def _fsync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        with _naming(path):
            os.fsync(handle)
    finally:
        os.close(handle)


def sweep_temporaries(directory: Path) -> list[Path]:
    """Remove what killed writes left below `directory`; returns what was removed."""
    found = [path for path in directory.rglob(f"{TEMPORARY_PREFIX}*") if path.is_file() or path.is_symlink()]
    for path in found:
        path.unlink(missing_ok=True)
    return found
