"""How a run ends: its report, written into the cache root where the lock is held, and logged when it is of a failure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from preflight.errors import CacheRootError, PreflightError
from preflight.records import BuildReport
from preflight.report.build_report import encode_report, report_fields
from preflight.report.run_log import RunLog
from preflight.store import atomic
from preflight.store.cache_layout import CacheLayout
from preflight.store.lock import BuildLock

log = logging.getLogger("preflight")


class Ending:
    """The end of one run. last_failure: the last error that was reported."""

    def __init__(
        self, layout: CacheLayout, lock: BuildLock, run_log: RunLog, manifest_hash: Callable[[], str | None]
    ) -> None:
        self._layout = layout
        self._lock = lock
        self._run_log = run_log
        self._manifest_hash = manifest_hash
        self.last_failure: BaseException | None = None

    def success(self) -> BuildReport:
        """Write and return the report of a run that did all it had to. Raises OSError."""
        report = self._report(None)
        self._write(report)
        return report

    def failure(self, error: BaseException) -> BuildReport:
        """The report of a run that ended in `error`."""
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            return self._report("stopped by a signal; run doit provision again to go on")
        return self._report(str(error) if isinstance(error, PreflightError) else f"{type(error).__name__}: {error}")

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Write and log the failure's report when the block raises, and let the error go on: CacheRootError for an OSError."""
        try:
            yield
        except OSError as error:
            # Whatever file it was: a full disk, a missing right, a broken medium.
            place = f" ({error.filename})" if error.filename else ""
            translated = CacheRootError(
                f"{error.strerror or error}{place}; free space or repair the file system, then run doit provision again; "
                "the last good cache is untouched"
            )
            self._failed(translated)
            raise translated from error
        except BaseException as error:
            self._failed(error)
            raise

    def _failed(self, error: BaseException) -> None:
        self.last_failure = error
        report = self.failure(error)
        try:
            self._write(report)
        except OSError as second:
            log.error(  # noqa: TRY400 - the first error is the one to follow
                f"the report cannot be written: {second}", extra={"event": "report_not_written", "fields": {}}
            )
        fields = {"error": type(error).__name__, **report_fields(report)}
        log.error(report.failure_reason, extra={"event": "build_failed", "fields": fields})

    def _report(self, failure: str | None) -> BuildReport:
        counts = self._run_log.counts
        outcome = "failure" if failure else "success" if self._run_log.built else "idempotent_no_op"
        return BuildReport(
            engines_built=counts["engines_built"],
            engines_reused=counts["engines_reused"],
            descriptors_generated=counts["descriptors_generated"],
            manifest_hash=None if failure else self._manifest_hash(),
            outcome=outcome,  # type: ignore[arg-type] # one of the three by construction
            failure_reason=failure,
        )

    def _write(self, report: BuildReport) -> None:
        if self._lock.held:
            atomic.atomic_write(self._layout.report, encode_report(report))
