"""One cluster of the embedded Postgres and its server: how they are made, and what is seen of them from outside.

A home and its `data` folder are those of `embedded_postgres`.
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
_SOCKETS = Path("/tmp")  # noqa: S108 - short enough for a socket; the folder made in it is fresh and 0700
_SOCKET_PREFIX = "preflight-pg-"
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


def make_cluster(bin_folder: Path, home: Path, user: ServerUser) -> None:
    """Make the cluster of a home, whole or not at all. Raises DatabaseError, OSError."""
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
        f"--username={ROLE}",
        "--no-instructions",
    ]
    result = run_as([str(bin_folder / "initdb"), "-D", str(partial), *options], user)
    if result.returncode:
        raise DatabaseError(f"initdb failed in {home}: {(result.stderr or result.stdout).strip()[-1000:]}")
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
    """Start the server as an orphan in a session of its own, out of a terminal's signals; its pid and socket folder.

    Run directly, not by pg_ctl: that waits in steps of 100 ms, the server is ready in 15. Raises DatabaseError, OSError.
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
            raise DatabaseError(f"the embedded Postgres could not be run: {result.stderr.strip()}")
        undo.pop_all()
    return int(result.stdout), socket


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody reaps does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def works_in(pid: int, data: Path) -> bool:
    """Postgres makes its data folder its working folder: a process id used again is not taken for a server."""
    with suppress(OSError):
        return alive(pid) and Path(f"/proc/{pid}/cwd").readlink() == data
    return False


def processes_in(data: Path) -> list[int]:
    """The server of a data folder and its children, also when the server itself was killed."""
    pids = (int(found.name) for found in Path("/proc").iterdir() if found.name.isdigit())
    return [pid for pid in pids if works_in(pid, data)]


def running(data: Path) -> int | None:
    """The process id of the server of a data folder."""
    lines = _lines(data / "postmaster.pid")
    pid = int(lines[0]) if lines and lines[0].lstrip("-").isdigit() else 0
    return pid if pid > 0 and works_in(pid, data) else None


def is_ready(data: Path) -> bool:
    """Whether the server says that it takes connections: the eighth line of postmaster.pid."""
    lines = _lines(data / "postmaster.pid")
    return len(lines) >= 8 and lines[7].strip() == "ready"


def socket_folder(data: Path) -> Path:
    """The fifth line of postmaster.pid, which is written a moment after the first; an empty path until then."""
    lines = _lines(data / "postmaster.pid")
    return Path(lines[4]) if len(lines) >= 5 else Path()


def remove_socket_folder(folder: Path | None) -> None:
    """Remove a folder that `start_server` made; any other path is left alone."""
    if folder is not None and folder.parent == _SOCKETS and folder.name.startswith(_SOCKET_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def log_tail(home: Path) -> str:
    """What the server said last, as the end of a message."""
    lines = _lines(home / "server.log")
    return " Its log ends:\n" + "\n".join(lines[-8:]) if lines else ""


def _lines(path: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return path.read_text().splitlines()
    return []
