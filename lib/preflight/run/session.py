"""One run over a cache root, whoever started it: lock, judge, build, report, leave nothing behind.

Both faces stand on this: `doit provision` calls `begin`, `judge`, `run` and `finish` task by task; the Python API calls `build`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from preflight.errors import CacheRootError, PreflightError
from preflight.ports import Clock
from preflight.records import BuildReport
from preflight.report.build_report import report_fields
from preflight.report.run_log import RunLog, StageOutcome
from preflight.run.ending import Ending
from preflight.run.rates import keep_rates
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import Generations
from preflight.store.lock import BuildLock
from preflight.trace.digests import DigestCache
from preflight.trace.rule import LastBuild, Step, Tracer, Verdict

log = logging.getLogger("preflight")


@dataclass(frozen=True)
class Stage:
    """One task: steps that run one after the other, and the stages that must be done before."""

    name: str
    after: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Hooks:
    """What a run needs around its stages. prepare: before anything is judged, under the lock. close: at the end."""

    prepare: Callable[[], None]
    close: Callable[[], None]
    manifest_hash: Callable[[], str | None]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A step as `doit why` and `doit plan` tell of it. recorded: something was built where its artifact lies."""

    step: str
    verdict: Verdict
    last: LastBuild | None
    recorded: bool


class Session:
    """A run. Not re-entrant; `close` must be called, also after an error."""

    def __init__(
        self,
        *,
        layout: CacheLayout,
        stages: Sequence[Stage],
        tracer: Tracer,
        generations: Generations,
        lock: BuildLock,
        run_log: RunLog,
        clock: Clock,
        hooks: Hooks,
        repair: bool,
        wait: float = 0.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.layout = layout
        self.stages = {stage.name: stage for stage in stages}
        self.run_log = run_log
        self._tracer = tracer
        self._generations = generations
        self._lock = lock
        self._clock = clock
        self._hooks = hooks
        self._repair = repair
        self._wait = wait
        self._monotonic = monotonic
        self._began: float | None = None
        self._finished = False
        self._ending = Ending(layout, lock, run_log, hooks.manifest_hash)

    def begin(self) -> None:
        """Take the lock, sweep what killed runs left, prepare.

        Raises:
            BuildLockHeldError, CacheRootError: the cache root is not ours to write.
            PreflightError: as `prepare` raises.
        """
        with self._ending.failing():
            self._lock.acquire(self._clock(), wait=self._wait)
            self._began = self._monotonic()
            log.info("build started", extra={"event": "build_start", "fields": {"cache_root": str(self.layout.root)}})
            self._generations.sweep()
            if self._repair or self.layout.refused.is_file():
                self._tracer.digests.distrust()
            self._hooks.prepare()

    def judge(self, name: str) -> bool:
        """Is the stage current? A stage whose inputs cannot be read is not; running it says why."""
        began = self._monotonic()
        current = all(self._verdict(step).current for step in self.stages[name].steps)
        if current:
            self._note(name, "reused", began)
        return current

    def explain(self, name: str) -> list[Explanation]:
        """What the rule says of each step of a stage, and why each was built last. Changes nothing."""
        return [
            Explanation(step.name, self._verdict(step), self._tracer.last_build(step), step.record_path.exists())
            for step in self.stages[name].steps
        ]

    def run(self, name: str, *, alone: bool = True) -> None:
        """Build what is not current in a stage. Raises PreflightError, after the report of the failure was written.

        alone: False where the other stages of its kind (`engine:...`) are wanted too. What they can begin aside is begun; and
        when this one fails, they are built before the failure is raised, so that the next run has only it to build.
        """
        with self._ending.failing():
            try:
                if not alone:
                    self._start_others(name)
                self._build(name)
            except PreflightError:
                if not alone:
                    self._build_others(name)
                raise

    def _build(self, name: str) -> None:
        began, engines = self._monotonic(), self.run_log.counts["engines_built"]
        built = False
        for step in self.stages[name].steps:
            verdict = self._verdict(step)
            if not verdict.current:
                self._run(step, verdict)
                built = True
        compiled = self.run_log.counts["engines_built"] > engines
        self._note(name, "built" if built else "reused", began, compiled=compiled)

    def _run(self, step: Step, verdict: Verdict) -> None:
        log.debug(
            f"{step.name} runs",
            extra={"event": "step_runs", "fields": {"step": step.name, "why": list(verdict.reasons)}},
        )
        self._tracer.run(step, verdict.reasons)

    def _others(self, name: str) -> list[str]:
        """The stages of the same kind that have not had their turn."""
        kind = name.partition(":")[0]
        return [
            other
            for other in self.stages
            if other != name and other.partition(":")[0] == kind and other not in self.run_log.stages
        ]

    def _start_others(self, name: str) -> None:
        """Run the others' steps up to one that can begin aside, and begin it. What fails is left to the stage's own turn."""
        for other in self._others(name):
            steps = self.stages[other].steps
            for step in steps if any(step.start for step in steps) else ():
                try:
                    verdict = self._verdict(step)
                    if step.start is not None:
                        if not verdict.current:
                            step.start()
                        break
                    if not verdict.current:
                        self._run(step, verdict)
                except (PreflightError, OSError):
                    break  # it is run, and fails, again

    def _build_others(self, failed: str) -> None:
        """What fails here is logged: the first failure is raised."""
        for name in self._others(failed):
            try:
                self._build(name)
            except PreflightError as error:
                fields = {"stage": name, "error": type(error).__name__}
                log.error(f"{name} failed too: {error}", extra={"event": "stage_failed_too", "fields": fields})  # noqa: TRY400 - an operator's sentence

    def _verdict(self, step: Step) -> Verdict:
        try:
            return self._tracer.judge(step)
        except (PreflightError, OSError) as error:
            # Running the step raises it again, where it is reported.
            return Verdict(False, (str(error),))
        except (ValueError, TypeError, LookupError) as error:
            # A file of work/ that was edited does not read as what was written. Its own stage comes first and writes it anew.
            return Verdict(False, (f"an input of {step.name} does not read as what was written ({error})",))

    def _note(self, name: str, outcome: StageOutcome, began: float, *, compiled: bool = False) -> None:
        # An engine that is only held to the gate again is reused, though its stage was built.
        if name.startswith("engine:") and name not in self.run_log.stages and not compiled:
            self.run_log.counts["engines_reused"] += 1
        self.run_log.stage(name, outcome, self._monotonic() - began)

    def finish(self) -> BuildReport:
        """Write and return the report of a run whose stages are all current or built. Raises CacheRootError."""
        with self._ending.failing():
            report = self._ending.success()
        keep_rates(self.layout, self.run_log)
        self._finished = True
        log.info("build ended", extra={"event": "build_end", "fields": report_fields(report)})
        return report

    def build(self) -> BuildReport:
        """All stages in order, from lock to report. Raises PreflightError as the stages do."""
        try:
            self.begin()
            for name in self.stages:
                if not self.judge(name):
                    self.run(name, alone=False)
            return self.finish()
        finally:
            self.close()

    def hold(self, *, sweep: bool = True) -> None:
        """Take the lock and sweep, for a command that changes the cache root without building. Raises as `begin`."""
        self._lock.acquire(self._clock(), wait=self._wait)
        self._finished = not sweep
        if sweep:
            self._generations.sweep()

    def close(self) -> None:
        """Stop what was started, keep what was learnt, free the lock. Idempotent."""
        with ExitStack() as stack:
            stack.callback(self._lock.release)
            if self._lock.held:
                if not self._finished:
                    stack.callback(self._sweep)
                stack.callback(self._keep_digests)
            stack.callback(self._hooks.close)

    def _sweep(self) -> None:
        """A run that was stopped can leave the file it was about to write, wherever the signal met it."""
        try:
            self._generations.sweep()
        except (OSError, CacheRootError) as error:
            self.run_log.warn("left_overs_kept", f"the next run removes what this one left: {error}")

    def _keep_digests(self) -> None:
        try:
            self._tracer.digests.flush()
        except OSError as error:
            # Costs re-hashing in the next run; what was built or went wrong is not changed by it.
            self.run_log.warn("digests_not_kept", f"what was hashed will be hashed again: {error}")

    def failure_report(self, error: BaseException) -> BuildReport:
        """The report of a run that ended in `error`."""
        return self._ending.failure(error)

    @property
    def holds_lock(self) -> bool:
        """Whether `begin` took the cache root's lock, and `close` has not freed it."""
        return self._lock.held

    @property
    def last_failure(self) -> BaseException | None:
        """The last error that was reported and logged."""
        return self._ending.last_failure

    @property
    def digests(self) -> DigestCache:
        """The one digest cache of the run."""
        return self._tracer.digests

    @property
    def seconds(self) -> float:
        """Since `begin`."""
        return 0.0 if self._began is None else self._monotonic() - self._began
