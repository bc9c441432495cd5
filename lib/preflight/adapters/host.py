"""What this machine can compute with, from the kernel's own words."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from preflight.records import HostCapabilities

__all__ = ["describe_host", "probe_host"]

# Widest first: the name and the /proc/cpuinfo flags it needs. bf16 stands apart because what is compiled for a CPU that
# has it does not run on one that lacks it.
_X86: tuple[tuple[str, frozenset[str]], ...] = (
    ("avx512amx", frozenset({"avx512f", "amx_tile"})),
    ("avx512bf16", frozenset({"avx512f", "avx512_bf16"})),
    ("avx512", frozenset({"avx512f"})),
    ("avx2", frozenset({"avx2"})),
    ("sse4", frozenset({"sse4_1"})),
)
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


def describe_host(machine: str, cpuinfo: str, nv_tegra_release: str | None = None) -> HostCapabilities:
    """What a machine can do, from texts.

    machine: platform.machine(). cpuinfo: /proc/cpuinfo. nv_tegra_release: /etc/nv_tegra_release, None where there is none.
    jetpack is None for a Jetson release that is not known here; sm is not probed yet.
    """
    return HostCapabilities(
        arch=machine,
        isa=_isa(machine, cpuinfo),
        jetpack=None if nv_tegra_release is None else _jetpack(nv_tegra_release),
    )


def probe_host(
    cpuinfo: Path = Path("/proc/cpuinfo"), nv_tegra_release: Path = Path("/etc/nv_tegra_release")
) -> HostCapabilities:
    """What this machine can do. A file that is not there says nothing."""
    return describe_host(platform.machine(), _text(cpuinfo) or "", _text(nv_tegra_release))


def _isa(machine: str, cpuinfo: str) -> str:
    if machine == "aarch64":
        return "neon"  # part of the architecture
    flags = _flags(cpuinfo)
    return next((name for name, needed in _X86 if needed <= flags), "generic")


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


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None
