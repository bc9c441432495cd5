"""A published generation carried to another place: a card, a mounted disk. What is there already is judged by its bytes.

The place is laid out as a cache root is: `gen/<name>/` and `current`, a link that is turned by one rename once a generation is
whole and was judged. It is assembled in a folder of a temporary name, each file made durable, the manifest and its envelope
last; a folder that has its name is never changed again. So whatever is killed, `current` is the old cache, the new one, or
absent.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from preflight.errors import BundleError
from preflight.store import atomic
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import FILE_MODE
from takeoff.names import ENVELOPE, MANIFEST, sidecar_name

# Written last: without them nothing is taken for a cache.
LAST = (sidecar_name(MANIFEST), MANIFEST, ENVELOPE)
# The name of a published generation; a copy of it made anew, since the first was damaged, lies beside it.
_REPAIR = "-repair"
_NAME = re.compile(rf"\d{{6,}}-[0-9a-f]{{12}}({_REPAIR}\d+)?")
# Full, broken or read-only is not the same as unfit.
_NOT_ITS_NATURE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
FOLDER_MODE = 0o755
BLOCK = 4096
RESERVE = 1 << 20


@dataclass(frozen=True, slots=True)
class Cargo:
    """What is carried. path: the published generation; files: every file of it with its SHA-256 and size."""

    path: Path
    files: Mapping[str, tuple[str, int]]

    @property
    def order(self) -> list[str]:
        """The names, the manifest and its envelope last."""
        return [*sorted(self.files.keys() - set(LAST)), *LAST]


@dataclass(frozen=True, slots=True)
class Errand:
    """What is to be done at the place.

    home: the folder the generation has or will have there. whole: it is there already, with nothing to do. linked: name -> an
    equal file that lies there already. copied: names that come from the source.
    """

    home: Path
    whole: bool
    linked: Mapping[str, Path]
    copied: tuple[str, ...]


@contextmanager
def alone(place: Path) -> Iterator[CacheLayout]:
    """Make the place, hold it, and sweep what killed copies left there; yields its layout. Raises BundleError."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BundleError(f"{place} cannot be written: {error.strerror}; mount it writable, or name another") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BundleError(f"another doit bundle writes to {place}; wait for it to end") from error
        layout = CacheLayout(place)
        _check_place(layout)
        _sweep(layout)
        yield layout
    finally:
        os.close(handle)


def _check_place(layout: CacheLayout) -> None:
    if layout.work.exists() or layout.lock.exists():
        raise BundleError(f"{layout.root} is a cache root that builds, not a place to copy to; name another folder")
    folder = layout.generations
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BundleError(f"{folder} is no folder of a bundle and is left as it is; name another place")
    for link in (layout.current, layout.previous):
        if os.path.lexists(link) and not link.is_symlink():
            raise BundleError(f"{link} is no link of a bundle and is left as it is; name another place")


def _sweep(layout: CacheLayout) -> None:
    with _refusals(layout.root):
        for path in layout.root.glob(f"{atomic.TEMPORARY_PREFIX}*"):
            if path.is_dir() and not path.is_symlink():
                atomic.remove_tree(path)
            else:
                atomic.remove_file(path)


@contextmanager
def _room(layout: CacheLayout) -> Iterator[Path]:
    """A temporary folder of the place. What cannot be removed of it, the next sweep removes or complains of."""
    room = layout.root / f"{atomic.TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    try:
        with _refusals(layout.root):
            room.mkdir()
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)


@contextmanager
def _refusals(place: Path) -> Iterator[None]:
    """What the file system refuses, as a sentence."""
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or place
        raise BundleError(
            f"{where}: {error.strerror or error}; current on {place} is the cache it was, or the new one if that was whole. "
            "Free space or check the medium, then run doit bundle again"
        ) from error


def check_names(layout: CacheLayout, cargo: Cargo) -> None:
    """Try every name of the cargo, and a link, in a temporary folder of the place. Raises BundleError."""
    with _room(layout) as room, _refusals(layout.root):
        _check_case(room)
        _try_names(room / "names", cargo)
        _try_link(room)


def _check_case(room: Path) -> None:
    (room / "Case").touch()
    if os.path.lexists(room / "cASE"):
        raise BundleError(_unfit(room, "it takes names that differ only in case for one (as FAT and exFAT do)"))


def _try_names(room: Path, cargo: Cargo) -> None:
    for name in cargo.files:
        path = room / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            if error.errno in _NOT_ITS_NATURE:
                raise
            raise BundleError(_unfit(room.parent, f"it refuses the name {name} ({error.strerror})")) from error
    if changed := sorted(cargo.files.keys() ^ _names_below(room)):
        raise BundleError(_unfit(room.parent, f"it changes the name {changed[0]}"))


def _try_link(room: Path) -> None:
    try:
        (room / "link").symlink_to("names")
    except OSError as error:
        if error.errno in _NOT_ITS_NATURE:
            raise
        raise BundleError(_unfit(room, f"it has no symbolic links ({error.strerror})")) from error


def _unfit(room: Path, why: str) -> str:
    return f"the file system of {room.parent} is not fit for a cache: {why}; format it as ext4, or name another place"


def _names_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}


