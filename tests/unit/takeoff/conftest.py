"""A small valid cache on disk, its key and its trust directory, and ways to change each."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import tokenize
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from takeoff import canonical, envelope, keys, layout, manifest, names, verify
from takeoff import tiles_coverage as coverage

NOW = 1_800_000_000
DAY = 86_400
CONTENT = {
    "camera.json": b'{"fx": 1200}',
    "engines/vpr__cpu-avx512_openvino2026.4.1_fp32.engine": bytes(range(256)) * 8,
    "index.faiss": b"IHNs" + b"\x00" * 700,
}
ENGINE = "engines/vpr__cpu-avx512_openvino2026.4.1_fp32.engine"
TILES = [(19, 0.3481, 32.5901, "oam", "aa" * 32), (20, 0.34805, 32.59005, "oam", "bb" * 32)]
ZERO = "00" * 32
# What the machine that runs the tests has, whatever it is.
ISA = "neon" if os.uname().machine == "aarch64" else "generic"


def make_manifest(**changes: Any) -> manifest.Manifest:
    model = manifest.Model("vpr", "descriptor", ZERO, "fp32", "openvino", "2026.4.1", ENGINE, "11" * 32)
    corpus = manifest.Corpus(
        coverage.aggregate(TILES).sha256,
        len(TILES),
        (19, 20),
        "22" * 32,
        (("0.346", "32.588", "0.352", "32.6"),),
        "0.0",
        0,
    )
    identity = manifest.Identity(
        (model,),
        hashlib.sha256(CONTENT["camera.json"]).hexdigest(),
        corpus,
        "stable_rear",
        manifest.Origin("0.348", "32.59", "1190.0"),
        "0b6cf8c6-3a0e-4a55-9b0e-0a2a2a6d7f10",
        {"engine:vpr": "11" * 32, "index": "33" * 32},
    )
    identity = changes.pop("identity", identity)
    fields: dict[str, Any] = {
        "subjects": {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()},
        "manifest_hash": manifest.identity_hash(identity),
        "generation": 1,
        "issued_at": NOW - DAY,
        "valid_from": NOW - DAY,
        "valid_until": NOW + 29 * DAY,
        "signing_mode": "operator",
        "identity": identity,
        "sizes": {name: len(data) for name, data in CONTENT.items()},
        "target": manifest.Target(os.uname().machine, ISA, None, None),
        "builder": {"faiss": "1.15.1", "preflight": "0.1.0"},
        "quality": manifest.Quality((manifest.Parity(ENGINE, "44" * 32, "0.99997", "0.999"),), {"recall_at_1": "0.94"}),
    }
    return manifest.Manifest(**{**fields, **changes})


def sign(private: Any, payload: bytes) -> bytes:
    keyid = keys.fingerprint(private.public_key().public_bytes_raw())
    return envelope.encode(envelope.Envelope(payload, keyid, private.sign(envelope.pae(payload))))


def write_cache(root: Path, private: Any, made: manifest.Manifest, data: bytes | None = None) -> Path:
    """Write the cache of a manifest; with `data`, sign those bytes as manifest.json instead of the manifest's."""
    data = manifest.encode(made) if data is None else data
    files = {name: CONTENT.get(name, b"") for name in made.subjects}
    files |= layout.determined_files(made, hashlib.sha256(data).hexdigest())
    files |= {names.MANIFEST: data, names.ENVELOPE: sign(private, data)}
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.fixture(scope="session")
def private() -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def trust(tmp_path: Path, private: Any) -> Path:
    folder = tmp_path / "trust"
    folder.mkdir()
    (folder / "operator.pem").write_bytes(keys.to_pem(private.public_key().public_bytes_raw()))
    return folder


@pytest.fixture
def cache(tmp_path: Path, private: Any) -> Path:
    return write_cache(tmp_path / "cache", private, make_manifest())


@pytest.fixture
def check(trust: Path) -> Any:
    """Verify with the fixture's trust at NOW; keywords override."""

    def run(root: Path, **options: Any) -> verify.VerificationResult:
        return verify.verify_manifest(root, **{"trust": trust, "now": lambda: NOW, **options})

    return run


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """What tests use of this file beside fixtures."""
    return SimpleNamespace(
        NOW=NOW,
        DAY=DAY,
        CONTENT=CONTENT,
        ENGINE=ENGINE,
        TILES=TILES,
        canonical=canonical,
        make_manifest=make_manifest,
        sign=sign,
        write_cache=write_cache,
    )


@pytest.fixture(scope="session")
def lines_of_code():
    """lines_of_code(text): its lines without blank ones, comments and docstrings; a statement over several counts whole."""

    def count(text: str) -> int:
        blank = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        found = {
            line for token in tokens if token.type not in blank for line in range(token.start[0], token.end[0] + 1)
        }
        for node in ast.walk(ast.parse(text)):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                found -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        return len(found)

    return count
