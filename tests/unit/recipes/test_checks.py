from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from doit.exceptions import TaskFailed

from preflight.errors import CommandLineError
from recipes import checks as module
from recipes import tasks
from recipes.checks import ALL, CHECKS, ROOT, task_check, task_test
from recipes.context import Context


@pytest.fixture
def given(monkeypatch, tmp_path):
    """given(name=value, ...): the variables of the command line."""

    def give(**values):
        run = Context(values, {}, tmp_path, builds_nothing=True)
        for place in (module, tasks):
            monkeypatch.setattr(place, "context", lambda: run)

    give()
    return give


class Programs:
    """Replaces `subprocess`: records what is started, and lets it pass or fail."""

    PIPE, STDOUT = subprocess.PIPE, subprocess.STDOUT

    def __init__(self):
        self.checks, self.tests, self.environments, self.failing = [], [], [], ""

    def _status(self, arguments):
        return int(bool(self.failing) and self.failing in arguments)

    def Popen(self, arguments, **options):  # noqa: N802 - the name in subprocess
        self.checks.append(arguments)
        assert options["cwd"] == ROOT
        return SimpleNamespace(communicate=lambda: ("one\ntwo\n", None), returncode=self._status(arguments))

    def run(self, arguments, *, cwd, env, check):
        assert (cwd, check) == (ROOT, False)
        self.tests.append(arguments)
        self.environments.append(env)
        return SimpleNamespace(returncode=self._status(arguments))

    @property
    def folders(self):
        return [[word for word in call if word.startswith("tests/")] for call in self.tests]


@pytest.fixture
def programs(monkeypatch):
    made = Programs()
    monkeypatch.setattr(module, "subprocess", made)
    return made


def act(task):
    (action,) = task["actions"]
    assert task["uptodate"] == [False]
    return action()


def test_every_test_file_belongs_to_one_part():
    folders = [ROOT / "tests" / folder for part in ALL for folder in part.folders]
    files = list((ROOT / "tests").rglob("test_*.py"))
    assert {path: sum(path.is_relative_to(folder) for folder in folders) for path in files} == dict.fromkeys(files, 1)
    assert all(any(path.is_relative_to(folder) for path in files) for folder in folders)


def test_doit_check_runs_only_the_checks(given, programs):
    assert act(task_check()) is None
    assert programs.checks == [[sys.executable, *arguments] for arguments in CHECKS.values()]
    assert programs.tests == []


def test_quick_runs_only_the_unit_and_property_tests(given, programs):
    given(quick="1")
    assert act(task_test()) is None
    assert programs.checks == []
    ran = {folder for call in programs.folders for folder in call}
    assert ran == {"tests/properties", "tests/unit"}


@pytest.mark.parametrize("values", [{}, {"quick": "0"}])
def test_doit_test_runs_the_checks_and_every_folder(given, programs, values):
    given(**values)
    assert act(task_test()) is None
    assert len(programs.checks) == len(CHECKS)
    assert programs.folders == [[f"tests/{folder}" for folder in part.folders] for part in ALL]


def test_the_tests_must_cover_every_line_and_branch_of_the_verifier(given, programs):
    given()
    act(task_test())
    (measured,) = [call for call in programs.tests if "--cov=takeoff" in call]
    assert {"--cov-branch", "--cov-fail-under=100", "tests/unit/takeoff"} <= set(measured)


@pytest.mark.parametrize(
    ("failing", "ran", "named"),
    [
        ("mypy", 0, "check"),
        ("tests/unit/takeoff", 1, "tests of the verifier"),
        ("tests/properties", 2, "unit and property tests"),
        ("tests/faults", 3, "all other tests"),
    ],
)
def test_the_first_part_that_fails_is_named_and_no_other_starts(given, programs, failing, ran, named, capsys):
    programs.failing = failing
    failed = act(task_test())
    assert isinstance(failed, TaskFailed)
    assert failed.get_msg().strip() == f"{named}: read above what is wrong"
    assert len(programs.tests) == ran
    # The times of the parts that ran are printed as well.
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("== times: check ")
    assert last.count(" s") >= ran + 1


def test_a_check_that_fails_shows_everything_and_one_that_passes_its_last_line(given, programs, capsys):
    programs.failing = "mypy"
    assert isinstance(act(task_check()), TaskFailed)
    said = capsys.readouterr().out
    assert "   lint: two\n" in said
    assert "   types: failed:\none\ntwo\n" in said


@pytest.mark.parametrize(
    ("task", "values", "said"),
    [
        (task_check, {"quick": "1"}, "unknown variable quick=1; none is known here"),
        (task_check, {"misson": "m.yaml"}, "unknown variable misson=m.yaml"),
        (task_test, {"fast": "1"}, "unknown variable fast=1; known are quick="),
        (task_test, {"mission": "m.yaml"}, "unknown variable mission=m.yaml; known are quick="),
        (task_test, {"quick": "yes"}, "quick=yes: only 0 and 1 are known"),
    ],
)
def test_a_variable_that_the_task_does_not_know_is_refused(given, programs, task, values, said, monkeypatch):
    monkeypatch.setattr(Context, "start_logging", lambda _: None)
    given(**values)
    failed = act(task())
    assert isinstance(failed, TaskFailed)
    assert said in failed.get_msg()
    assert programs.checks + programs.tests == []


def test_quick_is_no_variable_of_a_build(tmp_path):
    with pytest.raises(CommandLineError, match="unknown variable quick=1"):
        _ = Context({"quick": "1"}, {}, tmp_path).variables


def test_the_tests_get_a_temporary_folder_in_memory_that_is_removed_afterwards(given, programs, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "MEMORY", tmp_path)
    monkeypatch.setattr(module, "ROOM", 0)
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    modes = []
    run = programs.run

    def filled(arguments, **options):
        folder = Path(options["env"]["TMPDIR"])
        modes.append(folder.stat().st_mode & 0o777)
        (folder / "left").mkdir()
        return run(arguments, **options)

    programs.run = filled
    act(task_test())
    assert modes == [0o755] * len(ALL)
    assert list(tmp_path.iterdir()) == []
    for environment in programs.environments:
        assert Path(environment["TMPDIR"]).parent == tmp_path
        assert "PYTHONDONTWRITEBYTECODE" not in environment


def test_a_folder_for_temporary_files_that_is_set_is_used(given, programs, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "MEMORY", tmp_path)
    monkeypatch.setattr(module, "ROOM", 0)
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    given(quick="1")
    act(task_test())
    assert programs.environments[0]["TMPDIR"] == "/elsewhere"


@pytest.mark.parametrize(
    ("changes", "room"),
    [
        ({}, True),
        ({"f_bavail": 16384}, False),  # 64 MB, as a container has
        ({"f_flag": os.ST_NOEXEC}, False),
    ],
)
def test_memory_is_used_if_it_has_space_and_can_execute_files(monkeypatch, tmp_path, changes, room):
    state = {"f_flag": 0, "f_bavail": 1 << 20, "f_frsize": 4096} | changes
    monkeypatch.setattr(module.os, "statvfs", lambda _: SimpleNamespace(**state))
    assert module._has_room(tmp_path) is room


def test_memory_is_not_used_if_the_folder_does_not_exist(tmp_path):
    assert module._has_room(tmp_path / "absent") is False
