"""The reasons to refuse a cache: one class each, with a fixed code, exit status, STATUSTEXT and remedy.

Statuses start at 16 and never change their meaning. The verifier returns the lowest status of all failures. A
STATUSTEXT goes to the ground station: at most 50 bytes, the size of MAVLink's field. A remedy says what to do now. The
default remedy is another build.
"""

from __future__ import annotations

_CLOCK = "check the clock, then run `doit provision` again"
_OTHER_MISSION = "check the flight and position you expect; if right, this is another mission's cache: copy yours"


def printable(text: str) -> str:
    """Returns printable ASCII, with Python's escapes for the rest: a file's name must not control a terminal."""
    return "".join(char if char.isascii() and char.isprintable() else ascii(char)[1:-1] for char in text)


class VerificationError(Exception):
    """One failure. file: the name in the cache, a path outside it, or "". Message and file are printable ASCII."""

    code = "refused"
    exit_status = 16
    statustext = "CACHE REFUSED"
    remedy = "run `doit provision` again"

    def __init__(self, message: str, file: str = "") -> None:
        self.message, self.file = printable(message), printable(file)
        self.failures: tuple[VerificationError, ...] = (self,)
        super().__init__(self.message)

    def __str__(self) -> str:
        named = f"{self.file}: {self.message}" if self.file else self.message
        return f"[{self.code}] {named}"


class VerifierCrashedError(VerificationError):
    """The verifier itself failed. Nothing is known about the cache."""

    code, exit_status, statustext = "crashed", 16, "CACHE REFUSED: verifier crashed"
    remedy = "verify again; if it crashes again, reinstall the verifier"


class VerificationTimeoutError(VerificationError):
    """No verdict within the time allowed."""

    code, exit_status, statustext = "timeout", 17, "CACHE REFUSED: verification timed out"
    remedy = "verify again; if the disk is slow, with a longer --timeout"


class UsageError(VerificationError):
    """The command line is wrong or asks for help. Status 0 is reserved for a verified cache."""

    code, exit_status, statustext = "usage", 18, "CACHE REFUSED: verifier called wrongly"
    remedy = "correct the call"


class ManifestNotFoundError(VerificationError):
    """There is no cache, or no manifest.json in it. `verify_manifest` raises this failure only."""

    code, exit_status, statustext = "manifest_not_found", 19, "CACHE REFUSED: no manifest"
    remedy = "check the path of the cache; if it is right, run `doit provision` again"


class TrustError(VerificationError):
    """The trust directory is absent, empty, damaged or inside the cache."""

    code, exit_status, statustext = "trust", 20, "CACHE REFUSED: trust directory unusable"
    remedy = "repair the trust directory: readable public keys (*.pem) in a directory outside the cache"


class KeyRevokedError(VerificationError):
    """The trust directory revokes the signing key."""

    code, exit_status, statustext = "key_revoked", 21, "CACHE REFUSED: signing key revoked"
    remedy = "the trust directory revokes this key: run `doit provision` with another key"


class KeyUnknownError(VerificationError):
    """The signing key is not in the trust directory."""

    code, exit_status, statustext = "key_unknown", 22, "CACHE REFUSED: signing key not trusted"
    remedy = "only if you know that the signer is yours: copy its public key into the trust directory"


class EnvelopeError(VerificationError):
    """manifest.dsse.json is not an envelope of this format."""

    code, exit_status, statustext = "envelope", 23, "CACHE REFUSED: envelope malformed"


class SignatureError(VerificationError):
    """The signature is wrong, or it signs other bytes than those of manifest.json."""

    code, exit_status, statustext = "signature", 24, "CACHE REFUSED: signature invalid"


class ManifestFormatError(VerificationError):
    """manifest.json is not a statement of this format."""

    code, exit_status, statustext = "manifest_format", 25, "CACHE REFUSED: manifest malformed"


class SchemaVersionError(VerificationError):
    """The manifest has a schema version that this verifier does not read."""

    code, exit_status, statustext = "schema_version", 26, "CACHE REFUSED: unknown manifest schema"
    remedy = "install the takeoff of the release that built the cache, or run `doit provision` with this release"


class ManifestHashMismatchError(VerificationError):
    """The hash of the build identity is not the recorded manifest_hash."""

    code, exit_status, statustext = "manifest_hash", 27, "CACHE REFUSED: manifest hash differs"


