"""What a rollback signs. The pipeline tests make a real rollback with the real verifier."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone

import pytest

from preflight.commands.rollback import republish_previous
from preflight.errors import CacheRootError, ManifestCoverageError, ManifestWriteError
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import Generation, Generations
from preflight.trace.digests import DigestCache
from takeoff import envelope
from takeoff import manifest as format_

ZERO = "0" * 64
DAY = 86_400
NOW = 1_800_000_000


def manifest_of(generation, issued_at, flight):
    model = format_.Model("vpr", "descriptor", ZERO, "fp32", "openvino", "2026.4", "engines/vpr.engine", ZERO)
    corpus = format_.Corpus(ZERO, 2, (19,), ZERO, (("1.0", "1.0", "2.0", "2.0"),), "0.0", 0)
    subjects = {"engines/vpr.engine": ZERO, "calibration.json": ZERO}
    identity = format_.Identity((model,), ZERO, corpus, "stable_rear", None, flight, {"index": ZERO})
    return format_.Manifest(
        subjects=subjects,
        manifest_hash=format_.identity_hash(identity),
        generation=generation,
        issued_at=issued_at,
        valid_from=issued_at,
        valid_until=issued_at + 10 * DAY,
        signing_mode="dev",
        identity=identity,
        sizes=dict.fromkeys(subjects, 1),
        target=format_.Target("x86_64", "avx2", None, None),
        builder={"preflight": "0.1.0"},
        quality=format_.Quality((format_.Parity("engines/vpr.engine", ZERO, "0.99999", "0.999"),), {"queries": "20"}),
    )


class Publisher:
    """Records what it receives. Its verifier may refuse."""

    def __init__(self, refusal=None):
        self.refusal = refusal
        self.deeds = []

    def verify(self, place):
        self.deeds.append(("verify", place))
        if self.refusal is not None:
            raise self.refusal

    def publish(self, content, envelope, sources):
        self.deeds.append(("publish", format_.decode(content), envelope, sources))
        return Generation(3, sources["calibration.json"].parent)


class Signer:
    fingerprint = "f" * 64

    def waiting(self):
        return None

    def sign(self, statement):
        return b"signed " + statement


class Root:
    def __init__(self, folder, *issued):
        self.layout = CacheLayout(folder)
        self.generations = Generations(self.layout, DigestCache(None))
        self.paths = []
        self.manifests = []
        for number, (at, flight) in enumerate(issued, 1):
            path = self.layout.generations / f"{number:06d}-0123456789ab"
            path.mkdir(parents=True)
            self.manifests.append(manifest_of(number, at, flight))
            (path / "manifest.json").write_bytes(format_.encode(self.manifests[-1]))
            self.paths.append(path)
        for link, path in zip(("current", "previous"), reversed(self.paths), strict=False):
            (folder / link).symlink_to(f"gen/{path.name}")

    def back(self, publisher, now=NOW):
        clock = lambda: datetime.fromtimestamp(now, timezone.utc)  # noqa: E731 - used as a value
        return republish_previous(
            self.generations,
            publisher,
            Signer(),
            clock,
            judge=lambda generation, _: publisher.verify(generation.path),
            signing_mode="operator",
            valid_for_days=30,
        )


FLIGHTS = ("0b6cf8c6-3a0e-4a55-9b0e-0a2a2a6d7f10", None)


@pytest.fixture
def root(tmp_path):
    return Root(tmp_path, (NOW - 200, FLIGHTS[0]), (NOW - 100, FLIGHTS[1]))


def test_the_previous_content_is_published_with_a_new_number_and_time(root):
    publisher = Publisher()
    root.back(publisher)
    (_, judged), (_, made, envelope, sources) = publisher.deeds
    assert judged == root.paths[0]
    old = root.manifests[0]
    assert made.identity == old.identity
    assert (made.manifest_hash, made.subjects, made.quality) == (old.manifest_hash, old.subjects, old.quality)
    assert (made.generation, made.issued_at, made.valid_from) == (3, NOW, NOW)
    # The mode is that of the new signature. A dev key must not inherit the mode of an operator.
    assert (old.signing_mode, made.signing_mode) == ("dev", "operator")
    assert made.valid_until == NOW + 30 * DAY
    assert envelope == b"signed " + format_.encode(made)
    assert sources == {name: root.paths[0] / name for name in old.subjects}


@pytest.mark.parametrize("ahead", [0, 1, 50])
def test_it_is_issued_after_all_others_and_valid_from_now(tmp_path, ahead):
    """The aircraft's floor compares issued_at. A manifest that is not valid yet would be refused."""
    root = Root(tmp_path, (NOW - 200, None), (NOW + ahead, None))
    publisher = Publisher()
    root.back(publisher)
    made = publisher.deeds[1][1]
    assert (made.issued_at, made.valid_from) == (NOW + ahead + 1, NOW)


@pytest.mark.parametrize("issued", [(), ((NOW - 100, None),)], ids=["none", "one"])
def test_without_a_previous_generation(tmp_path, issued):
    publisher = Publisher()
    with pytest.raises(CacheRootError, match="no previous generation"):
        Root(tmp_path, *issued).back(publisher)
    assert publisher.deeds == []


def test_a_generation_that_the_verifier_refuses_is_not_signed(root):
    publisher = Publisher(ManifestCoverageError("refused"))
    with pytest.raises(ManifestCoverageError, match="refused"):
        root.back(publisher)
    assert [deed[0] for deed in publisher.deeds] == ["verify"]


def of_another_schema(path):
    manifest = path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"schema_version":"1.1"', b'"schema_version":"9.9"'))


def damaged(path):
    manifest = path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-1])


@pytest.mark.parametrize(("act", "says"), [(damaged, "not JSON"), (of_another_schema, "is of schema 9.9")])
def test_a_previous_manifest_that_cannot_be_read(root, act, says):
    """The advice must help: repairing the current generation does not make the previous one readable."""
    act(root.paths[0])
    publisher = Publisher()
    with pytest.raises(ManifestWriteError, match=says) as raised:
        root.back(publisher)
    assert publisher.deeds == []
    said = str(raised.value)
    assert "set the mission back" in said
    assert "repair=1" not in said
    assert ("the release of preflight that made it" in said) == (act is of_another_schema)


@pytest.mark.parametrize("act", [damaged, of_another_schema])
def test_a_rollback_works_even_if_the_current_manifest_cannot_be_read(tmp_path, act):
    """issued_at comes from the bytes of the manifest if they match the sidecar, otherwise from the envelope."""
    root = Root(tmp_path, (NOW - 200, None), (NOW + 500, None))
    content = (root.paths[1] / "manifest.json").read_bytes()
    act(root.paths[1])
    if act is damaged:
        sealed = envelope.encode(envelope.Envelope(content, "f" * 64, bytes(64)))
        (root.paths[1] / "manifest.dsse.json").write_bytes(sealed)
    else:
        content = (root.paths[1] / "manifest.json").read_bytes()
    (root.paths[1] / "manifest.json.sha256").write_text(hashlib.sha256(content).hexdigest())
    publisher = Publisher()
    root.back(publisher)
    made = publisher.deeds[1][1]
    assert (made.identity, made.generation) == (root.manifests[0].identity, 3)
    assert (made.issued_at, made.valid_from) == (NOW + 501, NOW)
