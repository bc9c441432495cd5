"""What a run gets from outside, and its options."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from preflight.engine.runtimes import RUNTIMES, RuntimeTable
from preflight.ports import Clock
from preflight.records import HostCapabilities
from preflight.run.session import Observer
from preflight.signing import Ask
from preflight.stages.descriptors import Progress
from preflight.wiring.verifying import wall_clock


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run."""

    repair: bool = False
    recalibrate: bool = False
    wait: float = 0.0  # seconds to wait for the lock
    progress: Progress | None = None
    observer: Observer | None = None
    cancelled: Callable[[], bool] = lambda: False
    ask: Ask | None = None  # asks for the passphrase of an encrypted key; None if nobody can be asked


@dataclass(frozen=True)
class Surroundings:
    """What a run gets from outside. runtimes: the runtimes that a mission can name."""

    clock: Clock
    environment: Mapping[str, str]
    host: HostCapabilities
    runtimes: RuntimeTable = RUNTIMES

    @classmethod
    def real(cls) -> Surroundings:
        """Returns this machine, with the wall clock."""
        from preflight.adapters.host import installed_nvml, probe_host  # noqa: PLC0415 - loads the driver's library

        return cls(wall_clock, os.environ, probe_host(nvml=installed_nvml()))
