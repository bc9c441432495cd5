"""Small signed generations for copying."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from preflight.commands.bundle import load_source
from preflight.errors import BundleError
from preflight.store import carry, medium
from takeoff import envelope, keys, layout, names
from takeoff import manifest as format_
from takeoff.verify import verify_manifest

NOW = 1_800_000_000
ZERO = "0" * 64
ENGINE = "engines/vpr__cpu-avx512_openvino2026.4.1_fp32.engine"
CONTENT = {"camera.json": b'{"fx": 1200}', ENGINE: bytes(range(256)) * 8, "index.faiss": b"IHNs" + b"\0" * 700}


def manifest_of(contents, generation, issued_at):
    """Returns a manifest of these files. It is valid from a day before NOW to a day after."""
    model = format_.Model("vpr", "descriptor", ZERO, "fp32", "openvino", "2026.4.1", ENGINE, ZERO)
    corpus = format_.Corpus(ZERO, 2, (19,), ZERO, (("1.0", "1.0", "2.0", "2.0"),), "0.0", 0)
    calibration = hashlib.sha256(contents["camera.json"]).hexdigest()
    identity = format_.Identity((model,), calibration, corpus, "stable_rear", None, None, {"index": ZERO})
    return format_.Manifest(
        subjects={name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
        manifest_hash=format_.identity_hash(identity),
        generation=generation,
        issued_at=issued_at,
        valid_from=NOW - 86_400,
        valid_until=NOW + 86_400,
        signing_mode="operator",
        identity=identity,
        sizes={name: len(data) for name, data in contents.items()},
        target=format_.Target("x86_64", "avx2", None, None),
        builder={"preflight": "0.1.0"},
        quality=format_.Quality((format_.Parity(ENGINE, ZERO, "0.99999", "0.999"),), {"queries": "20"}),
    )


def write_cache(root, private, made, contents):
    data = format_.encode(made)
    keyid = keys.fingerprint(private.public_key().public_bytes_raw())
    sealed = envelope.encode(envelope.Envelope(data, keyid, private.sign(envelope.pae(data))))
    small = layout.determined_files(made, hashlib.sha256(data).hexdigest())
    for name, content in {**contents, **small, names.MANIFEST: data, names.ENVELOPE: sealed}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o444)


@dataclass
class Scene:
    """A cache root with generations, a trust directory, a memory card, and the verifier that judges copies."""

    folder: Path

    def __post_init__(self):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self.private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
        self.trust = self.folder / "trust"
        self.card = self.folder / "card"
        if not self.trust.exists():
            self.trust.mkdir(parents=True)
            (self.trust / "key.pem").write_bytes(keys.to_pem(self.private.public_key().public_bytes_raw()))

    def generation(self, number, contents=None, *, salt=0, **changes):
        """Returns the folder of a published generation.

        contents: files that differ from CONTENT. salt: gives another time to an equal identity. changes: manifest
            fields.
        """
        files = {**CONTENT, **(contents or {})}
        made = manifest_of(files, number, NOW - 100 + number + 50 * salt)._replace(**changes)
        name = f"{number:06d}-{made.manifest_hash[:12]}"
        path = self.folder / (f"other-{salt}" if salt else "cache") / "gen" / name
        if not path.exists():
            write_cache(path, self.private, made, files)
        return path

    def judge(self, folder):
        result = verify_manifest(folder, trust=self.trust, now=lambda: NOW)
        if result.failures:
            raise BundleError("; ".join(result.fail_reasons))

    def copy(self, source, *, free=1 << 40):
        """Copies a generation as `doit bundle` does, and returns the plan of the copy."""
        generation = load_source(source)
        with carry.open_target(self.card) as target:
            medium.check_names(target, generation.files)
            plan = carry.plan_copy(target, generation)
            carry.check_space(target, generation, plan, free)
            carry.copy_generation(target, generation, plan, self.judge)
            carry.prune(target)
        return plan

    @property
    def current(self):
        return self.card / "current"

    def state(self):
        """Returns the generation number of the cache on the card, `none`, or `refused`."""
        if not self.current.exists():
            return "none"
        result = verify_manifest(self.current, trust=self.trust, now=lambda: NOW)
        return "refused" if result.failures else result.manifest.generation


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)
