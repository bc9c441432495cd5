"""Engines fly on the host they were built for, and a host of which too little is known is refused."""

from __future__ import annotations

import os

import pytest

from preflight.adapters.host import describe_host
from takeoff import host, manifest, policy
from takeoff.host import Host

JETSON = Host("aarch64", frozenset({"fp", "asimd"}), "87")
WIDE = Host("x86_64", frozenset({"sse4_1", "avx2", "avx512f", "avx512_bf16", "amx_tile"}))
NARROW = Host("x86_64", frozenset({"sse4_1", "avx2"}))


def said(target, machine, sm=None):
    return [failure.message for failure in policy.check_host(manifest.Target(*target), machine, sm)]


@pytest.mark.parametrize(
    ("target", "machine", "sm"),
    [
        (("aarch64", "neon", "87", "6.2"), JETSON, None),
        (("aarch64", "neon", "87", "6.2"), JETSON, "87"),
        (("aarch64", "neon", None, "6.2"), JETSON, None),  # engines of the CPU, beside a GPU
        (("x86_64", "avx512amx", None, None), WIDE, None),
        (("x86_64", "avx2", None, None), WIDE, None),
        (("x86_64", "generic", None, None), NARROW, None),
        (("x86_64", "avx2", "89", None), NARROW, "89"),  # its GPU cannot be found out, and is named
        (("riscv64", "generic", None, None), Host("riscv64", frozenset()), None),
        (("anything", "at all", None, None), None, None),  # nobody asked
    ],
)
def test_hosts_that_fit(target, machine, sm):
    assert said(target, machine, sm) == []


@pytest.mark.parametrize(
    ("target", "machine", "sm", "message"),
    [
        (
            ("aarch64", "neon", "87", "6.2"),
            JETSON._replace(sm="72"),
            None,
            "needs SM 87; this host has SM 72",
        ),
        (("aarch64", "neon", "87", "6.2"), JETSON._replace(sm=None), None, "this host has SM unknown"),
        (
            ("aarch64", "neon", "87", "6.2"),
            JETSON._replace(sm="72"),
            "87",
            "this host has SM 72",
        ),  # the chip knows better
        (("x86_64", "avx2", None, None), JETSON, None, "was built for x86_64; this host is aarch64"),
        (("aarch64", "neon", None, None), WIDE, None, "was built for aarch64; this host is x86_64"),
        (("x86_64", "avx512", None, None), NARROW, None, "needs a CPU with avx512"),
        (("x86_64", "avx512bf16", None, None), WIDE._replace(flags=frozenset({"avx512f"})), None, "avx512bf16"),
        (("x86_64", "avx1024", None, None), WIDE, None, "needs a CPU with avx1024"),  # unknown: not passed
        (("aarch64", "sve2", None, None), JETSON, None, "needs a CPU with sve2"),
        (("x86_64", "neon", None, None), WIDE, None, "needs a CPU with neon"),
        (("x86_64", "avx2", None, None), None, "87", "has engines for SM none, not for 87"),
        (("x86_64", "avx2", "89", None), None, "87", "has engines for SM 89, not for 87"),
    ],
)
def test_hosts_that_are_refused(target, machine, sm, message):
    (found,) = said(target, machine, sm)
    assert message in found


def test_everything_that_does_not_fit_is_said():
    assert len(said(("aarch64", "neon", "87", "6.2"), NARROW._replace(sm="89"), "86")) == 3


def test_this_machine_as_its_kernel_tells(tmp_path):
    cpuinfo, compatible = tmp_path / "cpuinfo", tmp_path / "compatible"
    cpuinfo.write_text("processor : 0\nflags\t\t: avx2 avx512f\nprocessor : 1\nflags\t\t: avx2 sse4_1\n")
    compatible.write_bytes(b"nvidia,p3737-0000+p3701-0000\0nvidia,tegra234\0")
    assert host.probe(str(cpuinfo), str(compatible)) == Host(os.uname().machine, frozenset({"avx2"}), "87")
    assert host.probe(str(tmp_path / "no"), str(tmp_path / "no")) == Host(os.uname().machine, frozenset(), None)
    cpuinfo.write_bytes(b"\xff\xfe nothing of the kind")
    compatible.write_bytes(b"raspberrypi,5-model-b\0")
    assert host.probe(str(cpuinfo), str(compatible)) == Host(os.uname().machine, frozenset(), None)


def test_whoever_builds_names_an_instruction_set_that_the_same_machine_runs():
    """The builder's name for a CPU, and the verifier's judgement of that name, are of one table."""
    for flags in ({"avx512f", "amx_tile"}, {"avx512f", "avx512_bf16"}, {"avx512f"}, {"avx2"}, {"sse4_1"}, set()):
        built = describe_host("x86_64", f"flags : {' '.join(flags)}\n")
        assert Host("x86_64", frozenset(flags)).runs(built.isa), built
    assert Host("aarch64", frozenset()).runs(describe_host("aarch64", "").isa)


def test_a_whole_cache_on_another_host(cache, check):
    other = Host("sparc64", frozenset())
    result = check(cache, expect=policy.Expectations(host=other))
    assert [(failure.code, failure.file) for failure in result.failures] == [("host", "manifest.json")]
    assert result.exit_status == 43
    assert check(cache, expect=policy.Expectations(host=host.probe())).outcome == "pass"
