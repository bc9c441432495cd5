"""One run of doit: its variables, mission and session. Nothing here raises while dodo.py loads.

A mission with errors is a value until a task needs it, so that `doit list` and `doit test` still work.
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
from recipes.variables import Variables, parse, parse_flags, repeated

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
    """One run. The mission's errors are raised when `mission` or `session` is called."""

    def __init__(
        self,
        given: dict[str, str],
        environment: dict[str, str],
        folder: Path,
        *,
        twice: Sequence[str] = (),
        builds_nothing: bool = False,
    ) -> None:
        """Stores what the command line and the environment say.

        Args:
            given: variables as name -> value.
            environment: environment variables.
            folder: the working directory of the operator. Relative paths start here.
            twice: variables that were given more than once.
            builds_nothing: only a task that builds nothing was asked for. Then nothing that builds is loaded.
        """
        self._given = given
        self._twice = twice
        self._environment = environment
        self._folder = folder
        self._builds_nothing = builds_nothing
        self._session: Session | None = None
        self.exit_status: int | None = None

    @property
    def variables(self) -> Variables:
        """The parsed variables. Raises CommandLineError."""
        return parse(self._given, self._twice)

    def flags(self, *known: str) -> dict[str, bool]:
        """The values of these flags, for a task that knows no other variable. Raises CommandLineError."""
        return parse_flags(self._given, self._twice, known)

    def mission_path(self) -> Path:
        """Returns the path of the mission file, which may not exist."""
        chosen = self.variables.mission or self._environment.get(MISSION_VARIABLE)
        if chosen:
            return self._folder / chosen
        here = self._folder / HERE
        # A link without a target is still the operator's mission. It is no reason to build the demo.
        return here if here.exists() or here.is_symlink() else DEMO

    @property
    def uses_demo(self) -> bool:
        """Whether the demo is used because the operator has no mission file."""
        return self.mission_path() == DEMO

    @lru_cache(maxsize=1)  # noqa: B019 - one Context a process
    def mission(self) -> Mission:
        """Returns the mission. Raises CommandLineError, MissionError."""
        from preflight.mission.loading import load_mission  # noqa: PLC0415 - a verification does not need it

        return load_mission(self._existing(), self._environment)

    def places(self) -> CachePlace:
        """Returns the mission's cache root and trust directory. Raises CommandLineError, MissionError."""
        return read_place(self._existing(), self._environment)

    def _existing(self) -> Path:
        path = self.mission_path()
        if not path.exists():
            raise MissionError(str(path), ("the file does not exist",))
        if not path.is_file():  # reading a pipe would block
            raise MissionError(str(path), ("this is not a regular file",))
        return path

    def session(self) -> Session:
        """Returns the run over the mission's cache root. Raises PreflightError."""
        if self._session is None:
            self._session = self.assembly().session()
        return self._session

    @lru_cache(maxsize=1)  # noqa: B019 - one Context a process
    def assembly(self) -> wiring.Assembly:
        """Returns the parts of the run. Raises PreflightError."""
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
        """Returns a function that asks the operator for a passphrase without echo; None if there is no terminal."""
        return None if self.log_json or not sys.stdin.isatty() else getpass

    def passphrase(self) -> str | None:
        """Returns the passphrase from the environment, if any."""
        from preflight.signing import PASSPHRASE_VARIABLE  # noqa: PLC0415 - signing loads cryptography

        return self._environment.get(PASSPHRASE_VARIABLE)

    def stages(self) -> tuple[Stage, ...]:
        """Returns the mission's stages; none if the mission is refused, or if the task builds nothing."""
        if self._builds_nothing:
            return ()  # doit creates every task before it runs one
        try:
            return tuple(self.session().stages.values())
        except PreflightError:
            return ()

    def doit_database(self) -> str:
        """Returns the path of doit's own state in the cache root; `:memory:` if there is no mission or nothing to keep."""
        if self._builds_nothing:
            return ":memory:"
        try:
            return str(CacheLayout(self.mission().job.cache_root).doit_database)
        except PreflightError:
            return ":memory:"

    @property
    def log_json(self) -> bool:
        """Whether programs read this run. It is known even if another variable is refused."""
        return self._given.get("log") == "json"

    def cache_path(self) -> Path | None:
        """Returns the path of `cache=`, relative to the operator's working directory. Raises CommandLineError."""
        cache = self.variables.cache
        return None if cache is None else self._folder / cache

    def start_logging(self) -> None:
        """Sends log lines to standard output, as JSON with log=json."""
        log_to(lambda: sys.stdout, as_json=self.log_json)

    def say(self, event: str, text: str, **fields: object) -> None:
        """Reports the outcome of a command: a line for people, a log line for programs."""
        if self.log_json:
            logging.getLogger("c10_provisioning").info(text, extra={"event": event, "fields": fields})
        else:
            print(text)  # noqa: T201 - the command's output

    def log_failure(self, error: PreflightError) -> None:
        """Logs an error, unless the session has logged it."""
        if self._session is None or self._session.last_failure is not error:
            logging.getLogger("c10_provisioning").error(
                str(error), extra={"event": "c10.command.refused", "fields": {"error": type(error).__name__}}
            )

    def announce_demo(self) -> None:
        """Says that the demo is used, if it is."""
        if not self.uses_demo:
            return
        if self.log_json:
            logging.getLogger("c10_provisioning").warning(
                "no mission file: the demonstration is used",
                extra={"event": "c10.mission.demo", "fields": {"mission": str(DEMO)}},
            )
        else:
            print(f"No mission file: using {DEMO.relative_to(ROOT)} (a demonstration, not for flight)")  # noqa: T201


