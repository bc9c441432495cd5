"""One run over a cache root: takes the lock, checks and builds the stages, reports, and cleans up.

`doit provision` calls `begin`, `judge`, `run` and `finish` task by task. The Python API calls `build`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from preflight.errors import BuildCancelledError, BuildLockHeldError, CacheRootError, CallbackError, PreflightError
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

log = logging.getLogger("c10_provisioning.provisioner")


@dataclass(frozen=True)
class Stage:
    """One task: its steps, in order, and the names of the stages that must be done before."""

    name: str
    after: tuple[str, ...]
    steps: tuple[Step, ...]


Observer = Callable[[str, str], None]
"""Told (stage, event) when a stage begins, and when it ends: `begin`, then `built`, `reused` or `failed`."""


@dataclass(frozen=True)
class Hooks:
    """Functions that a run calls around its stages.

    prepare: called under the lock, before any stage is checked. close: called at the end. manifest_hash: returns the
    hash of the current manifest; None if there is none.
    """

    prepare: Callable[[], None]
    close: Callable[[], None]
    manifest_hash: Callable[[], str | None]
    observer: Observer | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The state of a step, for `doit why` and `doit plan`.

    Attributes:
        step: the name of the step.
        verdict: whether it is current, and the reasons if not.
        last: its last build and the reasons for that; None if unknown.
        recorded: whether a build record lies beside its artifact.
    """

    step: str
    verdict: Verdict
    last: LastBuild | None
    recorded: bool


