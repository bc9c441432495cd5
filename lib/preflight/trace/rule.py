"""The up-to-date rule.

A step is current when its build record carries the action key that would be built now, every output recorded has the
digest recorded, and nothing else puts it in doubt. Times, doit's database and the place of the cache root play no part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from preflight.errors import InputChangedError
from preflight.trace.digests import DigestCache, Signature, signature
from preflight.trace.record import BuildRecord, action_key, canonical_json, read_record, record_path


def _nothing_else() -> str | None:
    return None


@dataclass(frozen=True)
class Step:
    """One piece of work the rule judges.

    name: unique in a cache root. version: bumped by hand when behaviour changes. reads: files that must not change while it
    runs. components: what the action key is made of, read from the inputs as they are now; OSError means an input is not
    there yet. outputs: the first is where the record lies; `build` may return further outputs (shards) for the record.
    rerun_reason: a reason to run although the key is equal, or None. start: begins aside what `build` then waits for,
    where it can; called again, it does no more.
    """

    name: str
    version: int
    reads: tuple[Path, ...]
    components: Callable[[], Mapping[str, str]]
    outputs: tuple[Path, ...]
    build: Callable[[], Iterable[Path]]
    rerun_reason: Callable[[], str | None] = _nothing_else
    start: Callable[[], None] | None = None

    @property
    def record_path(self) -> Path:
        """Beside the first output."""
        return record_path(self.outputs[0])


@dataclass(frozen=True, slots=True)
class Change:
    """One component of an action key that is not what it was. None: it was not there, or is no more."""

    component: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        old, new = ("none" if value is None else value for value in (self.old, self.new))
        return f"{self.component}: {old} → {new}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a step is current, and if not, why: one reason a difference. changes: those that are components."""

    current: bool
    reasons: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class LastBuild:
    """The newest build of a step, wherever its artifact lay, and why it ran."""

    record: BuildRecord
    reasons: tuple[str, ...]


class Tracer:
    """Judges and runs steps.

    write: the atomic write every record goes through. history: the folder of each step's newest build, which only explains;
    None keeps none.
    """

    def __init__(
        self, digests: DigestCache, write: Callable[[Path, bytes], object], history: Path | None = None
    ) -> None:
        self.digests = digests
        self._write = write
        self._history = history

    def judge(self, step: Step) -> Verdict:
        """Is the step current? Reads stat signatures, and hashes only files never seen as they are."""
        record = read_record(step.record_path)
        last = None if record is not None else self.last_build(step)
        if record is None and last is None:
            return Verdict(False, ("never built here",))
        try:
            components = dict(step.components())
        except FileNotFoundError as error:
            return Verdict(False, (f"{error.filename} is not there",))
        if record is None:
            # Another artifact of the same step lies here, such as an engine of another precision.
            changes = () if last is None else self._changes(last.record, step, components)
            return Verdict(False, tuple(map(str, changes)) or ("its artifact or record is not there",), changes)
        changes = self._changes(record, step, components)
        reasons = [*map(str, changes), *self._damaged(record, step)]
        if not reasons and (rerun_reason := step.rerun_reason()) is not None:
            reasons.append(rerun_reason)
        return Verdict(not reasons, tuple(reasons), changes)

    def last_build(self, step: Step) -> LastBuild | None:
        """The newest build of the step; None when none is remembered."""
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
        found = []
        if record.step != step.name:
            found.append(Change("step", record.step, step.name))
        if record.version != step.version:
            found.append(Change("stage version", str(record.version), str(step.version)))
        for name in sorted(record.components.keys() | components.keys()):
            old, new = record.components.get(name), components.get(name)
            if old != new:
                found.append(Change(name, old, new))
        return tuple(found)

    def _damaged(self, record: BuildRecord, step: Step) -> list[str]:
        home = step.record_path.parent
        paths = {home / name: digest for name, digest in record.outputs.items()}
        reasons = [f"output {path.name} is not in the record" for path in step.outputs if path not in paths]
        for path, digest in paths.items():
            try:
                if self.digests.sha256(path) != digest:
                    reasons.append(f"output {path.name} was edited")
            except OSError:
                reasons.append(f"output {path.name} is missing")
        return reasons

    def run(self, step: Step, reasons: tuple[str, ...] = ()) -> None:
        """Build the step and write its record; `reasons` are remembered. Raises what the build raises, or InputChangedError."""
        before = {path: signature(path) for path in step.reads}
        components = dict(step.components())
        extra = step.build()
        self._unchanged(step, before)
        home = step.record_path.parent
        outputs = {_relative(path, home): self.digests.sha256(path) for path in (*step.outputs, *extra)}
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
    def _unchanged(step: Step, before: Mapping[Path, Signature]) -> None:
        for path, seen in before.items():
            try:
                moved = signature(path) != seen
            except FileNotFoundError:
                moved = True
            if moved:
                raise InputChangedError(
                    f"{path} was edited while {step.name} ran; nothing built from it is kept: run the command again"
                )


def _relative(path: Path, home: Path) -> str:
    return path.relative_to(home).as_posix()
