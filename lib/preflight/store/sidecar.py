"""The `.sha256` sidecar of a file (D-C10-3)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from preflight.store.atomic import atomic_write
from preflight.trace.digests import hash_file
from takeoff.errors import ContentHashMismatchError, SidecarMismatchError, SidecarMissingError
from takeoff.layout import sidecar_bytes
from takeoff.names import sidecar_name

_CONTENT = re.compile(rb"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Sha256Sidecar:
    """The sidecar of a file. It lies beside the file and holds the file's SHA-256 as 64 hex digits.

    file: the file that the sidecar belongs to.
    """

    file: Path

    @property
    def path(self) -> Path:
        """The path of the sidecar: the file's path and `.sha256`."""
        return self.file.with_name(sidecar_name(self.file.name))

    def write(self, digest: str | None = None) -> str:
        """Writes the sidecar atomically.

        digest: SHA-256 of the file, if the caller knows it. None: the file is read.

        Returns:
            SHA-256 of the file, 64 hex digits.

        Raises:
            OSError: the file cannot be read, or the sidecar cannot be written.
        """
        digest = hash_file(self.file) if digest is None else digest
        atomic_write(self.path, sidecar_bytes(digest))
        return digest

    def read(self) -> str:
        """Returns the SHA-256 that the sidecar states.

        Raises:
            SidecarMissingError: there is no sidecar.
            SidecarMismatchError: its content is not 64 hex digits.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError as error:
            raise SidecarMissingError("the sidecar is missing", str(self.path)) from error
        if _CONTENT.fullmatch(content) is None:
            raise SidecarMismatchError("does not hold exactly 64 lower-case hex digits", str(self.path))
        return content.decode("ascii")

    def check(self) -> str:
        """Compares the file with its sidecar. Returns the SHA-256 of both.

        Raises:
            SidecarMissingError, SidecarMismatchError: as `read`.
            ContentHashMismatchError: the file has another SHA-256.
            OSError: the file cannot be read.
        """
        stated, found = self.read(), hash_file(self.file)
        if stated != found:
            raise ContentHashMismatchError(f"has SHA-256 {found}, but its sidecar states {stated}", str(self.file))
        return found
