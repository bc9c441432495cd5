from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from preflight.errors import BackboneError, BuildLockHeldError, CallbackError, CoverageError, MissionError
from preflight.records import BackboneSpec, BoundingBox, BuildReport, BuildRequest, HostCapabilities
from preflight.wiring.provisioner import CacheProvisionerImpl, host_problem
from preflight.wiring.surroundings import Options, Surroundings

REQUEST = BuildRequest(BoundingBox(0.0, 0.0, 1.0, 1.0), (17,), "stable_rear", Path("camera.json"), Path("cache"))
DONE = BuildReport(1, 0, 5, "ab" * 32, "success")


class FakeSession:
    """The part of a session that the provisioner uses."""

    def __init__(self, error=None, during=lambda: None):
        self.error = error
        self.during = during

    def build(self):
        self.during()
        if self.error is not None:
            raise self.error
        return DONE

    def failure_report(self, error):
        return BuildReport(0, 0, 0, None, "failure", str(error))


class FakeCompiler:
    """Writes the bytes of the model as its engine, and remembers what it compiled."""

    def __init__(self):
        self.refuse = ()
        self.compiled = []

    def name(self, spec):
        return f"{spec.model_name}__cpu.engine"

    def inspect(self, spec):
        if spec.model_name in self.refuse:
            raise BackboneError("no")
        return SimpleNamespace(external_data=())

    def components(self, spec, model):
        return {"precision": spec.precision, **model}

    def reads_precision(self, spec):
        return False

    def compile(self, spec, target):
        self.compiled.append(spec.model_name)
        target.write_bytes(spec.onnx_path.read_bytes())


class Provisioner(CacheProvisionerImpl):
    """A provisioner whose session is a fake. asked: the requests and options of its sessions."""

    def __init__(self, session=None):
        self.compiler = FakeCompiler()
        super().__init__(None, self.compiler, None, None, None, None)
        self.fake = session or FakeSession()
        self.asked = []

    def session(self, request, options=Options()):  # noqa: B008 - immutable
        self.asked.append((request, options))
        return self.fake


@pytest.fixture
def specs(tmp_path):
    """Two models whose files hold their names."""
    made = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}.onnx"
        path.write_text(name)
        made.append(BackboneSpec(name, "auxiliary", path, {"x": (1, 2)}, "fp32"))
    return made


def test_a_build_runs_the_session_of_the_request_and_returns_its_report():
    provisioner = Provisioner()
    assert provisioner.build_cache_artifacts(REQUEST) == DONE
    ((request, options),) = provisioner.asked
    assert request is REQUEST
    assert (options.progress, options.observer, options.cancelled()) == (None, None, False)


def test_missing_tiles_are_returned_and_not_raised():
    report = Provisioner(FakeSession(CoverageError("3 tiles are missing"))).build_cache_artifacts(REQUEST)
    assert (report.outcome, report.failure_reason) == ("failure", "3 tiles are missing")


def test_any_other_error_is_raised():
    with pytest.raises(BuildLockHeldError):
        Provisioner(FakeSession(BuildLockHeldError("held"))).build_cache_artifacts(REQUEST)


def test_other_options_stay_as_the_caller_gives_them():
    provisioner = Provisioner()
    provisioner.build_cache_artifacts(REQUEST, options=Options(repair=True, wait=3.0))
    ((_, options),) = provisioner.asked
    assert (options.repair, options.wait) == (True, 3.0)


@pytest.mark.parametrize(("argument", "told"), [("progress_callback", (1, 2)), ("observer", ("tiles", "begin"))])
def test_a_callback_gets_its_arguments_and_its_error_becomes_the_cause(argument, told):
    heard = []
    error = ZeroDivisionError("of the callback")

    def callback(*arguments):
        heard.append(arguments)
        if len(heard) == 2:
            raise error

    provisioner = Provisioner()
    provisioner.build_cache_artifacts(REQUEST, **{argument: callback})
    ((_, options),) = provisioner.asked
    tell = options.progress if argument == "progress_callback" else options.observer
    tell(*told)
    with pytest.raises(CallbackError, match=f"{argument} raised ZeroDivisionError: of the callback") as caught:
        tell(*told)
    assert caught.value.__cause__ is error
    assert heard == [told, told]


def test_a_run_may_be_cancelled_by_an_event_or_by_a_callable():
    event, wishes = Event(), [False]
    for cancel, stop in ((event, event.set), (lambda: wishes[0], lambda: wishes.__setitem__(0, True))):
        provisioner = Provisioner()
        provisioner.build_cache_artifacts(REQUEST, cancel=cancel)
        ((_, options),) = provisioner.asked
        assert options.cancelled() is False
        stop()
        assert options.cancelled() is True


def test_a_token_of_another_form_is_refused_before_the_session_is_made():
    provisioner = Provisioner()
    with pytest.raises(MissionError, match="cancel"):
        provisioner.build_cache_artifacts(REQUEST, cancel="now")
    assert provisioner.asked == []


