"""Several models compiled at a time give the same engines and leave no files. Edited models are compiled again."""

from __future__ import annotations

import platform
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest

from preflight.adapters.onnxruntime.runtime import OnnxRuntime
from preflight.adapters.openvino.runtime import OpenVinoRuntime
from preflight.adapters.pytorch.runtime import TorchRuntime
from preflight.adapters.tensorrt.runtime import TENSORRT_RTX, TensorRtRuntime
from preflight.engine.compiler import EngineCompiler
from preflight.engine.runtime_choice import RuntimeChoice
from preflight.engine.runtimes import RUNTIMES
from preflight.errors import EngineBuildError
from preflight.ports import ConcurrentRuntime
from preflight.records import BackboneSpec, HostCapabilities
from preflight.report.run_log import RunLog
from preflight.stages.engines import compile_step, inspect_step
from preflight.store.atomic import atomic_write
from preflight.store.cache_layout import CacheLayout
from preflight.trace.digests import DigestCache, hash_file
from preflight.trace.rule import Tracer
from preflight.wiring.libraries import onnx_models

SHAPE = {"image": (1, 3, 56, 56)}


class Corpus:
    """Two models, and the steps that compile them in one cache root."""

    def __init__(self, folder, files, runtime=None, *, cpus=4, memory_mb=1024, one_file=False):
        self.layout = CacheLayout(folder / "cache")
        own = OpenVinoRuntime() if runtime is None else runtime
        precision = "fp16" if own.name == "pytorch_fp16" else "fp32"
        host = HostCapabilities(platform.machine(), "avx2", cpus=cpus, memory_mb=memory_mb)
        row = replace(RUNTIMES.named(own.name), concurrent=isinstance(own, ConcurrentRuntime), one_file=one_file)
        choice = RuntimeChoice(row, own.version, lambda: own)
        self.compiler = EngineCompiler(choice, host, onnx_models(), workspace_mb=256, batch_size=4)
        self.digests = DigestCache(None)
        self.tracer = Tracer(self.digests, atomic_write)
        self.specs = [BackboneSpec(f"m{n}", "auxiliary", path, SHAPE, precision) for n, path in enumerate(files)]
        self.steps = []
        for spec in self.specs:
            self.tracer.run(inspect_step(spec, self.layout, self.compiler, self.digests))
            self.steps.append(compile_step(spec, self.layout, self.compiler, self.digests, RunLog()))

    def processes(self):
        return [begun.compilation._process for begun in self.compiler._begun.values()]

    def left(self):
        return sorted(path.name for path in self.layout.engines.rglob("*"))


@pytest.fixture
def files(model_file, tmp_path):
    """Copies of two model files for one test."""
    paths = [tmp_path / "0.onnx", tmp_path / "1.onnx"]
    for path in paths:
        shutil.copyfile(model_file("tiny_vit"), path)
    return paths


@pytest.fixture(params=["openvino", "onnxruntime", "pytorch_fp16"])
def runtime(request):
    """Each runtime that can compile several models at a time."""
    if request.param == "pytorch_fp16":
        pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[cpu,torch]'")
    return {"openvino": OpenVinoRuntime, "onnxruntime": OnnxRuntime, "pytorch_fp16": TorchRuntime}[request.param]()


def test_engines_compiled_in_advance_are_the_same_as_one_at_a_time(tmp_path, files, runtime):
    corpus = Corpus(tmp_path, files, runtime)
    for step in corpus.steps:
        step.start()
    assert len(corpus.processes()) == 2
    for step in corpus.steps:
        corpus.tracer.run(step)
        assert corpus.tracer.judge(step).current
    assert corpus.compiler._begun == {}
    alone = tmp_path / "alone.engine"
    runtime.compile(corpus.compiler.request(corpus.specs[1]), alone)
    assert hash_file(corpus.steps[1].outputs[0]) == hash_file(alone)
    assert [name for name in corpus.left() if not name.endswith((".engine", ".sha256", ".json"))] == []


def test_an_engine_compiled_in_advance_can_have_external_weights(tmp_path, model_file):
    paths = [tmp_path / "a" / "m.onnx", tmp_path / "b" / "m.onnx"]
    for path in paths:
        path.parent.mkdir()
        onnx.save(onnx.load(model_file("tiny_vit")), path, save_as_external_data=True, size_threshold=0)
    corpus = Corpus(tmp_path, paths, OnnxRuntime(), one_file=True)
    corpus.steps[0].start()
    corpus.tracer.run(corpus.steps[0])
    joined = tmp_path / "joined.engine"
    OnnxRuntime().compile(replace(corpus.compiler.request(corpus.specs[0]), onnx_path=model_file("tiny_vit")), joined)
    with (
        corpus.compiler.load(corpus.specs[0], corpus.steps[0].outputs[0]) as built,
        OnnxRuntime().load(joined, corpus.compiler.request(corpus.specs[0])) as expected,
    ):
        image = np.ones(SHAPE["image"], np.float32)
        for name, values in expected.run({"image": image}).items():
            np.testing.assert_array_equal(built.run({"image": image})[name], values)


@pytest.mark.parametrize(
    ("cpus", "memory_mb", "begun"), [(1, 9999, 0), (2, 9999, 1), (4, 9999, 2), (4, 767, 1), (4, 511, 0), (4, 0, 0)]
)
def test_cores_and_memory_limit_the_compilations_in_advance(tmp_path, files, cpus, memory_mb, begun):
    """The engine that the build waits for also counts."""
    corpus = Corpus(tmp_path, files, cpus=cpus, memory_mb=memory_mb)
    for step in corpus.steps * 2:
        if step.start is not None:
            step.start()
    assert len(corpus.processes()) == begun
    assert (corpus.steps[0].start is None) == (begun == 0)
    processes = corpus.processes()
    corpus.compiler.stop()
    corpus.compiler.stop()
    assert all(process.poll() is not None for process in processes)
    assert corpus.left() == []


def test_a_model_edited_in_the_meantime_is_compiled_again(tmp_path, files, model_file):
    corpus = Corpus(tmp_path, files)
    corpus.steps[0].start()
    (process,) = corpus.processes()
    shutil.copyfile(model_file("tiny_vit", seed=9), files[0])
    corpus.tracer.run(corpus.steps[0])
    assert process.poll() is not None
    other = tmp_path / "other.engine"
    OpenVinoRuntime().compile(corpus.compiler.request(corpus.specs[0]), other)
    assert hash_file(corpus.steps[0].outputs[0]) == hash_file(other)


def test_a_failed_or_killed_compilation_is_an_error_of_its_own_step(tmp_path, files, runtime):
    corpus = Corpus(tmp_path, files, runtime)
    for step in corpus.steps:
        step.start()
    corpus.processes()[0].kill()
    with pytest.raises(EngineBuildError, match=r"0\.onnx.*killed by SIGKILL"):
        corpus.tracer.run(corpus.steps[0])
    corpus.tracer.run(corpus.steps[1])
    assert corpus.tracer.judge(corpus.steps[1]).current
    assert all(name.startswith("m1__") for name in corpus.left())
    # A second run compiles it alone.
    corpus.tracer.run(corpus.steps[0])
    assert corpus.tracer.judge(corpus.steps[0]).current


def test_tensorrt_never_compiles_in_advance():
    """Two builds on one GPU would distort each other's timings."""
    assert not isinstance(TensorRtRuntime(TENSORRT_RTX), ConcurrentRuntime)
