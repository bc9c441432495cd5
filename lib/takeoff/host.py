"""The machine this runs on, as far as its kernel tells: which engines it can load."""

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
"""Widest first: a manifest's instruction set -> the flags of /proc/cpuinfo it needs. bf16 stands apart: what is compiled
for a CPU that has it does not run on one that lacks it."""

TEGRAS = {"nvidia,tegra194": "72", "nvidia,tegra234": "87"}
"""The chip a Jetson's device tree names -> its GPU's compute capability, from NVIDIA's table of CUDA GPUs."""


class Host(NamedTuple):
    """A machine. flags: those that every core has; sm: its GPU's compute capability, such as 87, None where unknown."""

    arch: str
    flags: frozenset[str]
    sm: str | None = None

    def runs(self, isa: str) -> bool:
        """Whether the CPU has an instruction set, by its name in a manifest. One that is not known here it has not."""
        if self.arch == "aarch64":
            return isa == "neon"  # part of the architecture
        return isa in X86 and X86[isa] <= self.flags


def probe(cpuinfo: str = "/proc/cpuinfo", compatible: str = "/proc/device-tree/compatible") -> Host:
    """This machine. What cannot be read is not there: a cache that needs it is refused."""
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
