"""A compiling process: what it receives, where it runs, and each way in which it can fail."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preflight.engine.compile_process import CompilingProcess, request_of, request_value
from preflight.errors import EngineBuildError
from preflight.ports import CompileRequest

KILLED = "Nobody can compile m.onnx: the compiling process was killed by"
SIZES = st.lists(st.integers(-1, 2**31), max_size=4).map(tuple)


@pytest.fixture
def compiling(tmp_path, monkeypatch):
    """compiling(source): a process whose `compile_here` has this source. It writes to `tmp_path / "engine"`."""

    def make(source, slot=None):
        folder = tmp_path / "modules"
        folder.mkdir()
        lines = "".join(f"    {line}\n" for line in source.splitlines())
        (folder / "made_up_compiler.py").write_text(
            "import json, os, signal, sys\nfrom preflight.errors import EngineBuildError\n"
            "from preflight.engine.compile_process import write_engine\n"
            f"def compile_here(order, target):\n{lines}"
        )
        monkeypatch.syspath_prepend(str(folder))
        return CompilingProcess(
            "made_up_compiler", {"a": [1]}, tmp_path / "engine", failure="Nobody can compile m.onnx", slot=slot
        )

    return make


@given(
    st.builds(
        CompileRequest,
        st.text("abc ", min_size=1).map(lambda name: Path("/models") / name),
        st.dictionaries(st.text(), SIZES),
        st.sampled_from(["fp32", "int8"]),
        st.integers(0),
        st.integers(1),
    )
)
def test_a_request_is_the_same_after_encoding_and_decoding(request_):
    assert request_of(json.loads(json.dumps(request_value(request_)))) == request_


def test_it_receives_the_order_and_writes_the_engine(compiling, tmp_path):
    process = compiling(
        'os.write(1, b"chatter\\n")\nos.write(2, b"and more")\nwrite_engine(target, json.dumps(order).encode())'
    )
    process.wait()
    assert (tmp_path / "engine").read_text() == '{"a": [1]}'
    assert process.said == "chatter | and more"


def test_each_slot_has_its_own_core(compiling, tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    compiling("write_engine(target, json.dumps(sorted(os.sched_getaffinity(0))).encode())", slot=len(cores) + 1).wait()
    assert json.loads((tmp_path / "engine").read_text()) == [cores[1 % len(cores)]]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ('raise EngineBuildError("m.onnx is no model")', "m.onnx is no model"),
        (
            'raise EngineBuildError("")',
            "Nobody can compile m.onnx: the compiling process ended with status 1; it said nothing",
        ),
        (
            'os.write(2, b"last words")\nos.kill(os.getpid(), signal.SIGSEGV)',
            f"{KILLED} SIGSEGV; before that: last words",
        ),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            f"{KILLED} SIGKILL; is there enough memory?; before that: it said nothing",
        ),
        ("os._exit(0)", "Nobody can compile m.onnx: the compiling process ended with status 0; it said nothing"),
        ("os.kill(os.getpid(), 40)", f"{KILLED} signal 40; before that: it said nothing"),
        ("os._exit(3)", "Nobody can compile m.onnx: the compiling process ended with status 3; it said nothing"),
    ],
)
def test_every_failure_is_an_error_and_leaves_no_file(compiling, tmp_path, source, said):
    with pytest.raises(EngineBuildError, match=f"^{re.escape(said)}$"):
        compiling(source).wait()
    assert not (tmp_path / "engine").exists()


def test_an_unexpected_error_is_reported_with_its_last_lines(compiling, tmp_path):
    with pytest.raises(EngineBuildError, match=r"Nobody can compile m\.onnx: .*status 1; .*ZeroDivisionError"):
        compiling("1 / 0").wait()
    assert not (tmp_path / "engine").exists()


def test_other_output_is_not_taken_for_the_answer(compiling, monkeypatch, tmp_path):
    """A module that is imported before the compiler prints to the same file descriptor as the answer."""
    (tmp_path / "sitecustomize.py").write_text("print('hello')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EngineBuildError, match=r"^m\.onnx is no model$"):
        compiling('raise EngineBuildError("m.onnx is no model")').wait()


def test_the_end_of_long_output_is_kept(compiling):
    process = compiling('os.write(2, b"a" * 30000 + b" the end")\nos._exit(3)')
    with pytest.raises(EngineBuildError, match=r"the end$") as caught:
        process.wait()
    assert len(str(caught.value)) < 5_000


def test_modules_in_the_current_folder_are_not_imported(compiling, monkeypatch, tmp_path):
    (tmp_path / "ctypes.py").write_text("raise SystemExit('taken')")
    monkeypatch.chdir(tmp_path)
    process = compiling("write_engine(target, b'whole')")
    process.wait()
    assert (tmp_path / "engine").read_bytes() == b"whole"


def test_if_the_process_cannot_start_no_file_is_left(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EngineBuildError, match=r"no process can be started: .*No such file"):
        CompilingProcess("none", {}, tmp_path / "engine", failure="Nobody can compile m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_its_child_processes_end_with_it(compiling):
    process = compiling("import subprocess\nsubprocess.Popen(['sleep', '600'])\nos.write(1, b'on')\nsignal.pause()")
    process.stop()  # returns only if no process keeps the pipes open


def test_a_stopped_process_writes_nothing(compiling, tmp_path):
    process = compiling("signal.pause()")
    process.stop()
    process.stop()
    assert not (tmp_path / "engine").exists()


def test_an_existing_target_is_kept(compiling, tmp_path):
    """The target is a temporary file of the caller, who removes it."""
    (tmp_path / "engine").write_bytes(b"")
    with pytest.raises(EngineBuildError):
        compiling("os._exit(3)").wait()
    assert (tmp_path / "engine").exists()


def test_a_target_that_cannot_be_made_is_an_error(tmp_path):
    with pytest.raises(EngineBuildError, match="cannot be written: No such file"):
        CompilingProcess("none", {}, tmp_path / "absent" / "engine", failure="")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_raises_oserror(compiling, tmp_path, number):
    source = f"try:\n    raise OSError({number}, 'full')\nexcept OSError as error:\n    raise EngineBuildError('no') from error"
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        compiling(source).wait()
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "engine"))
    assert not (tmp_path / "engine").exists()


def test_another_error_of_the_file_system_raises_engine_build_error(compiling):
    source = (
        "try:\n    raise OSError(5, 'broken')\nexcept OSError as error:\n    raise EngineBuildError('no') from error"
    )
    with pytest.raises(EngineBuildError, match=r"^no$"):
        compiling(source).wait()


def test_a_full_disk_while_the_target_is_created_raises_oserror(monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "touch", full)
    with pytest.raises(OSError, match="No space left on device"):
        CompilingProcess("none", {}, tmp_path / "engine", failure="")


def test_a_process_without_its_parent_does_not_start(tmp_path):
    (tmp_path / "engine").touch()
    told = {"module": "none", "order": {}, "target": str(tmp_path / "engine"), "slot": None, "parent": -1}
    done = subprocess.run(
        [sys.executable, "-c", "from preflight.engine.compile_process import main; main()", json.dumps(told)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
