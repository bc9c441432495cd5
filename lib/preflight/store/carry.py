"""Copies a published generation to a target: a memory card or a mounted disk.

Files that the target already has are compared by their bytes. The target has the layout of a cache root: `gen/<name>/`,
and the link `current`. A generation is assembled in a folder with a temporary name. Each file is synced, the manifest
and its envelope last. Then the copy is verified, the folder gets its final name, and one rename changes `current`. A
folder with a final name is never changed again. So if a copy is killed at any time, `current` is the old cache, the new
cache, or absent.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from preflight.errors import BundleError
from preflight.store import atomic
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import FILE_MODE
from preflight.store.medium import bundle_errors, drop_cached, is_intact, names_below, temporary_folder
from takeoff.names import ENVELOPE, MANIFEST, sidecar_name

# Written last: a folder without these files is not accepted as a cache.
LAST = (sidecar_name(MANIFEST), MANIFEST, ENVELOPE)
# If the copy of a generation is damaged, a new copy gets this suffix and a number. It lies beside the damaged one.
_REPAIR = "-repair"
_NAME = re.compile(rf"\d{{6,}}-[0-9a-f]{{12}}({_REPAIR}\d+)?")
FOLDER_MODE = 0o755
BLOCK = 4096
RESERVE = 1 << 20


@dataclass(frozen=True, slots=True)
class SourceGeneration:
    """The generation to copy.

    path: the published generation.
    files: name -> (SHA-256, size in bytes), for every file of the generation.
    """

    path: Path
    files: Mapping[str, tuple[str, int]]

    @property
    def order(self) -> list[str]:
        """The file names in the order of writing: the manifest and its envelope are last."""
        return [*sorted(self.files.keys() - set(LAST)), *LAST]


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What a copy has to do on the target.

    home: the final folder of the generation on the target.
    complete: the target already has the complete generation, so there is nothing to do.
    linked: name -> equal file that the target already has.
    copied: names of the files to copy from the source.
    """

    home: Path
    complete: bool
    linked: Mapping[str, Path]
    copied: tuple[str, ...]


@contextmanager
def open_target(place: Path) -> Iterator[CacheLayout]:
    """Creates and locks the target, and removes what killed copies left there. Yields the layout of the target.

    Raises:
        BundleError: the target cannot be written, is in use, or holds something else.
    """
    try:
        place.mkdir(parents=True, exist_ok=True)
        handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BundleError(
            f"{place} cannot be written: {error.strerror}; mount it writable, or name another place"
        ) from error
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
        raise BundleError(f"{layout.root} is a cache root of builds, not a place for copies: name another folder")
    folder = layout.generations
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BundleError(f"{folder} is not a folder of a bundle and was not changed: name another place")
    for link in (layout.current, layout.previous):
        if os.path.lexists(link) and not link.is_symlink():
            raise BundleError(f"{link} is not a link of a bundle and was not changed: name another place")


def _sweep(layout: CacheLayout) -> None:
    with bundle_errors(layout.root):
        for path in layout.root.glob(f"{atomic.TEMPORARY_PREFIX}*"):
            if path.is_dir() and not path.is_symlink():
                atomic.remove_tree(path)
            else:
                atomic.remove_file(path)


def plan_copy(layout: CacheLayout, source: SourceGeneration) -> CopyPlan:
    """Compares the generation with the target and returns what has to be copied. Changes nothing.

    The bytes of every candidate are read from the medium, not from the page cache.

    Raises:
        BundleError: the target cannot be read.
    """
    with bundle_errors(layout.root):
        entries = sorted(layout.generations.iterdir()) if layout.generations.is_dir() else []
        # First the folder of this generation and its repaired copies, then the others.
        folders = sorted(
            filter(_is_generation, entries), key=lambda path: (not _same(path.name, source.path.name), path.name)
        )
        linked: dict[str, Path] = {}
        for folder in folders:
            intact = {name for name in source.order if is_intact(folder / name, *source.files[name])}
            if intact == source.files.keys() and names_below(folder) == intact and not _extra_folders(folder, source):
                return CopyPlan(folder, True, {}, ())
            linked = {**{name: folder / name for name in intact}, **linked}
            if linked.keys() == source.files.keys():
                break
    copied = tuple(name for name in source.order if name not in linked)
    return CopyPlan(_free_name(layout, source), False, linked, copied)


def _is_generation(path: Path) -> bool:
    return _NAME.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()


def _same(name: str, other: str) -> bool:
    """Returns whether a folder name, without the suffix of a repaired copy, is the name of a generation."""
    return name.partition(_REPAIR)[0] == other


