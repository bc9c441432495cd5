"""What this machine can compute with, from the kernel's own words and, for a GPU, the driver's (NVML)."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from preflight.records import HostCapabilities
from takeoff.host import TEGRAS, X86

__all__ = ["Gpu", "describe_host", "installed_nvml", "probe_gpus", "probe_host"]

# NVIDIA's "Jetson Linux" release -> JetPack, from NVIDIA's JetPack archive.
_JETPACKS = {
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
}
_RELEASE = re.compile(r"#\s*R([0-9]+) \(release\), REVISION: ([0-9]+(?:\.[0-9]+)*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: its marketing name, its compute capability without the dot, such as 87, and its driver's version."""

    name: str
    sm: str
    driver: str


def describe_host(
    machine: str,
    cpuinfo: str,
    nv_tegra_release: str | None = None,
    compatible: str | None = None,
    gpus: tuple[Gpu, ...] = (),
) -> HostCapabilities:
    """What a machine can do, from texts.

    machine: platform.machine(). cpuinfo: /proc/cpuinfo. nv_tegra_release: /etc/nv_tegra_release. compatible:
    /proc/device-tree/compatible. None stands for a file that is not there. gpus: as `probe_gpus` found them.

    jetpack is None for a Jetson release that is not known here. sm is the first GPU's, or that of the Jetson's chip; a GPU
    known from its chip alone has neither name nor driver: there the driver is part of the JetPack.
    """
    return HostCapabilities(
        arch=machine,
        isa=_isa(machine, cpuinfo),
        sm=gpus[0].sm if gpus else _tegra_sm(compatible or ""),
        jetpack=None if nv_tegra_release is None else _jetpack(nv_tegra_release),
        gpu=gpus[0].name if gpus else None,
        driver=gpus[0].driver if gpus else None,
    )


def probe_host(
    cpuinfo: Path = Path("/proc/cpuinfo"),
    nv_tegra_release: Path = Path("/etc/nv_tegra_release"),
    compatible: Path = Path("/proc/device-tree/compatible"),
    nvml: Any = None,  # noqa: ANN401 - the pynvml module
    meminfo: Path = Path("/proc/meminfo"),
) -> HostCapabilities:
    """What this machine can do. A file that is not there says nothing, nor does an NVML that is not given."""
    gpus = () if nvml is None else probe_gpus(nvml)
    host = describe_host(platform.machine(), _text(cpuinfo) or "", _text(nv_tegra_release), _text(compatible), gpus)
    return replace(host, cpus=len(os.sched_getaffinity(0)), memory_mb=_available_mb(_text(meminfo) or ""))


def probe_gpus(nvml: Any) -> tuple[Gpu, ...]:  # noqa: ANN401 - the pynvml module, which ships no types
    """The GPUs the driver knows, in the order of their PCI buses; none where there is no driver.

    No CUDA context is made: a process may fork after it.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()  # no driver, or none that answers: the same as no GPU
    try:
        driver = _plain(nvml.nvmlSystemGetDriverVersion())
        return tuple(_gpu(nvml, index, driver) for index in range(nvml.nvmlDeviceGetCount()))
    except nvml.NVMLError:
        return ()  # a Jetson's NVML answers only some of these; its chip says the rest
    finally:
        nvml.nvmlShutdown()


def installed_nvml() -> Any | None:  # noqa: ANN401 - pynvml ships no types
    """The pynvml module of the package nvidia-ml-py; None where it is not installed."""
    try:
        import pynvml  # noqa: PLC0415 - only hosts with a GPU have it
    except ImportError:
        return None
    return pynvml


def _gpu(nvml: Any, index: int, driver: str) -> Gpu:  # noqa: ANN401
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(_plain(nvml.nvmlDeviceGetName(handle)), f"{major}{minor}", driver)


def _plain(text: str | bytes) -> str:
    """Older releases of nvidia-ml-py answer in bytes."""
    return text.decode(errors="replace") if isinstance(text, bytes) else text


def _tegra_sm(compatible: str) -> str | None:
    """The device tree lists what a board is compatible with, each ended by a zero byte."""
    return next((TEGRAS[name] for name in compatible.split("\0") if name in TEGRAS), None)


def _isa(machine: str, cpuinfo: str) -> str:
    if machine == "aarch64":
        return "neon"  # part of the architecture
    flags = _flags(cpuinfo)
    return next(name for name, needed in X86.items() if needed <= flags)


def _flags(cpuinfo: str) -> frozenset[str]:
    """Flags that every core has."""
    cores = [line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith("flags")]
    return frozenset.intersection(*map(frozenset, cores)) if cores else frozenset()


def _jetpack(release: str) -> str | None:
    found = _RELEASE.search(release)
    if found is None:
        return None
    parts = [found[1], *found[2].split(".")]
    return _JETPACKS.get(".".join([*parts, "0"][:3]))


def _available_mb(meminfo: str) -> int:
    """What the kernel thinks can be used without swapping; 0 where it does not say."""
    found = re.search(r"^MemAvailable:\s+([0-9]+) kB$", meminfo, re.MULTILINE | re.ASCII)
    return 0 if found is None else int(found[1]) // 1024


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None
