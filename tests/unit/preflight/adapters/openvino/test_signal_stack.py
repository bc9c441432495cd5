"""A thread's signal stack is unchanged after OpenVINO was used."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from preflight.adapters.demo import weight_free_vpr
from preflight.adapters.openvino.signal_stack import _Stack, kept_signal_stack, signal_stack

LOAD = """
import gc, signal, sys, threading
from pathlib import Path
from preflight.adapters.openvino.signal_stack import signal_stack
from preflight.adapters.openvino.runtime import OpenVinoRuntime
from preflight.ports import CompileRequest

engine, model = map(Path, sys.argv[1:])
request = CompileRequest(model, {"image": (1, 3, 224, 224)}, "fp32", 256, 4)
before = signal_stack()
runtime = OpenVinoRuntime()
runtime.compile(request, engine)
held = [runtime.load(engine, request)]
assert signal_stack() == before, (signal_stack(), before)
del runtime
# The plug-in is unloaded in another thread than the one that loaded it.
def drop():
    held.pop().close()
    gc.collect()
thread = threading.Thread(target=drop)
thread.start()
thread.join()
rung = []
signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.01)
signal.sigtimedwait([], 5)
assert rung == [1]
assert signal_stack() == before
"""


def test_a_signal_is_handled_after_openvino_came_and_went(tmp_path):
    weight_free_vpr.write(tmp_path / "model.onnx")
    command = [sys.executable, "-X", "faulthandler", "-c", LOAD, str(tmp_path / "engine"), str(tmp_path / "model.onnx")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_stack_is_given_back_also_after_a_failure():
    memory = ctypes.create_string_buffer(1 << 16)
    mine = _Stack(ctypes.addressof(memory), 0, len(memory))
    before = signal_stack()

    def fail_with_mine():
        with kept_signal_stack():
            ctypes.CDLL(None).sigaltstack(ctypes.byref(mine), None)
            assert signal_stack() == (ctypes.addressof(memory), len(memory))
            raise ValueError("on the way")

    with pytest.raises(ValueError, match="on the way"):
        fail_with_mine()
    assert signal_stack() == before
