"""The verification: reads a cache from disk and returns one result that names every failure.

It fails closed: whatever is not known to be right is refused. Only an absent manifest is raised
(`ManifestNotFoundError`).
"""

# ruff: noqa: PLC0415, PTH119, PTH120 - start-up time: pathlib and others are imported where they are needed
from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple, TypeVar

from takeoff import digest, envelope, errors, keys, layout, manifest, names, policy
from takeoff import tiles_coverage as coverage
from takeoff.errors import ManifestNotFoundError, VerificationError
from takeoff.filesystem import Directory
from takeoff.floor import read_floor, write_floor
from takeoff.manifest import Manifest
from takeoff.policy import Expectations
from takeoff.position import LatLonAlt

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path
    from uuid import UUID

_Value = TypeVar("_Value")
_Path = str | os.PathLike[str]

Clock = Callable[[], "datetime | float"]
"""Now: an aware datetime, or UTC seconds."""

Tiles = Iterable[coverage.TileHash] | Callable[[Manifest], Iterable[coverage.TileHash]]
"""The rows of the tile store for the manifest's area, in any order, or a function that returns them."""

Mode = Literal["airborne", "operator"]
MODES = ("airborne", "operator")
_MAX_ENVELOPE_BYTES = manifest.MAX_BYTES * 4 // 3 + 4096


class VerifiedCache(NamedTuple):
    """Access to the bytes of a verified cache. Every read hashes them again, and returns no other bytes."""

    root: str
    subjects: dict[str, str]

    def read_bytes(self, name: str) -> bytes:
        """Returns the bytes of an artifact.

        Raises KeyError for a name that is not in the manifest, ContentHashMismatchError for other bytes.
        """
        with self.open(name) as file:
            data = file.read()
        # Hash the buffer, not the file: the file may change between two reads.
        if hashlib.sha256(data).hexdigest() != self.subjects[name]:
            raise errors.ContentHashMismatchError("changed after the verification", name)
        return data

    def open(self, name: str) -> BinaryIO:
        """Returns the descriptor that was hashed, at offset 0. Raises as `read_bytes` does.

        It shows later writes into the same file. Generations are read-only and never written in place.
        """
        expected = self.subjects[name]
        with Directory(self.root) as directory:
            file = os.fdopen(directory.open(name), "rb")
        if digest.sha256_descriptor(file.fileno()) != expected:
            file.close()
            raise errors.ContentHashMismatchError("changed after the verification", name)
        file.seek(0)
        return file


class VerificationOutcome(str, Enum):
    """The verdict; a member equals its text and prints as it."""

    PASS = "pass"  # noqa: S105 - a verdict
    FAIL = "fail"

    __str__ = str.__str__


class VerificationResult(NamedTuple):
    """The verdict on one cache. It passed if and only if `failures` is empty.

    Only a cache that passed gives `takeoff_origin`, `flight_id` and `cache`. manifest: for reports, set if it decodes.
    artifacts: name -> whether size and SHA-256 are those of the manifest. signer: fingerprint, if its signature is
    valid.
    """

    root: str
    failures: tuple[VerificationError, ...]
    manifest_hash_match: bool
    artifacts: dict[str, bool]
    signer: str | None
    manifest: Manifest | None

    @property
    def outcome(self) -> VerificationOutcome:
        """The verdict: `pass` or `fail`."""
        return VerificationOutcome.FAIL if self.failures else VerificationOutcome.PASS

    @property
    def exit_status(self) -> int:
        """The lowest exit status of all failures; 0 for a pass."""
        return min((failure.exit_status for failure in self.failures), default=0)

    @property
    def fail_reasons(self) -> tuple[str, ...]:
        """All failures, each as `[code] file: message`."""
        return tuple(map(str, self.failures))

    @property
    def per_artifact_hash_match(self) -> dict[Path, bool]:
        """Path of the artifact, relative to the cache -> whether it has the signed bytes."""
        from pathlib import Path

        return {Path(name): match for name, match in self.artifacts.items()}

    @property
    def takeoff_origin(self) -> LatLonAlt | None:
        """Latitude and longitude in WGS84 degrees, and metres above mean sea level; None if absent or refused."""
        origin = self.manifest.identity.takeoff_origin if self.manifest and not self.failures else None
        return LatLonAlt(float(origin.lat), float(origin.lon), float(origin.alt)) if origin else None

    @property
    def flight_id(self) -> UUID | None:
        """The UUID of the flight; None if absent or refused."""
        from uuid import UUID

        flight = self.manifest.identity.flight_id if self.manifest and not self.failures else None
        return None if flight is None else UUID(flight)

    @property
    def cache(self) -> VerifiedCache | None:
        """Access to the verified bytes; None if refused."""
        return VerifiedCache(self.root, self.manifest.subjects) if self.manifest and not self.failures else None

    def raise_for_failure(self) -> None:
        """Raises the failure with the lowest exit status, if there is one. Its `failures` contains all of them."""
        if self.failures:
            first = min(self.failures, key=lambda failure: failure.exit_status)
            first.failures = self.failures
            raise first


