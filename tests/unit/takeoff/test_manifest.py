"""The statement: every field removed, doubled, added to or given another type is refused; nothing else than that."""

from __future__ import annotations

import copy
import hashlib
import json
import subprocess

import pytest

from takeoff import canonical, layout, manifest, names
from takeoff import tiles_coverage as coverage
from takeoff.errors import ManifestFormatError, SchemaVersionError, VerificationError


def canon(value) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@pytest.fixture
def statement(kit):
    return json.loads(manifest.encode(kit.make_manifest()))


def places(value, path=()):
    yield path
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield from places(member, (*path, key))


def changed(statement, path, change):
    """A copy with `change(parent, key)` applied at the path."""
    made = {"root": copy.deepcopy(statement)}
    parent = made
    for key in ("root", *path)[:-1]:
        parent = parent[key]
    change(parent, ("root", *path)[-1])
    return made.get("root")


def test_round_trip(kit):
    made = kit.make_manifest()
    assert manifest.decode(manifest.encode(made)) == made
    without = kit.make_manifest(identity=made.identity._replace(takeoff_origin=None, flight_id=None))
    assert manifest.decode(manifest.encode(without)) == without


def test_every_value_of_another_type_is_refused(statement):
    for path in places(statement):
        for wrong in (None, True, 5, -1, 1.5, "", "wrong", [], {}, [[]], {"x": {}}):
            data = canon(changed(statement, path, lambda parent, key, wrong=wrong: parent.__setitem__(key, wrong)))
            last = path[-1] if path else None
            try:
                manifest.decode(data)
            except ManifestFormatError:
                continue
            except SchemaVersionError:
                assert (last, type(wrong)) == ("schema_version", str)
                continue
            allowed = (
                (wrong is None and last in ("sm", "jetpack", "takeoff_origin", "flight_id"))
                or (wrong == "wrong" and isinstance(at(statement, path), (str, type(None))) and free_text(path))
                or (wrong == 5 and isinstance(at(statement, path), int))
                or (wrong in ([], {}) and last in ("models", "parity", "action_keys", "builder", "selftest"))
            )
            assert allowed, (path, wrong)


def at(statement, path):
    for key in path:
        statement = statement[key]
    return statement


def free_text(path):
    return path[-1] in ("model_name", "runtime", "runtime_version", "arch", "isa", "sm", "jetpack") or path[-2] in (
        "builder",
        "selftest",
    )


