"""Standard output without a reader, on a full device, or closed. Uses real pipes and devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
GUARD = "end_with_the_reader()\n"
BEGIN = f"import sys, threading\nfrom recipes.standard_output import end_with_the_reader\n{2 * GUARD}"


def run(program, *, read, begin=BEGIN):
    """Run a program with a reader, or with a reader that ended before. Returns its status, output and errors."""
    reader, writer = os.pipe()
    if not read:
        os.close(reader)
    process = subprocess.Popen(
        [sys.executable, "-c", begin + program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'lib'}"},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    _, errors = process.communicate(timeout=60)
    out = b""
    if read:
        with os.fdopen(reader, "rb") as file:
            out = file.read()
    return process.returncode, out.decode(), errors


def test_output_with_a_reader_is_complete():
    assert run("print('one')\nsys.stdout.write('two')", read=True) == (0, "one\ntwo", "")


TOLD = [
    "print('one')",
    "print('x' * 100_000)",
    "print('one', end='', flush=True)",
    "sys.stdout.write('one\\n')",
    "try:\n    print('one')\nfinally:\n    print('two')\n    sys.stdout.flush()",
    "try:\n    print('one')\nexcept Exception:\n    pass",
]


@pytest.mark.parametrize("told", TOLD)
def test_without_a_reader_the_run_ends_without_a_message(told):
    assert run(f"{told}\nsys.exit(0)", read=False) == (141, "", "")


def test_another_thread_leaves_the_end_of_the_run_to_the_main_thread():
    program = "thread = threading.Thread(target=print, args=('one',))\nthread.start()\nthread.join()\n"
    assert run(program + "sys.stderr.write('went on')\nprint('two')", read=False) == (141, "", "went on")
    assert run(program + "print('two')", read=True) == (0, "one\ntwo\n", "")


@pytest.mark.parametrize("arguments", [["help"], ["help", "task"], ["help", "plan"], ["help", "tiles"], ["--help"]])
def test_the_help_of_doit_ends_without_a_message(arguments):
    program = f"from doit.doit_cmd import DoitMain\nsys.exit(DoitMain().run({arguments}))"
    assert run(program, read=False, begin="import sys\n") == (141, "", "")
    status, said, errors = run(program, read=True, begin="import sys\n")
    assert (status, bool(said), errors) == (0, True, "")


FULL = (
    "doit: standard output cannot be written: No space left on device; send it elsewhere, then run the command again\n"
)
CLOSED = "doit: standard output is closed; send it to a file, or to /dev/null\n"


def run_in_shell(redirected, told):
    """Run a program whose output the shell redirects. Returns its status and errors."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {redirected}', sys.executable, BEGIN + told],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'lib'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("told", TOLD)
def test_a_full_output_device_ends_the_run_with_a_message(told):
    assert run_in_shell(">/dev/full", f"{told}\nsys.exit(0)") == (16, FULL)


@pytest.mark.parametrize("told", ["print('one')", "pass"])
def test_a_closed_output_ends_the_run_at_once(told):
    assert run_in_shell(">&-", f"{told}\nsys.exit(0)") == (16, CLOSED)


@pytest.mark.parametrize("redirected", [">&- 2>&-", ">/dev/full 2>&-", ">/dev/full 2>/dev/full"])
def test_the_run_also_ends_if_standard_error_cannot_be_written(redirected):
    assert run_in_shell(redirected, "print('one')") == (16, "")