class FileMissingError(VerificationError):
    """A listed artifact, SHA256SUMS or the envelope is missing."""

    code, exit_status, statustext = "file_missing", 28, "CACHE REFUSED: file missing"


class SidecarMissingError(VerificationError):
    """A `.sha256` sidecar is missing."""

    code, exit_status, statustext = "sidecar_missing", 29, "CACHE REFUSED: sidecar missing"


class FileUnlistedError(VerificationError):
    """The cache contains something that the manifest does not list."""

    code, exit_status, statustext = "file_unlisted", 30, "CACHE REFUSED: unlisted file"


class FileKindError(VerificationError):
    """A symbolic link, FIFO, device, socket or directory has the name of a file."""

    code, exit_status, statustext = "file_kind", 31, "CACHE REFUSED: not a regular file"


class FileUnreadableError(VerificationError):
    """The operating system cannot open or read a file."""

    code, exit_status, statustext = "file_unreadable", 32, "CACHE REFUSED: file unreadable"
    remedy = "check the disk and the permissions, then run `doit provision` again"


class ContentHashMismatchError(VerificationError):
    """The size or SHA-256 of an artifact differs from the manifest (D-C10-3)."""

    code, exit_status, statustext = "content_hash", 33, "CACHE REFUSED: content hash differs"


class SidecarMismatchError(VerificationError):
    """A sidecar or SHA256SUMS differs from what the manifest determines."""

    code, exit_status, statustext = "sidecar", 34, "CACHE REFUSED: sidecar differs"


class DevSignedError(VerificationError):
    """The cache is signed in dev mode, and the trust directory does not allow that."""

    code, exit_status, statustext = "dev_signed", 35, "CACHE REFUSED: dev-signed"
    remedy = "sign with an operator key; only for a trial, create `allow_dev` in the trust directory"


class ClockUntrustedError(VerificationError):
    """The clock shows an earlier time than at a previous acceptance."""

    code, exit_status, statustext = "clock_untrusted", 36, "CACHE REFUSED: clock untrusted"
    remedy = "set the clock, then verify again"


class NotYetValidError(VerificationError):
    """The validity of the manifest has not begun."""

    code, exit_status, statustext = "not_yet_valid", 37, "CACHE REFUSED: not yet valid"
    remedy = _CLOCK


class ExpiredError(VerificationError):
    """The validity of the manifest has ended."""

    code, exit_status, statustext = "expired", 38, "CACHE REFUSED: expired"
    remedy = _CLOCK


class RollbackError(VerificationError):
    """This manifest was issued before the last accepted one."""

    code, exit_status, statustext = "rollback", 39, "CACHE REFUSED: older than last accepted"
    remedy = "copy the newest generation; to use older content, run `doit rollback`, which signs it again"


class FloorError(VerificationError):
    """The rollback floor cannot be read or written, is malformed, or lies inside the cache."""

    code, exit_status, statustext = "floor", 40, "CACHE REFUSED: rollback floor unusable"
    remedy = "repair the file of --floor: readable, in a writable folder outside the cache"


class FlightMismatchError(VerificationError):
    """The cache is for another flight."""

    code, exit_status, statustext = "flight", 41, "CACHE REFUSED: other flight"
    remedy = _OTHER_MISSION


class PositionOutsideError(VerificationError):
    """The expected position lies outside the covered area."""

    code, exit_status, statustext = "position", 42, "CACHE REFUSED: position outside area"
    remedy = _OTHER_MISSION


class HostMismatchError(VerificationError):
    """The engines are for another host, or the GPU of this host is unknown."""

    code, exit_status, statustext = "host", 43, "CACHE REFUSED: built for another host"
    remedy = "copy the cache for this host; if its GPU cannot be detected, give it with --expect-sm"


class TileDriftError(VerificationError):
    """Operator mode: the tile store no longer gives the signed aggregate."""

    code, exit_status, statustext = "tile_drift", 44, "CACHE REFUSED: tile store drifted"


class TileFileError(VerificationError):
    """Deep check: a file of the tile store differs from the sealed tile."""

    code, exit_status, statustext = "tile_file", 45, "CACHE REFUSED: tile file differs"
    remedy = "import the tiles again with `doit import SOURCE --update`, then run `doit provision` again"
