"""`doit engines`: what each backbone of the corpus has for an engine, and whether what is missing can be built here."""

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
from preflight.wiring import Assembly, Options, Surroundings, tile_access


@dataclass(frozen=True, slots=True)
class EngineState:
    """One backbone. reused: the next build takes the engine that is there; reasons: why it would not.

    parity: the least cosine, where the gate's report is of this engine. seconds: of the stage's last build, or of the check.
    problem: why it cannot be built here, where that was tried; None where it was not, or where it can.
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
    """What the rule says of each backbone's engine. Takes no lock, changes nothing. Raises EngineBuildError."""
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
    """Build what would not be reused in a folder of its own, which is removed: by the steps of a build, the gate among them.

    Takes no lock, and only reads the cache root: the samples of tiles that gate and calibration need, where they were drawn, and
    the calibration tables. Without samples the gate is left out.
    """
    with tempfile.TemporaryDirectory(prefix="preflight-engines-") as folder:
        tiles = tile_access(mission.tile_root, mission.database)
        job = replace(mission.job, cache_root=Path(folder))
        # No stage is run that asks the tile store: it is never opened.
        assembly = Assembly(job, tiles, surroundings, Options(), demo=False)
        _take_over(CacheLayout(mission.job.cache_root), assembly.layout)
        return [state if state.reused else _tried(assembly, state) for state in states]


def _take_over(there: CacheLayout, here: CacheLayout) -> None:
    """Copy what is drawn and measured once. A hard link would change a time of the file it links to, which costs hashing it.

    Raises:
        EngineBuildError: something of it cannot be copied.
    """
    for old, new in ((there.parity_sample.parent, here.parity_sample.parent), (there.calibration, here.calibration)):
        try:
            if old.is_dir():
                # What a build that runs is still writing is left: it may be gone before it is read.
                shutil.copytree(old, new, ignore=shutil.ignore_patterns(f"{atomic.TEMPORARY_PREFIX}*"))
        except OSError as error:
            raise EngineBuildError(
                f"{old} cannot be copied to {new}: {error}. Free space there, or try again when no build runs"
            ) from error


def _tried(assembly: Assembly, state: EngineState) -> EngineState:
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
        problem = f"{error.filename} is not there: run doit tiles first"
        return replace(state, tried=True, problem=problem, seconds=time.monotonic() - began)
    except (PreflightError, OSError) as error:
        return replace(state, tried=True, problem=str(error), seconds=time.monotonic() - began)
    return replace(state, tried=True, parity=parity, seconds=time.monotonic() - began)


def _run(tracer: Tracer, steps: list[Step]) -> None:
    for step in steps:
        tracer.run(step)


def engines_json(states: list[EngineState]) -> str:
    """For programs: one JSON object on one line."""
    return json.dumps({"engines": [{name: getattr(state, name) for name in state.__slots__} for state in states]})


def engines_text(states: list[EngineState], *, width: int) -> str:
    """For people: a table."""
    from rich import box  # noqa: PLC0415 - only this command's output needs it
    from rich.table import Table  # noqa: PLC0415

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
        table.add_row(state.model, state.engine, _fate(state), parity, seconds, why)
    return plain_text(table, width=width)


def _fate(state: EngineState) -> str:
    if state.reused:
        return "reused"
    if not state.tried:
        return "would be built"
    return "can be built" if state.problem is None else "CANNOT BE BUILT"
