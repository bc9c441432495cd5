"""The contract of `InferenceRuntime`, tested on each implementation."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from preflight.adapters.demo.weight_free_vpr import build_model
from preflight.adapters.onnxruntime.runtime import OnnxRuntime
from preflight.adapters.openvino.runtime import OpenVinoRuntime
from preflight.engine.parity import check_parity
from preflight.engine.runtimes import RUNTIMES
from preflight.errors import EngineBuildError
from preflight.ports import InferenceRuntime, OutOfDeviceMemory, QueueingEngine

# The accuracy of each precision on a small model with random weights.
_NEAR = {"fp32": 1e-5, "fp16": 1e-3}

_COMPILE_AGAIN = """
import hashlib, sys
from pathlib import Path
from {module} import {name}
from preflight.ports import CompileRequest
request = CompileRequest(Path(sys.argv[1]), {{"image": (1, 3, 32, 32)}}, "{precision}", 64, 8)
{name}().compile(request, Path(sys.argv[2]))
"""

_USE_ONCE = """
import sys
from pathlib import Path
reached = []
sys.addaudithook(lambda event, _: reached.append(event) if event.startswith("socket.") else None)
import numpy
from {module} import {name}
from preflight.ports import CompileRequest
request = CompileRequest(Path(sys.argv[1]), {{"image": (1, 3, 32, 32)}}, "{precision}", 64, 8)
runtime = {name}()
runtime.compile(request, Path(sys.argv[2]))
with runtime.load(Path(sys.argv[2]), request) as engine:
    engine.run({{"image": numpy.zeros((1, 3, 32, 32), numpy.float32)}})
print(runtime.version, reached)
"""

_RUN_OUT = """
import resource, sys
from pathlib import Path
import numpy
from {module} import {name}
from preflight.ports import CompileRequest, OutOfDeviceMemory
request = CompileRequest(Path(sys.argv[1]), {{"image": (1, 3, 32, 32)}}, "{precision}", 64, 8)
engine = {name}(threads=1).load(Path(sys.argv[2]), request)
engine.run({{"image": numpy.zeros((4, 3, 32, 32), numpy.float32)}})
batch = numpy.zeros((40_000, 3, 32, 32), numpy.float32)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
_, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
try:
    engine.run({{"image": batch}})
except OutOfDeviceMemory as signal:
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    result = engine.run({{"image": batch[:4]}})
    print("OUT OF MEMORY", result["descriptor"].shape)
"""


_RUN_OUT_OF_A_QUEUE = """
import resource, sys
from pathlib import Path
import numpy
from {module} import {name}
from preflight.ports import CompileRequest, OutOfDeviceMemory
request = CompileRequest(Path(sys.argv[1]), {{"image": (1, 3, 32, 32)}}, "{precision}", 64, 8)
engine = {name}(threads=2).load(Path(sys.argv[2]), request)
batch = numpy.ones((40_000, 3, 32, 32), numpy.float32)
expected = engine.run({{"image": batch[:4]}})["descriptor"]
engine.submit({{"image": batch[:4]}})
engine.collect()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
_, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
try:
    engine.submit({{"image": batch}})
    engine.submit({{"image": batch[:4]}})
    engine.collect()
except OutOfDeviceMemory as signal:
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    engine.discard()
    print("OUT OF MEMORY", (engine.run({{"image": batch[:4]}})["descriptor"] == expected).all())
"""


def _near(runtime: InferenceRuntime) -> float:
    return _NEAR[RUNTIMES.named(runtime.name).precisions[0]]


def _run_python(source: str, runtime: InferenceRuntime, *arguments: object, home: Path | None = None) -> str:
    kind, precision = type(runtime), RUNTIMES.named(runtime.name).precisions[0]
    environment = {key: value for key, value in os.environ.items() if key not in {"CI", "ORT_DISABLE_TELEMETRY"}}
    if home is not None:
        environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            source.format(module=kind.__module__, name=kind.__name__, precision=precision),
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def compiled():
    """Runtime -> the bytes of the small model's engine. PyTorch takes seconds to compile it."""
    return {}


@pytest.fixture
def engine_path(runtime, tiny_onnx, request_for, tmp_path, compiled):
    """The small model's engine, in a file of the test's own."""
    path = tmp_path / "tiny.engine"
    if runtime.name not in compiled:
        runtime.compile(request_for(tiny_onnx), path)
        compiled[runtime.name] = path.read_bytes()
    path.write_bytes(compiled[runtime.name])
    return path


