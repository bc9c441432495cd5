from __future__ import annotations

import json
import logging
import signal
from pathlib import Path

import pytest

from preflight.errors import CommandLineError, MissionError, PreflightError
from recipes import context as module
from recipes.context import DEMO, STOPPING, ContentChecker, Context, stop_on_signals


@pytest.fixture
def here(tmp_path):
    return tmp_path


@pytest.fixture(autouse=True)
def _logging_put_back():
    logger = logging.getLogger("c10_provisioning")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    logger.handlers, level, logger.propagate = before[0], before[1], before[2]
    logger.setLevel(level)


def touch(*paths):
    for path in paths:
        path.write_text("")


def test_the_variable_has_priority_over_environment_local_file_and_demo(here):
    touch(here / "mission.yaml")
    run = Context({"mission": "a.yaml"}, {"PREFLIGHT_MISSION": "b.yaml"}, here)
    assert run.mission_path() == here / "a.yaml"
    assert not run.uses_demo


def test_the_environment_has_priority_over_the_local_file(here):
    touch(here / "mission.yaml")
    assert Context({}, {"PREFLIGHT_MISSION": "b.yaml"}, here).mission_path() == here / "b.yaml"


def test_the_local_file_has_priority_over_the_demo(here):
    touch(here / "mission.yaml")
    assert Context({}, {}, here).mission_path() == here / "mission.yaml"


def test_the_demo_is_the_default(here):
    run = Context({}, {}, here)
    assert run.mission_path() == DEMO
    assert run.uses_demo
    assert run.mission().demo


def test_an_absolute_path_is_not_changed(here):
    assert Context({"mission": "/x/m.yaml"}, {}, here).mission_path() == Path("/x/m.yaml")


def test_an_empty_environment_variable_counts_as_unset(here):
    assert Context({}, {"PREFLIGHT_MISSION": ""}, here).mission_path() == DEMO


def test_the_demo_does_not_replace_a_broken_link(here):
    (here / "mission.yaml").symlink_to("gone.yaml")
    run = Context({}, {}, here)
    assert not run.uses_demo
    with pytest.raises(MissionError):
        run.mission()


@pytest.mark.parametrize(
    ("given", "environment"), [({"mission": "none.yaml"}, {}), ({}, {"PREFLIGHT_MISSION": "none.yaml"})]
)
def test_the_demo_does_not_replace_a_missing_mission(here, given, environment):
    run = Context(given, environment, here)
    with pytest.raises(MissionError, match=f"{here / 'none.yaml'} is refused"):
        run.mission()


def test_a_mission_with_errors_raises_only_when_it_is_used(here):
    (here / "mission.yaml").write_text("version: 2")
    run = Context({}, {}, here)
    assert run.stages() == ()
    assert run.doit_database() == ":memory:"
    for ask in (run.mission, run.session):
        with pytest.raises(MissionError, match="cache_root: is missing"):
            ask()


def test_an_unknown_variable_raises_only_when_the_variables_are_used(here):
    run = Context({"misson": "x"}, {}, here)
    assert run.stages() == ()
    assert run.doit_database() == ":memory:"
    with pytest.raises(CommandLineError):
        run.mission()


def test_the_stages_of_a_mission_are_known_without_writing_anything(here):
    """Uses a copy of the demo in its own folder."""
    for path in DEMO.parent.iterdir():
        if path.is_file():
            (here / path.name).write_bytes(path.read_bytes())
    before = sorted(here.parent.rglob("*"))
    run = Context({"mission": DEMO.name}, {}, here)
    names = [stage.name for stage in run.stages()]
    assert names == ["tiles", "engine:weight_free_vpr", "descriptors", "index", "selftest", "manifest", "publish"]
    assert run.doit_database() == str(here.parent / "demo" / "cache" / "work" / "doit.db")
    assert sorted(here.parent.rglob("*")) == before
    known = set()
    for stage in run.stages():
        assert set(stage.after) <= known, "a stage comes after those it needs"
        known.add(stage.name)


