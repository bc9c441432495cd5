"""The end of a run: writes the build report if the run holds the lock, and logs a failure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from preflight.errors import CacheRootError, PreflightError
from preflight.records import BuildOutcome, BuildReport
from preflight.report.build_report import encode_report, report_fields
from preflight.report.run_log import RunLog
from preflight.store import atomic
from preflight.store.cache_layout import CacheLayout
from preflight.store.lock import BuildLock

log = logging.getLogger("c10_provisioning.provisioner")


class Ending:
    """Reports how a run ended.

    Args:
        layout: the cache root.
        lock: the build lock. Without the lock no report is written.
        run_log: the results of the run.
        manifest_hash: returns the hash of the current manifest; None if there is none.

    Attributes:
        last_failure: the last error that was reported; None if there was none.
    """

    def __init__(
        self, layout: CacheLayout, lock: BuildLock, run_log: RunLog, manifest_hash: Callable[[], str | None]
    ) -> None:
        self._layout = layout
        self._lock = lock
        self._run_log = run_log
        self._manifest_hash = manifest_hash
        self.last_failure: BaseException | None = None

    def success(self) -> BuildReport:
        """Write and return the report of a successful run. Raises OSError."""
        report = self._report(None)
        self._write(report)
        return report

    def failure(self, error: BaseException) -> BuildReport:
        """Return the report of a run that ended with `error`."""
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            return self._report("stopped by a signal; run doit provision again to go on")
        return self._report(str(error) if isinstance(error, PreflightError) else f"{type(error).__name__}: {error}")

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Report and log any error of the block and raise it again. An OSError becomes a CacheRootError."""
        try:
            yield
        except OSError as error:
            # The cause may be a full disk, a missing permission or a broken medium, with any file.
            where = f" ({error.filename})" if error.filename else ""
            translated = CacheRootError(
                f"{error.strerror or error}{where}; free space or repair the file system, then run doit provision "
                "again; the last good cache is untouched"
            )
            self._failed(translated)
            raise translated from error
        except BaseException as error:
            self._failed(error)
            raise

    def _failed(self, error: BaseException) -> None:
        """Report an error once, also if it passes through several blocks."""
        if error is self.last_failure:
            return
        self.last_failure = error
        report = self.failure(error)
        try:
            self._write(report)
        except OSError as second:
            log.error(  # noqa: TRY400 - the traceback of the first error is the important one
                f"the build report cannot be written: {second}",
                extra={"event": "c10.build.report_not_written", "fields": {}},
            )
        fields = {"error": type(error).__name__, **report_fields(report)}
        log.error(report.failure_reason, extra={"event": "c10.build.failed", "fields": fields})

    def _report(self, failure: str | None) -> BuildReport:
        counts = self._run_log.counts
        done = BuildOutcome.SUCCESS if self._run_log.built else BuildOutcome.IDEMPOTENT_NO_OP
        return BuildReport(
            engines_built=counts["engines_built"],
            engines_reused=counts["engines_reused"],
            descriptors_generated=counts["descriptors_generated"],
            manifest_hash=None if failure else self._manifest_hash(),
            outcome=BuildOutcome.FAILURE if failure else done,
            failure_reason=failure,
        )

    def _write(self, report: BuildReport) -> None:
        if self._lock.held:
            atomic.atomic_write(self._layout.report, encode_report(report))
