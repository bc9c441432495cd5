"""Which files a cache directory holds, and the bytes of those that the manifest determines."""

from __future__ import annotations

from takeoff.manifest import Manifest
from takeoff.names import ENVELOPE, MANIFEST, SUMS, sidecar_name, with_sidecars


def sidecar_bytes(sha256: str) -> bytes:
    """A sidecar's content: the 64 hex digits and nothing else, no line feed."""
    return sha256.encode("ascii")


def sums_bytes(manifest: Manifest, manifest_sha256: str) -> bytes:
    """SHA256SUMS: a line `<sha256>  <name>` for every subject and manifest.json, sorted by name."""
    digests = {**manifest.subjects, MANIFEST: manifest_sha256}
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode("ascii")


def determined_files(manifest: Manifest, manifest_sha256: str) -> dict[str, bytes]:
    """Name -> bytes of every file that manifest.json alone determines: the sidecars and SHA256SUMS."""
    files = {sidecar_name(name): sidecar_bytes(digest) for name, digest in manifest.subjects.items()}
    files[sidecar_name(MANIFEST)] = sidecar_bytes(manifest_sha256)
    files[SUMS] = sums_bytes(manifest, manifest_sha256)
    return files


def expected_files(manifest: Manifest) -> frozenset[str]:
    """The exact file set of a cache: subjects, their sidecars, manifest.json and its sidecar, envelope, SHA256SUMS."""
    return frozenset([ENVELOPE, *with_sidecars([*manifest.subjects, MANIFEST]), SUMS])
