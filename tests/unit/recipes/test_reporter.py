from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from doit.exceptions import TaskError, TaskFailed

from recipes import reporter as module
from recipes.reporter import StageReporter


@pytest.fixture
def report(monkeypatch):
    """A reporter and its output."""

    def make(*, log_json=False):
        monkeypatch.setattr(module, "context", lambda: SimpleNamespace(log_json=log_json))
        out = io.StringIO()
        return StageReporter(out, {"show_out": True, "failure_verbosity": 0}), out

    return make


def task(name, actions=("x",)):
    return SimpleNamespace(name=name, actions=list(actions), title=lambda: name, verbosity=2, executed=True)


def test_a_stage_that_runs_prints_a_line(report):
    reporter, out = report()
    reporter.execute_task(task("index"))
    assert out.getvalue() == "   index\n"


def test_the_lock_groups_and_final_tasks_print_no_line(report):
    reporter, out = report()
    for silent in (task("_lock"), task("engine", ()), task("provision"), task("verify")):
        reporter.execute_task(silent)
    reporter.skip_uptodate(task("index"))
    assert out.getvalue() == ""


def test_a_failure_prints_its_message(report):
    reporter, out = report()
    reporter.add_failure(task("index"), TaskFailed("no space left"))
    assert out.getvalue() == "index failed: no space left\n"


def test_a_failure_of_the_lock_names_no_task(report):
    reporter, out = report()
    reporter.add_failure(task("_lock"), TaskFailed("another build holds it"))
    assert out.getvalue() == "doit: another build holds it\n"


def test_json_output_contains_only_log_lines(report):
    reporter, out = report(log_json=True)
    reporter.execute_task(task("index"))
    reporter.add_failure(task("index"), TaskFailed("no space left"))
    assert out.getvalue() == ""


def test_doit_reports_a_programming_error(report):
    reporter, _ = report()
    fault = TaskError("PythonAction Error")
    reporter.add_failure(task("index"), fault)
    assert [failure["exception"] for failure in reporter.failures] == [fault]