class ManifestVerifier:
    """A verifier with its trust directory, clock and expectations. Call `verify_manifest` any number of times.

    floor: the file of the rollback floor, outside the cache; None compares nothing. tiles: required in operator mode
    (ValueError), ignored in airborne mode.
    """

    def __init__(
        self, *, trust: _Path, now: Clock, mode: Mode = "airborne", expect: Expectations = Expectations(),  # noqa: B008 - immutable
        floor: _Path | None = None, tiles: Tiles | None = None
    ) -> None:  # fmt: skip
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}, not one of {', '.join(MODES)}")
        if mode == "operator" and tiles is None:
            raise ValueError("operator mode compares with the tile store: give its tiles")
        self._trust = os.fspath(trust)
        self._now = now
        self._expect = expect
        self._floor = None if floor is None else os.fspath(floor)
        self._tiles = tiles if mode == "operator" else None

    def verify_manifest(self, path: _Path) -> VerificationResult:
        """Verifies the cache at `path`, a directory or the manifest.json in it. Raises ManifestNotFoundError only."""
        root = os.fspath(path)
        if os.path.basename(root) == names.MANIFEST:
            root = os.path.dirname(root) or "."
        root = os.path.realpath(root)
        try:
            directory = Directory(root)
        except OSError as error:
            raise ManifestNotFoundError(f"there is no cache: {error.strerror}", root) from error
        with directory:
            return self._verify(directory, root)

    def _verify(self, directory: Directory, root: str) -> VerificationResult:
        failures: list[VerificationError] = []
        trust = _collect(failures, lambda: keys.load_trust(_outside(self._trust, root, errors.TrustError)))
        signed = _collect(failures, lambda: _read_manifest(directory))
        statement = None if signed is None else _collect(failures, lambda: manifest.decode(signed))
        signer = _collect(failures, lambda: _check_signature(directory, signed, trust, failures))
        match = statement is not None and manifest.identity_hash(statement.identity) == statement.manifest_hash
        artifacts: dict[str, bool] = {}
        if signed is not None and statement is not None:
            if not match:
                failures.append(errors.ManifestHashMismatchError("manifest_hash is not the identity's", names.MANIFEST))
            artifacts = _check_files(directory, signed, statement, failures)
            self._check_policy(statement, trust, root, failures)
        ordered = tuple(sorted(failures, key=lambda failure: (failure.exit_status, failure.file)))
        return VerificationResult(root, ordered, match, artifacts, signer, statement)

    def _check_policy(
        self, statement: Manifest, trust: keys.Trust | None, root: str, failures: list[VerificationError]
    ) -> None:
        now = _seconds(self._now())
        path, floor = self._floor, None
        if path is not None:
            floor = _collect(failures, lambda: read_floor(_outside(path, root, errors.FloorError)))
        allow_dev = trust is None or trust.allow_dev  # without a trust directory it is refused already
        failures += policy.check(statement, now=now, floor=floor, expect=self._expect, allow_dev=allow_dev)
        if self._tiles is not None:
            failures += _check_tiles(statement, self._tiles(statement) if callable(self._tiles) else self._tiles)
        raised = policy.raise_floor(floor, statement, now)
        if path is not None and not failures and raised != floor:  # last: only a cache that passed raises the floor
            _collect(failures, lambda: write_floor(path, raised))


def verify_manifest(
    path: _Path, *, trust: _Path, now: Clock, mode: Mode = "airborne", expect: Expectations = Expectations(),  # noqa: B008 - immutable
    floor: _Path | None = None, tiles: Tiles | None = None
) -> VerificationResult:  # fmt: skip
    """Verifies one cache. Arguments: as for `ManifestVerifier`.

    Raises:
        ManifestNotFoundError: there is no manifest.
        ValueError: operator mode without tiles, or an unknown mode.
    """
    verifier = ManifestVerifier(trust=trust, now=now, mode=mode, expect=expect, floor=floor, tiles=tiles)
    return verifier.verify_manifest(path)


def _collect(failures: list[VerificationError], step: Callable[[], _Value]) -> _Value | None:
    try:
        return step()
    except ManifestNotFoundError:
        raise
    except VerificationError as error:
        error.file = error.file or names.MANIFEST
        failures.append(error)
        return None


