"""The names of a cache's files: which are allowed, and which are fixed."""

from __future__ import annotations

import re
from collections.abc import Iterable

from takeoff.errors import ManifestFormatError

MANIFEST = "manifest.json"
ENVELOPE = "manifest.dsse.json"
SUMS = "SHA256SUMS"
SIDECAR_SUFFIX = ".sha256"

# Portable to FAT and to every shell: no hidden names, no trailing dot, and `.sha256` still fits into 255 bytes.
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._+-]{0,198}[A-Za-z0-9_+-])?")


def sidecar_name(name: str) -> str:
    """The sidecar of an artifact: the name and `.sha256`."""
    return name + SIDECAR_SUFFIX


def check_names(subjects: Iterable[str]) -> None:
    """Refuse names that are not portable or that meet each other. Raises ManifestFormatError.

    A name is relative, its parts separated by `/`; a part is 1 to 200 of A-Z a-z 0-9 . _ + -, begins with a letter, a
    digit or `_` and does not end with a dot. No two files of a cache differ only in case, and none is another's folder.
    """
    seen: dict[str, str] = {}
    files = [ENVELOPE, SUMS, *with_sidecars([MANIFEST, *subjects])]
    for name in files:
        if not all(_PART.fullmatch(part) for part in name.removesuffix(SIDECAR_SUFFIX).split("/")):
            raise ManifestFormatError(f"the name {name[:80]!r} is not a relative portable file name")
        if name.lower() in seen:
            raise ManifestFormatError(f"the names {seen[name.lower()][:80]} and {name[:80]} meet")
        seen[name.lower()] = name
    folders: dict[str, str] = {}
    for name in files:
        for folder in parents(name):
            if folder.lower() in seen or folders.setdefault(folder.lower(), folder) != folder:
                raise ManifestFormatError(f"the folder {folder[:80]} of {name[:80]} meets another name")


def parents(name: str) -> list[str]:
    """The folders a name lies in, outermost first: `a/b/c` gives `a` and `a/b`."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]


def with_sidecars(names: Iterable[str]) -> Iterable[str]:
    """Every name, each followed by its sidecar's."""
    return (file for name in names for file in (name, sidecar_name(name)))
