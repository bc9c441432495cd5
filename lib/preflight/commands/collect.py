"""`doit gc`: removes files and generations that no kept generation and no build record refers to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from preflight.run.estimate import bytes_below
from preflight.run.session import Session
from preflight.store import atomic
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import Generations
from preflight.trace.record import read_record, record_path
from preflight.trace.rule import Step
from preflight.wiring import Assembly


@dataclass(frozen=True, slots=True)
class Garbage:
    """A file or a generation's folder that nothing refers to.

    size: the bytes that its removal frees. modified: the time of its last change, in seconds since the epoch.
    """

    path: Path
    size: int
    modified: float


def collect(assembly: Assembly, session: Session, limit: int | None, *, dry_run: bool) -> list[Garbage]:
    """Remove what nothing refers to. The caller must hold the lock.

    Args:
        assembly: the parts of the mission.
        session: its stages.
        limit: the size in bytes that the cache root may have; None to remove all garbage.
        dry_run: remove nothing.

    Returns:
        What was removed, or what would be removed.

    Raises:
        OSError: a file cannot be read or removed.
    """
    steps = [step for stage in session.stages.values() for step in stage.steps]
    keep = assembly.job.config.provisioner.keep_generations
    garbage = find_garbage(assembly.layout, assembly.generations, steps, keep, _resumable(assembly))
    chosen = choose(garbage, bytes_below([assembly.layout.root]), limit)
    if not dry_run:
        remove(chosen)
    return chosen


def _resumable(assembly: Assembly) -> list[Path]:
    """Return the segments of the mission's own engine.

    A run that was killed before it wrote its record resumes from them.
    """
    try:
        return assembly.descriptors.store().segments()
    except FileNotFoundError:
        return []


def find_garbage(
    layout: CacheLayout, generations: Generations, steps: Iterable[Step], keep: int, resumable: Iterable[Path] = ()
) -> list[Garbage]:
    """Return what may be removed, the oldest first.

    Keeps the newest generations, `current`, `previous`, and the records and outputs of the steps.

    Args:
        layout: the folders of the cache root.
        generations: the published generations.
        steps: the build steps of the mission.
        keep: how many of the newest generations to keep.
        resumable: files to keep although no record names them.
    """
    kept = {path for step in steps for path in _kept_files(step)} | set(resumable)
    folders = (layout.engines, layout.onnx, layout.descriptors, layout.work / "parity")
    files = [path for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.is_file()]
    found = [path for path in files if path not in kept]
    found += [generation.path for generation in generations.surplus(keep)]
    return sorted((_measured(path) for path in found), key=lambda item: (item.modified, item.path))


def choose(garbage: list[Garbage], total: int, max_size: int | None) -> list[Garbage]:
    """Choose what to remove from `garbage`, which is sorted by age.

    Args:
        garbage: what may be removed, the oldest first.
        total: the size of the cache root in bytes.
        max_size: the size in bytes to reach; None for all garbage.

    Returns:
        The oldest items whose removal reaches `max_size`; all of them if even that is not enough.
    """
    if max_size is None:
        return garbage
    chosen = []
    for item in garbage:
        if total <= max_size:
            break
        chosen.append(item)
        total -= item.size
    return chosen


def remove(garbage: Iterable[Garbage]) -> None:
    """Remove files and folders. The caller must hold the lock. Raises OSError."""
    for item in garbage:
        if item.path.is_dir():
            atomic.remove_tree(item.path)
        else:
            atomic.remove_file(item.path)


def _kept_files(step: Step) -> set[Path]:
    path = record_path(step.outputs[0])
    record = read_record(path)
    outputs = set() if record is None else {path.parent / name for name in record.outputs}
    return {path, *step.outputs, *outputs}


def _measured(path: Path) -> Garbage:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    # Removing a file that another generation shares through a hard link frees no space.
    size = sum(stat.st_size for stat in (file.stat() for file in files) if stat.st_nlink == 1)
    return Garbage(path, size, path.stat().st_mtime)