def survey(layout: CacheLayout, cargo: Cargo) -> Errand:
    """Compare with what lies there, reading every candidate's bytes from the medium. Changes nothing. Raises BundleError."""
    with _refusals(layout.root):
        there = sorted(layout.generations.iterdir()) if layout.generations.is_dir() else []
        # The generation's own folder, and those of its repairs, before the others.
        folders = sorted(filter(_is_ours, there), key=lambda path: (not _same(path.name, cargo.path.name), path.name))
        linked: dict[str, Path] = {}
        for folder in folders:
            found = {name for name in cargo.order if _is_whole(folder / name, *cargo.files[name])}
            if found == cargo.files.keys() and _names_below(folder) == found and not _idle_folders(folder, cargo):
                return Errand(folder, True, {}, ())
            linked = {**{name: folder / name for name in found}, **linked}
            if linked.keys() == cargo.files.keys():
                break
    copied = tuple(name for name in cargo.order if name not in linked)
    return Errand(_free_name(layout, cargo), False, linked, copied)


def _is_ours(path: Path) -> bool:
    return _NAME.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()


def _same(name: str, other: str) -> bool:
    """Whether two folders are of one generation, repairs apart."""
    return name.partition(_REPAIR)[0] == other


def _free_name(layout: CacheLayout, cargo: Cargo) -> Path:
    """The generation's name, or that of a repair beside it: a folder that is there is never changed."""
    base = layout.generations / cargo.path.name
    names = (base.with_name(f"{base.name}{_REPAIR}{number}") for number in count(1))
    return next(path for path in chain([base], names) if not os.path.lexists(path))


def _idle_folders(folder: Path, cargo: Cargo) -> bool:
    """Whether there are folders that no file needs: the verifier refuses them."""
    needed = {folder / parent for name in cargo.files for parent in Path(name).parents}
    return any(path.is_dir() and path not in needed for path in folder.rglob("*"))


def _is_whole(path: Path, sha256: str, size: int) -> bool:
    """Whether a regular file holds these bytes, read past the page cache. A medium that fails to read holds none."""
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
        # A bad sector: the file is written anew, elsewhere on the medium.
        return False
    return digest.hexdigest() == sha256


def check_space(layout: CacheLayout, cargo: Cargo, errand: Errand, free: int) -> None:
    """Refuse a copy that would not fit, before it begins. free: bytes. Raises BundleError with the figures."""
    blocks = sum(-(-cargo.files[name][1] // BLOCK) for name in errand.copied)
    needed = blocks * BLOCK + RESERVE
    if needed > free:
        raise BundleError(
            f"{layout.root} has {free / 1e6:,.1f} MB free, this copy needs {needed / 1e6:,.1f} MB: free space there, or take a "
            "larger medium; nothing was changed"
        )


def carry(layout: CacheLayout, cargo: Cargo, errand: Errand, judge: Callable[[Path], None]) -> Path:
    """Do the errand, let the copy be judged as the medium holds it, and make it current; returns its folder.

    judge: raises BundleError for a copy that may not fly.

    Raises:
        BundleError: as `judge`, or the source or the medium failed.
    """
    if errand.whole:
        _judge_cold(errand.home, cargo, judge)
    else:
        with _room(layout) as room:
            folder = room / errand.home.name
            with _refusals(layout.root):
                _fill(folder, cargo, errand)
            _judge_cold(folder, cargo, judge)
            with _refusals(layout.root):
                if not layout.generations.exists():
                    layout.generations.mkdir()
                    layout.generations.chmod(FOLDER_MODE)
                    atomic.fsync_directory(layout.root)
                atomic.rename_directory(folder, errand.home)
    with _refusals(layout.root):
        _turn(layout, errand.home)
    return errand.home


def _fill(folder: Path, cargo: Cargo, errand: Errand) -> None:
    """Every file, durable, the manifest and its envelope last. Raises OSError, BundleError."""
    folder.mkdir()
    for name in cargo.order:
        target, (sha256, _) = folder / name, cargo.files[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in errand.linked:
            atomic.link_or_copy(errand.linked[name], target, mode=FILE_MODE)
        elif atomic.copy_hashed(cargo.path / name, target, mode=FILE_MODE) != sha256:
            raise BundleError(
                f"{cargo.path / name} is not what its manifest says: run doit verify, then doit provision; what was current "
                "at the place still is"
            )
    for path in sorted({folder / parent for name in cargo.files for parent in Path(name).parents}, reverse=True):
        # Whatever the umask here: another user reads it on the aircraft.
        path.chmod(FOLDER_MODE)
        atomic.fsync_directory(path)


def _judge_cold(folder: Path, cargo: Cargo, judge: Callable[[Path], None]) -> None:
    with _refusals(folder):
        for name in cargo.files:
            drop_cached(folder / name)
    judge(folder)


def drop_cached(path: Path) -> None:
    """Let the kernel forget a durable file's pages, so that the next read comes from the medium. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def _turn(layout: CacheLayout, home: Path) -> None:
    """Point `current` at the generation; what it was before becomes `previous`, unless it is what was repaired."""
    target = f"gen/{home.name}"
    old = os.fspath(layout.current.readlink()) if layout.current.is_symlink() else None
    if old == target:
        return
    base = home.name.partition(_REPAIR)[0]
    if old is not None and not _same(Path(old).name, base):
        atomic.replace_symlink(layout.previous, old)
    atomic.replace_symlink(layout.current, target)


def prune(layout: CacheLayout) -> list[Path]:
    """Remove generations that neither `current` nor `previous` names; returns them. Raises BundleError."""
    named = {link.readlink().name for link in (layout.current, layout.previous) if link.is_symlink()}
    removed = [path for path in sorted(layout.generations.iterdir()) if _is_ours(path) and path.name not in named]
    try:
        for path in removed:
            atomic.remove_tree(path)
    except OSError as error:
        raise BundleError(
            f"the copy is whole and current, but an older one cannot be removed: {error}; check the medium"
        ) from error
    return removed
