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


class Kitchen:
    """Two steps over real files: `upper` makes b from a, `count` makes c from b."""

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
        """As the next run sees it."""
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
def kitchen(tmp_path):
    return Kitchen(tmp_path)


@pytest.fixture
def built(kitchen):
    kitchen.make()
    assert kitchen.ran == ["upper", "count"]
    kitchen.ran.clear()
    kitchen.tracer = kitchen.fresh()
    return kitchen


def reasons(kitchen):
    return kitchen.tracer.judge(kitchen.upper()).reasons


def test_a_step_that_never_ran_says_so(kitchen):
    assert kitchen.tracer.judge(kitchen.upper()) == Verdict(False, ("never built here",))


def test_a_step_that_ran_is_current_and_nothing_is_hashed_to_see_it(built):
    assert built.tracer.judge(built.upper()) == Verdict(True)
    built.make()
    assert built.ran == []
    assert built.tracer.digests.hashed_files == 0


def test_the_record_holds_the_key_its_components_and_the_outputs(built):
    record = read_record(built.upper().record_path)
    components = {"a": sha256(b"text"), "case": "upper"}
    assert built.upper().record_path == built.b.with_name("b.record.json")
    assert (record.step, record.version, record.components) == ("upper", 1, components)
    assert record.action_key == action_key("upper", 1, components)
    assert record.outputs == {"b": sha256(b"TEXT")}


def test_a_component_that_changed_is_told_old_to_new(built):
    built.parameters = {"case": "lower"}
    assert reasons(built) == ("case: upper → lower",)


def test_every_component_that_changed_came_or_went_is_told(built):
    built.parameters = {"locale": "C"}
    built.a.write_bytes(b"more")
    assert reasons(built) == (f"a: {sha256(b'text')} → {sha256(b'more')}", "case: upper → none", "locale: none → C")


def test_a_new_component_counts_even_if_its_value_is_none_in_words(built):
    built.parameters = {"case": "upper", "calibration": "none"}
    assert not built.tracer.judge(built.upper()).current


def test_a_new_stage_version_is_told(built):
    built.version = 2
    assert reasons(built) == ("stage version: 1 → 2",)


def test_the_record_of_another_step_is_not_this_steps(built):
    assert not built.tracer.judge(built.upper(name="other")).current


def test_an_edited_output_is_told(built):
    built.b.write_bytes(b"EDIT")
    assert reasons(built) == ("output b was edited",)
    built.make()
    assert built.b.read_bytes() == b"TEXT"
    # The bytes of b came out as they were: c is current.
    assert built.ran == ["upper"]


def test_a_missing_output_is_told(built):
    built.b.unlink()
    assert reasons(built) == ("output b is missing",)


def test_an_output_the_record_does_not_know_is_told(built):
    step = built.upper(outputs=(built.b, built.folder / "work" / "extra"))
    assert built.tracer.judge(step).reasons == ("output extra is not in the record",)


def test_a_missing_input_is_told_by_its_name(built):
    built.a.unlink()
    assert reasons(built) == (f"{built.a} is not there",)


def test_a_rerun_reason_makes_a_step_run_and_is_asked_last(built):
    built.reason = "it is Monday"
    assert reasons(built) == ("it is Monday",)
    built.b.unlink()
    assert reasons(built) == ("output b is missing",)


def test_outputs_that_build_returns_are_recorded_and_judged(kitchen):
    kitchen.shards = ("shards/0", "shards/1")
    kitchen.make()
    assert read_record(kitchen.upper().record_path).outputs == {
        "b": sha256(b"TEXT"),
        "shards/0": sha256(b"shards/0"),
        "shards/1": sha256(b"shards/1"),
    }
    (kitchen.folder / "work" / "shards" / "1").unlink()
    assert reasons(kitchen) == ("output 1 is missing",)


def test_a_step_whose_inputs_come_out_equal_is_current(built):
    built.a.write_bytes(b"TexT")
    built.make()
    assert built.ran == ["upper"]


def test_a_changed_input_goes_through_the_line(built):
    built.a.write_bytes(b"longer text")
    built.make()
    assert built.ran == ["upper", "count"]
    assert built.c.read_bytes() == b"11"


def test_a_touched_input_rebuilds_nothing_and_is_hashed_once(built):
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


def test_an_input_edited_while_the_step_runs_is_named_and_no_record_is_written(kitchen):
    kitchen.while_running = lambda: kitchen.a.write_bytes(b"edit")
    with pytest.raises(InputChangedError, match=f"{kitchen.a} was edited while upper ran"):
        kitchen.tracer.run(kitchen.upper())
    assert not kitchen.upper().record_path.exists()