def test_where_the_task_builds_nothing_no_stage_is_there_and_nothing_is_remembered(here):
    run = Context({}, {}, here, builds_nothing=True)
    assert run.stages() == ()
    assert run.doit_database() == ":memory:"
    assert run.places().cache_root == run.mission().job.cache_root


@pytest.mark.parametrize(
    ("arguments", "only"),
    [
        (["verify"], True),
        (["run", "verify"], True),
        (["check"], True),
        (["test", "quick=1"], True),
        (["run", "test"], True),
        (["verify", "mission=m.yaml", "deep=1"], True),
        ([], False),
        (["provision"], False),
        (["verify", "provision"], False),
        (["list", "verify"], False),
        (["-v", "2", "verify"], False),
        (["verify", "verify"], False),
        (["test", "provision"], False),
        (["run"], False),
        (["test", "run"], False),
    ],
)
def test_when_a_command_line_builds_nothing(arguments, only):
    assert module._builds_nothing(arguments) is only


def test_log_json_is_known_even_if_another_variable_is_refused(here):
    assert Context({"log": "json", "misson": "x"}, {}, here).log_json
    assert not Context({}, {}, here).log_json


def test_an_outcome_is_a_line_for_people_and_a_log_line_for_programs(here, capsys):
    Context({}, {}, here).say("c10.import.complete", "640 tiles", added=640)
    assert capsys.readouterr().out == "640 tiles\n"
    run = Context({"log": "json"}, {}, here)
    run.start_logging()
    run.say("c10.import.complete", "640 tiles", added=640)
    line = json.loads(capsys.readouterr().out)
    assert (line["level"], line["event"], line["added"], line["message"]) == (
        "INFO",
        "c10.import.complete",
        640,
        "640 tiles",
    )


def test_a_failure_that_no_session_logged_is_logged_as_an_error(here, capsys):
    run = Context({"log": "json"}, {}, here)
    run.start_logging()
    run.log_failure(CommandLineError("unknown variable"))
    line = json.loads(capsys.readouterr().out)
    assert (line["level"], line["event"], line["error"]) == ("ERROR", "c10.command.refused", "CommandLineError")


def test_the_demo_is_announced_only_in_text_output(here, capsys):
    Context({}, {}, here).announce_demo()
    assert capsys.readouterr().out == (
        "No mission file: using cache_templates/demo.yaml (a demonstration, not for flight)\n"
    )
    Context({"log": "json"}, {}, here).announce_demo()
    Context({"mission": "m.yaml"}, {}, here).announce_demo()
    assert capsys.readouterr().out == ""


def test_a_signal_ends_the_run_with_its_status_and_later_signals_are_ignored():
    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        stop_on_signals()
        handler = signal.getsignal(signal.SIGTERM)
        assert all(signal.getsignal(number) is handler for number in STOPPING)
        with pytest.raises(SystemExit) as stop:
            signal.raise_signal(signal.SIGTERM)
        assert stop.value.code == 128 + signal.SIGTERM
        assert all(signal.getsignal(number) is signal.SIG_IGN for number in STOPPING)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Broken:
    """A run whose mission is refused."""

    def session(self):
        raise PreflightError("refused")


def test_files_are_compared_by_content(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "context", Broken)
    path = tmp_path / "file"
    path.write_bytes(b"one")
    checker = ContentChecker()
    assert checker.exists(str(path))
    assert not checker.exists(str(tmp_path / "none"))
    state = checker.get_state(str(path), None)
    assert state == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    path.touch()
    assert checker.get_state(str(path), state) is None
    assert not checker.check_modified(str(path), checker.info(str(path)), state)
    path.write_bytes(b"two")
    assert checker.check_modified(str(path), checker.info(str(path)), state)
    with pytest.raises(checker.CheckerError):
        checker.info(str(tmp_path / "none"))
