"""Chooses the runtime that compiles and runs engines: the one that the mission names. It never falls back to another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from preflight.engine.runtime_choice import InstalledRuntime, RuntimeChoice, RuntimeSetup
from preflight.engine.runtimes import RUNTIMES, Runtime, RuntimeTable
from preflight.errors import EngineBuildError
from preflight.records import HostCapabilities


def runtime_choice(
    name: str,
    host: HostCapabilities | None = None,
    environment: Mapping[str, str] | None = None,
    timings: Path | None = None,
    device: str | None = None,
    runtimes: RuntimeTable = RUNTIMES,
) -> RuntimeChoice:
    """Finds a runtime by its name in the mission. Does not import its library.

    Args:
        name: the name in the mission.
        host: the host whose GPU engines are built for; None for a runtime of the CPU.
        environment: the variables that hold the runtimes' gates; None sets none.
        timings: a folder for TensorRT's timing caches; None keeps none.
        device: the mission's device, for a runtime that takes one.
        runtimes: the known runtimes.

    Raises:
        EngineBuildError: the runtime is unknown, forbidden or not installed, or needs a GPU and the host has none.
    """
    runtime = runtimes.named(name)
    _check_gate(runtime, environment or {})
    gpu = runtime.on_gpu(host, device)
    found = _adapter(runtime)(RuntimeSetup(runtime, host, gpu, timings))
    if gpu and (host is None or host.sm is None):
        raise EngineBuildError(_no_gpu(runtime))
    return RuntimeChoice(runtime, found.version, found.make, gpu)


def _check_gate(runtime: Runtime, environment: Mapping[str, str]) -> None:
    name, gate = runtime.name, runtime.gate
    if gate is None or (value := environment.get(gate, "1")) == "1":
        return
    if value == "0":
        raise EngineBuildError(f"runtime {name} is forbidden here by {gate}=0: set it to 1, or choose another runtime")
    raise EngineBuildError(f"{gate} is {value!r}: set it to 1 to allow the runtime {name}, or to 0 to forbid it")


def _adapter(runtime: Runtime) -> Callable[[RuntimeSetup], InstalledRuntime]:
    """Returns the function `installed` of the runtime's package. Raises EngineBuildError."""
    try:
        found = import_module(runtime.adapter).installed
    except (ImportError, AttributeError) as error:
        raise EngineBuildError(
            f"the runtime {runtime.name} cannot be used: its adapter {runtime.adapter} is not complete ({error}). Install "
            "preflight again, or choose another runtime"
        ) from error
    function: Callable[[RuntimeSetup], InstalledRuntime] = found
    return function


def _no_gpu(runtime: Runtime) -> str:
    asked = "builds for this machine's GPU" if runtime.cuda is None else "is asked for device cuda"
    otherwise = "" if runtime.cuda is None else "; or set device to cpu"
    return (
        f"the runtime {runtime.name} {asked}, and no GPU was found: check the driver with nvidia-smi, and that nvidia-ml-py "
        f"is installed ({runtime.install_command(gpu=True)}){otherwise}"
    )
