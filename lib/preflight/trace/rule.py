"""The up-to-date rule: judges whether a step is current, and runs it.

A step is current if three things hold: its build record has the action key that the step would get now, each recorded
output has its recorded digest, and `rerun_reason` gives no reason. Times, doit's database and the path of the cache
root do not matter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from preflight.errors import InputChangedError
from preflight.trace.digests import DigestCache, Signature, signature
from preflight.trace.record import BuildRecord, action_key, canonical_json, read_record, record_path


def _no_reason() -> str | None:
    return None


@dataclass(frozen=True)
class Step:
    """One unit of work that the rule judges.

    name: unique in a cache root.
    version: raised by hand when the behaviour of the step changes.
    reads: files that must not change while the step runs.
    components: returns component -> value from the current inputs. The action key is computed from it. OSError means
        that an input does not exist yet.
    outputs: the files that `build` writes. The record lies beside the first one.
    build: does the work, and returns further outputs for the record (shards).
    rerun_reason: returns a reason to run although the action key is equal, or None.
    start: begins work in the background that `build` later waits for. Further calls have no effect.
    """

    name: str
    version: int
    reads: tuple[Path, ...]
    components: Callable[[], Mapping[str, str]]
    outputs: tuple[Path, ...]
    build: Callable[[], Iterable[Path]]
    rerun_reason: Callable[[], str | None] = _no_reason
    start: Callable[[], None] | None = None

    @property
    def record_path(self) -> Path:
        """The path of the build record, beside the first output."""
        return record_path(self.outputs[0])


@dataclass(frozen=True, slots=True)
class Change:
    """One component of an action key that changed.

    old: the recorded value, None if the component is new.
    new: the current value, None if the component no longer exists.
    """

    component: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        old, new = ("none" if value is None else value for value in (self.old, self.new))
        return f"{self.component}: {old} → {new}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a step is current, and if not, why.

    reasons: one sentence for each difference.
    changes: the differences that are components.
    """

    current: bool
    reasons: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class LastBuild:
    """The newest build of a step, whatever the path of its artifact, and the reasons why it ran."""

    record: BuildRecord
    reasons: tuple[str, ...]


class Tracer:
    """Judges and runs steps.

    Args:
        digests: the digests of inputs and outputs.
        write: writes a file atomically. Every record is written by it.
        history: the folder that keeps the newest build of each step, for explanations only. None keeps no history.
    """

    def __init__(
        self, digests: DigestCache, write: Callable[[Path, bytes], object], history: Path | None = None
    ) -> None:
        self.digests = digests
        self._write = write
        self._history = history

    def judge(self, step: Step) -> Verdict:
        """Returns whether the step is current. Reads stat signatures, and hashes only files with an unknown signature.

        A reason that ends with " is not there" names a missing input or artifact. `run.planning` reads this ending.
        """
        record = read_record(step.record_path)
        last = None if record is not None else self.last_build(step)
        if record is None and last is None:
            return Verdict(False, ("never built here",))
        try:
            components = dict(step.components())
        except FileNotFoundError as error:
            return Verdict(False, (f"{error.filename} is not there",))
        if record is None:
            # The step has built another artifact here, such as an engine of another precision.
            changes = () if last is None else self._changes(last.record, step, components)
            return Verdict(False, tuple(map(str, changes)) or ("its artifact or record is not there",), changes)
        changes = self._changes(record, step, components)
        reasons = [*map(str, changes), *self._damaged(record, step)]
        if not reasons and (rerun_reason := step.rerun_reason()) is not None:
            reasons.append(rerun_reason)
        return Verdict(not reasons, tuple(reasons), changes)

    def last_build(self, step: Step) -> LastBuild | None:
        """Returns the newest build of the step, or None if the history holds none."""
        if self._history is None:
            return None
        path = self._history_path(step)
        record = read_record(path)
        if record is None:
            return None
        reasons = json.loads(path.read_bytes()).get("reasons")
        if not isinstance(reasons, list) or not all(isinstance(reason, str) for reason in reasons):
            return None
        return LastBuild(record, tuple(reasons))

    def _history_path(self, step: Step) -> Path:
        return (self._history or Path()) / f"{step.name.replace(':', '-')}.json"

    @staticmethod
    def _changes(record: BuildRecord, step: Step, components: Mapping[str, str]) -> tuple[Change, ...]:
        changes = []
        if record.step != step.name:
            changes.append(Change("step", record.step, step.name))
        if record.version != step.version:
            changes.append(Change("stage version", str(record.version), str(step.version)))
        for name in sorted(record.components.keys() | components.keys()):
            old, new = record.components.get(name), components.get(name)
            if old != new:
                changes.append(Change(name, old, new))
        return tuple(changes)

    def _damaged(self, record: BuildRecord, step: Step) -> list[str]:
        folder = step.record_path.parent
        paths = {folder / name: digest for name, digest in record.outputs.items()}
        reasons = [f"output {path.name} is not in the record" for path in step.outputs if path not in paths]
        for path, digest in paths.items():
            try:
                if self.digests.sha256(path) != digest:
                    reasons.append(f"output {path.name} was edited")
            except OSError:
                reasons.append(f"output {path.name} is missing")
        return reasons

    def run(self, step: Step, reasons: tuple[str, ...] = ()) -> None:
        """Builds the step and writes its record. reasons: why it runs, kept in the history.

        Raises:
            InputChangedError: a file of `reads` changed during the build.
            Exception: whatever `build` raises.
        """
        before = {path: signature(path) for path in step.reads}
        components = dict(step.components())
        extra = step.build()
        self._check_inputs(step, before)
        folder = step.record_path.parent
        outputs = {_relative(path, folder): self.digests.sha256(path) for path in (*step.outputs, *extra)}
        record = BuildRecord(
            step.name, step.version, action_key(step.name, step.version, components), components, outputs
        )
        self._write(step.record_path, record.encode())
        if self._history is not None:
            self._write(
                self._history_path(step), canonical_json({**json.loads(record.encode()), "reasons": list(reasons)})
            )
        self.digests.flush()

    @staticmethod
    def _check_inputs(step: Step, before: Mapping[Path, Signature]) -> None:
        for path, old in before.items():
            try:
                changed = signature(path) != old
            except FileNotFoundError:
                changed = True
            if changed:
                raise InputChangedError(
                    f"{path} was edited while {step.name} ran, so its result is discarded: run the command again"
                )


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
