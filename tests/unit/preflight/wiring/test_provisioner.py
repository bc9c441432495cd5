from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from preflight.errors import BackboneError, BuildLockHeldError, CoverageError
from preflight.records import BackboneSpec, BoundingBox, BuildReport, BuildRequest
from preflight.wiring.provisioner import CacheProvisioner

REQUEST = BuildRequest(BoundingBox(0.0, 0.0, 1.0, 1.0), (17,), "stable_rear", Path("camera.json"), Path("cache"))
DONE = BuildReport(1, 0, 5, "ab" * 32, "success")
SPECS = [BackboneSpec(name, "auxiliary", Path(f"{name}.onnx"), {"x": (1, 2)}, "fp32") for name in ("a", "b")]


class FakeSession:
    """The part of a session that the provisioner uses."""

    def __init__(self, error=None):
        self.error = error

    def build(self):
        if self.error is not None:
            raise self.error
        return DONE

    def failure_report(self, error):
        return BuildReport(0, 0, 0, None, "failure", str(error))


class FakeCompiler:
    """Writes the name of the model as its engine."""

    refuse = ()

    def name(self, spec):
        return f"{spec.model_name}__cpu.engine"

    def inspect(self, spec):
        if spec.model_name in self.refuse:
            raise BackboneError("no")

    def compile(self, spec, target):
        target.write_text(spec.model_name)


def provisioner(error=None, seen=None):
    def open_session(job):
        if seen is not None:
            seen.append(job)
        return FakeSession(error)

    return CacheProvisioner(lambda request: SimpleNamespace(request=request), open_session, FakeCompiler())


def test_a_build_uses_the_job_of_the_request_and_returns_its_report():
    seen = []
    assert provisioner(seen=seen).build_cache_artifacts(REQUEST) == DONE
    assert [job.request for job in seen] == [REQUEST]


def test_missing_tiles_are_returned_and_not_raised():
    report = provisioner(CoverageError("3 tiles are missing")).build_cache_artifacts(REQUEST)
    assert (report.outcome, report.failure_reason) == ("failure", "3 tiles are missing")


def test_any_other_error_is_raised():
    with pytest.raises(BuildLockHeldError):
        provisioner(BuildLockHeldError("held")).build_cache_artifacts(REQUEST)


def test_engines_are_compiled_into_a_new_folder(tmp_path):
    entries = provisioner().compile_engines_for_corpus(SPECS, tmp_path)
    assert [entry.model_name for entry in entries] == ["a", "b"]
    assert [entry.path for entry in entries] == [tmp_path / "a__cpu.engine", tmp_path / "b__cpu.engine"]
    assert entries[1].sha256 == hashlib.sha256(b"b").hexdigest()
    assert not any(entry.reused for entry in entries)


def test_the_caller_chooses_the_folder(tmp_path):
    with pytest.raises(TypeError, match="folder"):
        provisioner().compile_engines_for_corpus(SPECS)
    (entry,) = provisioner().compile_engines_for_corpus(SPECS[:1], folder=tmp_path)
    assert entry.path.read_text() == "a"


def test_a_model_that_differs_from_its_spec_is_not_compiled(monkeypatch, tmp_path):
    monkeypatch.setattr(FakeCompiler, "refuse", ("b",))
    with pytest.raises(BackboneError):
        provisioner().compile_engines_for_corpus(SPECS, tmp_path)
    assert not (tmp_path / "b__cpu.engine").exists()
