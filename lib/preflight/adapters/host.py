"""Finds out what this machine can compute with: from files of the kernel, and for a GPU from its driver (NVML)."""

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

# Maps a release of NVIDIA's Jetson Linux to a JetPack version. Source: NVIDIA's JetPack archive.
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
    """One GPU.

    name: product name. sm: compute capability without the dot, such as 87. driver: version of the driver.
    """

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
    """Derive the capabilities of a machine from the texts of its files.

    Args:
        machine: the value of platform.machine().
        cpuinfo: the text of /proc/cpuinfo.
        nv_tegra_release: the text of /etc/nv_tegra_release; None without this file.
        compatible: the text of /proc/device-tree/compatible; None without this file.
        gpus: the result of `probe_gpus`.

    Returns:
        The capabilities, without `cpus` and `memory_mb`. jetpack is None for a Jetson release that is not in the table.
        sm is that of the first GPU, or else of the Jetson's chip. A GPU that only its chip identifies has neither name
        nor driver, because the driver of a Jetson is part of its JetPack.
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
    """Find out the capabilities of this machine. A missing file, or no NVML, adds no facts.

    Args:
        cpuinfo: path of the kernel's list of CPUs.
        nv_tegra_release: path of the release file of a Jetson.
        compatible: path of the device tree's list of compatible boards.
        nvml: the pynvml module, or None.
        meminfo: path of the kernel's memory figures.

    Returns:
        The capabilities, with the number of usable CPUs and the available memory in MiB.
    """
    gpus = () if nvml is None else probe_gpus(nvml)
    host = describe_host(platform.machine(), _text(cpuinfo) or "", _text(nv_tegra_release), _text(compatible), gpus)
    return replace(host, cpus=len(os.sched_getaffinity(0)), memory_mb=_available_mb(_text(meminfo) or ""))


def probe_gpus(nvml: Any) -> tuple[Gpu, ...]:  # noqa: ANN401 - the pynvml module, which ships no types
    """Return the GPUs that the driver knows, in the order of their PCI buses; empty without a driver.

    Creates no CUDA context, so the process may fork afterwards.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()  # there is no driver, or it does not answer; both count as no GPU
    try:
        driver = _plain(nvml.nvmlSystemGetDriverVersion())
        return tuple(_gpu(nvml, index, driver) for index in range(nvml.nvmlDeviceGetCount()))
    except nvml.NVMLError:
        return ()  # NVML on a Jetson answers only some of these calls; there the device tree names the chip
    finally:
        nvml.nvmlShutdown()


def installed_nvml() -> Any | None:  # noqa: ANN401 - pynvml ships no types
    """Return the module pynvml of the package nvidia-ml-py; None if it is not installed."""
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
    """Return text as str. Older releases of nvidia-ml-py return bytes."""
    return text.decode(errors="replace") if isinstance(text, bytes) else text


def _tegra_sm(compatible: str) -> str | None:
    """Return the compute capability of a Jetson's chip. The device tree ends each compatible name with a zero byte."""
    return next((TEGRAS[name] for name in compatible.split("\0") if name in TEGRAS), None)


def _isa(machine: str, cpuinfo: str) -> str:
    if machine == "aarch64":
        return "neon"  # part of the architecture
    flags = _flags(cpuinfo)
    return next(name for name, needed in X86.items() if needed <= flags)


def _flags(cpuinfo: str) -> frozenset[str]:
    """Return the flags that all cores have."""
    cores = [line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith("flags")]
    return frozenset.intersection(*map(frozenset, cores)) if cores else frozenset()


def _jetpack(release: str) -> str | None:
    match = _RELEASE.search(release)
    if match is None:
        return None
    parts = [match[1], *match[2].split(".")]
    return _JETPACKS.get(".".join([*parts, "0"][:3]))


def _available_mb(meminfo: str) -> int:
    """Return the memory, in MiB, that the kernel expects to be usable without swapping; 0 if it is not stated."""
    match = re.search(r"^MemAvailable:\s+([0-9]+) kB$", meminfo, re.MULTILINE | re.ASCII)
    return 0 if match is None else int(match[1]) // 1024


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None
