"""What this run of doit is about: variables, mission, session. Nothing here raises while dodo.py loads.

A mission with errors is a value until a task needs it, so that `doit list` and `doit test` work beside it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from functools import lru_cache
from getpass import getpass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import doit
from doit import doit_cmd

from preflight import wiring
from preflight.errors import MissionError, PreflightError
from preflight.mission.cache_place import CachePlace, read_place
from preflight.report.logs import log_to
from preflight.store.cache_layout import CacheLayout
from recipes.standard_output import end_with_the_reader
from recipes.variables import Variables, parse, repeated

if TYPE_CHECKING:
    from preflight.mission.loading import Mission
    from preflight.run.session import Session, Stage
    from preflight.signing import Ask
    from preflight.trace.digests import DigestCache

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = ROOT / "cache_templates"
DEMO = TEMPLATES / "demo.yaml"
MISSION_VARIABLE = "PREFLIGHT_MISSION"
HERE = "mission.yaml"
STOPPING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Context:
    """One run. `mission` and `session` raise what is wrong with them when they are asked for."""

    def __init__(
        self,
        given: dict[str, str],
        environment: dict[str, str],
        folder: Path,
        *,
        twice: Sequence[str] = (),
        verifies_only: bool = False,
    ) -> None:
        """twice: variables given more than once.

        verifies_only: nothing but the task `verify` was asked for. To verify at takeoff, nothing that builds is loaded.
        """
        self._given = given
        self._twice = twice
        self._environment = environment
        self._folder = folder
        self._verifies_only = verifies_only
        self._session: Session | None = None
        self.exit_status: int | None = None

    @property
    def variables(self) -> Variables:
        """Raises CommandLineError."""
        return parse(self._given, self._twice)

    def mission_path(self) -> Path:
        """Where the mission is, or would be."""
        chosen = self.variables.mission or self._environment.get(MISSION_VARIABLE)
        if chosen:
            return self._folder / chosen
        here = self._folder / HERE
        # Also a link whose target is gone: that is the operator's mission, not a reason to build the demo.
        return here if here.exists() or here.is_symlink() else DEMO

    @property
    def uses_demo(self) -> bool:
        """Whether there is no mission of the operator's own."""
        return self.mission_path() == DEMO

    @lru_cache(maxsize=1)  # noqa: B019 - one Context a process
    def mission(self) -> Mission:
        """Raises CommandLineError, MissionError."""
        from preflight.mission.loading import load_mission  # noqa: PLC0415 - a verification does without

        return load_mission(self._existing(), self._environment)

    def places(self) -> CachePlace:
        """Where the mission has its cache and the keys it trusts. Raises CommandLineError, MissionError."""
        return read_place(self._existing(), self._environment)

    def _existing(self) -> Path:
        path = self.mission_path()
        if not path.exists():
            raise MissionError(str(path), ("the file is not there",))
        if not path.is_file():  # a pipe would be waited for
            raise MissionError(str(path), ("this is no file",))
        return path

    def session(self) -> Session:
        """The one run over the mission's cache root. Raises PreflightError."""
        if self._session is None:
            self._session = self.assembly().session()
        return self._session

    @lru_cache(maxsize=1)  # noqa: B019 - one Context a process
    def assembly(self) -> wiring.Assembly:
        """The parts of the run. Raises PreflightError."""
        variables = self.variables
        options = wiring.Options(
            repair=variables.repair,
            recalibrate=variables.recalibrate,
            wait=variables.wait,
            progress=None if self.log_json else _show_progress,
            ask=self.ask(),
        )
        return wiring.assemble(self.mission(), wiring.Surroundings.real(), options)

    def ask(self) -> Ask | None:
        """Asks the operator for a passphrase, unseen; None where no person sits at a terminal."""
        return None if self.log_json or not sys.stdin.isatty() else getpass

    def passphrase(self) -> str | None:
        """The passphrase the environment holds, if any."""
        from preflight.signing import PASSPHRASE_VARIABLE  # noqa: PLC0415 - what signs loads cryptography

        return self._environment.get(PASSPHRASE_VARIABLE)

    def stages(self) -> tuple[Stage, ...]:
        """The mission's stages; none when it is refused (the tasks then say why), or when nothing but a verification is asked."""
        if self._verifies_only:
            return ()  # doit makes every task before it runs one
        try:
            return tuple(self.session().stages.values())
        except PreflightError:
            return ()

    def doit_database(self) -> str:
        """Doit's own state, in the cache root; nowhere when there is no mission, or nothing to remember."""
        if self._verifies_only:
            return ":memory:"
        try:
            return str(CacheLayout(self.mission().job.cache_root).doit_database)
        except PreflightError:
            return ":memory:"

    @property
    def log_json(self) -> bool:
        """Whether programs read this run; also known where another variable is refused."""
        return self._given.get("log") == "json"

    def cache_path(self) -> Path | None:
        """`cache=`, relative to where the command was given. Raises CommandLineError."""
        cache = self.variables.cache
        return None if cache is None else self._folder / cache

    def start_logging(self) -> None:
        """Send log lines to standard output, as JSON if asked."""
        log_to(lambda: sys.stdout, as_json=self.log_json)

    def say(self, event: str, text: str, **fields: object) -> None:
        """Tell the outcome of a command: a line for people, a log line for programs."""
        if self.log_json:
            logging.getLogger("preflight").info(text, extra={"event": event, "fields": fields})
        else:
            print(text)  # noqa: T201 - the command's output

    def log_failure(self, error: PreflightError) -> None:
        """Log an error that no session has logged."""
        if self._session is None or self._session.last_failure is not error:
            logging.getLogger("preflight").error(
                str(error), extra={"event": "refused", "fields": {"error": type(error).__name__}}
            )

    def announce_demo(self) -> None:
        """Say that the demo is used, where it is."""
        if not self.uses_demo:
            return
        if self.log_json:
            logging.getLogger("preflight").warning(
                "no mission file: the demonstration is used",
                extra={"event": "demo_mission", "fields": {"mission": str(DEMO)}},
            )
        else:
            print(f"No mission file: using {DEMO.relative_to(ROOT)} (a demonstration, not for flight)")  # noqa: T201


