"""Creates a cluster of the embedded Postgres, starts its server, and observes the server's process.

`embedded` describes the home and its `data` folder.
"""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from preflight.adapters.postgres.embedded_location import ServerUser, run_as
from preflight.errors import DatabaseError

__all__ = [
    "ROLE",
    "alive",
    "is_ready",
    "log_tail",
    "make_cluster",
    "processes_in",
    "remove_socket_folder",
    "running",
    "socket_folder",
    "start_server",
    "works_in",
]

ROLE = "preflight"
_SOCKETS = Path("/tmp")  # noqa: S108 - short enough for the path of a socket; the folder in it is new and has mode 0700
_SOCKET_PREFIX = "preflight-pg-"
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "64MB",
    "max_connections": "40",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "io_method": "sync",  # without I/O workers: three processes fewer
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


def make_cluster(bin_folder: Path, home: Path, user: ServerUser) -> None:
    """Create the cluster of a home. It appears complete or not at all. Raises DatabaseError, OSError."""
    data, partial = home / "data", home / "data.new"
    for incomplete in (data, partial):  # the caller found no PG_VERSION in data, so its cluster is incomplete
        if incomplete.exists():
            shutil.rmtree(incomplete)
    # With WAL segments of 1 MB the first start writes 16 MB less.
    options = [
        "--wal-segsize=1",
        "--locale=C",
        "--encoding=UTF8",
        "--auth=peer",
        f"--username={ROLE}",
        "--no-instructions",
    ]
    result = run_as([str(bin_folder / "initdb"), "-D", str(partial), *options], user)
    if result.returncode:
        raise DatabaseError(
            f"initdb cannot create the embedded Postgres in {home}. Correct what it reports, then run the same command "
            f"again: {(result.stderr or result.stdout).strip()[-1000:]}"
        )
    names = dict.fromkeys([user.name, pwd.getpwuid(os.geteuid()).pw_name])
    mapping = "".join(f'{ROLE} "{name}" {ROLE}\n' for name in names)
    for name, content in (("pg_hba.conf", f"local all {ROLE} peer map={ROLE}\n"), ("pg_ident.conf", mapping)):
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


def start_server(bin_folder: Path, home: Path, user: ServerUser) -> tuple[int, Path]:
    """Start the server in its own session and without a parent, so that signals of a terminal do not reach it.

    Runs the server directly: pg_ctl waits in steps of 100 ms, but the server is ready in 15 ms.

    Returns:
        The process id of the server, and the folder of its socket. The server may not be ready yet.

    Raises:
        DatabaseError: the server's program cannot be run.
        OSError: a folder cannot be created.
    """
    with ExitStack() as undo:
        socket = Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX, dir=_SOCKETS))
        undo.callback(remove_socket_folder, socket)
        os.chown(socket, user.uid, user.gid)
        settings = {**_SETTINGS, "unix_socket_directories": str(socket)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        server = [str(bin_folder / "postgres"), "-D", str(home / "data"), *options]
        script = 'umask 077; "$@" </dev/null >"$0" 2>&1 & echo $!'
        result = run_as(["/bin/sh", "-c", script, str(home / "server.log"), *server], user)
        if result.returncode:
            raise DatabaseError(
                f"the embedded Postgres in {home} cannot be run. Correct this, then run the same command again: "
                f"{result.stderr.strip()}"
            )
        undo.pop_all()
    return int(result.stdout), socket


def alive(pid: int) -> bool:
    """Return whether a process runs. A zombie does not run."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def works_in(pid: int, data: Path) -> bool:
    """Return whether a process runs in a data folder.

    Postgres uses its data folder as working directory. So another process that got the same id is not taken for a
    server.
    """
    with suppress(OSError):
        return alive(pid) and Path(f"/proc/{pid}/cwd").readlink() == data
    return False


def processes_in(data: Path) -> list[int]:
    """Return the ids of the server of a data folder and its children, even if the server itself was killed."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if works_in(pid, data)]


def running(data: Path) -> int | None:
    """Return the process id of the server of a data folder; None if none runs."""
    lines = _lines(data / "postmaster.pid")
    pid = int(lines[0]) if lines and lines[0].lstrip("-").isdigit() else 0
    return pid if pid > 0 and works_in(pid, data) else None


def is_ready(data: Path) -> bool:
    """Return whether the server accepts connections: line 8 of postmaster.pid."""
    lines = _lines(data / "postmaster.pid")
    return len(lines) >= 8 and lines[7].strip() == "ready"


def socket_folder(data: Path) -> Path:
    """Return the folder of the socket: line 5 of postmaster.pid. The path is empty until the server has written it."""
    lines = _lines(data / "postmaster.pid")
    return Path(lines[4]) if len(lines) >= 5 else Path()


def remove_socket_folder(folder: Path | None) -> None:
    """Remove a folder that `start_server` created. Ignores any other path."""
    if folder is not None and folder.parent == _SOCKETS and folder.name.startswith(_SOCKET_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def log_tail(home: Path) -> str:
    """Return the last lines of the server's log, to append to a message; empty without a log."""
    lines = _lines(home / "server.log")
    return " Its log ends:\n" + "\n".join(lines[-8:]) if lines else ""


def _lines(path: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return path.read_text().splitlines()
    return []