class Session:
    """A run over a cache root. It is not re-entrant. Call `close` at the end, even after an error.

    Args:
        layout: the cache root.
        stages: all stages, each after those that it depends on.
        tracer: the up-to-date rule.
        generations: the published generations.
        lock: the build lock.
        run_log: collects the results.
        clock: the wall clock.
        hooks: functions around the stages.
        repair: trust no stored digest and hash all files again.
        wait: seconds to wait for the lock.
        monotonic: the clock for durations, in seconds.
    """

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
        self._refused = False
        self._ending = Ending(layout, lock, run_log, hooks.manifest_hash)

    def begin(self) -> None:
        """Take the lock, remove what killed runs left behind, and prepare.

        Raises:
            BuildLockHeldError: another run holds the lock.
            CacheRootError: the cache root cannot be written.
            PreflightError: as `prepare` raises.
        """
        with self._ending.failing():
            self._acquire()
            self._began = self._monotonic()
            log.info(
                "build started", extra={"event": "c10.build.start", "fields": {"cache_root": str(self.layout.root)}}
            )
            self._generations.sweep()
            if self._repair or self.layout.refused.is_file():
                self._tracer.digests.distrust()
            self._hooks.prepare()

    def _acquire(self) -> None:
        try:
            self._lock.acquire(self._clock(), wait=self._wait)
        except BuildLockHeldError:
            self._refused = True
            raise

    def judge(self, name: str) -> bool:
        """Return whether all steps of a stage are current.

        A stage whose inputs cannot be read is not current. Running it raises the error.
        """
        began = self._monotonic()
        current = all(self._verdict(step).current for step in self.stages[name].steps)
        if current:
            self._note(name, "reused", began)
        return current

    def explain(self, name: str) -> list[Explanation]:
        """Return the state of each step of a stage. Changes nothing."""
        return [
            Explanation(step.name, self._verdict(step), self._tracer.last_build(step), step.record_path.exists())
            for step in self.stages[name].steps
        ]

    def run(self, name: str, *, alone: bool = True) -> None:
        """Build the steps of a stage that are not current.

        Args:
            name: the stage.
            alone: False if the other stages of the same kind (`engine:...`) will be built too. Their steps that can run
                in parallel are then started. If this stage fails, the others are built before the error is raised, so
                that the next run has only this stage to build.

        Raises:
            PreflightError: a step failed. The report of the failure is written before.
        """
        with self._ending.failing():
            try:
                if not alone:
                    self._start_others(name)
                self._build(name)
            except (BuildCancelledError, CallbackError):
                raise
            except PreflightError:
                if not alone:
                    self._build_others(name)
                raise

    def _build(self, name: str) -> None:
        self._tell(name, "begin")
        try:
            self._build_steps(name)
        except BaseException as error:
            try:
                self._tell(name, "failed")
            except CallbackError as second:
                log.error(  # noqa: TRY400 - the traceback of the first error is the important one
                    f"{second}, while it was told that {name} failed",
                    extra={
                        "event": "c10.stage.failed",
                        "fields": {"stage": name, "error": type(error).__name__},
                    },
                )
            raise

    def _build_steps(self, name: str) -> None:
        began, engines = self._monotonic(), self.run_log.counts["engines_built"]
        built = False
        for step in self.stages[name].steps:
            self.run_log.checkpoint()
            verdict = self._verdict(step)
            if not verdict.current:
                self._run(step, verdict)
                built = True
        compiled = self.run_log.counts["engines_built"] > engines
        self._note(name, "built" if built else "reused", began, compiled=compiled)

    def _run(self, step: Step, verdict: Verdict) -> None:
        log.debug(
            f"{step.name} runs",
            extra={"event": "c10.step.start", "fields": {"step": step.name, "why": list(verdict.reasons)}},
        )
        self._tracer.run(step, verdict.reasons)

    def _others(self, name: str) -> list[str]:
        """Return the other stages of the same kind that were neither built nor reused yet."""
        kind = name.partition(":")[0]
        return [
            other
            for other in self.stages
            if other != name and other.partition(":")[0] == kind and other not in self.run_log.stages
        ]

    def _start_others(self, name: str) -> None:
        """Run the other stages up to a step that can run in parallel, and start it. Errors wait for their stage."""
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
                    break  # the step runs again in its own stage, which reports the error

    def _build_others(self, failed: str) -> None:
        """Build the other stages of the same kind. Their errors are only logged, because the first error is raised."""
        for name in self._others(failed):
            try:
                self._build(name)
            except PreflightError as error:
                fields = {"stage": name, "error": type(error).__name__}
                log.error(  # noqa: TRY400 - the operator needs no traceback
                    f"{name} failed too: {error}", extra={"event": "c10.stage.failed", "fields": fields}
                )

    def _verdict(self, step: Step) -> Verdict:
        try:
            return self._tracer.judge(step)
        except (PreflightError, OSError) as error:
            # The step raises the error again when it runs, and the error is reported then.
            return Verdict(False, (str(error),))
        except (ValueError, TypeError, LookupError) as error:
            # A file in work/ was edited and cannot be parsed. The stage that owns it comes first and writes it again.
            return Verdict(False, (f"an input of {step.name} is damaged and cannot be parsed ({error})",))

    def _note(self, name: str, outcome: StageOutcome, began: float, *, compiled: bool = False) -> None:
        # If only the parity gate ran again, the engine counts as reused although its stage was built.
        if name.startswith("engine:") and name not in self.run_log.stages and not compiled:
            self.run_log.counts["engines_reused"] += 1
        self.run_log.stage(name, outcome, self._monotonic() - began)
        self._tell(name, outcome)

    def _tell(self, name: str, event: str) -> None:
        if self._hooks.observer is not None:
            self._hooks.observer(name, event)

    def finish(self) -> BuildReport:
        """Write and return the report of a run after all stages are current. Raises CacheRootError."""
        with self._ending.failing():
            report = self._ending.success()
        keep_rates(self.layout, self.run_log)
        self._finished = True
        log.info("build ended", extra={"event": "c10.build.complete", "fields": report_fields(report)})
        return report

    def build(self) -> BuildReport:
        """Take the lock, build all stages in order, report and clean up. Raises PreflightError as the stages do."""
        try:
            self.begin()
            with self._ending.failing():
                for name in self.stages:
                    self.run_log.checkpoint()
                    if not self.judge(name):
                        self.run(name, alone=False)
            return self.finish()
        finally:
            self.close()

    def hold(self, *, sweep: bool = True) -> None:
        """Take the lock, for a command that changes the cache root without a build. Raises as `begin`.

        sweep: remove what killed runs left behind, now and in `close`.
        """
        self._acquire()
        self._finished = not sweep
        if sweep:
            self._generations.sweep()

    def close(self) -> None:
        """Call the hook `close`, store the digests, remove temporary files, and release the lock. Idempotent.

        If the lock was refused, nothing was opened and nothing is closed.
        """
        with ExitStack() as stack:
            stack.callback(self._lock.release)
            if self._lock.held:
                if not self._finished:
                    stack.callback(self._sweep)
                stack.callback(self._keep_digests)
            if not self._refused:
                # A refused run opened nothing. Another run of this process may be using the same parts.
                stack.callback(self._hooks.close)

    def _sweep(self) -> None:
        """Remove temporary files: a signal may have stopped the run in the middle of a write."""
        try:
            self._generations.sweep()
        except (OSError, CacheRootError) as error:
            self.run_log.warn(
                "c10.build.leftovers_kept", f"temporary files cannot be removed; the next run removes them: {error}"
            )

    def _keep_digests(self) -> None:
        try:
            self._tracer.digests.flush()
        except OSError as error:
            # The next run only has to hash the files again; the outcome of this run stays.
            self.run_log.warn(
                "c10.build.digests_not_kept",
                f"the digest cache cannot be stored; the next run hashes the files again: {error}",
            )

    def failure_report(self, error: BaseException) -> BuildReport:
        """Return the report of a run that ended with `error`."""
        return self._ending.failure(error)

    @property
    def holds_lock(self) -> bool:
        """Whether this run holds the lock of the cache root."""
        return self._lock.held

    @property
    def last_failure(self) -> BaseException | None:
        """The last error that was reported and logged; None if there was none."""
        return self._ending.last_failure

    @property
    def digests(self) -> DigestCache:
        """The digest cache of the run."""
        return self._tracer.digests

    @property
    def seconds(self) -> float:
        """Seconds since `begin`; 0 before it."""
        return 0.0 if self._began is None else self._monotonic() - self._began
