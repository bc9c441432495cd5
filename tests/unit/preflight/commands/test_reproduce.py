"""The comparison of `doit reproduce`. The pipeline tests make a whole build and compare it."""

from __future__ import annotations

import hashlib
import json

import pytest

from preflight.commands.reproduce import Comparison, compare, reproduce_json, reproduce_text
from preflight.errors import CacheRootError
from takeoff import manifest as format_
from takeoff.layout import determined_files

ENGINE = "engines/vpr__sm87_jp6.2_trt10.3_fp16.engine"
ZERO = "0" * 64
CONTENTS = {ENGINE: b"engine", "descriptors.faiss": b"index", "calibration.json": b"{}"}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Key:
    """Replaces a key. The signature depends only on the bytes, as with Ed25519."""

    fingerprint = "f" * 64

    def sign(self, statement):
        return b"signed " + hashlib.sha256(statement).digest()


def manifest_of(contents, *, generation, at, flight=None):
    model = format_.Model("vpr", "descriptor", ZERO, "fp16", "tensorrt", "10.3", ENGINE, ZERO)
    corpus = format_.Corpus(ZERO, 2, (19,), ZERO, (("1.0", "1.0", "2.0", "2.0"),), "0.0", 0)
    calibration = sha256(contents["calibration.json"])
    identity = format_.Identity((model,), calibration, corpus, "stable_rear", None, flight, {"index": ZERO})
    return format_.Manifest(
        subjects={name: sha256(content) for name, content in contents.items()},
        manifest_hash=format_.identity_hash(identity),
        generation=generation,
        issued_at=at,
        valid_from=at,
        valid_until=at + 1000,
        signing_mode="dev",
        identity=identity,
        sizes={name: len(content) for name, content in contents.items()},
        target=format_.Target("aarch64", "neon", "87", "6.2"),
        builder={"preflight": "0.1.0"},
        quality=format_.Quality((format_.Parity(ENGINE, ZERO, "0.9995", "0.999"),), {"queries": "20"}),
    )


class Two:
    """A published cache and a new build of it."""

    def __init__(self, folder):
        self.current, self.fresh = folder / "current", folder / "fresh"
        made = manifest_of(CONTENTS, generation=7, at=5_000_000)
        content = format_.encode(made)
        small = determined_files(made, sha256(content))
        signed = {"manifest.json": content, "manifest.dsse.json": Key().sign(content)}
        for name, value in {**CONTENTS, **small, **signed}.items():
            self.write(self.current / name, value)
        for name, value in CONTENTS.items():
            self.write(self.fresh / name, value)

    @staticmethod
    def write(path, content):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def compare(self, parity=None, **changes):
        artifacts = {path.relative_to(self.fresh).as_posix(): path for path in self.fresh.rglob("*") if path.is_file()}
        contents = {name: path.read_bytes() for name, path in artifacts.items()}
        statement = format_.encode(
            manifest_of({**CONTENTS, **contents}, **{"generation": 1, "at": 9_000_000, **changes})
        )
        found = compare(self.current, artifacts, statement, Key(), lambda name: parity if name == ENGINE else None)
        return {item.name: item for item in found}


@pytest.fixture
def two(tmp_path):
    return Two(tmp_path)


def different(found):
    return {name for name, item in found.items() if not item.equal}


def test_equal_except_for_number_and_times(two):
    found = two.compare()
    assert set(found) == {*CONTENTS, "manifest.json", "manifest.dsse.json", "SHA256SUMS"}
    assert different(found) == set()
    assert "number and times" in found["manifest.json"].note


def test_another_flight_is_another_manifest(two):
    found = two.compare(flight="0b6cf8c6-3a0e-4a55-9b0e-0a2a2a6d7f10")
    assert different(found) == {"manifest.json", "manifest.dsse.json", "SHA256SUMS"}


@pytest.mark.parametrize("name", [*CONTENTS, "manifest.dsse.json", "SHA256SUMS"])
def test_a_tampered_file_of_current(two, name):
    two.write(two.current / name, (two.current / name).read_bytes() + b"x")
    found = two.compare()
    assert different(found) == {name}
    assert found[name].note == "bytes differ"


@pytest.mark.parametrize("name", [*CONTENTS, "manifest.dsse.json", "SHA256SUMS"])
def test_a_missing_file_of_current(two, name):
    (two.current / name).unlink()
    found = two.compare()
    assert different(found) == {name}
    assert found[name].note == "missing in the current cache"


@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_a_manifest_that_cannot_be_read(two, content):
    (two.current / "manifest.json").unlink()
    if content is not None:
        two.write(two.current / "manifest.json", content)
    with pytest.raises(CacheRootError, match="repair=1"):
        two.compare()


def test_an_artifact_that_is_no_longer_built_and_a_new_one(two):
    (two.fresh / "descriptors.faiss").rename(two.fresh / "other.faiss")
    found = two.compare()
    assert found["descriptors.faiss"].note == "not built by this mission"
    assert found["other.faiss"] == Comparison("other.faiss", False, "built now, not in the current cache")


def test_an_engine_whose_bytes_differ_in_each_build_is_compared_by_parity(two):
    two.write(two.fresh / ENGINE, b"the same engine, other bytes")
    assert different(two.compare()) >= {ENGINE, "manifest.json"}
    found = two.compare(parity="0.99971")
    assert different(found) == set()
    assert "by parity" in found[ENGINE].note
    assert "0.99971" in found[ENGINE].note
    # The manifest contains the hash of the engine. So it differs as well, and is not compared.
    assert set(found) == set(CONTENTS)


def test_an_engine_with_reproducible_bytes_is_compared_by_bytes(two):
    found = two.compare(parity="0.99971")
    assert found[ENGINE].note == "byte by byte"
    assert "manifest.json" in found


def test_the_verdict():
    found = [Comparison("a", True, "byte by byte"), Comparison("b", False, "bytes differ")]
    assert reproduce_text(found).splitlines() == [
        "equal    a  (byte by byte)",
        "DIFFERS  b  (bytes differ)",
        "not reproduced: 1 of 2 files differ",
    ]
    assert reproduce_text(found[:1]).endswith("reproduced")
    told = json.loads(reproduce_json(found))
    assert told["reproduced"] is False
    assert told["files"][1] == {"name": "b", "equal": False, "note": "bytes differ"}
    assert json.loads(reproduce_json(found[:1]))["reproduced"] is True