def test_an_input_removed_while_the_step_runs_is_named(kitchen):
    kitchen.while_running = kitchen.a.unlink
    with pytest.raises(InputChangedError, match=f"{kitchen.a} was edited"):
        kitchen.tracer.run(kitchen.upper())
    assert not kitchen.upper().record_path.exists()


def test_the_old_record_does_not_make_what_was_built_from_an_edited_input_current(built):
    """The edit is undone after the run: the output is still that of the edit, and must be found."""
    built.a.write_bytes(b"edit")
    built.while_running = lambda: built.a.write_bytes(b"text")
    with pytest.raises(InputChangedError):
        built.tracer.run(built.upper())
    built.while_running = lambda: None
    assert reasons(built) == ("output b was edited",)


def test_a_build_that_raises_leaves_the_record_as_it_was(built):
    def build():
        raise ValueError("no")

    before = built.upper().record_path.read_bytes()
    with pytest.raises(ValueError, match="no"):
        built.tracer.run(built.upper(build=build))
    assert built.upper().record_path.read_bytes() == before


def test_an_output_that_was_not_built_is_no_success(kitchen):
    with pytest.raises(FileNotFoundError):
        kitchen.tracer.run(kitchen.upper(build=lambda: ()))
    assert not kitchen.upper().record_path.exists()


def test_what_a_run_learnt_is_kept_at_once(built):
    """A run killed after a step does not hash that step's files again."""
    built.a.write_bytes(b"other")
    built.tracer.run(built.upper())
    later = DigestCache(Path(built.folder / "work" / "digests.db"))
    later.sha256(built.a)
    later.sha256(built.b)
    assert later.hashed_files == 0


# The history: why each step was built last. It only explains.


@pytest.fixture
def remembering(kitchen):
    """The kitchen with a history, after one run."""
    history = kitchen.folder / "work" / "history"
    kitchen.fresh = lambda: Tracer(
        DigestCache(kitchen.folder / "work" / "digests.db", wall_ns=lambda: 1 << 62), atomic_write, history
    )
    kitchen.tracer = kitchen.fresh()
    step = kitchen.upper()
    kitchen.tracer.run(step, kitchen.tracer.judge(step).reasons)
    return kitchen


def test_the_last_build_is_remembered_with_its_reasons(remembering):
    last = remembering.tracer.last_build(remembering.upper())
    assert last.reasons == ("never built here",)
    assert last.record == read_record(remembering.upper().record_path)
    remembering.parameters = {"case": "lower"}
    verdict = remembering.tracer.judge(remembering.upper())
    assert [(change.component, change.old, change.new) for change in verdict.changes] == [("case", "upper", "lower")]
    remembering.tracer.run(remembering.upper(), verdict.reasons)
    assert remembering.fresh().last_build(remembering.upper()).reasons == ("case: upper → lower",)


def test_an_artifact_under_another_name_is_told_against_the_last_build(remembering):
    """As an engine of another precision, whose name differs too."""
    remembering.parameters = {"case": "lower"}
    remembering.b = remembering.b.with_name("b2")
    assert remembering.tracer.judge(remembering.upper()).reasons == ("case: upper → lower",)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]"])
def test_a_lost_or_damaged_history_changes_no_verdict(remembering, damage):
    (path,) = (remembering.folder / "work" / "history").iterdir()
    path.write_bytes(damage)
    assert remembering.tracer.last_build(remembering.upper()) is None
    assert remembering.tracer.judge(remembering.upper()) == Verdict(True)
    path.unlink()
    assert remembering.tracer.judge(remembering.upper()) == Verdict(True)
    remembering.upper().record_path.unlink()
    assert remembering.tracer.judge(remembering.upper()).reasons == ("never built here",)


@pytest.mark.parametrize("reasons", [1, None, "text", {"a": 1}, ["text", 1], [None]])
def test_reasons_that_are_no_list_of_text_are_no_history(remembering, reasons):
    (path,) = (remembering.folder / "work" / "history").iterdir()
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "reasons": reasons}))
    assert remembering.tracer.last_build(remembering.upper()) is None
    assert remembering.tracer.judge(remembering.upper()) == Verdict(True)


def test_a_history_alone_makes_nothing_current(remembering):
    remembering.upper().record_path.unlink()
    assert not remembering.tracer.judge(remembering.upper()).current