def _free_name(layout: CacheLayout, source: SourceGeneration) -> Path:
    """Returns the generation's path, or that of a repaired copy if the folder exists: it must not be changed."""
    base = layout.generations / source.path.name
    names = (base.with_name(f"{base.name}{_REPAIR}{number}") for number in count(1))
    return next(path for path in chain([base], names) if not os.path.lexists(path))


def _extra_folders(folder: Path, source: SourceGeneration) -> bool:
    """Returns whether there are folders without a file of the generation. The verifier refuses such folders."""
    needed = {folder / parent for name in source.files for parent in Path(name).parents}
    return any(path.is_dir() and path not in needed for path in folder.rglob("*"))


def check_space(layout: CacheLayout, source: SourceGeneration, plan: CopyPlan, free: int) -> None:
    """Checks before a copy that the files fit on the target. free: bytes.

    Raises:
        BundleError: there is too little space. The message gives both sizes.
    """
    blocks = sum(-(-source.files[name][1] // BLOCK) for name in plan.copied)
    needed = blocks * BLOCK + RESERVE
    if needed > free:
        raise BundleError(
            f"{layout.root} has {free / 1e6:,.1f} MB free, but this copy needs {needed / 1e6:,.1f} MB: "
            "free space there, or use a larger medium. Nothing was changed"
        )


def copy_generation(
    layout: CacheLayout, source: SourceGeneration, plan: CopyPlan, judge: Callable[[Path], None]
) -> Path:
    """Copies the files, verifies the copy as the medium holds it, and makes it current.

    Args:
        layout: the layout of the target.
        source: the generation to copy.
        plan: what `plan_copy` returned.
        judge: verifies a copy. Raises BundleError if the copy must not fly.

    Returns:
        The folder of the generation on the target.

    Raises:
        BundleError: `judge` refuses the copy, the source is damaged, or the medium reports an error.
    """
    if plan.complete:
        _judge_from_medium(plan.home, source, judge)
    else:
        with temporary_folder(layout) as temporary:
            folder = temporary / plan.home.name
            with bundle_errors(layout.root):
                _fill(folder, source, plan)
            _judge_from_medium(folder, source, judge)
            with bundle_errors(layout.root):
                if not layout.generations.exists():
                    layout.generations.mkdir()
                    layout.generations.chmod(FOLDER_MODE)
                    atomic.fsync_directory(layout.root)
                atomic.rename_directory(folder, plan.home)
    with bundle_errors(layout.root):
        _set_current(layout, plan.home)
    return plan.home


def _fill(folder: Path, source: SourceGeneration, plan: CopyPlan) -> None:
    """Writes and syncs every file, the manifest and its envelope last. Raises OSError or BundleError."""
    folder.mkdir()
    for name in source.order:
        target, (sha256, _) = folder / name, source.files[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in plan.linked:
            atomic.link_or_copy(plan.linked[name], target, mode=FILE_MODE)
        elif atomic.copy_hashed(source.path / name, target, mode=FILE_MODE) != sha256:
            raise BundleError(
                f"{source.path / name} differs from its manifest: run doit verify, then doit provision. "
                "The current cache on the target was not changed"
            )
    for path in sorted({folder / parent for name in source.files for parent in Path(name).parents}, reverse=True):
        # Do not depend on the umask: another user reads the copy on the aircraft.
        path.chmod(FOLDER_MODE)
        atomic.fsync_directory(path)


def _judge_from_medium(folder: Path, source: SourceGeneration, judge: Callable[[Path], None]) -> None:
    with bundle_errors(folder):
        for name in source.files:
            drop_cached(folder / name)
    judge(folder)


def _set_current(layout: CacheLayout, home: Path) -> None:
    """Points `current` at the generation. `previous` gets the old target if that is another generation."""
    target = f"gen/{home.name}"
    old = os.fspath(layout.current.readlink()) if layout.current.is_symlink() else None
    if old == target:
        return
    base = home.name.partition(_REPAIR)[0]
    if old is not None and not _same(Path(old).name, base):
        atomic.replace_symlink(layout.previous, old)
    atomic.replace_symlink(layout.current, target)


def prune(layout: CacheLayout) -> list[Path]:
    """Removes the generations that neither `current` nor `previous` names, and returns their paths.

    Raises:
        BundleError: a generation cannot be removed.
    """
    linked = {link.readlink().name for link in (layout.current, layout.previous) if link.is_symlink()}
    removed = [
        path for path in sorted(layout.generations.iterdir()) if _is_generation(path) and path.name not in linked
    ]
    try:
        for path in removed:
            atomic.remove_tree(path)
    except OSError as error:
        raise BundleError(
            f"the copy is complete and current, but an older generation cannot be removed: {error}; check the medium"
        ) from error
    return removed
