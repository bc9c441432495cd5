from __future__ import annotations

import json

import pytest

from preflight.trace.record import (
    BuildRecord,
    action_key,
    canonical_json,
    read_record,
    record_of,
    record_path,
)

COMPONENTS = {"onnx": "a" * 64, "threads": "2"}
RECORD = BuildRecord("index", 4, action_key("index", 4, COMPONENTS), COMPONENTS, {"x.faiss": "b" * 64})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.faiss.record.json"


def test_the_action_key_is_sha256_over_the_canonical_form():
    """The value comes from `printf '["s",1,{"a":"b"}]' | sha256sum`."""
    assert action_key("s", 1, {"a": "b"}) == "6724ef08192c882a45a77817ffde16db4d2d47fd296997015aedb2327bc3346b"


def test_canonical_json_is_sorted_ascii_without_spaces():
    assert canonical_json({"b": [1, None], "a": "é"}) == b'{"a":"\\u00e9","b":[1,null]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_a_record_is_read_back_as_written(path):
    path.write_bytes(RECORD.encode())
    assert read_record(path) == RECORD


def test_a_record_lies_beside_its_artifact(tmp_path):
    assert record_path(tmp_path / "x.faiss") == tmp_path / "x.faiss.record.json"


def test_record_of_raises_for_an_artifact_that_was_not_built(tmp_path, path):
    with pytest.raises(FileNotFoundError) as error:
        record_of(tmp_path / "x.faiss")
    assert error.value.filename == str(path)
    path.write_bytes(RECORD.encode())
    assert record_of(tmp_path / "x.faiss") == RECORD


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b'"text"',
        b"\xff",
        b"{" * 100_000,
        b"[" * 100_000,
        RECORD.encode()[:-1],
        RECORD.encode() + b"x",
        RECORD.encode().replace(b'"schema":1', b'"schema":2'),
        RECORD.encode().replace(b'"version":4', b'"version":5'),
        RECORD.encode().replace(b'"step":"index"', b'"step":"other"'),
        RECORD.encode().replace(b'"threads":"2"', b'"threads":"3"'),
        RECORD.encode().replace(b'"outputs":{', b'"out":{'),
        RECORD.encode().replace(b'{"x.faiss"', b'[{"x.faiss"').replace(b'"},"schema"', b'"}],"schema"'),
    ],
)
def test_invalid_content_is_not_a_record(path, content):
    path.write_bytes(content)
    assert read_record(path) is None


def test_a_missing_file_or_a_folder_is_not_a_record(path):
    assert read_record(path) is None
    path.mkdir()
    assert read_record(path) is None


def test_a_record_with_outputs_that_are_not_digests_is_not_valid(path):
    value = json.loads(RECORD.encode())
    value["outputs"] = {"x.faiss": 5}
    path.write_text(json.dumps(value))
    assert read_record(path) is None