def _seconds(now: datetime | float) -> int:
    if isinstance(now, (int, float)):
        return int(now)
    if now.tzinfo is None:
        raise ValueError("the clock gives a time without a time zone")
    return int(now.timestamp())


def _outside(path: str, root: str, refuse: type[VerificationError]) -> str:
    if os.path.commonpath([os.path.realpath(path), root]) == root:
        raise refuse("lies inside the cache; keep it outside, since a cache must not supply what verifies it", path)
    return path


def _read_manifest(directory: Directory) -> bytes:
    try:
        return directory.read(names.MANIFEST, manifest.MAX_BYTES)
    except errors.FileMissingError as error:
        raise ManifestNotFoundError("there is no manifest", names.MANIFEST) from error


def _check_signature(
    directory: Directory, signed: bytes | None, trust: keys.Trust | None, failures: list[VerificationError]
) -> str | None:
    """Returns the fingerprint of the signer, or None without a trust directory. Raises or appends each failure."""
    sealed = envelope.decode(directory.read(names.ENVELOPE, _MAX_ENVELOPE_BYTES), _MAX_ENVELOPE_BYTES)
    if signed is not None and sealed.payload != signed:
        failures.append(errors.SignatureError("has other bytes than manifest.dsse.json signs", names.MANIFEST))
    if trust is None:
        return None
    if sealed.keyid in trust.revoked:
        raise errors.KeyRevokedError(f"is signed by the revoked key {sealed.keyid}", names.ENVELOPE)
    if sealed.keyid not in trust.keys:
        raise errors.KeyUnknownError(f"is signed by {sealed.keyid}, which is not trusted", names.ENVELOPE)
    if not keys.verify_signature(trust.keys[sealed.keyid], sealed.signature, envelope.pae(sealed.payload)):
        raise errors.SignatureError(f"has no valid signature by {sealed.keyid}", names.ENVELOPE)
    return sealed.keyid


def _check_files(
    directory: Directory, signed: bytes, statement: Manifest, failures: list[VerificationError]
) -> dict[str, bool]:
    expected = layout.expected_files(statement)
    folders = frozenset(folder for name in expected for folder in names.parents(name))
    found = _collect(failures, lambda: directory.walk(folders)) or {}
    failures += _unlisted(found, expected, folders)
    determined = layout.determined_files(statement, hashlib.sha256(signed).hexdigest())
    for name, content in determined.items():
        failures += _check_determined(directory, name, content)
    checked = digest.largest_first(statement.sizes, lambda name: _check_subject(directory, statement, name))
    failures += [failure for failure in checked.values() if failure is not None]
    return {name: checked[name] is None for name in statement.subjects}


def _unlisted(found: dict[str, str], expected: frozenset[str], folders: frozenset[str]) -> Iterator[VerificationError]:
    for name, kind in found.items():
        if name not in expected and not (name in folders and kind == "directory"):
            yield errors.FileUnlistedError(f"is not in the manifest ({kind})", name)


def _check_determined(directory: Directory, name: str, content: bytes) -> Iterator[VerificationError]:
    try:
        if directory.read(name, len(content)) != content:
            yield errors.SidecarMismatchError("differs from what manifest.json determines", name)
    except errors.FileMissingError as error:
        yield error if name == names.SUMS else errors.SidecarMissingError("the sidecar is missing", name)
    except (errors.FileKindError, errors.FileUnreadableError) as error:
        yield error


def _check_subject(directory: Directory, statement: Manifest, name: str) -> digest.Steps[VerificationError | None]:
    try:
        with os.fdopen(directory.open(name), "rb", 0) as file:
            if (actual := os.fstat(file.fileno()).st_size) != statement.sizes[name]:
                return errors.ContentHashMismatchError(f"has {actual} bytes, not {statement.sizes[name]}", name)
            if (yield from digest.sha256_steps(file.fileno())) != statement.subjects[name]:
                return errors.ContentHashMismatchError("its SHA-256 differs from the manifest", name)
    except VerificationError as error:
        return error
    except OSError as error:
        return errors.FileUnreadableError(f"cannot be read: {error.strerror}", name)
    return None


def _check_tiles(statement: Manifest, tiles: Iterable[coverage.TileHash]) -> Iterator[VerificationError]:
    corpus = statement.identity.corpus
    try:
        found = coverage.aggregate(tiles)
    except ValueError as error:
        yield errors.TileDriftError(f"the rows of the tile store are no tile set: {error}", names.MANIFEST)
        return
    if found != (corpus.tile_count, corpus.tiles_coverage_sha256):
        yield errors.TileDriftError(
            f"was signed for {corpus.tile_count} tiles with aggregate {corpus.tiles_coverage_sha256}; the tile store"
            f" now gives {found.tile_count} with {found.sha256}",
            names.MANIFEST,
        )
