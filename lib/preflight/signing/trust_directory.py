"""Lists and changes a trust directory (docs/manifest-format.md, "Trust directory").

Each change is first applied to a copy, which must be accepted by the code that reads the directory on the aircraft.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from preflight.errors import TrustDirectoryError
from preflight.store import atomic
from takeoff import keys
from takeoff.errors import VerificationError

_MODE = 0o644
_UNPORTABLE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """One entry of a trust directory.

    fingerprint: of the key, hex digits.
    file: the name of the key file, empty for a revoked fingerprint without a key file.
    revoked: whether the deny list contains the fingerprint.
    """

    fingerprint: str
    file: str
    revoked: bool


@dataclass(frozen=True, slots=True)
class TrustListing:
    """The content of a trust directory. allow_dev: whether caches that were signed in dev mode are accepted."""

    keys: tuple[TrustedKey, ...]
    allow_dev: bool


def list_trust(directory: Path) -> TrustListing:
    """Returns the keys that the verifier reads in a trust directory.

    Raises:
        TrustDirectoryError: the verifier would refuse the directory.
    """
    trust = _load(directory)
    files = _files_by_fingerprint(directory)
    entries = [
        TrustedKey(name, files[name], name in trust.revoked) for name in sorted(trust.keys, key=files.__getitem__)
    ]
    entries += [TrustedKey(name, "", revoked=True) for name in sorted(trust.revoked - trust.keys.keys())]
    return TrustListing(tuple(entries), trust.allow_dev)


def add_key(directory: Path, public_key: bytes, label: str) -> tuple[str, str | None]:
    """Adds a public key to a trust directory.

    Args:
        directory: the trust directory. It is created if it does not exist.
        public_key: 32 raw bytes.
        label: becomes part of the name of the key file.

    Returns:
        The fingerprint, and the name of the new file. The name is None if the directory already has the key.

    Raises:
        TrustDirectoryError: the key is weak or revoked, or the directory is damaged. Nothing was changed.
    """
    fingerprint = keys.fingerprint(public_key)
    name = f"{_UNPORTABLE.sub('-', label).strip('.-') or 'key'}-{fingerprint[:12]}.pem"
    with _locked(directory, make=True):
        trust = _check_change(directory, {name: keys.to_pem(public_key)})
        if fingerprint in trust.revoked:
            raise TrustDirectoryError(
                f"{fingerprint} is revoked in {directory / keys.REVOKED}, and a revoked key cannot be trusted again: "
                "make another key with doit keygen"
            )
        if fingerprint in _files_by_fingerprint(directory):
            return fingerprint, None
        _write(directory / name, keys.to_pem(public_key))
    return fingerprint, name


def revoke_key(directory: Path, fingerprint: str, now: datetime) -> bool:
    """Adds a fingerprint to the deny list. A key on the deny list is never trusted, even if its key file exists.

    Args:
        directory: the trust directory.
        fingerprint: 64 hex digits.
        now: the date for the comment in the list.

    Returns:
        True if the fingerprint is new in the list.

    Raises:
        TrustDirectoryError: it is not a fingerprint, or there is no valid trust directory. Nothing was changed.
    """
    fingerprint = fingerprint.lower()
    if not re.fullmatch("[0-9a-f]{64}", fingerprint):
        raise TrustDirectoryError(
            f"{fingerprint[:80]} is neither a fingerprint of 64 hex digits nor a file: run doit trust list to see the "
            "fingerprints"
        )
    with _locked(directory, make=False):
        if fingerprint in _load(directory).revoked:
            return False
        path = directory / keys.REVOKED
        before = path.read_bytes() if path.exists() else b""
        if before and not before.endswith(b"\n"):
            before += b"\n"
        content = before + f"{fingerprint}  # {now:%Y-%m-%d}\n".encode()
        _check_change(directory, {keys.REVOKED: content})
        _write(path, content)
    return True


def _load(directory: Path) -> keys.Trust:
    try:
        return keys.load_trust(directory)
    except VerificationError as error:
        raise TrustDirectoryError(
            f"{directory}: {error.message}; doit trust add adds a key, and creates the directory if there is none"
        ) from error


def _check_change(directory: Path, changes: Mapping[str, bytes]) -> keys.Trust:
    """Returns what the verifier would read after the changes. changes: file name -> content.

    Raises:
        TrustDirectoryError: the verifier would refuse the changed directory.
    """
    with tempfile.TemporaryDirectory(prefix="preflight-trust-") as folder:
        copy = Path(folder)
        try:
            for path in directory.iterdir():
                if path.suffix == ".pem" or path.name in (keys.REVOKED, keys.ALLOW_DEV):
                    _copy(path, copy / path.name)
            for name, content in changes.items():
                (copy / name).write_bytes(content)
            return keys.load_trust(copy)
        except OSError as error:
            raise TrustDirectoryError(f"{directory} cannot be read: {error}") from error
        except VerificationError as error:
            raise TrustDirectoryError(
                f"with this change the verifier would refuse {directory}: {error.message}; nothing was changed"
            ) from error


def _copy(source: Path, target: Path) -> None:
    """Copies an entry so that the verifier judges it in the same way.

    A link stays a link. Anything that is not a file becomes a folder, which the verifier refuses too.
    """
    if source.is_file() or source.is_symlink():
        shutil.copyfile(source, target, follow_symlinks=False)
    else:
        target.mkdir()


def _files_by_fingerprint(directory: Path) -> dict[str, str]:
    """Returns fingerprint -> file name for a directory that was accepted before.

    Raises:
        TrustDirectoryError: the directory changed since it was accepted.
    """
    try:
        return {
            keys.fingerprint(keys.from_pem(path.read_bytes())): path.name
            for path in sorted(directory.iterdir(), reverse=True)
            if path.name.endswith(".pem")
        }
    except (OSError, VerificationError) as error:
        raise TrustDirectoryError(f"{directory} changed while it was read ({error}); run the command again") from error


def _write(path: Path, content: bytes) -> None:
    try:
        atomic.atomic_write(path, content, mode=_MODE)
    except OSError as error:
        raise TrustDirectoryError(
            f"{path} cannot be written: {error.strerror}; it was not changed. "
            "Make the directory writable, or free space there"
        ) from error


@contextmanager
def _locked(directory: Path, *, make: bool) -> Iterator[None]:
    """Locks the directory against other changes, so that no revocation is lost.

    make: create the directory if it does not exist.

    Raises:
        TrustDirectoryError: the directory cannot be opened.
    """
    try:
        if make:
            directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise TrustDirectoryError(f"the trust directory {directory} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
