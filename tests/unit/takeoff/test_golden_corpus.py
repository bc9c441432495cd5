"""The golden corpus: what was judged so once is judged so by every later version, and by a reader written from the document."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from takeoff import errors, manifest

FOLDER = Path(__file__).parents[2] / "vectors" / "caches"
STATUS = {kind.code: kind.exit_status for kind in errors.VerificationError.__subclasses__()}


def loaded(name):
    """A module that lies beside the corpus."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


corpus = loaded("corpus")


@pytest.fixture(params=corpus.paths(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def case(request, tmp_path):
    return corpus.unpack(request.param, tmp_path / "case")


def test_the_verifier_gives_the_verdict_that_was_set_down(case):
    found, gave = corpus.verdict(case)
    assert found == sorted(case.expected)
    assert gave == (not case.expected)
    if case.expected and case.floor is not None:
        assert case.floor.read_text() == case.floor_text


def test_every_case_is_as_the_script_makes_it():
    made = loaded("make_caches")
    kept = {path.stem: path.read_text() for path in corpus.paths()}
    assert kept == {name: made.text_of(name) for name in made.C}


@pytest.fixture(scope="module")
def second():
    """The second reader; it imports nothing of ours."""
    return SimpleNamespace(reader=loaded("second_reader"), policy=loaded("second_policy"))


def test_a_reader_written_from_the_document_alone_agrees(case, second):
    found, predicate = second.reader.read(case.root, case.trust)
    if predicate is not None:
        floor = None if case.floor_text is None else case.floor_text.encode()
        found |= second.policy.judge(predicate, case.now, floor, case.expect)
    assert found == {STATUS[code] for code, _ in case.expected}


def test_the_second_reader_is_small_and_stands_alone(lines_of_code):
    for name, most in (("second_reader.py", 150), ("second_policy.py", 50)):
        text = (FOLDER / name).read_text()
        assert lines_of_code(text) <= most
        assert "takeoff" not in text.replace("takeoff_origin", "")
        assert "preflight" not in text.replace("urn:preflight:cache-manifest:1", "")


def test_every_class_that_a_cache_can_cause_has_its_case():
    """Not of a cache: the call, the run, a disk that fails, and what operator mode alone looks at."""
    cases = corpus.paths()
    seen = {code for path in cases for code, _ in json.loads(path.read_text())["failures"]}
    elsewhere = {"crashed", "timeout", "usage", "file_unreadable", "tile_drift", "tile_file"}
    assert seen == STATUS.keys() - elsewhere
    assert {path.parent.name for path in cases} == {manifest.SCHEMA_VERSION}
    assert sum(path.stem.startswith("good") for path in cases) >= 10
