"""Changes to a trust directory, each rehearsed first with the reader that flies (docs/manifest-format.md, "Trust directory")."""

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
    """One entry of a trust directory. file: its name; empty for a fingerprint that is revoked and has no key here."""

    fingerprint: str
    file: str
    revoked: bool


@dataclass(frozen=True, slots=True)
class TrustListing:
    """What a trust directory says."""

    keys: tuple[TrustedKey, ...]
    allow_dev: bool


def list_trust(directory: Path) -> TrustListing:
    """What the verifier reads there. Raises TrustDirectoryError when it would refuse the whole."""
    trust = _load(directory)
    files = _files_by_fingerprint(directory)
    found = [TrustedKey(name, files[name], name in trust.revoked) for name in sorted(trust.keys, key=files.__getitem__)]
    found += [TrustedKey(name, "", revoked=True) for name in sorted(trust.revoked - trust.keys.keys())]
    return TrustListing(tuple(found), trust.allow_dev)


def add_key(directory: Path, public_key: bytes, label: str) -> tuple[str, str | None]:
    """Trust a public key (32 raw bytes); returns its fingerprint, and the new file's name, or None where it was there.

    The directory is made where it is not there. label: becomes part of the file's name.

    Raises:
        TrustDirectoryError: the key is weak or revoked, or the directory is damaged; nothing was changed.
    """
    fingerprint = keys.fingerprint(public_key)
    name = f"{_UNPORTABLE.sub('-', label).strip('.-') or 'key'}-{fingerprint[:12]}.pem"
    with _alone(directory, make=True):
        trust = _rehearse(directory, {name: keys.to_pem(public_key)})
        if fingerprint in trust.revoked:
            raise TrustDirectoryError(
                f"{fingerprint} is revoked in {directory / keys.REVOKED}, and a revoked key is not trusted again: "
                "make another with doit keygen"
            )
        if fingerprint in _files_by_fingerprint(directory):
            return fingerprint, None
        _write(directory / name, keys.to_pem(public_key))
    return fingerprint, name


def revoke_key(directory: Path, fingerprint: str, now: datetime) -> bool:
    """Put a fingerprint on the deny list, which wins over every key; returns whether it was not there yet.

    Raises:
        TrustDirectoryError: it is no fingerprint, or there is no usable trust directory; nothing was changed.
    """
    fingerprint = fingerprint.lower()
    if not re.fullmatch("[0-9a-f]{64}", fingerprint):
        raise TrustDirectoryError(
            f"{fingerprint[:80]} is no fingerprint of 64 hex digits and no file; doit trust list shows them"
        )
    with _alone(directory, make=False):
        if fingerprint in _load(directory).revoked:
            return False
        path = directory / keys.REVOKED
        before = path.read_bytes() if path.exists() else b""
        if before and not before.endswith(b"\n"):
            before += b"\n"
        content = before + f"{fingerprint}  # {now:%Y-%m-%d}\n".encode()
        _rehearse(directory, {keys.REVOKED: content})
        _write(path, content)
    return True


def _load(directory: Path) -> keys.Trust:
    try:
        return keys.load_trust(directory)
    except VerificationError as error:
        raise TrustDirectoryError(
            f"{directory}: {error.message}; doit trust add puts a key there, and makes the directory where there is none"
        ) from error


def _rehearse(directory: Path, changes: Mapping[str, bytes]) -> keys.Trust:
    """What the verifier would read after the changes. Raises TrustDirectoryError where it would refuse."""
    with tempfile.TemporaryDirectory(prefix="preflight-trust-") as room:
        copy = Path(room)
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
    """A file as the verifier will meet it: links stay links, and what is no file becomes what it refuses too."""
    if source.is_file() or source.is_symlink():
        shutil.copyfile(source, target, follow_symlinks=False)
    else:
        target.mkdir()


def _files_by_fingerprint(directory: Path) -> dict[str, str]:
    """Fingerprint -> file name. The directory was accepted before. Raises TrustDirectoryError."""
    try:
        found = {
            keys.fingerprint(keys.from_pem(path.read_bytes())): path.name
            for path in sorted(directory.iterdir(), reverse=True)
            if path.name.endswith(".pem")
        }
    except (OSError, VerificationError) as error:
        raise TrustDirectoryError(f"{directory} changed while it was read ({error}); run the command again") from error
    return found


def _write(path: Path, content: bytes) -> None:
    try:
        atomic.atomic_write(path, content, mode=_MODE)
    except OSError as error:
        raise TrustDirectoryError(f"{path} cannot be written: {error.strerror}; it is as it was") from error


@contextmanager
def _alone(directory: Path, *, make: bool) -> Iterator[None]:
    """Holds other changes of the directory off: two revocations at once must not lose one. Raises TrustDirectoryError."""
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
