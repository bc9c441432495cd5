from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from doit.exceptions import TaskError, TaskFailed

from recipes import reporter as module
from recipes.reporter import StageReporter


@pytest.fixture
def report(monkeypatch):
    """A reporter and what it wrote."""

    def make(*, log_json=False):
        monkeypatch.setattr(module, "context", lambda: SimpleNamespace(log_json=log_json))
        out = io.StringIO()
        return StageReporter(out, {"show_out": True, "failure_verbosity": 0}), out

    return make


def task(name, actions=("x",)):
    return SimpleNamespace(name=name, actions=list(actions), title=lambda: name, verbosity=2, executed=True)


def test_a_stage_that_runs_has_a_line(report):
    reporter, out = report()
    reporter.execute_task(task("index"))
    assert out.getvalue() == "   index\n"


def test_the_lock_groups_and_final_tasks_have_none(report):
    reporter, out = report()
    for silent in (task("_lock"), task("engine", ()), task("provision"), task("verify")):
        reporter.execute_task(silent)
    reporter.skip_uptodate(task("index"))
    assert out.getvalue() == ""


def test_a_failure_is_the_sentence_it_is(report):
    reporter, out = report()
    reporter.add_failure(task("index"), TaskFailed("no space left"))
    assert out.getvalue() == "index failed: no space left\n"


def test_a_failure_of_the_lock_names_no_task_of_ours(report):
    reporter, out = report()
    reporter.add_failure(task("_lock"), TaskFailed("another build holds it"))
    assert out.getvalue() == "doit: another build holds it\n"


def test_programs_read_log_lines_alone(report):
    reporter, out = report(log_json=True)
    reporter.execute_task(task("index"))
    reporter.add_failure(task("index"), TaskFailed("no space left"))
    assert out.getvalue() == ""


def test_a_fault_of_ours_is_left_to_doits_own_report(report):
    reporter, _ = report()
    fault = TaskError("PythonAction Error")
    reporter.add_failure(task("index"), fault)
    assert [failure["exception"] for failure in reporter.failures] == [fault]