def test_every_member_removed_added_or_doubled_is_refused(statement):
    free = {"models", "parity", "action_keys", "builder", "selftest", "zoom_levels"}
    for path in places(statement):
        value = at(statement, path)
        if path and not (len(path) > 1 and path[-2] in free):
            with pytest.raises(ManifestFormatError):
                manifest.decode(canon(changed(statement, path, lambda parent, key: parent.pop(key))))
        if isinstance(value, dict) and path[-1:] not in (("action_keys",), ("builder",), ("selftest",)):
            more = changed(statement, path, lambda parent, key: parent[key].__setitem__("zz", "1"))
            with pytest.raises(ManifestFormatError):
                manifest.decode(canon(more))
    text = canon(statement).decode()
    for path in places(statement):
        if path and isinstance(path[-1], str):
            member = f"{json.dumps(path[-1])}:{canon(at(statement, path)).decode()}"
            assert member in text
            with pytest.raises(ManifestFormatError, match="twice"):
                manifest.decode(text.replace(member, f"{member},{member}", 1).encode())


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("predicate", "schema_version"), "1.0", "schema version 1.0"),
        (("predicate", "valid_until"), 1, "valid_from is not before"),
        (("predicate", "valid_until"), 1_800_000_000 - 86_400, "valid_from is not before"),  # a window of one moment
        (("predicate", "valid_until"), 10**14, "integer from"),
        (("predicate", "identity", "corpus", "zoom_levels"), [20, 19], "ascending"),
        (("predicate", "identity", "corpus", "zoom_levels"), [], "at least 1"),
        (("predicate", "identity", "corpus", "zoom_levels"), [31], "from 0 to 30"),
        (("predicate", "identity", "corpus", "covered"), [["0.0", "0.0", "1.0"]], "lat_min, lon_min"),
        (("predicate", "identity", "corpus", "covered"), [["0.0", "0.0", "0.0", "1.0"]], "is empty"),
        (("predicate", "identity", "corpus", "covered"), [["0.0", "1.0", "1.0", "0.0"]], "is empty"),
        (("predicate", "identity", "corpus", "covered"), [["0.0", "1.0", "1.0", "1.0"]], "is empty"),
        (("predicate", "identity", "corpus", "covered"), [["0.0", "0.0", "91.0", "1.0"]], "from -90.0 to 90.0"),
        (("predicate", "identity", "corpus", "allow_missing"), "0", "as repr prints it"),
        (("predicate", "identity", "corpus", "allow_missing"), "0.50", "as repr prints it"),
        (("predicate", "identity", "corpus", "allow_missing"), "0-1", "as repr prints it"),
        (("predicate", "identity", "corpus", "allow_missing"), "nan", "decimal string"),
        (("predicate", "identity", "flight_id"), "0B6CF8C6-3A0E-4A55-9B0E-0A2A2A6D7F10", "lower-case UUID"),
        (("predicate", "identity", "models", 0, "engine"), "other.engine", "is not a subject"),
        (("predicate", "quality", "parity", 0, "engine"), "other.engine", "is not a subject"),
        (("predicate", "identity", "models", 0, "onnx_sha256"), "AB" * 32, "lower-case hex"),
        (("predicate", "identity", "models", 0, "onnx_sha256"), "ab" * 32 + "\n", "printable"),
        (("predicate", "builder"), {"": "1"}, "builder key"),
        (("predicate", "generation"), 2**53, "beyond 2"),
        (("predicate", "generation"), 10**400, "beyond 2"),
        (("predicate", "generation"), 0, "integer from 1"),
        (("predicate", "sizes", "camera.json"), -1, "integer from 0"),
    ],
)
def test_values_out_of_range(statement, path, value, message):
    data = canon(changed(statement, path, lambda parent, key: parent.__setitem__(key, value)))
    with pytest.raises(VerificationError, match=message):
        manifest.decode(data)


def test_a_model_named_twice(kit):
    made = kit.make_manifest()
    identity = made.identity._replace(models=made.identity.models * 2)
    with pytest.raises(ManifestFormatError, match="a model twice"):
        manifest.encode(kit.make_manifest(identity=identity))


def test_subjects_are_sorted_and_single(statement):
    for subjects in (statement["subject"][::-1], [*statement["subject"], statement["subject"][-1]]):
        with pytest.raises(ManifestFormatError, match="sorted"):
            manifest.decode(canon({**statement, "subject": subjects}))


def test_sizes_name_exactly_the_subjects(kit):
    for sizes in ({"camera.json": 1}, {**kit.make_manifest().sizes, "more": 1}):
        with pytest.raises(ManifestFormatError, match="exactly the subjects"):
            manifest.encode(kit.make_manifest(sizes=sizes))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"{} {}", "is not JSON"),
        (b"NaN", "holds the number NaN"),
        (b'{"a":Infinity}', "holds the number Infinity"),
        (b'{"a":1e400}', "holds the number 1e400"),
        (b'{"a":1.0}', "holds the number 1.0"),
        (b'{"a":-0}', "is not canonical JSON"),
        (b'{"a":01}', "is not JSON"),
        (b'{"a":9007199254740992}', "beyond 2"),
        (b'{"a":-9007199254740992}', "beyond 2"),
        (b'{"a":' + b"9" * 5000 + b"}", "beyond 2"),
        (b"\xef\xbb\xbf{}", "is not ASCII"),
        (b'{"a":"\xc3\xa9"}', "is not ASCII"),
        (b'{"a":"\\u0041"}', "holds a character other than"),
        (b'{"a":"\x7f"}', "holds a character other than"),
        (b'{"a":"\n"}', "holds a character other than"),
        (b'{"b":1,"a":1}', "is not canonical JSON"),
        (b'{"a": 1}', "is not canonical JSON"),
        (b"{}\n", "holds a character other than"),
        (b"{} ", "is not canonical JSON"),
        (b'{"a":1,"a":1}', "holds a key twice"),
        (b"[" * 17 + b"]" * 17, "is nested deeper than 16"),
        (b"[" * 100_000, "is nested deeper than 16"),
        (b"null", "statement is not an object"),
        (b"[" * 16 + b"]" * 16, "statement is not an object"),
    ],
)
def test_documents_that_are_not_canonical(data, message):
    with pytest.raises(ManifestFormatError, match=message):
        manifest.decode(data)


