"""The names of the files of a cache: the fixed names, and the rules for the others."""

from __future__ import annotations

import re
from collections.abc import Iterable

from takeoff.errors import ManifestFormatError

MANIFEST = "manifest.json"
ENVELOPE = "manifest.dsse.json"
SUMS = "SHA256SUMS"
SIDECAR_SUFFIX = ".sha256"

# Portable to FAT and every shell: no hidden names, no dot at the end, and with `.sha256` at most 255 bytes.
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._+-]{0,198}[A-Za-z0-9_+-])?")


def sidecar_name(name: str) -> str:
    """Returns the name of an artifact's sidecar: the name and `.sha256`."""
    return name + SIDECAR_SUFFIX


def check_names(subjects: Iterable[str]) -> None:
    """Checks that all names are portable and that no two collide. Raises ManifestFormatError.

    A name is relative, with `/` between its parts. A part has 1 to 200 characters of A-Z a-z 0-9 . _ + -, begins with a
    letter, a digit or `_`, and does not end with a dot. No two files differ only in case, and none is another's folder.
    """
    seen: dict[str, str] = {}
    files = [ENVELOPE, SUMS, *with_sidecars([MANIFEST, *subjects])]
    for name in files:
        if not all(_PART.fullmatch(part) for part in name.removesuffix(SIDECAR_SUFFIX).split("/")):
            raise ManifestFormatError(f"the name {name[:80]!r} is not a relative, portable file name")
        if name.lower() in seen:
            raise ManifestFormatError(f"the names {seen[name.lower()][:80]} and {name[:80]} collide")
        seen[name.lower()] = name
    folders: dict[str, str] = {}
    for name in files:
        for folder in parents(name):
            if folder.lower() in seen or folders.setdefault(folder.lower(), folder) != folder:
                raise ManifestFormatError(f"the folder {folder[:80]} of {name[:80]} collides with another name")


def parents(name: str) -> list[str]:
    """Returns the folders of a name, outermost first: `a/b/c` gives `a` and `a/b`."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]


def with_sidecars(names: Iterable[str]) -> Iterable[str]:
    """Yields every name, followed by the name of its sidecar."""
    return (file for name in names for file in (name, sidecar_name(name)))