HOST = HostCapabilities("x86_64", "avx2", sm="87", jetpack="6.2", gpu="one", driver="1.0", cpus=4, memory_mb=1000)


def test_a_host_is_this_machine_if_all_that_decides_engines_is_equal():
    assert host_problem(HOST, replace(HOST, gpu="other", driver="2.0", cpus=1, memory_mb=5)) is None


@pytest.mark.parametrize(("field", "value"), [("arch", "aarch64"), ("isa", "neon"), ("sm", None), ("jetpack", "5.1")])
def test_another_machine_is_named_by_what_differs(field, value):
    problem = host_problem(replace(HOST, **{field: value}), HOST)
    assert f"{field} {value} instead of {getattr(HOST, field)}" in problem


def test_a_build_for_another_machine_is_refused_before_the_request_is_read():
    here = Surroundings.real()
    elsewhere = replace(here, host=replace(here.host, isa="vax"))
    provisioner = CacheProvisionerImpl(None, FakeCompiler(), None, None, None, elsewhere)
    with pytest.raises(MissionError, match="host: is not this machine: isa vax instead of"):
        provisioner.build_cache_artifacts(REQUEST)


def test_engines_are_compiled_into_a_new_folder(specs, tmp_path):
    folder = tmp_path / "new" / "engines"
    entries = Provisioner().compile_engines_for_corpus(specs, folder)
    assert [entry.model_name for entry in entries] == ["a", "b"]
    assert [entry.path for entry in entries] == [folder / "a__cpu.engine", folder / "b__cpu.engine"]
    assert entries[1].sha256 == hashlib.sha256(b"b").hexdigest()
    assert not any(entry.reused for entry in entries)


def test_without_a_folder_the_engines_stay_as_long_as_the_provisioner(specs):
    provisioner = Provisioner()
    (first,) = provisioner.compile_engines_for_corpus(specs[:1])
    (again, other) = provisioner.compile_engines_for_corpus(specs)
    assert first.path.read_text() == "a"
    assert again.path == first.path
    assert (first.reused, again.reused, other.reused) == (False, True, False)
    assert provisioner.compiler.compiled == ["a", "b"]
    del provisioner
    assert not first.path.parent.exists()


def test_the_caller_chooses_the_folder(specs, tmp_path):
    (entry,) = Provisioner().compile_engines_for_corpus(specs[:1], folder=tmp_path)
    assert entry.path == tmp_path / "a__cpu.engine"
    assert entry.path.read_text() == "a"


def test_an_engine_in_the_folder_is_reused_by_another_provisioner_too(specs, tmp_path):
    Provisioner().compile_engines_for_corpus(specs, tmp_path / "engines")
    later = Provisioner()
    assert [entry.reused for entry in later.compile_engines_for_corpus(specs, tmp_path / "engines")] == [True, True]
    assert later.compiler.compiled == []


def test_what_decides_an_engine_decides_its_reuse(specs, tmp_path):
    provisioner = Provisioner()
    provisioner.compile_engines_for_corpus(specs, tmp_path / "engines")
    specs[0].onnx_path.write_text("another model")
    changed = [specs[0], replace(specs[1], precision="fp16")]
    entries = provisioner.compile_engines_for_corpus(changed, tmp_path / "engines")
    assert [entry.reused for entry in entries] == [False, False]
    assert entries[0].path.read_text() == "another model"


@pytest.mark.parametrize("damage", [lambda path: path.write_text("damaged"), Path.unlink])
def test_a_damaged_or_missing_engine_is_compiled_again(specs, tmp_path, damage):
    provisioner = Provisioner()
    (entry,) = provisioner.compile_engines_for_corpus(specs[:1], tmp_path / "engines")
    damage(entry.path)
    (again,) = provisioner.compile_engines_for_corpus(specs[:1], tmp_path / "engines")
    assert not again.reused
    assert (again.path.read_text(), again.sha256) == ("a", entry.sha256)


def test_a_built_in_is_written_before_it_is_compiled(tmp_path):
    spec = BackboneSpec(
        "weight_free_vpr", "descriptor", Path("builtin:weight_free_vpr"), {"image": (1, 3, 224, 224)}, "fp32"
    )
    provisioner = Provisioner()
    (entry,) = provisioner.compile_engines_for_corpus([spec], tmp_path / "engines")
    assert entry.path.stat().st_size > 1000
    assert provisioner.compile_engines_for_corpus([spec], tmp_path / "engines")[0].reused


def test_a_model_that_differs_from_its_spec_is_not_compiled(specs, tmp_path):
    provisioner = Provisioner()
    provisioner.compiler.refuse = ("b",)
    with pytest.raises(BackboneError):
        provisioner.compile_engines_for_corpus(specs, tmp_path / "engines")
    assert not (tmp_path / "engines" / "b__cpu.engine").exists()
