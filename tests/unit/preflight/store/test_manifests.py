"""A manifest of any schema or state is read as a value. Its time is accepted only if two files agree on it."""

from __future__ import annotations

import hashlib
import json

import pytest

from preflight.errors import ManifestWriteError
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import Generations
from preflight.store.manifests import (
    WRITTEN,
    current_manifest,
    newest_issue,
    parse_manifest,
    read_manifest,
    signed_here,
)
from preflight.trace.digests import DigestCache
from takeoff import envelope
from takeoff import manifest as format_

ZERO = "0" * 64
ISSUED = 1_800_000_000
NAMES = ("manifest.json", "manifest.json.sha256", "manifest.dsse.json")


def manifest_of(issued_at):
    corpus = format_.Corpus(ZERO, 2, (19,), ZERO, (("1.0", "1.0", "2.0", "2.0"),), "0.0", 0)
    identity = format_.Identity((), ZERO, corpus, "stable_rear", None, None, {})
    return format_.Manifest(
        subjects={"calibration.json": ZERO},
        manifest_hash=format_.identity_hash(identity),
        generation=1,
        issued_at=issued_at,
        valid_from=issued_at,
        valid_until=issued_at + 1000,
        signing_mode="dev",
        identity=identity,
        sizes={"calibration.json": 1},
        target=format_.Target("x86_64", "avx2", None, None),
        builder={},
        quality=format_.Quality((), {}),
    )


CONTENT = format_.encode(manifest_of(ISSUED))


def changed(**members):
    """Returns CONTENT with changed members of its predicate."""
    value = json.loads(CONTENT)
    value["predicate"].update(members)
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def write(folder, content, *, sidecar=None):
    """Writes manifest.json, its sidecar and its envelope, as they are published for `content`."""
    folder.mkdir(parents=True)
    sealed = envelope.encode(envelope.Envelope(content, "f" * 64, bytes(64)))
    digest = hashlib.sha256(content).hexdigest().encode()
    for name, data in zip(NAMES, (content, digest if sidecar is None else sidecar, sealed), strict=True):
        (folder / name).write_bytes(data)


@pytest.fixture
def root(tmp_path):
    layout = CacheLayout(tmp_path)
    return Generations(layout, DigestCache(None))


def generation(root, number, content=CONTENT):
    path = root._layout.generations / f"{number:06d}-0123456789ab"
    write(path, content)
    return path


def test_a_manifest_of_the_written_schema_is_decoded(tmp_path):
    write(tmp_path / "g", CONTENT)
    file = read_manifest(tmp_path / "g")
    assert file == parse_manifest(CONTENT)
    assert file.manifest == manifest_of(ISSUED)
    assert (file.content, file.other_schema, file.fault) == (CONTENT, None, None)
    assert file.sha256 == hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize("version", ["1.0", "1.2", "99.9", "a version with a rather long name"])
def test_a_manifest_of_another_schema_is_recognised_for_any_content(version):
    for content in (changed(schema_version=version), changed(schema_version=version, identity="a form of that schema")):
        file = parse_manifest(content)
        assert (file.manifest, file.other_schema, file.content) == (None, version[:20], content)
        assert file.fault == f"is of schema {version[:20]}, and this release of preflight writes schema {WRITTEN}"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        CONTENT[:-1],
        CONTENT.replace(b'"1.1"', b'"1.2"')[:-1],
        changed(schema_version=2),
        changed(schema_version=None),
        changed(unknown=1),
        CONTENT.replace(b"cache-manifest:1", b"cache-manifest:2"),
        b"\xff" * 40,
        b"[" * 100_000,
        b"[]",
        b'{"predicate":7}',
    ],
)
def test_a_damaged_manifest_is_reported(content):
    file = parse_manifest(content)
    assert (file.manifest, file.other_schema) == (None, None)
    assert file.fault.startswith("cannot be read ([manifest_format] ")


def test_a_missing_manifest_or_a_folder_is_reported(tmp_path):
    assert read_manifest(tmp_path).fault == "cannot be read (No such file or directory)"
    (tmp_path / "manifest.json").mkdir()
    assert read_manifest(tmp_path).fault == "cannot be read (Is a directory)"
    assert read_manifest(tmp_path).content == b""


def test_a_release_that_reads_two_schemas_recognises_the_one_it_writes(monkeypatch):
    """A manifest of the other schema is decoded. Publishing again is still required."""
    monkeypatch.setattr("preflight.store.manifests.WRITTEN", "1.2")
    file = parse_manifest(CONTENT)
    assert (file.manifest, file.other_schema) == (manifest_of(ISSUED), "1.1")
    assert file.fault == "is of schema 1.1, and this release of preflight writes schema 1.2"


def test_a_signed_manifest_that_was_changed_raises_an_error():
    assert signed_here(CONTENT) == manifest_of(ISSUED)
    with pytest.raises(
        ManifestWriteError, match=r"the manifest that was signed cannot be read .* run doit provision again"
    ):
        signed_here(CONTENT[:-1])


def test_current_manifest_reads_the_current_generation(root):
    assert current_manifest(root) is None
    path = generation(root, 1)
    root._layout.current.symlink_to(f"gen/{path.name}")
    assert current_manifest(root) == parse_manifest(CONTENT)


def test_newest_issue_considers_generations_of_any_schema(root):
    assert newest_issue(root) == 0
    generation(root, 1)
    generation(root, 2, changed(schema_version="9.9", issued_at=ISSUED + 7, identity=[]))
    generation(root, 3, changed(issued_at=ISSUED + 3))
    assert newest_issue(root) == ISSUED + 7


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [CONTENT, changed(schema_version="9.9")], ids=["1.1", "9.9"])
@pytest.mark.parametrize("damage", ["lost", "truncated", "another time"])
def test_one_lost_or_damaged_file_does_not_hide_or_change_the_time(root, name, content, damage):
    path = generation(root, 1, content) / name
    if damage == "lost":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        path.write_bytes(path.read_bytes().replace(b'"issued_at":1', b'"issued_at":9').replace(b"a", b"b"))
    assert newest_issue(root) == ISSUED


def test_a_manifest_without_sidecar_and_envelope_gives_its_time_if_it_can_be_decoded(root):
    for number, content in enumerate((CONTENT, changed(schema_version="9.9", issued_at=ISSUED + 9)), 1):
        path = generation(root, number, content)
        for name in NAMES[1:]:
            (path / name).unlink()
    assert newest_issue(root) == ISSUED


@pytest.mark.parametrize("issued_at", [True, "1800000000", None, -1, 1e9, 253402300799, 10**30])
def test_an_invalid_time_is_ignored(root, issued_at):
    """The last second of the format is also invalid: there is no later time for the next manifest."""
    generation(root, 1, changed(schema_version="9.9", issued_at=issued_at))
    assert newest_issue(root) == 0