def test_version_is_digits_and_dots(compiler):
    assert re.fullmatch(r"[0-9]+(\.[0-9]+)+", compiler.version)


def test_engine_agrees_with_the_reference(runtime, tiny_onnx, engine_path, request_for, images):
    asked = request_for(tiny_onnx)
    with runtime.load(engine_path, asked) as engine, OnnxRuntime().reference(tiny_onnx) as reference:
        report = check_parity(
            "tiny", engine.run, reference.run, {"image": images}, precision=asked.precision, batch_size=4
        )
    assert report.sample_count == 8
    assert report.cosine_min > 0.999999 or asked.precision != "fp32"


def test_compiling_writes_one_file_at_the_target(compiler, tiny_onnx, fixed_batch_onnx, request_for, tmp_path):
    for number, model in enumerate((tiny_onnx, fixed_batch_onnx)):
        folder = tmp_path / str(number)
        folder.mkdir()
        compiler.compile(request_for(model), folder / "engine")
        assert list(folder.iterdir()) == [folder / "engine"]
        assert (folder / "engine").stat().st_size > 1000


@pytest.mark.parametrize("count", [1, 5, 8])
def test_any_batch_size_runs_and_gives_float32(runtime, tiny_onnx, engine_path, request_for, images, count):
    with runtime.load(engine_path, request_for(tiny_onnx)) as engine:
        found = engine.run({"image": images[:count]})
    assert list(found) == ["descriptor"]
    assert found["descriptor"].shape == (count, 24)
    assert found["descriptor"].dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found["descriptor"], axis=1), 1, atol=_near(runtime))


def test_later_runs_do_not_change_earlier_results(runtime, tiny_onnx, engine_path, request_for, images):
    with runtime.load(engine_path, request_for(tiny_onnx)) as engine:
        first = engine.run({"image": images})["descriptor"]
        kept = first.copy()
        engine.run({"image": 255 - images})
        np.testing.assert_array_equal(first, kept)
        first[:] = 0
        np.testing.assert_array_equal(engine.run({"image": images})["descriptor"], kept)


def test_the_same_batch_gives_the_same_bits_after_loading_again(runtime, tiny_onnx, engine_path, request_for, images):
    results = []
    for _ in range(2):
        with runtime.load(engine_path, request_for(tiny_onnx)) as engine:
            results.append(engine.run({"image": images})["descriptor"])
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.parametrize("kind", [OpenVinoRuntime, OnnxRuntime])
def test_threads_change_neither_the_engine_nor_its_results(kind, tiny_onnx, request_for, images, tmp_path):
    results = []
    for threads in (1, 2):
        path = tmp_path / f"{threads}.engine"
        kind(threads=threads).compile(request_for(tiny_onnx), path)
        with kind(threads=threads).load(path, request_for(tiny_onnx)) as engine:
            results.append(engine.run({"image": images})["descriptor"])
    assert _sha256(tmp_path / "1.engine") == _sha256(tmp_path / "2.engine")
    np.testing.assert_array_equal(results[0], results[1])


def test_compiling_again_gives_the_same_bytes(runtime, tiny_onnx, engine_path, request_for, tmp_path):
    runtime.compile(request_for(tiny_onnx), tmp_path / "other.name")
    assert _sha256(tmp_path / "other.name") == _sha256(engine_path)
    _run_python(_COMPILE_AGAIN, runtime, tiny_onnx, tmp_path / "third")
    assert _sha256(tmp_path / "third") == _sha256(engine_path)


def test_a_graph_with_a_fixed_batch_accepts_any_batch(
    runtime, fixed_batch_onnx, tiny_onnx, request_for, images, tmp_path
):
    path = tmp_path / "fixed.engine"
    runtime.compile(request_for(fixed_batch_onnx), path)
    with runtime.load(path, request_for(fixed_batch_onnx)) as engine:
        found = engine.run({"image": images})["descriptor"]
    with OnnxRuntime().reference(tiny_onnx) as reference:
        np.testing.assert_allclose(found, reference.run({"image": images})["descriptor"], atol=_near(runtime))


