"""`doit ... | head`: the reader of standard output ends before the run does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OTHER_FLIGHT = "2f3d1c9e-5d3b-4c57-8e86-0a5d1f6f0001"


@pytest.fixture
def unread():
    """unread(place, *arguments): run with a reader that ends after some lines. Returns the lines, status and errors."""

    def start(place, *arguments, lines=0):
        reader, writer = os.pipe()
        if not lines:
            os.close(reader)
        process = subprocess.Popen(
            place.command(*arguments), cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True
        )
        os.close(writer)
        read = []
        if lines:
            with os.fdopen(reader) as file:
                read = [file.readline() for _ in range(lines)]
        _, errors = process.communicate(timeout=120)
        return read, process.returncode, errors

    return start


@pytest.mark.parametrize(("form", "lines"), [("log=text", 0), ("log=text", 1), ("log=json", 0), ("log=json", 1)])
def test_a_provision_without_a_reader_fails_quietly_and_can_be_resumed(built, unread, form, lines):
    old = built.generation
    built.edit(lambda mission: mission.update(flight_id=OTHER_FLIGHT))
    read, status, errors = unread(built, "provision", form, lines=lines)
    assert (len(read), status, errors) == (lines, 141, "")
    assert built.servers() == []
    # If some lines were read, the run may notice the missing reader only after it has published.
    assert lines or built.generation == old
    assert not list((built.cache / "staging").glob("*"))
    again = built.provision_json()
    assert again.status == 0, again.said
    assert built.manifest["predicate"]["identity"]["flight_id"] == OTHER_FLIGHT
    assert built.takeoff().status == 0


@pytest.mark.parametrize(
    "arguments", [["list"], ["verify"], ["status"], ["plan"], ["why", "index"], ["why", "nothing", "log=json"]]
)
def test_a_command_without_a_reader_ends_quietly(built, unread, arguments):
    assert unread(built, *arguments) == ([], 141, "")
    assert built.servers() == []


@pytest.fixture
def redirected(python_outside):
    """redirected(place, to, *arguments): run with standard output redirected by the shell.

    Returns status and errors.
    """

    def start(place, to, *arguments):
        done = python_outside(["sh", "-c", f'exec "$0" "$@" {to}', *place.command(*arguments)])
        return done.status, done.err

    return start


NO_SPACE = (
    "doit: standard output cannot be written: No space left on device; send it elsewhere, then run the command again\n"
)
CLOSED = "doit: standard output is closed; send it to a file, or to /dev/null\n"


@pytest.mark.parametrize("form", ["log=text", "log=json"])
@pytest.mark.parametrize(("to", "said"), [(">/dev/full", NO_SPACE), (">&-", CLOSED)])
def test_verify_fails_if_it_cannot_write_its_verdict(built, redirected, form, to, said):
    assert redirected(built, to, "verify", form) == (16, said)


@pytest.mark.parametrize(("to", "said"), [(">/dev/full", NO_SPACE), (">&-", CLOSED)])
def test_a_provision_that_cannot_write_its_output_fails_and_can_be_resumed(built, redirected, to, said):
    built.edit(lambda mission: mission.update(flight_id=OTHER_FLIGHT))
    assert redirected(built, to, "provision") == (16, said)
    assert built.servers() == []
    assert not list((built.cache / "staging").glob("*"))
    assert built.takeoff().status == 0
    assert built.provision_json().status == 0
