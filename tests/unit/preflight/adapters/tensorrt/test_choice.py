"""How a mission gets TensorRT. It needs the gate, a package and a GPU; each missing one has its own error."""

from __future__ import annotations

import sys

import pytest

from preflight.errors import EngineBuildError
from preflight.records import HostCapabilities
from preflight.wiring import runtime_choice

ORIN = HostCapabilities("aarch64", "neon", "87", "6.2")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Write the installer's record of a package. Before a build, only this record is read."""

    def install(name, version):
        record = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


@pytest.mark.parametrize(
    ("name", "version", "known_as"),
    [
        ("tensorrt", "10.3.0", "10.3.0"),
        ("tensorrt-cu13", "11.4.0.106", "11.4.0.106"),
        ("tensorrt-cu12", "10.13.3.9.post1", "10.13.3.9"),
    ],
)
def test_the_version_is_read_without_importing_it(installed, name, version, known_as):
    installed(name, version)
    choice = runtime_choice("tensorrt", ORIN, {"BUILD_TENSORRT_RUNTIME": "1"})
    assert (choice.name, choice.version) == ("tensorrt", known_as)
    assert choice.make().name == "tensorrt"
    assert "tensorrt" not in sys.modules


def test_a_missing_package_is_an_error_that_names_the_extra():
    with pytest.raises(EngineBuildError, match=r"TensorRT is not installed: run pip install -e '\.\[gpu,tensorrt\]'"):
        runtime_choice("tensorrt", ORIN)


@pytest.mark.parametrize("host", [None, HostCapabilities("x86_64", "avx2")])
def test_a_host_without_a_gpu_is_an_error(installed, host):
    installed("tensorrt", "10.3.0")
    with pytest.raises(EngineBuildError, match="builds for this machine's GPU, and no GPU was found"):
        runtime_choice("tensorrt", host)


@pytest.mark.parametrize(
    ("runtime", "gate"), [("tensorrt", "BUILD_TENSORRT_RUNTIME"), ("pytorch_fp16", "BUILD_PYTORCH_FP16_RUNTIME")]
)
def test_a_gate_forbids_its_runtime_alone(installed, runtime, gate):
    installed("tensorrt", "10.3.0")
    with pytest.raises(EngineBuildError, match=f"runtime {runtime} is forbidden here by {gate}=0"):
        runtime_choice(runtime, ORIN, {gate: "0"})
    assert runtime_choice("onnxruntime", ORIN, {gate: "0"}).name == "onnxruntime"


@pytest.mark.parametrize("value", ["", "yes", "true", "2"])
def test_a_gate_is_0_or_1(installed, value):
    installed("tensorrt", "10.3.0")
    with pytest.raises(EngineBuildError, match=f"BUILD_TENSORRT_RUNTIME is '{value}'"):
        runtime_choice("tensorrt", ORIN, {"BUILD_TENSORRT_RUNTIME": value})
