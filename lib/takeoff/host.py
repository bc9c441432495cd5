"""This machine, as its kernel describes it: which engines it can load."""

# ruff: noqa: PTH123 - start-up time: no pathlib here
from __future__ import annotations

import os
from typing import NamedTuple

X86 = {
    "avx512amx": frozenset({"avx512f", "amx_tile"}),
    "avx512bf16": frozenset({"avx512f", "avx512_bf16"}),
    "avx512": frozenset({"avx512f"}),
    "avx2": frozenset({"avx2"}),
    "sse4": frozenset({"sse4_1"}),
    "generic": frozenset[str](),
}
"""Instruction set of a manifest -> the flags of /proc/cpuinfo that it needs, widest first. bf16 has a name of its own,
because an engine that was compiled for a CPU with bf16 does not run on one without."""

TEGRAS = {"nvidia,tegra194": "72", "nvidia,tegra234": "87"}
"""Chip in a Jetson's device tree -> compute capability of its GPU, from NVIDIA's table of CUDA GPUs."""


class Host(NamedTuple):
    """A machine. flags: the CPU flags of every core. sm: compute capability of its GPU, such as 87; None if unknown."""

    arch: str
    flags: frozenset[str]
    sm: str | None = None

    def runs(self, isa: str) -> bool:
        """Whether the CPU has an instruction set, given by its name in a manifest. False for an unknown name."""
        if self.arch == "aarch64":
            return isa == "neon"  # part of the architecture
        return isa in X86 and X86[isa] <= self.flags


def probe(cpuinfo: str = "/proc/cpuinfo", compatible: str = "/proc/device-tree/compatible") -> Host:
    """Returns this machine. A flag or GPU that cannot be read counts as absent: a cache that needs it is refused."""
    lines = _text(cpuinfo).splitlines()
    cores = [frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")]
    sm = next((TEGRAS[chip] for chip in _text(compatible).split("\0") if chip in TEGRAS), None)
    return Host(os.uname().machine, frozenset.intersection(*cores) if cores else frozenset(), sm)


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