def _only_verifies(arguments: list[str]) -> bool:
    """Whether a command line asks doit for the task `verify` and no other."""
    asked = [argument for argument in arguments if "=" not in argument]
    return asked in (["verify"], ["run", "verify"])


def _show_progress(done: int, total: int) -> None:
    """A line each tenth: builds may take tens of minutes."""
    print(f"      {done:,} of {total:,} embedded ({100 * done // total} %)", flush=True)  # noqa: T201 - for people


@lru_cache(maxsize=1)
def context() -> Context:
    """This process's run. Also where its output meets a reader that goes away: everything that prints comes by here."""
    end_with_the_reader()
    given: dict[str, str] = dict(doit_cmd._CMDLINE_VARS or {})
    # doit has moved to dodo.py's folder by now; what the operator names is relative to where the command was given.
    folder = Path(doit.get_initial_workdir() or Path.cwd())
    arguments = sys.argv[1:]
    return Context(given, dict(os.environ), folder, twice=repeated(arguments), verifies_only=_only_verifies(arguments))


def stop_on_signals() -> None:
    """End by SystemExit(128 + signal): doit then runs its teardowns, which keep finished work and stop the server."""

    def stop(number: int, _: FrameType | None) -> None:
        ignore_signals()
        raise SystemExit(128 + number)

    for name in STOPPING:
        signal.signal(name, stop)


def ignore_signals() -> None:
    """From now on the run ends by itself."""
    for name in STOPPING:
        signal.signal(name, signal.SIG_IGN)


class ContentChecker:
    """doit's file check by SHA-256, through the run's digest cache: one hashing a file, whatever touches it."""

    CheckerError = OSError

    def __init__(self) -> None:
        self._digests: DigestCache | None = None

    def _cache(self) -> DigestCache:
        if self._digests is None:
            try:
                self._digests = context().session().digests
            except PreflightError:
                from preflight.trace.digests import DigestCache  # noqa: PLC0415 - as in passphrase

                self._digests = DigestCache(None)
        return self._digests

    def exists(self, file_path: str) -> bool:
        """As doit asks for targets."""
        return Path(file_path).exists()

    def info(self, file_path: str) -> os.stat_result:
        """As doit asks before `check_modified`. Raises OSError."""
        return Path(file_path).stat()

    def check_modified(self, file_path: str, file_stat: os.stat_result, state: Any) -> bool:  # noqa: ANN401, ARG002 - doit's signature
        """Whether the content differs from the one the task last succeeded with."""
        return bool(self._cache().sha256(Path(file_path)) != state)

    def get_state(self, dep: str, current_state: Any) -> str | None:  # noqa: ANN401 - doit's signature
        """The content's digest; None when it is the one known."""
        digest = self._cache().sha256(Path(dep))
        return None if digest == current_state else digest