def test_a_runtime_uses_no_network_and_writes_no_file_in_the_home_folder(runtime, tiny_onnx, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    said = _run_python(_USE_ONCE, runtime, tiny_onnx, tmp_path / "engine", home=home)
    assert said == f"{runtime.version} []\n"
    assert list(home.rglob("*")) == []


def test_out_of_memory_raises_an_error_and_the_engine_stays_usable(runtime, tiny_onnx, engine_path):
    assert _run_python(_RUN_OUT, runtime, tiny_onnx, engine_path) == "OUT OF MEMORY (4, 24)\n"
    assert not issubclass(OutOfDeviceMemory, EngineBuildError)


def test_several_batches_in_progress_give_the_bits_of_one(tiny_onnx, request_for, images, tmp_path):
    runtime, path = OpenVinoRuntime(threads=2), tmp_path / "engine"
    runtime.compile(request_for(tiny_onnx), path)
    batches = [images + number for number in range(7)]
    with runtime.load(path, request_for(tiny_onnx)) as engine:
        assert isinstance(engine, QueueingEngine)
        assert engine.depth == 3
        expected = [engine.run({"image": batch})["descriptor"] for batch in batches]
        found = []
        for number, batch in enumerate(batches):
            if number >= engine.depth:
                found.append(engine.collect()["descriptor"])
            engine.submit({"image": batch})
        with pytest.raises(EngineBuildError, match="pending batches"):
            engine.submit({"image": images})
        with pytest.raises(EngineBuildError, match="pending batches"):
            engine.run({"image": images})
        found += [engine.collect()["descriptor"] for _ in range(3)]
        with pytest.raises(EngineBuildError, match="no pending batch"):
            engine.collect()
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
        # One batch at a time still works. Results that nobody collects and batches in progress at the end do no harm.
        np.testing.assert_array_equal(engine.run({"image": batches[3]})["descriptor"], expected[3])
        engine.submit({"image": images})
        engine.discard()
        with pytest.raises(EngineBuildError, match="takes image: float32"):
            engine.submit({"image": images.astype(np.float64)})
        engine.submit({"image": images})
    with pytest.raises(EngineBuildError, match="closed"):
        engine.submit({"image": images})


def test_a_graph_with_a_fixed_batch_has_no_queue(fixed_batch_onnx, request_for, tmp_path):
    runtime, path = OpenVinoRuntime(threads=2), tmp_path / "engine"
    runtime.compile(request_for(fixed_batch_onnx), path)
    with runtime.load(path, request_for(fixed_batch_onnx)) as engine:
        assert engine.depth == 1


@pytest.mark.parametrize("runtime", ["openvino"], indirect=True)
def test_a_queue_out_of_memory_raises_an_error_and_the_engine_stays_usable(runtime, tiny_onnx, engine_path):
    assert _run_python(_RUN_OUT_OF_A_QUEUE, runtime, tiny_onnx, engine_path) == "OUT OF MEMORY True\n"


@pytest.mark.parametrize("damage", ["empty", "garbage", "half", "absent"])
def test_a_damaged_engine_is_refused(runtime, tiny_onnx, engine_path, request_for, damage):
    content = engine_path.read_bytes()
    engine_path.unlink()
    if damage != "absent":
        engine_path.write_bytes(
            {"empty": b"", "garbage": b"garbage" * 99, "half": content[: len(content) // 2]}[damage]
        )
    with pytest.raises(EngineBuildError, match=r"tiny\.engine"):
        runtime.load(engine_path, request_for(tiny_onnx))


@pytest.mark.parametrize("content", [b"", b"no model" * 20])
def test_a_file_that_is_no_model_is_refused(compiler, request_for, tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(EngineBuildError, match=r"broken\.onnx"):
        compiler.compile(request_for(path), tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_other_input_names_are_refused(compiler, tiny_onnx, request_for, tmp_path):
    with pytest.raises(EngineBuildError, match="picture"):
        compiler.compile(request_for(tiny_onnx, inputs={"picture": (1, 3, 32, 32)}), tmp_path / "engine")


def test_int8_is_refused(runtime, tiny_onnx, request_for, tmp_path):
    with pytest.raises(EngineBuildError, match=r"int8.*fp32"):
        runtime.compile(request_for(tiny_onnx, precision="int8"), tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_a_target_that_cannot_be_written_is_an_error(compiler, tiny_onnx, request_for, tmp_path):
    with pytest.raises(EngineBuildError):
        compiler.compile(request_for(tiny_onnx), tmp_path / "absent" / "engine")


@pytest.mark.parametrize(
    "wrong",
    [
        {"picture": np.zeros((1, 3, 32, 32), np.float32)},
        {"image": np.zeros((1, 3, 32, 32), np.float64)},
        {"image": np.zeros((1, 2, 32, 32), np.float32)},
        {"image": np.zeros((1, 3, 32), np.float32)},
        {},
    ],
    ids=["name", "type", "channels", "rank", "none"],
)
def test_wrong_inputs_are_refused_and_the_engine_stays_usable(
    runtime, tiny_onnx, engine_path, request_for, images, wrong
):
    with runtime.load(engine_path, request_for(tiny_onnx)) as engine:
        with pytest.raises(EngineBuildError):
            engine.run(wrong)
        assert engine.run({"image": images})["descriptor"].shape == (8, 24)


def test_a_closed_engine_refuses_to_run_and_can_be_closed_again(runtime, tiny_onnx, engine_path, request_for, images):
    engine = runtime.load(engine_path, request_for(tiny_onnx))
    engine.close()
    engine.close()
    with pytest.raises(EngineBuildError, match="closed"):
        engine.run({"image": images})


def test_openvino_runs_at_the_requested_precision_or_refuses(tiny_onnx, request_for, images, tmp_path):
    runtime, path = OpenVinoRuntime(), tmp_path / "engine"
    with OnnxRuntime().reference(tiny_onnx) as reference:
        expected = reference.run({"image": images})["descriptor"]
    outcomes = {}
    for precision in ("fp32", "bf16", "fp16"):
        asked = request_for(tiny_onnx, precision=precision)
        try:
            runtime.compile(asked, path)
        except EngineBuildError as error:
            outcomes[precision] = str(error)
            continue
        with runtime.load(path, asked) as engine:
            outcomes[precision] = float(np.abs(engine.run({"image": images})["descriptor"] - expected).max())
    assert outcomes["fp32"] < 1e-5
    for precision in ("bf16", "fp16"):
        if isinstance(outcomes[precision], str):
            assert precision in outcomes[precision]
            assert "fp32" in outcomes[precision]
        else:
            assert 1e-5 < outcomes[precision] < 0.05


def test_openvino_imports_a_blob_at_the_requested_precision(tiny_onnx, request_for, images, tmp_path):
    runtime, path = OpenVinoRuntime(), tmp_path / "engine"
    runtime.compile(request_for(tiny_onnx), path)
    with runtime.load(path, request_for(tiny_onnx)) as engine:
        exact = engine.run({"image": images})["descriptor"]
    with OnnxRuntime().reference(tiny_onnx) as reference:
        np.testing.assert_allclose(exact, reference.run({"image": images})["descriptor"], atol=1e-5)


def test_openvino_compiles_external_data_to_the_same_engine(external_data_onnx, request_for, images, tmp_path):
    path = tmp_path / "engine"
    OpenVinoRuntime().compile(request_for(external_data_onnx), path)
    with (
        OpenVinoRuntime().load(path, request_for(external_data_onnx)) as engine,
        OnnxRuntime().reference(external_data_onnx) as reference,
    ):
        check_parity("external", engine.run, reference.run, {"image": images}, precision="fp32", batch_size=8)


def test_onnxruntime_refuses_an_engine_of_two_files(external_data_onnx, request_for, tmp_path):
    with pytest.raises(EngineBuildError, match="one file"):
        OnnxRuntime().compile(request_for(external_data_onnx), tmp_path / "engine")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_onnxruntime_refuses_other_precisions(tiny_onnx, request_for, tmp_path, precision):
    with pytest.raises(EngineBuildError, match="fp32"):
        OnnxRuntime().compile(request_for(tiny_onnx, precision=precision), tmp_path / "engine")


def test_the_weight_free_backbone_passes_the_gate(runtime, request_for, tmp_path):
    model, path = tmp_path / "weight_free_vpr.onnx", tmp_path / "engine"
    model.write_bytes(build_model())
    asked = request_for(model, inputs={"image": (1, 3, 224, 224)}, batch_size=4)
    runtime.compile(asked, path)
    low = np.random.default_rng(5).uniform(0, 255, size=(6, 3, 14, 14))
    images = np.kron(low, np.ones((16, 16))).astype(np.float32)
    with runtime.load(path, asked) as engine, OnnxRuntime().reference(model) as reference:
        report = check_parity(
            "weight_free", engine.run, reference.run, {"image": images}, precision=asked.precision, batch_size=4
        )
        assert engine.run({"image": images})["descriptor"].shape == (6, 2080)
    assert report.worst_output == "descriptor"
