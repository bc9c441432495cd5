from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from preflight.errors import InputChangedError
from preflight.store.atomic import atomic_write
from preflight.trace.digests import DigestCache
from preflight.trace.record import action_key, read_record
from preflight.trace.rule import Step, Tracer, Verdict


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Project:
    """Two steps with real files: `upper` makes b from a, `count` makes c from b."""

    def __init__(self, folder):
        self.folder = folder
        self.a, self.b, self.c = (folder / "in" / "a"), (folder / "work" / "b"), (folder / "work" / "c")
        self.a.parent.mkdir()
        self.a.write_bytes(b"text")
        self.parameters = {"case": "upper"}
        self.version = 1
        self.reason = None
        self.ran = []
        self.while_running = lambda: None
        self.shards = ()
        self.tracer = self.fresh()

    def fresh(self):
        """Returns the tracer of the next run."""
        return Tracer(DigestCache(self.folder / "work" / "digests.db", wall_ns=lambda: 1 << 62), atomic_write)

    def upper(self, **change):
        def build():
            self.ran.append("upper")
            atomic_write(self.b, self.a.read_bytes().upper())
            for name in self.shards:
                atomic_write(self.folder / "work" / name, name.encode())
            self.while_running()
            return [self.folder / "work" / name for name in self.shards]

        fields = {
            "name": "upper",
            "version": self.version,
            "reads": (self.a,),
            "components": lambda: {"a": self.tracer.digests.sha256(self.a), **self.parameters},
            "outputs": (self.b,),
            "build": build,
            "rerun_reason": lambda: self.reason,
        }
        return Step(**{**fields, **change})

    def count(self):
        def build():
            self.ran.append("count")
            atomic_write(self.c, str(len(self.b.read_bytes())).encode())
            return ()

        return Step("count", 1, (self.b,), lambda: {"b": self.tracer.digests.sha256(self.b)}, (self.c,), build)

    def make(self):
        for step in (self.upper(), self.count()):
            if not self.tracer.judge(step).current:
                self.tracer.run(step)


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@pytest.fixture
def built(project):
    project.make()
    assert project.ran == ["upper", "count"]
    project.ran.clear()
    project.tracer = project.fresh()
    return project


def reasons(project):
    return project.tracer.judge(project.upper()).reasons


def test_a_step_that_never_ran_is_not_current(project):
    assert project.tracer.judge(project.upper()) == Verdict(False, ("never built here",))


def test_a_step_that_ran_is_current_and_judging_it_hashes_nothing(built):
    assert built.tracer.judge(built.upper()) == Verdict(True)
    built.make()
    assert built.ran == []
    assert built.tracer.digests.hashed_files == 0


def test_the_record_holds_key_components_and_outputs(built):
    record = read_record(built.upper().record_path)
    components = {"a": sha256(b"text"), "case": "upper"}
    assert built.upper().record_path == built.b.with_name("b.record.json")
    assert (record.step, record.version, record.components) == ("upper", 1, components)
    assert record.action_key == action_key("upper", 1, components)
    assert record.outputs == {"b": sha256(b"TEXT")}


def test_a_changed_component_is_reported_with_old_and_new_value(built):
    built.parameters = {"case": "lower"}
    assert reasons(built) == ("case: upper → lower",)


def test_changed_new_and_removed_components_are_reported(built):
    built.parameters = {"locale": "C"}
    built.a.write_bytes(b"more")
    assert reasons(built) == (f"a: {sha256(b'text')} → {sha256(b'more')}", "case: upper → none", "locale: none → C")


def test_a_new_component_with_the_text_none_is_a_change(built):
    built.parameters = {"case": "upper", "calibration": "none"}
    assert not built.tracer.judge(built.upper()).current


def test_a_new_stage_version_is_reported(built):
    built.version = 2
    assert reasons(built) == ("stage version: 1 → 2",)


def test_the_record_of_another_step_does_not_make_a_step_current(built):
    assert not built.tracer.judge(built.upper(name="other")).current


def test_an_edited_output_is_reported_and_rebuilt(built):
    built.b.write_bytes(b"EDIT")
    assert reasons(built) == ("output b was edited",)
    built.make()
    assert built.b.read_bytes() == b"TEXT"
    # The new b has the old bytes, so c is current.
    assert built.ran == ["upper"]


def test_a_missing_output_is_reported(built):
    built.b.unlink()
    assert reasons(built) == ("output b is missing",)


def test_an_output_that_is_not_in_the_record_is_reported(built):
    step = built.upper(outputs=(built.b, built.folder / "work" / "extra"))
    assert built.tracer.judge(step).reasons == ("output extra is not in the record",)


def test_a_missing_input_is_named(built):
    built.a.unlink()
    assert reasons(built) == (f"{built.a} is not there",)


def test_a_rerun_reason_makes_a_step_run_and_is_evaluated_last(built):
    built.reason = "it is Monday"
    assert reasons(built) == ("it is Monday",)
    built.b.unlink()
    assert reasons(built) == ("output b is missing",)


def test_outputs_returned_by_build_are_recorded_and_judged(project):
    project.shards = ("shards/0", "shards/1")
    project.make()
    assert read_record(project.upper().record_path).outputs == {
        "b": sha256(b"TEXT"),
        "shards/0": sha256(b"shards/0"),
        "shards/1": sha256(b"shards/1"),
    }
    (project.folder / "work" / "shards" / "1").unlink()
    assert reasons(project) == ("output 1 is missing",)


