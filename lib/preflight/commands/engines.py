"""`doit engines`: shows which engines of the backbones can be reused, and whether this host can build the others."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from preflight.errors import EngineBuildError, PreflightError
from preflight.mission.loading import Mission
from preflight.report.table import plain_text
from preflight.run.rates import read_rates
from preflight.run.session import Explanation, Session
from preflight.stages.parity_gate import parity_path
from preflight.store import atomic
from preflight.store.cache_layout import CacheLayout
from preflight.trace.digests import DigestCache
from preflight.trace.rule import Step, Tracer
from preflight.wiring import Assembly, Options, Surroundings, assemble_job, tile_access


@dataclass(frozen=True, slots=True)
class EngineState:
    """The state of one backbone's engine.

    model: the name of the backbone.
    engine: the file name of the engine.
    reused: whether the next build reuses the existing engine.
    reasons: why it does not; empty if it does.
    parity: the smallest cosine in the parity report; None if there is no report of this engine.
    seconds: how long the last build of the stage took, or the trial build.
    tried: whether a trial build ran.
    problem: why the trial build failed; None if it succeeded or did not run.
    """

    model: str
    engine: str
    reused: bool
    reasons: tuple[str, ...]
    parity: str | None
    seconds: float | None
    tried: bool = False
    problem: str | None = None


def read_engines(assembly: Assembly, session: Session) -> list[EngineState]:
    """Return the state of each backbone's engine. Takes no lock and changes nothing. Raises EngineBuildError."""
    rates = read_rates(assembly.layout)
    found = []
    for spec in assembly.job.backbones:
        stage = f"engine:{spec.model_name}"
        *before, gate = session.explain(stage)
        reasons = tuple(dict.fromkeys(_reasons(before)))
        report = parity_path(spec, assembly.layout)
        measured = gate.verdict.current and not reasons
        found.append(
            EngineState(
                spec.model_name,
                str(assembly.compiler.name(spec)),
                reused=not reasons,
                reasons=reasons,
                parity=json.loads(report.read_bytes())["cosine_min"] if measured else None,
                seconds=rates.get(stage, {}).get("seconds"),
            )
        )
    return found


def _reasons(steps: list[Explanation]) -> Iterator[str]:
    for item in steps:
        yield from item.verdict.reasons


def check_engines(mission: Mission, surroundings: Surroundings, states: list[EngineState]) -> list[EngineState]:
    """Try to build each engine that cannot be reused, in a temporary folder that is then removed.

    Runs the steps of a real build, with the parity gate if the cache root has a sample of tiles for it. Takes no lock
    and only reads the cache root: the samples of tiles for parity gate and calibration, and the calibration tables.

    Args:
        mission: the mission.
        surroundings: the host and its libraries.
        states: the states of the backbones' engines.

    Returns:
        The states, with the result of each trial build.

    Raises:
        EngineBuildError: the samples or tables cannot be copied.
    """
    with tempfile.TemporaryDirectory(prefix="preflight-engines-") as folder:
        tiles = tile_access(mission.tile_root, mission.database)
        job = replace(mission.job, cache_root=Path(folder))
        # The steps below do not read the tile store. So it is never opened.
        assembly = assemble_job(job, tiles, surroundings, Options())
        _copy_samples(CacheLayout(mission.job.cache_root), assembly.layout)
        return [state if state.reused else _try_build(assembly, state) for state in states]


def _copy_samples(source: CacheLayout, target: CacheLayout) -> None:
    """Copy the samples of tiles and the calibration tables.

    A hard link would change the ctime of the original file. Then the next build would have to hash that file again.

    Raises:
        EngineBuildError: a folder cannot be copied.
    """
    folders = (
        (source.parity_sample.parent, target.parity_sample.parent),
        (source.calibration, target.calibration),
    )
    for old, new in folders:
        try:
            if old.is_dir():
                # A build may be running. Its temporary files may vanish while they are copied.
                shutil.copytree(old, new, ignore=shutil.ignore_patterns(f"{atomic.TEMPORARY_PREFIX}*"))
        except OSError as error:
            raise EngineBuildError(
                f"{old} cannot be copied to {new}: {error}. Free space there, or try again when no build runs"
            ) from error


def _try_build(assembly: Assembly, state: EngineState) -> EngineState:
    layout = assembly.layout
    (spec,) = (spec for spec in assembly.job.backbones if spec.model_name == state.model)
    *steps, gate = assembly.engine_stage(spec).steps
    tracer = Tracer(DigestCache(None), atomic.atomic_write)
    began = time.monotonic()
    try:
        _run(tracer, steps)
        parity = None
        if layout.parity_sample.is_file():
            _run(tracer, [gate])
            parity = json.loads(parity_path(spec, layout).read_bytes())["cosine_min"]
    except FileNotFoundError as error:
        problem = f"{error.filename} does not exist: run doit tiles first"
        return replace(state, tried=True, problem=problem, seconds=time.monotonic() - began)
    except (PreflightError, OSError) as error:
        return replace(state, tried=True, problem=str(error), seconds=time.monotonic() - began)
    return replace(state, tried=True, parity=parity, seconds=time.monotonic() - began)


def _run(tracer: Tracer, steps: list[Step]) -> None:
    for step in steps:
        tracer.run(step)


def engines_json(states: list[EngineState]) -> str:
    """Return the states as a JSON object on one line, for programs."""
    return json.dumps({"engines": [{name: getattr(state, name) for name in state.__slots__} for state in states]})


def engines_text(states: list[EngineState], *, width: int) -> str:
    """Return the states as a table of at most `width` columns, for people."""
    from rich import box  # noqa: PLC0415 - only this output needs it
    from rich.table import Table  # noqa: PLC0415 - as above

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("backbone", no_wrap=True)
    table.add_column("engine", overflow="fold")
    table.add_column("", no_wrap=True)
    table.add_column("parity", no_wrap=True)
    table.add_column("s", no_wrap=True, justify="right")
    table.add_column("why", overflow="fold")
    for state in states:
        parity = "" if state.parity is None else f"{float(state.parity):.6f}"
        seconds = "" if state.seconds is None else f"{state.seconds:.1f}"
        why = state.problem or "; ".join(state.reasons)
        table.add_row(state.model, state.engine, _status(state), parity, seconds, why)
    return plain_text(table, width=width)


def _status(state: EngineState) -> str:
    if state.reused:
        return "reused"
    if not state.tried:
        return "would be built"
    return "can be built" if state.problem is None else "CANNOT BE BUILT"