def test_a_document_too_large():
    with pytest.raises(ManifestFormatError, match="larger than"):
        manifest.decode(b" " * (manifest.MAX_BYTES + 1))
    assert canonical.decode(b'"ab"', 4) == "ab"
    with pytest.raises(ManifestFormatError, match="larger than 3"):
        canonical.decode(b'"ab"', 3)


def deep():
    value: list = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize("value", [{1: 2}, (1,), 1.5, float("nan"), 2**53, "é", 'say "x"', "a\\b", {1}, {1: 1, "1": 1}])
def test_values_that_canonical_json_cannot_carry(value):
    with pytest.raises(ManifestFormatError):
        canonical.encode(value)


def test_nesting_that_canonical_json_cannot_carry():
    with pytest.raises(ManifestFormatError):
        canonical.encode(deep())
    assert canonical.encode({"brackets in text": "[" * 40}).startswith(b"{")


# Names


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/../b",
        "./a",
        ".a",
        "a.",
        "a b",
        "a\\b",
        "a\0b",
        "a\nb",
        "é",
        "-a",
        "a" * 241,
        "a*",
    ],
)
def test_names_that_are_refused(name):
    with pytest.raises(ManifestFormatError, match="portable"):
        names.check_names([name])


@pytest.mark.parametrize(
    "subjects",
    [
        ["a", "A"],
        ["manifest.json"],
        ["Manifest.JSON"],
        ["manifest.dsse.json"],
        ["manifest.json.sha256"],
        ["sha256sums"],
        ["a", "a.sha256"],
        ["a", "a/b"],
        ["a/b", "A/c"],
        ["a.sha256/b", "a"],
        ["manifest.json/a"],
    ],
)
def test_names_that_meet(subjects):
    with pytest.raises(ManifestFormatError, match="collide"):
        names.check_names(subjects)


@pytest.mark.parametrize("name", ["../camera.json", "SHA256SUMS", "/etc/passwd", "CAMERA.json"])
def test_a_signed_manifest_cannot_name_what_is_refused(statement, name):
    subjects = [*statement["subject"], {"name": name, "digest": {"sha256": "00" * 32}}]
    statement["subject"] = sorted(subjects, key=lambda subject: subject["name"])
    statement["predicate"]["sizes"][name] = 0
    with pytest.raises(ManifestFormatError, match=r"portable|collide"):
        manifest.decode(canon(statement))


def test_names_that_are_allowed():
    names.check_names(["a", "b/a", "b/c/d.engine", "x.sha25", "_", "a+b-c", "a" * 200])


# Files the manifest determines


def test_the_file_set_and_sha256sums(cache, kit):
    made = kit.make_manifest()
    found = {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()}
    assert layout.expected_files(made) == found
    digest = hashlib.sha256(manifest.encode(made)).hexdigest()
    assert (cache / "manifest.json.sha256").read_bytes() == digest.encode() == layout.sidecar_bytes(digest)
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=cache, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b": OK") == 4


def test_the_coverage_aggregate_byte_by_byte():
    tiles = [(20, 1.5, -2.0, "b", "bb"), (20, 1.5, -2.0, "a", "aa"), (3, 1e-7, 1 / 3, "é", "cc")]
    lines = "3|1e-07|0.3333333333333333|é|cc\n20|1.5|-2.0|a|aa\n20|1.5|-2.0|b|bb\n"
    total = coverage.aggregate(tiles)
    assert total == (3, hashlib.sha256(lines.encode()).hexdigest())
    assert coverage.aggregate([]) == (0, hashlib.sha256(b"").hexdigest())
    with pytest.raises(ValueError, match="comes twice"):
        coverage.aggregate([tiles[0], tiles[0]])