def test_a_step_is_current_if_its_rebuilt_inputs_have_equal_bytes(built):
    built.a.write_bytes(b"TexT")
    built.make()
    assert built.ran == ["upper"]


def test_a_changed_input_rebuilds_all_dependent_steps(built):
    built.a.write_bytes(b"longer text")
    built.make()
    assert built.ran == ["upper", "count"]
    assert built.c.read_bytes() == b"11"


def test_a_touched_input_is_hashed_once_and_rebuilds_nothing(built):
    built.a.touch()
    built.make()
    assert (built.ran, built.tracer.digests.hashed_files) == ([], 1)


def test_a_deleted_digest_cache_rebuilds_nothing(built):
    (built.folder / "work" / "digests.db").unlink()
    built.tracer = built.fresh()
    built.make()
    assert built.ran == []


def test_a_moved_cache_root_rebuilds_nothing(built, tmp_path):
    new = tmp_path / "elsewhere"
    (built.folder / "work").rename(new)
    built.b, built.c = new / "b", new / "c"
    built.make()
    assert built.ran == []


def test_an_input_edited_during_the_build_is_named_and_no_record_is_written(project):
    project.while_running = lambda: project.a.write_bytes(b"edit")
    with pytest.raises(InputChangedError, match=f"{project.a} was edited while upper ran"):
        project.tracer.run(project.upper())
    assert not project.upper().record_path.exists()


def test_an_input_removed_during_the_build_is_named(project):
    project.while_running = project.a.unlink
    with pytest.raises(InputChangedError, match=f"{project.a} was edited"):
        project.tracer.run(project.upper())
    assert not project.upper().record_path.exists()


def test_an_output_built_from_an_input_that_was_edited_and_restored_is_not_current(built):
    """The edit is undone after the run. The output still comes from the edited input and must be rebuilt."""
    built.a.write_bytes(b"edit")
    built.while_running = lambda: built.a.write_bytes(b"text")
    with pytest.raises(InputChangedError):
        built.tracer.run(built.upper())
    built.while_running = lambda: None
    assert reasons(built) == ("output b was edited",)


def test_a_failed_build_does_not_change_the_record(built):
    def build():
        raise ValueError("no")

    before = built.upper().record_path.read_bytes()
    with pytest.raises(ValueError, match="no"):
        built.tracer.run(built.upper(build=build))
    assert built.upper().record_path.read_bytes() == before


def test_a_build_that_does_not_write_its_output_fails(project):
    with pytest.raises(FileNotFoundError):
        project.tracer.run(project.upper(build=lambda: ()))
    assert not project.upper().record_path.exists()


def test_digests_are_stored_after_each_step(built):
    """If a run is killed after a step, the next run does not hash the files of that step again."""
    built.a.write_bytes(b"other")
    built.tracer.run(built.upper())
    later = DigestCache(Path(built.folder / "work" / "digests.db"))
    later.sha256(built.a)
    later.sha256(built.b)
    assert later.hashed_files == 0


# The history: why each step was built last. It is used for explanations only.


@pytest.fixture
def with_history(project):
    """The project with a history, after one run."""
    history = project.folder / "work" / "history"
    project.fresh = lambda: Tracer(
        DigestCache(project.folder / "work" / "digests.db", wall_ns=lambda: 1 << 62), atomic_write, history
    )
    project.tracer = project.fresh()
    step = project.upper()
    project.tracer.run(step, project.tracer.judge(step).reasons)
    return project


def test_the_history_holds_the_last_build_and_its_reasons(with_history):
    last = with_history.tracer.last_build(with_history.upper())
    assert last.reasons == ("never built here",)
    assert last.record == read_record(with_history.upper().record_path)
    with_history.parameters = {"case": "lower"}
    verdict = with_history.tracer.judge(with_history.upper())
    assert [(change.component, change.old, change.new) for change in verdict.changes] == [("case", "upper", "lower")]
    with_history.tracer.run(with_history.upper(), verdict.reasons)
    assert with_history.fresh().last_build(with_history.upper()).reasons == ("case: upper → lower",)


def test_an_artifact_with_another_name_is_compared_with_the_last_build(with_history):
    """Such as an engine of another precision, which has another name."""
    with_history.parameters = {"case": "lower"}
    with_history.b = with_history.b.with_name("b2")
    assert with_history.tracer.judge(with_history.upper()).reasons == ("case: upper → lower",)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]"])
def test_a_missing_or_damaged_history_does_not_change_the_verdict(with_history, damage):
    (path,) = (with_history.folder / "work" / "history").iterdir()
    path.write_bytes(damage)
    assert with_history.tracer.last_build(with_history.upper()) is None
    assert with_history.tracer.judge(with_history.upper()) == Verdict(True)
    path.unlink()
    assert with_history.tracer.judge(with_history.upper()) == Verdict(True)
    with_history.upper().record_path.unlink()
    assert with_history.tracer.judge(with_history.upper()).reasons == ("never built here",)


@pytest.mark.parametrize("reasons", [1, None, "text", {"a": 1}, ["text", 1], [None]])
def test_a_history_with_invalid_reasons_is_ignored(with_history, reasons):
    (path,) = (with_history.folder / "work" / "history").iterdir()
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "reasons": reasons}))
    assert with_history.tracer.last_build(with_history.upper()) is None
    assert with_history.tracer.judge(with_history.upper()) == Verdict(True)


def test_a_history_without_a_record_does_not_make_a_step_current(with_history):
    with_history.upper().record_path.unlink()
    assert not with_history.tracer.judge(with_history.upper()).current
