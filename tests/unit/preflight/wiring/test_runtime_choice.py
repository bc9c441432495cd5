"""How the runtime of a mission is chosen. A closed gate, a missing package and a missing device are separate errors."""

from __future__ import annotations

import importlib.util
import os
from importlib import metadata
from pathlib import Path

import pytest

from preflight.adapters.onnxruntime.runtime import compare_providers
from preflight.engine.compiler import EngineCompiler
from preflight.engine.file_names import EngineName
from preflight.engine.runtime_choice import RuntimeChoice
from preflight.engine.runtimes import RUNTIMES
from preflight.errors import EngineBuildError
from preflight.records import BackboneSpec, HostCapabilities
from preflight.wiring import runtime_choice

CPU = HostCapabilities("x86_64", "avx2")
DESKTOP = HostCapabilities("x86_64", "avx2", "86", None, "NVIDIA RTX A2000", "580.95.05")
ORIN = HostCapabilities("aarch64", "neon", "87", "6.2")
SPEC = BackboneSpec("vpr", "descriptor", Path("vpr.onnx"), {"image": (1, 3, 8, 8)}, "fp32")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """installed(name, version): write the installer's record of a package. Only this record is read before a build."""

    def install(name, version):
        record = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


def _components(choice, host):
    compiler = EngineCompiler(choice, host, None, workspace_mb=1, batch_size=1)
    return str(compiler.name(SPEC)), compiler.components(SPEC, {})


# The device of ONNX Runtime


def test_onnxruntime_runs_on_the_cpu_by_default():
    for device in (None, "cpu"):
        choice = runtime_choice("onnxruntime", DESKTOP, {}, None, device)
        assert (choice.gpu, choice.version) == (False, metadata.version("onnxruntime"))
        name, components = _components(choice, DESKTOP)
        assert name == f"vpr__cpu-avx2_onnxruntime{choice.version}_fp32.engine"
        assert "gpu" not in components


def test_cuda_without_its_package_is_an_error_that_names_the_extra():
    with pytest.raises(EngineBuildError, match=r"onnxruntime-gpu.*pip install -e '\.\[gpu\]'"):
        runtime_choice("onnxruntime", DESKTOP, {}, None, "cuda")


@pytest.mark.parametrize("host", [None, CPU])
def test_cuda_without_a_gpu_is_an_error_and_not_a_cpu_engine(installed, host):
    installed("onnxruntime-gpu", "1.23.2")
    with pytest.raises(EngineBuildError, match="no GPU was found"):
        runtime_choice("onnxruntime", host, {}, None, "cuda")


def test_name_and_key_of_an_engine_for_cuda_contain_its_gpu(installed):
    installed("onnxruntime-gpu", "1.23.2")
    choice = runtime_choice("onnxruntime", DESKTOP, {}, None, "cuda")
    name, components = _components(choice, DESKTOP)
    assert name == "vpr__sm86_jpnone_onnxruntime1.23.2_fp32.engine"
    assert EngineName.parse(name).runtime.name == "onnxruntime"
    assert components["gpu"] == "NVIDIA RTX A2000 sm 86 jetpack none driver 580.95.05"


def test_a_build_of_onnxruntime_without_cuda_is_refused_and_does_not_run_on_the_cpu(tmp_path, monkeypatch, installed):
    """The record of the package is that of the CUDA build, but the library has no CUDA."""
    installed("onnxruntime-gpu", "1.23.2")
    runtime = runtime_choice("onnxruntime", DESKTOP, {}, None, "cuda").make()
    (tmp_path / "engine").write_bytes(b"any")
    from preflight.ports import CompileRequest

    request = CompileRequest(tmp_path / "m.onnx", {"image": (1, 3, 8, 8)}, "fp32", 1, 1)
    with pytest.raises(EngineBuildError, match=r"for CUDA: this build has only .*CPUExecutionProvider.*\[gpu\]"):
        runtime.load(tmp_path / "engine", request)


def test_the_providers_of_a_session_must_be_the_requested_ones():
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    compare_providers([cpu], "e", cuda=False)
    compare_providers([cuda, cpu], "e", cuda=True)
    for found, asked in (([cpu], True), ([cuda, cpu], False), (["TensorrtExecutionProvider", cuda, cpu], True)):
        with pytest.raises(EngineBuildError, match="runs on"):
            compare_providers(found, "e", cuda=asked)


# The action key


def test_only_the_key_of_a_gpu_engine_contains_driver_and_gpu():
    choice = RuntimeChoice(RUNTIMES.named("tensorrt"), "10.3", lambda: None, gpu=True)
    _, key = _components(choice, DESKTOP)
    for changed in (
        HostCapabilities("x86_64", "avx2", "86", None, "NVIDIA RTX A2000", "590.1"),
        HostCapabilities("x86_64", "avx2", "86", None, "NVIDIA RTX A4000", "580.95.05"),
        HostCapabilities("x86_64", "avx2", "86", "6.2", "NVIDIA RTX A2000", "580.95.05"),
    ):
        _, other = _components(choice, changed)
        assert [name for name in key if key[name] != other[name]] == ["gpu"]
    on_cpu = RuntimeChoice(RUNTIMES.named("openvino"), "2026.4", lambda: None)
    assert _components(on_cpu, DESKTOP) == _components(on_cpu, CPU)


def test_an_orin_without_information_from_nvml_has_a_key():
    _, key = _components(RuntimeChoice(RUNTIMES.named("tensorrt"), "10.3", lambda: None, gpu=True), ORIN)
    assert key["gpu"] == "unnamed sm 87 jetpack 6.2 driver none"
    assert key["host"] == "aarch64 neon"


# Gates and packages


@pytest.mark.parametrize("gate", ["BUILD_TENSORRT_RUNTIME", "BUILD_PYTORCH_FP16_RUNTIME"])
@pytest.mark.parametrize("value", ["0", "1"])
def test_a_gate_does_not_affect_other_runtimes(gate, value):
    for name in ("openvino", "onnxruntime"):
        assert runtime_choice(name, CPU, {gate: value}).name == name


@pytest.mark.parametrize(
    ("runtime", "gate", "extra"),
    [
        ("tensorrt", "BUILD_TENSORRT_RUNTIME", r"\[gpu,tensorrt\]"),
        ("pytorch_fp16", "BUILD_PYTORCH_FP16_RUNTIME", r"\[cpu,torch\]"),
    ],
)
def test_a_missing_runtime_names_its_extra_and_a_forbidden_one_its_gate(runtime, gate, extra):
    module = {"tensorrt": "tensorrt", "pytorch_fp16": "torch"}[runtime]
    if importlib.util.find_spec(module) is None:
        for environment in ({}, {gate: "1"}):
            with pytest.raises(EngineBuildError, match=rf"is not installed.*{extra}"):
                runtime_choice(runtime, DESKTOP, environment)
    with pytest.raises(EngineBuildError, match=f"forbidden here by {gate}=0"):
        runtime_choice(runtime, DESKTOP, {gate: "0"})
    with pytest.raises(EngineBuildError, match=f"{gate} is 'on'"):
        runtime_choice(runtime, DESKTOP, {**os.environ, gate: "on"})


def test_an_unknown_runtime_is_refused_with_the_names_of_the_others():
    with pytest.raises(EngineBuildError, match="openvino, onnxruntime, tensorrt or pytorch_fp16"):
        runtime_choice("caffe")
