"""The medium that a generation is copied to: what its file system can hold, and the bytes that it has really stored."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from preflight.errors import BundleError
from preflight.store import atomic
from preflight.store.cache_layout import CacheLayout

# These errors mean that the medium is full, broken or read-only. They do not mean that its file system is unsuitable.
_MEDIUM_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


@contextmanager
def temporary_folder(layout: CacheLayout) -> Iterator[Path]:
    """Yields a temporary folder on the target. If it cannot be removed completely, the next copy removes it."""
    folder = layout.root / f"{atomic.TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    try:
        with bundle_errors(layout.root):
            folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def bundle_errors(place: Path) -> Iterator[None]:
    """Converts OSError to BundleError, with a message for the operator. place: the root of the target."""
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or place
        raise BundleError(
            f"{where}: {error.strerror or error}. current on {place} is the old cache, or the new one if its copy was "
            "complete. Free space or check the medium, then run doit bundle again"
        ) from error


def check_names(layout: CacheLayout, names: Collection[str]) -> None:
    """Checks that the file system of the target can hold files with these names, and a symbolic link.

    Raises:
        BundleError: the file system is not suitable, or the medium is full or broken.
    """
    with temporary_folder(layout) as folder, bundle_errors(layout.root):
        _check_case(folder)
        _try_names(folder / "names", names)
        _try_link(folder)


def _check_case(folder: Path) -> None:
    (folder / "Case").touch()
    if os.path.lexists(folder / "cASE"):
        raise BundleError(
            _unsuitable(folder, "it treats names that differ only in case as equal (as FAT and exFAT do)")
        )


def _try_names(folder: Path, names: Collection[str]) -> None:
    for name in names:
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            if error.errno in _MEDIUM_ERRORS:
                raise
            raise BundleError(_unsuitable(folder.parent, f"it refuses the name {name} ({error.strerror})")) from error
    if changed := sorted(set(names) ^ names_below(folder)):
        raise BundleError(_unsuitable(folder.parent, f"it changes the name {changed[0]}"))


def _try_link(folder: Path) -> None:
    try:
        (folder / "link").symlink_to("names")
    except OSError as error:
        if error.errno in _MEDIUM_ERRORS:
            raise
        raise BundleError(_unsuitable(folder, f"it has no symbolic links ({error.strerror})")) from error


def _unsuitable(folder: Path, why: str) -> str:
    place = folder.parent
    return f"the file system of {place} is not suitable for a cache: {why}; format it as ext4, or name another place"


def names_below(folder: Path) -> set[str]:
    """Returns the paths of all files and links below a folder, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def is_intact(path: Path, sha256: str, size: int) -> bool:
    """Returns whether a regular file has these bytes on the medium, not only in the page cache.

    A file that the medium cannot read is not intact.
    """
    if path.is_symlink() or not path.is_file() or path.stat().st_size != size:
        return False
    try:
        drop_cached(path)
        digest = hashlib.sha256()
        buffer = bytearray(atomic.CHUNK)
        view = memoryview(buffer)
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(view[:count])
    except OSError:
        # Probably a bad sector. The file is copied again, to another place on the medium.
        return False
    return digest.hexdigest() == sha256


def drop_cached(path: Path) -> None:
    """Drops a synced file from the page cache, so that the next read comes from the medium. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
