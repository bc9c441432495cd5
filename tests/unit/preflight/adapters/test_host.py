from __future__ import annotations

import os
import platform

import pytest

from preflight.adapters.host import Gpu, describe_host, probe_gpus, probe_host
from preflight.engine.file_names import EngineName
from preflight.engine.runtimes import RUNTIMES

_ORIN = (
    "# R36 (release), REVISION: {}, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n"
)


def _cpuinfo(*cores: str) -> str:
    return "\n".join(f"processor\t: {n}\nvendor_id\t: X\nflags\t\t: fpu {flags}\n" for n, flags in enumerate(cores))


@pytest.mark.parametrize(
    ("flags", "isa"),
    [
        ("sse4_1 avx2 avx512f avx512_bf16 amx_tile amx_bf16", "avx512amx"),
        ("sse4_1 avx2 avx512f avx512_bf16", "avx512bf16"),
        ("sse4_1 avx2 avx512f", "avx512"),
        ("sse4_1 avx avx2", "avx2"),
        ("sse4_1 sse4_2 avx", "sse4"),
        ("sse2", "generic"),
        ("avx2x", "generic"),
    ],
)
def test_isa_is_the_widest_that_the_cpu_has(flags, isa):
    assert describe_host("x86_64", _cpuinfo(flags, flags)).isa == isa


def test_isa_is_the_widest_that_all_cores_have():
    assert describe_host("x86_64", _cpuinfo("sse4_1 avx2 avx512f", "sse4_1 avx2")).isa == "avx2"


def test_isa_is_neon_on_aarch64_and_generic_without_flags():
    assert describe_host("aarch64", "processor\t: 0\nFeatures\t: fp asimd\n").isa == "neon"
    assert describe_host("x86_64", "").isa == "generic"


@pytest.mark.parametrize(("revision", "jetpack"), [("4.3", "6.2"), ("4.4", "6.2.1"), ("3.0", "6.0"), ("99.1", None)])
def test_jetpack_follows_from_the_release(revision, jetpack):
    host = describe_host("aarch64", "", _ORIN.format(revision))
    assert host.jetpack == jetpack
    assert host.sm is None


def test_jetpack_is_none_without_a_jetson_release():
    assert describe_host("x86_64", "", None).jetpack is None
    assert describe_host("x86_64", "", "something else").jetpack is None


def test_files_are_read(tmp_path):
    (tmp_path / "cpuinfo").write_text(_cpuinfo("sse4_1 avx2"))
    (tmp_path / "release").write_text(_ORIN.format("4.3"))
    host = probe_host(tmp_path / "cpuinfo", tmp_path / "release")
    assert host.arch == platform.machine()
    assert host.jetpack == "6.2"
    assert probe_host(tmp_path / "absent", tmp_path / "absent").jetpack is None


def test_host_reports_usable_cores_and_available_memory(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       24576000 kB\nMemFree:  1 kB\nMemAvailable:   2049000 kB\n")
    host = probe_host(meminfo=meminfo)
    assert (host.cpus, host.memory_mb) == (len(os.sched_getaffinity(0)), 2000)
    assert probe_host(meminfo=tmp_path / "absent").memory_mb == 0
    assert probe_host().memory_mb > 0


def test_capabilities_of_this_machine_fit_an_engine_name():
    host = probe_host()
    name = EngineName.on_host("m", host, RUNTIMES.named("openvino"), "1.0", "fp32", gpu=False)
    assert EngineName.parse(str(name)).isa == host.isa


def _for_tensorrt(host, version):
    return str(EngineName.on_host("m", host, RUNTIMES.named("tensorrt"), version, "fp16", gpu=True))


class _Nvml:
    """The functions of pynvml that the adapter calls."""

    class NVMLError(Exception):
        pass

    def __init__(self, *gpus, fails=""):
        self._gpus, self._fails, self.open = gpus, fails, 0

    def _fail_if_asked(self, name):
        if name == self._fails:
            raise self.NVMLError(name)

    def nvmlInit(self):  # noqa: N802 - NVML's names
        self._fail_if_asked("init")
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return b"580.95.05"

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self._gpus)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return self._gpus[index]

    def nvmlDeviceGetCudaComputeCapability(self, handle):  # noqa: N802
        self._fail_if_asked("capability")
        return handle[1]

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return handle[0]


def test_gpus_are_listed_and_nvml_is_shut_down():
    nvml = _Nvml(("NVIDIA RTX A2000", (8, 6)), (b"NVIDIA H200", (9, 0)))
    assert probe_gpus(nvml) == (
        Gpu("NVIDIA RTX A2000", "86", "580.95.05"),
        Gpu("NVIDIA H200", "90", "580.95.05"),
    )
    assert nvml.open == 0


@pytest.mark.parametrize("fails", ["init", "capability"])
def test_a_driver_that_does_not_answer_counts_as_no_gpu(fails):
    nvml = _Nvml(("x", (8, 6)), fails=fails)
    assert probe_gpus(nvml) == ()
    assert nvml.open == 0


def test_sm_is_that_of_the_first_gpu(tmp_path):
    absent = tmp_path / "absent"
    host = probe_host(absent, absent, absent, _Nvml(("a", (12, 0)), ("b", (8, 6))))
    assert (host.sm, host.jetpack) == ("120", None)
    assert (host.gpu, host.driver) == ("a", "580.95.05")
    assert _for_tensorrt(host, "11.4") == "m__sm120_jpnone_trt11.4_fp16.engine"


def test_sm_of_an_orin_is_that_of_its_chip(tmp_path):
    (tmp_path / "release").write_text(_ORIN.format("4.3"))
    (tmp_path / "compatible").write_bytes(b"nvidia,p3737-0000+p3701-0000\0nvidia,p3701-0000\0nvidia,tegra234\0")
    host = probe_host(tmp_path / "absent", tmp_path / "release", tmp_path / "compatible", _Nvml(fails="init"))
    assert (host.sm, host.jetpack) == ("87", "6.2")
    assert (host.gpu, host.driver) == (None, None)
    assert _for_tensorrt(host, "10.3.0") == "m__sm87_jp6.2_trt10.3.0_fp16.engine"
    assert describe_host("aarch64", "", None, "nvidia,tegra9999\0").sm is None