def _builds_nothing(arguments: list[str]) -> bool:
    """Whether a command line asks doit for one task only, and that task builds nothing."""
    asked = [argument for argument in arguments if "=" not in argument]
    return asked[asked[:1] == ["run"] :] in (["verify"], ["check"], ["test"])


def _show_progress(done: int, total: int) -> None:
    """Prints one line for each tenth: a build may take tens of minutes."""
    print(f"      {done:,} of {total:,} embedded ({100 * done // total} %)", flush=True)  # noqa: T201 - for people


@lru_cache(maxsize=1)
def context() -> Context:
    """Returns the run of this process. Also guards standard output, because every program path that prints calls it."""
    end_with_the_reader()
    given: dict[str, str] = dict(doit_cmd._CMDLINE_VARS or {})
    # doit has changed to dodo.py's folder. The operator's paths are relative to the folder of the command.
    folder = Path(doit.get_initial_workdir() or Path.cwd())
    arguments = sys.argv[1:]
    return Context(
        given, dict(os.environ), folder, twice=repeated(arguments), builds_nothing=_builds_nothing(arguments)
    )


def stop_on_signals() -> None:
    """Makes signals end the run by SystemExit(128 + signal). doit's teardowns then keep finished work and stop the server."""

    def stop(number: int, _: FrameType | None) -> None:
        ignore_signals()
        raise SystemExit(128 + number)

    for name in STOPPING:
        signal.signal(name, stop)


def ignore_signals() -> None:
    """Ignores the stopping signals from now on: the run is about to end."""
    for name in STOPPING:
        signal.signal(name, signal.SIG_IGN)


class ContentChecker:
    """doit's check of files, by SHA-256 through the run's digest cache. Each file is hashed once a run."""

    CheckerError = OSError

    def __init__(self) -> None:
        self._digests: DigestCache | None = None

    def _cache(self) -> DigestCache:
        if self._digests is None:
            try:
                self._digests = context().session().digests
            except PreflightError:
                from preflight.trace.digests import DigestCache  # noqa: PLC0415 - a verification does not need it

                self._digests = DigestCache(None)
        return self._digests

    def exists(self, file_path: str) -> bool:
        """Whether a target exists; doit calls it."""
        return Path(file_path).exists()

    def info(self, file_path: str) -> os.stat_result:
        """Returns the stat that doit hands to `check_modified`. Raises OSError."""
        return Path(file_path).stat()

    def check_modified(self, file_path: str, file_stat: os.stat_result, state: Any) -> bool:  # noqa: ANN401, ARG002 - doit's signature
        """Whether the content differs from the content at the task's last success."""
        return bool(self._cache().sha256(Path(file_path)) != state)

    def get_state(self, dep: str, current_state: Any) -> str | None:  # noqa: ANN401 - doit's signature
        """Returns the content's digest; None if it equals the current state."""
        digest = self._cache().sha256(Path(dep))
        return None if digest == current_state else digest
