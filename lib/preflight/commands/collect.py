"""`doit gc`: removes what no kept generation and no newest build record refers to."""

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
    """A file or generation that nothing refers to."""

    path: Path
    size: int
    modified: float


def collect(assembly: Assembly, session: Session, limit: int | None, *, dry_run: bool) -> list[Garbage]:
    """Remove what nothing refers to; returns what went, or would go. The caller holds the lock. Raises OSError."""
    steps = [step for stage in session.stages.values() for step in stage.steps]
    keep = assembly.job.config.provisioner.keep_generations
    garbage = find_garbage(assembly.layout, assembly.generations, steps, keep, _resumable(assembly))
    chosen = choose(garbage, bytes_below([assembly.layout.root]), limit)
    if not dry_run:
        remove(chosen)
    return chosen


def _resumable(assembly: Assembly) -> list[Path]:
    """The segments of the mission's own engine: a run that was killed before it wrote its record goes on from them."""
    try:
        return assembly.descriptors.store().segments()
    except FileNotFoundError:
        return []


def find_garbage(
    layout: CacheLayout, generations: Generations, steps: Iterable[Step], keep: int, resumable: Iterable[Path] = ()
) -> list[Garbage]:
    """What may go, the oldest first.

    Roots: the newest `keep` generations, `current`, `previous`, the steps' records, and what is `resumable` without one.
    """
    rooted = {path for step in steps for path in _rooted(step)} | set(resumable)
    places = (layout.engines, layout.onnx, layout.descriptors, layout.work / "parity")
    files = [path for place in places if place.is_dir() for path in place.rglob("*") if path.is_file()]
    found = [path for path in files if path not in rooted]
    found += [generation.path for generation in generations.surplus(keep)]
    return sorted((_measured(path) for path in found), key=lambda item: (item.modified, item.path))


def choose(garbage: list[Garbage], total: int, max_size: int | None) -> list[Garbage]:
    """All of it; or, with a size to come down to, the oldest until `total` bytes fit."""
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
    """Remove it. The caller holds the lock. Raises OSError."""
    for item in garbage:
        if item.path.is_dir():
            atomic.remove_tree(item.path)
        else:
            atomic.remove_file(item.path)


def _rooted(step: Step) -> set[Path]:
    path = record_path(step.outputs[0])
    record = read_record(path)
    outputs = set() if record is None else {path.parent / name for name in record.outputs}
    return {path, *step.outputs, *outputs}


def _measured(path: Path) -> Garbage:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    # A file that another generation shares frees nothing.
    size = sum(stat.st_size for stat in (file.stat() for file in files) if stat.st_nlink == 1)
    return Garbage(path, size, path.stat().st_mtime)
