"""Why a cache is refused: one class a reason, each with a fixed code, an exit status, a STATUSTEXT and a remedy.

Statuses start at 16 and never change their meaning; the lowest status of all failures found is the one returned. A
STATUSTEXT is what the ground station is sent: at most 50 bytes, the size of MAVLink's field. A remedy says what to do now;
where a class names none, another build mends it.
"""

from __future__ import annotations

_CLOCK = "check the clock, then run `doit provision` again"
_OTHER_MISSION = "this is another mission's cache: check what is expected, and copy the cache of this mission"


def printable(text: str) -> str:
    """In printable ASCII, anything else as Python escapes it: the name of a file must not steer a terminal."""
    return "".join(char if char.isascii() and char.isprintable() else ascii(char)[1:-1] for char in text)


class VerificationError(Exception):
    """One failure. `file` is the name inside the cache, or the path outside it, or "" where there is none; both printable."""

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
    """The verifier itself failed; nothing is known about the cache."""

    code, exit_status, statustext = "crashed", 16, "CACHE REFUSED: verifier crashed"
    remedy = "verify again; where it crashes again, install the verifier anew"


class VerificationTimeoutError(VerificationError):
    """No verdict within the time allowed."""

    code, exit_status, statustext = "timeout", 17, "CACHE REFUSED: verification timed out"
    remedy = "verify again, with a longer --timeout where the disk is slow"


class UsageError(VerificationError):
    """The command line is wrong, or help was asked for: status 0 is kept for a verified cache."""

    code, exit_status, statustext = "usage", 18, "CACHE REFUSED: verifier called wrongly"
    remedy = "correct the call"


class ManifestNotFoundError(VerificationError):
    """There is no cache, or no manifest.json in it. The one failure that `verify_manifest` raises."""

    code, exit_status, statustext = "manifest_not_found", 19, "CACHE REFUSED: no manifest"
    remedy = "check the path of the cache; where it is right, run `doit provision` again"


class TrustError(VerificationError):
    """The trust directory is absent, empty, damaged or inside the cache."""

    code, exit_status, statustext = "trust", 20, "CACHE REFUSED: trust directory unusable"
    remedy = "mend the trust directory: the public keys as *.pem, readable, outside the cache"


class KeyRevokedError(VerificationError):
    """The signing key is on the trust directory's deny list."""

    code, exit_status, statustext = "key_revoked", 21, "CACHE REFUSED: signing key revoked"
    remedy = "the trust directory revokes this key: run `doit provision` with another"


class KeyUnknownError(VerificationError):
    """The signing key is not in the trust directory."""

    code, exit_status, statustext = "key_unknown", 22, "CACHE REFUSED: signing key not trusted"
    remedy = "only where the signer is known to be yours: copy its public key into the trust directory"


class EnvelopeError(VerificationError):
    """manifest.dsse.json is not an envelope as the format demands it."""

    code, exit_status, statustext = "envelope", 23, "CACHE REFUSED: envelope malformed"


class SignatureError(VerificationError):
    """The signature does not fit, or the signed bytes are not those of manifest.json."""

    code, exit_status, statustext = "signature", 24, "CACHE REFUSED: signature invalid"


class ManifestFormatError(VerificationError):
    """manifest.json is not a statement as the format demands it."""

    code, exit_status, statustext = "manifest_format", 25, "CACHE REFUSED: manifest malformed"


class SchemaVersionError(VerificationError):
    """The manifest is of a schema version this verifier does not know."""

    code, exit_status, statustext = "schema_version", 26, "CACHE REFUSED: unknown manifest schema"
    remedy = "install the takeoff of the build that made the cache, or run `doit provision` again with this one"


class ManifestHashMismatchError(VerificationError):
    """The build identity does not hash to the manifest_hash recorded."""

    code, exit_status, statustext = "manifest_hash", 27, "CACHE REFUSED: manifest hash differs"


class FileMissingError(VerificationError):
    """An artifact the manifest lists, or SHA256SUMS or the envelope, is not there."""

    code, exit_status, statustext = "file_missing", 28, "CACHE REFUSED: file missing"


