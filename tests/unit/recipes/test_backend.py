from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from doit.dependency import JSONCodec
from doit.exceptions import InvalidCommand

from recipes.backend import DurableSqlite

ROOT = Path(__file__).parents[3]
# Commits one task, starts another, prints a line, and waits to be killed.
PROGRAM = """
import sys
from doit.dependency import JSONCodec
from recipes.backend import DurableSqlite
base = DurableSqlite(sys.argv[1], JSONCodec())
name = sys.argv[2]
base.set(name, "result:", "r")
base.set(name, "deps:", ["a", "b"])
base.set(name + "-unfinished", "result:", "half")
print("ready", flush=True)
sys.stdin.readline()
base.dump()
"""


@pytest.fixture
def name(tmp_path):
    return str(tmp_path / "work" / "doit.db")


@pytest.fixture
def opened(name):
    made = []

    def run(path=name):
        made.append(DurableSqlite(path, JSONCodec()))
        return made[-1]

    yield run
    for base in made:
        base.dump()


@pytest.fixture
def started(name):
    made = []

    def run(task):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, name, task],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "lib")])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        made.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in made:
        process.kill()
        process.communicate()


def finish(base, task, deps=("a",)):
    base.set(task, "result:", "r")
    base.set(task, "deps:", list(deps))


def test_values_are_available_in_the_next_run(opened):
    first = opened()
    finish(first, "index", ["x", "y"])
    first.dump()
    second = opened()
    assert second.get("index", "deps:") == ["x", "y"]
    assert second.get("index", "result:") == "r"
    assert second.get("index", "none") is None
    assert second.in_("index")
    assert not second.in_("other")


def test_reading_never_creates_a_file(opened, name):
    base = opened()
    assert not base.in_("index")
    assert base.get("index", "deps:") is None
    base.remove("index")
    base.remove_all()
    base.dump()
    assert not Path(name).parent.exists()


def test_a_finished_task_is_committed_at_once(opened, name):
    base = opened()
    finish(base, "index")
    assert opened().in_("index")


def test_an_unfinished_task_is_saved_only_by_dump(opened):
    base = opened()
    base.set("index", "result:", "r")
    assert not opened().in_("index")
    base.dump()
    assert opened().get("index", "result:") == "r"


def test_a_finished_task_survives_the_kill_of_its_process(opened, started):
    process = started("index")
    process.send_signal(signal.SIGKILL)
    process.wait()
    base = opened()
    assert base.get("index", "deps:") == ["a", "b"]
    assert not base.in_("index-unfinished")


def test_two_processes_do_not_overwrite_each_others_tasks(opened, started):
    for process in (started("one"), started("two")):
        process.communicate("go\n")
        assert process.returncode == 0
    base = opened()
    assert {task for task in ("one", "two", "one-unfinished", "two-unfinished") if base.in_(task)} == {
        "one",
        "two",
        "one-unfinished",
        "two-unfinished",
    }


def test_removing_a_task_keeps_the_others(opened):
    base = opened()
    finish(base, "one")
    finish(base, "two")
    base.remove("one")
    assert not base.in_("one")
    later = opened()
    assert (later.in_("one"), later.in_("two")) == (False, True)


def test_removing_a_task_that_only_this_run_knows(opened):
    base = opened()
    base.set("one", "result:", "r")
    base.remove("one")
    base.dump()
    assert not opened().in_("one")


def test_all_can_be_removed(opened):
    base = opened()
    finish(base, "one")
    base.dump()
    base = opened()
    base.remove_all()
    base.dump()
    assert not opened().in_("one")


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "half", "zeros in the page of the table"])
def test_a_damaged_file_loses_only_its_own_content(opened, name, damage):
    base = opened()
    for number in range(50):
        finish(base, f"task {number}", ["x" * 200])
    base.dump()
    content = Path(name).read_bytes()
    Path(name).write_bytes(
        {
            "text": b"this is no database" * 500,
            "empty": b"",
            "cut": content[:50],
            "half": content[: len(content) // 2],
            "zeros in the page of the table": content[:4096] + bytes(len(content) - 4096),
        }[damage]
    )
    base = opened()
    assert base.get("task 1", "deps:") is None
    finish(base, "new")
    base.dump()
    assert opened().in_("new")


def test_a_damaged_row_is_ignored(opened, name):
    base = opened()
    finish(base, "index")
    base.dump()
    connection = sqlite3.connect(name)
    with connection:
        connection.execute("update doit set task_data = '{half'")
    connection.close()
    base = opened()
    assert base.get("index", "deps:") is None
    finish(base, "index")
    base.dump()
    assert opened().get("index", "deps:") == ["a"]


def test_the_database_can_be_in_memory(opened):
    """It is in memory if the mission is refused."""
    base = opened(":memory:")
    assert not base.in_("index")
    finish(base, "index")
    assert base.get("index", "deps:") == ["a"]
    base.dump()
    assert not Path(":memory:").exists()


def test_no_task_is_ever_ignored(opened, name):
    """Doit would skip an ignored task and all tasks that need it, and report success."""
    base = opened()
    with pytest.raises(InvalidCommand, match=r"doit ignore cannot be used: .* No task is ignored"):
        base.set("publish", "ignore:", "1")
    base.dump()
    assert not opened().in_("publish")
    finish(base, "publish")
    base.dump()
    connection = sqlite3.connect(name)
    with connection:
        connection.execute("""update doit set task_data = '{"ignore:": "1", "result:": "r"}'""")
    connection.close()
    base = opened()
    assert base.get("publish", "ignore:") is None
    assert base.get("publish", "result:") == "r"
