"""TensorRT-RTX builds real engines from real ONNX files without a GPU. Other tests cover builds that fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from preflight.adapters.demo.weight_free_vpr import build_model
from preflight.adapters.tensorrt.build import _Timings
from preflight.adapters.tensorrt.build_request import Order
from preflight.adapters.tensorrt.runtime import TENSORRT_RTX, TensorRtLibrary, TensorRtRuntime
from preflight.errors import EngineBuildError

MATCHER = {"left": (1, 12, 16), "right": (1, 20, 16)}


def test_the_weight_free_backbone_builds(rtx, request_for, tmp_path):
    model = tmp_path / "weight_free_vpr.onnx"
    model.write_bytes(build_model())
    rtx.compile(request_for(model, inputs={"image": (1, 3, 224, 224)}), tmp_path / "engine")
    plan = (tmp_path / "engine").read_bytes()
    assert len(plan) > 100_000
    assert b"preflight:fp32" in plan


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("fp32", {}),
        ("fixed", {}),
        ("fp16", {"precision": "fp16"}),
        ("int8", {"precision": "int8"}),
        ("two_inputs", {"inputs": MATCHER}),
    ],
)
def test_models_build_and_the_engine_carries_its_precision(rtx, models, request_for, tmp_path, model, changes):
    asked = request_for(models[model], **changes)
    rtx.compile(asked, tmp_path / "engine")
    assert f"preflight:{asked.precision}".encode() in (tmp_path / "engine").read_bytes()


def test_weights_beside_the_graph_are_found(rtx, models, request_for, tmp_path):
    import onnx

    path = tmp_path / "external.onnx"
    onnx.save(onnx.load(models["fp32"]), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size > 0
    rtx.compile(request_for(path), tmp_path / "engine")
    assert (tmp_path / "engine").stat().st_size > 0


@pytest.mark.parametrize(
    ("model", "precision", "said"),
    [
        ("fp32", "fp16", "no HALF tensors"),
        ("fp32", "int8", "no Q/DQ nodes"),
        ("fp16", "fp32", "HALF tensors"),
        ("int8", "fp32", "Q/DQ nodes"),
        ("int8", "fp16", "Q/DQ nodes"),
    ],
)
def test_another_precision_than_the_models_is_refused(rtx, models, request_for, tmp_path, model, precision, said):
    with pytest.raises(EngineBuildError, match=rf"{model}\.onnx for {precision}: .*{said}"):
        rtx.compile(request_for(models[model], precision=precision), tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_every_unsupported_node_is_named(rtx, models, request_for, tmp_path):
    with pytest.raises(EngineBuildError) as caught:
        rtx.compile(request_for(models["unsupported"]), tmp_path / "engine")
    for said in ("node 1 'strange', operator Frobnicate", "node 2 'determinant', operator Det", "UNSUPPORTED_NODE"):
        assert said in str(caught.value)
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workspace_mb": 0}, "workspace memory greater than 0"),
        ({"batch_size": 0}, "INVALID_CONFIG: .*optimization profiles"),
        ({"inputs": {"picture": (1, 3, 8, 8)}}, "picture"),
        ({"inputs": {"image": (1, 3, 8, 9)}}, r"\[1, 3, 8, 9\]"),
    ],
)
def test_what_tensorrt_says_reaches_the_error(rtx, models, request_for, tmp_path, changes, said):
    with pytest.raises(EngineBuildError, match=said):
        rtx.compile(request_for(models["fp32"], **changes), tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize("content", [None, b"", b"no model" * 20])
def test_what_is_no_model_is_refused(rtx, request_for, tmp_path, content):
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineBuildError, match=r"broken\.onnx"):
        rtx.compile(request_for(path), tmp_path / "engine")


def test_another_release_than_the_name_promises_is_refused(rtx, models, request_for, tmp_path):
    TensorRtRuntime(TENSORRT_RTX, version=rtx.version).compile(request_for(models["fp32"]), tmp_path / "engine")
    with pytest.raises(
        EngineBuildError, match=rf"installed as release 10\.3\.0, but the imported module is {rtx.version}"
    ):
        TensorRtRuntime(TENSORRT_RTX, version="10.3.0").compile(request_for(models["fp32"]), tmp_path / "engine")


def test_without_a_gpu_an_engine_built_here_is_not_loaded(rtx, models, request_for, tmp_path):
    rtx.compile(request_for(models["fp32"]), tmp_path / "engine")
    blind = TensorRtRuntime(TENSORRT_RTX, cuda=str(tmp_path / "libcuda.so.1"))
    with pytest.raises(EngineBuildError, match="no GPU"):
        blind.load(tmp_path / "engine", request_for(models["fp32"]))


def test_building_prints_nothing(rtx, models, request_for, tmp_path, capfd):
    rtx.compile(request_for(models["fp32"]), tmp_path / "engine")
    assert capfd.readouterr() == ("", "")


def test_an_order_survives_its_text(models, request_for, tmp_path):
    order = Order(TENSORRT_RTX, request_for(models["fp32"]), "87", tmp_path / "t", "libcuda.so.1")
    bare = Order(TENSORRT_RTX, request_for(models["fp32"], inputs=MATCHER), None, None, "x")
    for one in (order, bare):
        assert Order.of(json.loads(json.dumps(one.value()))) == one


@pytest.fixture
def library_of(tmp_path, monkeypatch):
    """library_of(source): a library that runs this source when a process imports it."""

    def make(source):
        folder = tmp_path / "modules"
        folder.mkdir()
        (folder / "bad_tensorrt.py").write_text(source)
        monkeypatch.syspath_prepend(str(folder))
        library = TensorRtLibrary("bad_tensorrt", "TensorRT", builds_without_device=True, keeps_timings=False)
        return TensorRtRuntime(library)

    return make


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "import os, signal\nos.write(2, b'last words\\n')\nos.kill(os.getpid(), signal.SIGSEGV)",
            "SIGSEGV.*last words",
        ),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "SIGKILL; is there enough memory"),
        ("import os\nprint('chatter', flush=True)\nos._exit(3)", "status 3; chatter"),
        ("raise ValueError('odd')", "status 1; .*ValueError: odd"),
        ("raise ImportError('no libnvinfer.so.10')", r"no libnvinfer\.so\.10.*pip install"),
    ],
)
def test_a_build_that_crashes_is_an_error_with_its_last_words(library_of, models, request_for, tmp_path, source, said):
    runtime = library_of(source)
    with pytest.raises(EngineBuildError, match=rf"(?s)fp32\.onnx.*{said}"):
        runtime.compile(request_for(models["fp32"]), tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_a_target_that_cannot_be_written_is_an_error(library_of, models, request_for, tmp_path):
    with pytest.raises(EngineBuildError, match="cannot be written"):
        library_of("").compile(request_for(models["fp32"]), tmp_path / "absent" / "engine")


_PARENT = """
import sys
from pathlib import Path
from preflight.adapters.tensorrt.runtime import TensorRtLibrary, TensorRtRuntime
from preflight.ports import CompileRequest
library = TensorRtLibrary("bad_tensorrt", "TensorRT", builds_without_device=True, keeps_timings=False)
request = CompileRequest(Path("m.onnx"), {"x": (1, 3)}, "fp32", 64, 4)
TensorRtRuntime(library).compile(request, Path(sys.argv[1]))
"""


# Writes "here" at its start, and "survived" if nothing kills it.
_WAITING = """
import os, signal
held = open({pipe!r}, "wb", buffering=0)
held.write(b"here")
signal.signal(signal.SIGALRM, lambda *_: (held.write(b"survived"), os._exit(1)))
signal.alarm(20)
signal.pause()
"""


def test_a_killed_build_takes_its_process_along(library_of, tmp_path):
    """The building process keeps a pipe open.

    The end of the pipe shows the end of the process, so the test need not wait.
    """
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    library_of(_WAITING.format(pipe=str(pipe)))
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path / "engine")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    with pipe.open() as reading:
        assert reading.read(4) == "here"
        parent.send_signal(signal.SIGKILL)
        assert parent.wait() == -signal.SIGKILL
        assert reading.read() == ""


@pytest.fixture
def as_tensorrt(rtx, cuda):
    """TensorRT-RTX used like TensorRT: with a device, here a fake one, and with timings. Its own timings are empty."""
    library = TensorRtLibrary("tensorrt_rtx_bindings", "TensorRT", builds_without_device=False, keeps_timings=True)
    return lambda **arguments: TensorRtRuntime(library, cuda=cuda.path, **arguments)


def test_timings_are_kept_for_the_gpu_and_version(as_tensorrt, rtx, models, request_for, tmp_path):
    runtime = as_tensorrt(timings=tmp_path / "timings")
    for _ in range(2):
        runtime.compile(request_for(models["fp32"]), tmp_path / "engine")
        kept = tmp_path / "timings" / f"trt{rtx.version}_sm87_orin--nvgpu-.timings"
        assert list((tmp_path / "timings").iterdir()) == [kept]
        assert kept.stat().st_size > 0


def test_without_a_folder_no_timings_are_kept(as_tensorrt, models, request_for, tmp_path):
    as_tensorrt().compile(request_for(models["fp32"]), tmp_path / "engine")
    assert list(tmp_path.glob("**/*.timings")) == []


def test_a_build_for_another_gpu_than_the_name_promises_is_refused(as_tensorrt, models, request_for, tmp_path):
    with pytest.raises(EngineBuildError, match=r"fp32\.onnx: engines are named for sm 86, .* sm 87"):
        as_tensorrt(sm="86").compile(request_for(models["fp32"]), tmp_path / "engine")
    as_tensorrt(sm="87").compile(request_for(models["fp32"]), tmp_path / "engine")


class _Cache:
    def __init__(self, content):
        self.content = content

    def combine(self, other, ignore_mismatch):
        assert not ignore_mismatch
        self.content += other.content
        return True

    def serialize(self):
        return self.content


class _Config:
    """A builder's configuration whose timing cache accepts only content that begins with `good`."""

    def __init__(self):
        self.cache = None

    def create_timing_cache(self, content):
        return _Cache(content) if content[:4] in (b"", b"good", b"else") else None

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        if cache.content.startswith(b"else"):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self):
        return self.cache


@pytest.mark.parametrize(
    ("stored", "taken", "kept"),
    [
        (None, b"", b" new"),
        (b"good", b"good", b"good newgood"),
        (b"damaged", b"", b" new"),
        (b"else", b"", b" newelse"),
    ],
)
def test_stored_timings_are_used_or_begun_anew(tmp_path, capsys, stored, taken, kept):
    path, config = tmp_path / "folder" / "x.timings", _Config()
    if stored is not None:
        path.parent.mkdir()
        path.write_bytes(stored)
    timings = _Timings(path)
    assert timings.attach(config).content == taken
    assert ("an empty one" in capsys.readouterr().err) == (stored in (b"damaged", b"else"))
    config.cache.content += b" new"
    timings.keep(config)
    assert path.read_bytes() == kept


def test_a_builder_that_makes_no_timing_cache_is_an_error(tmp_path):
    config = _Config()
    config.set_timing_cache = lambda cache, ignore_mismatch: False
    with pytest.raises(EngineBuildError, match="cannot create a timing cache"):
        _Timings(tmp_path / "x.timings").attach(config)