class SidecarMissingError(VerificationError):
    """A `.sha256` sidecar is not there."""

    code, exit_status, statustext = "sidecar_missing", 29, "CACHE REFUSED: sidecar missing"


class FileUnlistedError(VerificationError):
    """The cache holds something the manifest does not list."""

    code, exit_status, statustext = "file_unlisted", 30, "CACHE REFUSED: unlisted file"


class FileKindError(VerificationError):
    """A symbolic link, FIFO, device, socket or directory stands where a regular file must be."""

    code, exit_status, statustext = "file_kind", 31, "CACHE REFUSED: not a regular file"


class FileUnreadableError(VerificationError):
    """The system refused to open or read a file."""

    code, exit_status, statustext = "file_unreadable", 32, "CACHE REFUSED: file unreadable"
    remedy = "check the disk and the permissions, then run `doit provision` again"


class ContentHashMismatchError(VerificationError):
    """An artifact's size or SHA-256 is not the manifest's (D-C10-3)."""

    code, exit_status, statustext = "content_hash", 33, "CACHE REFUSED: content hash differs"


class SidecarMismatchError(VerificationError):
    """A sidecar or SHA256SUMS does not hold exactly what the manifest determines."""

    code, exit_status, statustext = "sidecar", 34, "CACHE REFUSED: sidecar differs"


class DevSignedError(VerificationError):
    """The cache was signed in dev mode and the trust directory does not allow that."""

    code, exit_status, statustext = "dev_signed", 35, "CACHE REFUSED: dev-signed"
    remedy = "sign with an operator key; for a trial only, create `allow_dev` in the trust directory"


class ClockUntrustedError(VerificationError):
    """The clock shows a time earlier than one already seen."""

    code, exit_status, statustext = "clock_untrusted", 36, "CACHE REFUSED: clock untrusted"
    remedy = "set the clock, then verify again"


class NotYetValidError(VerificationError):
    """The validity window has not begun."""

    code, exit_status, statustext = "not_yet_valid", 37, "CACHE REFUSED: not yet valid"
    remedy = _CLOCK


class ExpiredError(VerificationError):
    """The validity window is over."""

    code, exit_status, statustext = "expired", 38, "CACHE REFUSED: expired"
    remedy = _CLOCK


class RollbackError(VerificationError):
    """A later manifest was accepted before this one."""

    code, exit_status, statustext = "rollback", 39, "CACHE REFUSED: older than last accepted"
    remedy = "copy the newest generation; `doit rollback` signs an older one anew"


class FloorError(VerificationError):
    """The rollback floor cannot be read, understood or moved, or lies inside the cache."""

    code, exit_status, statustext = "floor", 40, "CACHE REFUSED: rollback floor unusable"
    remedy = "mend the file given with --floor: readable, in a writable folder, outside the cache"


class FlightMismatchError(VerificationError):
    """The cache was built for another flight."""

    code, exit_status, statustext = "flight", 41, "CACHE REFUSED: other flight"
    remedy = _OTHER_MISSION


class PositionOutsideError(VerificationError):
    """The expected position is not inside the covered area."""

    code, exit_status, statustext = "position", 42, "CACHE REFUSED: position outside area"
    remedy = _OTHER_MISSION


class HostMismatchError(VerificationError):
    """The engines were built for another host, or this host's GPU is not known."""

    code, exit_status, statustext = "host", 43, "CACHE REFUSED: built for another host"
    remedy = "copy the cache that was built for this host; where its GPU cannot be found out, name it with --expect-sm"


class TileDriftError(VerificationError):
    """Operator mode: the tile store no longer gives the aggregate that was signed."""

    code, exit_status, statustext = "tile_drift", 44, "CACHE REFUSED: tile store drifted"


class TileFileError(VerificationError):
    """Deep check: a file of the tile store is not the tile that was sealed."""

    code, exit_status, statustext = "tile_file", 45, "CACHE REFUSED: tile file differs"
    remedy = "import the tiles again with `doit import SOURCE --update`, then run `doit provision` again"
