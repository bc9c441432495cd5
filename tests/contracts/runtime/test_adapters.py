"""Each row of the table of runtimes, and its adapter: the adapter must have the properties that the row states."""

from __future__ import annotations

import inspect
import re
from importlib import import_module, metadata
from pathlib import Path
from typing import get_type_hints

import pytest

from preflight.engine.file_names import EngineName
from preflight.engine.runtime_choice import InstalledRuntime, RuntimeSetup
from preflight.engine.runtimes import DEFAULT_RUNTIME, RUNTIMES
from preflight.errors import EngineBuildError
from preflight.ports import ConcurrentRuntime
from preflight.records import HostCapabilities
from preflight.wiring import runtime_choice

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[3]
CPU = HostCapabilities("x86_64", "avx2")
GPU = HostCapabilities("x86_64", "avx2", "86", None, "NVIDIA RTX A2000", "580.95.05")
# Each entry is a row, a device of the mission, and an extra.
SETTINGS = [
    *((row, None, row.extra) for row in RUNTIMES),
    *((row, "cuda", row.cuda.extra) for row in RUNTIMES if row.cuda is not None),
]
every_row = pytest.mark.parametrize("row", RUNTIMES.rows, ids=lambda row: row.name)
every_setting = pytest.mark.parametrize(
    ("row", "device", "extra"), SETTINGS, ids=lambda value: getattr(value, "name", value)
)


@pytest.fixture
def nothing_installed(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)


@pytest.fixture
def all_installed(monkeypatch):
    """The installer's records name every package, but no library is installed."""
    monkeypatch.setattr(metadata, "version", lambda _: "7.1.2")


@every_row
def test_the_adapter_is_a_package_with_the_function(row):
    adapter = import_module(row.adapter)
    assert hasattr(adapter, "__path__")
    assert row.adapter.startswith("preflight.adapters.")
    assert list(inspect.signature(adapter.installed).parameters) == ["setup"]
    assert get_type_hints(adapter.installed) == {"setup": RuntimeSetup, "return": InstalledRuntime}


@every_setting
def test_a_missing_library_names_the_extra(nothing_installed, row, device, extra):
    with pytest.raises(EngineBuildError, match=re.escape(f"pip install -e '.[{extra}]'")):
        runtime_choice(row.name, GPU, {}, None, device)


@every_setting
def test_the_extra_is_one_of_the_package(row, device, extra):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extra.split(",")) <= set(extras)


@every_setting
def test_the_choice_has_the_properties_of_the_row(all_installed, row, device, extra):
    choice = runtime_choice(row.name, GPU, {}, None, device)
    runtime = choice.make()
    assert (choice.name, runtime.name, choice.version) == (row.name, row.name, "7.1.2")
    assert isinstance(runtime, ConcurrentRuntime) == row.concurrent
    name = EngineName.on_host("m", GPU, choice.row, choice.version, row.precisions_on(device)[0], gpu=choice.gpu)
    assert f"_{row.tag}7.1.2_" in str(name)
    assert EngineName.parse(str(name)) == name
    assert (name.sm is not None) == choice.gpu == row.on_gpu(GPU, device)


@every_setting
def test_without_a_gpu_only_runtimes_that_need_none_can_be_chosen(all_installed, row, device, extra):
    if row.on_gpu(CPU, device):
        with pytest.raises(EngineBuildError, match="no GPU was found"):
            runtime_choice(row.name, CPU, {}, None, device)
    else:
        choice = runtime_choice(row.name, CPU, {}, None, device)
        assert (choice.gpu, choice.aside) == (False, row.concurrent)


@pytest.mark.parametrize("row", [row for row in RUNTIMES if row.gate is not None], ids=lambda row: row.name)
def test_the_gate_forbids_only_its_runtime(all_installed, row):
    for other in RUNTIMES:
        environment = {row.gate: "0"}
        if other.gate == row.gate:
            with pytest.raises(EngineBuildError, match=f"runtime {other.name} is forbidden here by {row.gate}=0"):
                runtime_choice(other.name, GPU, environment)
        else:
            assert runtime_choice(other.name, GPU, environment).name == other.name
    assert runtime_choice(row.name, GPU, {row.gate: "1"}).name == row.name


@every_setting
def test_the_manual_lists_the_runtime(row, device, extra):
    """The table in docs/operations.md has a line with its name, extra and precisions."""
    begin = f"| `{row.name}` with `device: {device}`" if device else f"| `{row.name}` "
    manual = (ROOT / "docs" / "operations.md").read_text().splitlines()
    (line,) = (line for line in manual if line.startswith(begin) and (device or "`device: " not in line))
    assert f"`.[{extra}]`" in line
    *_, precisions, _ = line.split("|")
    assert set(re.findall("fp32|fp16|bf16|int8", precisions)) == set(row.precisions_on(device))


def test_the_default_runtime_is_in_the_table_and_runs_anywhere():
    row = RUNTIMES.named(DEFAULT_RUNTIME)
    assert (row.place, row.gate) == ("cpu", None)
    assert "fp32" in row.precisions


def test_no_other_module_contains_the_name_of_a_runtime():
    """Such a module would have to be changed for each new runtime."""
    names = "|".join(re.escape(row.name) for row in RUNTIMES)
    literal = re.compile(rf"""["'](?:{names})["']""")
    lib = ROOT / "lib" / "preflight"
    adapters = [lib / row.adapter.removeprefix("preflight.").replace(".", "/") for row in RUNTIMES]
    found = [
        f"{path.relative_to(lib)}: {line.strip()}"
        for path in sorted(lib.rglob("*.py"))
        if path != lib / "engine" / "runtimes.py" and not any(adapter in path.parents for adapter in adapters)
        for line in path.read_text().splitlines()
        if literal.search(line)
    ]
    # The reference of the parity gate is always ONNX Runtime.
    assert found == [
        'wiring/libraries.py: return installed_version("onnxruntime", _INSTALL, *PACKAGES)',
    ]
