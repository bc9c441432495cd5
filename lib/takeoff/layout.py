"""The files of a cache directory, and the bytes of those that the manifest determines."""

from __future__ import annotations

from takeoff.manifest import Manifest
from takeoff.names import ENVELOPE, MANIFEST, SUMS, sidecar_name, with_sidecars


def sidecar_bytes(sha256: str) -> bytes:
    """Returns the content of a sidecar: the 64 hex digits, without a line feed."""
    return sha256.encode("ascii")


def sums_bytes(manifest: Manifest, manifest_sha256: str) -> bytes:
    """Returns SHA256SUMS: a line `<sha256>  <name>` for every subject and manifest.json, sorted by name."""
    digests = {**manifest.subjects, MANIFEST: manifest_sha256}
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode("ascii")


def determined_files(manifest: Manifest, manifest_sha256: str) -> dict[str, bytes]:
    """Returns name -> bytes of every file that manifest.json alone determines: the sidecars and SHA256SUMS."""
    files = {sidecar_name(name): sidecar_bytes(digest) for name, digest in manifest.subjects.items()}
    files[sidecar_name(MANIFEST)] = sidecar_bytes(manifest_sha256)
    files[SUMS] = sums_bytes(manifest, manifest_sha256)
    return files


def expected_files(manifest: Manifest) -> frozenset[str]:
    """Returns the exact files of a cache: subjects, manifest.json, their sidecars, the envelope and SHA256SUMS."""
    return frozenset([ENVELOPE, *with_sidecars([*manifest.subjects, MANIFEST]), SUMS])
