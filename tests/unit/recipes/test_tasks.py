from __future__ import annotations

from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
from doit.exceptions import TaskFailed

from preflight.errors import CommandLineError, MissionError
from preflight.run.session import Stage
from preflight.trace.rule import Step
from recipes import tasks as module
from recipes.tasks import LOCK, guarded, lock_task, stage_tasks


class Run:
    """A context with stages, or one with a refused mission."""

    def __init__(self, stages=(), error=None):
        self._stages, self.error, self.holds_lock = stages, error, True
        self.said, self.logged = [], []

    def stages(self):
        return tuple(self._stages)

    def session(self):
        if self.error is not None:
            raise self.error
        return SimpleNamespace(
            holds_lock=self.holds_lock,
            run=lambda name, *, alone: self.said.append(f"run {name}" + " alone" * alone),
            judge=lambda name: self.said.append(f"judge {name}") or True,
            begin=lambda: self.said.append("begin"),
            close=lambda: self.said.append("close"),
        )

    def log_failure(self, error):
        self.logged.append(error)

    def start_logging(self):
        self.said.append("logging")

    def announce_demo(self):
        self.said.append("demo")


@pytest.fixture
def use(monkeypatch):
    def run(*stages, error=None):
        made = Run(stages, error)
        monkeypatch.setattr(module, "context", lambda: made)
        monkeypatch.setattr(module, "stop_on_signals", lambda: made.said.append("signals"))
        return made

    return run


def step(name, reads, outputs):
    return Step(name, 1, tuple(map(Path, reads)), dict, tuple(map(Path, outputs)), tuple)


def test_a_stage_is_a_task_with_its_files(use):
    run = use(Stage("index", ("descriptors",), (step("index", ["/d", "/e"], ["/i", "/j"]),)))
    (task,) = stage_tasks("index", "build the index")
    assert task["basename"] == "index"
    assert "name" not in task
    assert task["file_dep"] == ["/d", "/e"]
    assert task["targets"] == ["/i", "/j"]
    assert task["task_dep"] == [LOCK, "descriptors"]
    assert task["doc"] == "build the index"
    (current,) = task["uptodate"]
    assert current(SimpleNamespace(task_dep=task["task_dep"])) is True
    (action,) = task["actions"]
    assert action() is None
    assert run.said == ["judge index", "run index"]


def test_a_file_that_a_step_makes_for_the_next_is_no_dependency_of_the_task(use):
    use(Stage("tiles", (), (step("seal", ["/a"], ["/b"]), step("sample", ["/a", "/b", "/c"], ["/d"]))))
    (task,) = stage_tasks("tiles", "")
    assert (task["file_dep"], task["targets"]) == (["/a", "/c"], ["/b", "/d"])


def test_each_backbone_has_an_engine_sub_task(use):
    run = use(
        Stage("engine:a", ("tiles",), (step("a", [], ["/a"]),)),
        Stage("engine:b", ("tiles",), (step("b", [], ["/b"]),)),
        Stage("index", (), ()),
    )
    made = list(stage_tasks("engine", ""))
    assert [(task["basename"], task["name"]) for task in made] == [("engine", "a"), ("engine", "b")]
    for task in made:
        task["actions"][0]()
    # Each task runs its own stage, not the last one of the loop.
    assert run.said == ["run engine:a", "run engine:b"]


def test_if_the_mission_is_refused_the_task_exists_and_fails_with_the_reason(use):
    run = use(error=MissionError("m.yaml", ("area: is missing",)))
    (task,) = stage_tasks("index", "build the index")
    assert (task["basename"], task["doc"], task["task_dep"]) == ("index", "build the index", [LOCK])
    failed = task["actions"][0]()
    assert isinstance(failed, TaskFailed)
    assert "area: is missing" in failed.get_msg()
    assert run.logged == [run.error]


def test_an_operator_error_fails_the_task_with_its_message(use):
    run = use()
    error = CommandLineError("unknown variable")

    def action():
        raise error

    failed = guarded(action)()
    assert isinstance(failed, TaskFailed)
    assert failed.get_msg().strip() == "unknown variable"
    assert run.logged == [error]


def test_a_programming_error_is_raised(use):
    use()

    def action():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        guarded(action)()


def test_the_lock_task_begins_the_session_and_its_teardown_closes_it(use):
    run = use()
    task = lock_task()
    assert task["actions"][0]() is None
    assert [*task["uptodate"], *task.get("file_dep", [])] == [False]
    task["teardown"][0]()
    assert run.said == ["logging", "demo", "signals", "begin", "close"]


def test_the_teardown_without_a_session_raises_nothing(use):
    use(error=MissionError("m.yaml", ("x",)))
    lock_task()["teardown"][0]()


def test_a_stage_without_the_lock_is_neither_judged_nor_run(use):
    """With doit's -s, a task runs without the tasks that it depends on."""
    run = use(Stage("index", ("descriptors",), (step("index", ["/d"], ["/i"]),)))
    run.holds_lock = False
    (task,) = stage_tasks("index", "")
    assert task["uptodate"][0](SimpleNamespace(task_dep=[])) is False
    failed = task["actions"][0]()
    assert isinstance(failed, TaskFailed)
    assert "doit's -s cannot be used" in failed.get_msg()
    assert run.said == ["logging"]


def test_in_a_thread_of_doit_the_lock_is_neither_taken_nor_released(use):
    run = use()
    task = lock_task()
    answers = []
    thread = Thread(target=lambda: answers.extend([task["actions"][0](), task["teardown"][0]()]))
    thread.start()
    thread.join()
    assert "doit's -n cannot be used" in answers[0].get_msg()
    assert set(run.said) == {"logging"}
