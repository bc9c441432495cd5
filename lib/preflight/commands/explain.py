"""The output of `doit plan` and `doit why`, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator

from preflight.errors import CommandLineError
from preflight.report.table import plain_text, size_text
from preflight.run.planning import Plan
from preflight.run.session import Explanation, Session


def plan_json(plan: Plan) -> str:
    """Return a plan as a JSON object on one line, for programs."""
    value = {name: getattr(plan, name) for name in plan.__slots__ if name != "stages"}
    value["stages"] = [{"name": s.name, "status": s.status, "reasons": list(s.reasons)} for s in plan.stages]
    return json.dumps(value)


def plan_text(plan: Plan, *, width: int) -> str:
    """Return a plan for people: a table of the stages, then the numbers. width: the maximum number of columns."""
    from rich import box  # noqa: PLC0415 - only this output needs it
    from rich.table import Table  # noqa: PLC0415 - as above

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("why", overflow="fold")
    for stage in plan.stages:
        table.add_row(stage.name, stage.status, "; ".join(_short(reason) for reason in stage.reasons))
    figures = Table(box=None, show_header=False, pad_edge=False)
    time = "unknown before the first build" if plan.seconds is None else f"about {plan.seconds:.0f} s"
    most = "at most " if plan.at_most else ""
    rows = [
        ("tiles", f"{plan.tiles_present:,} of {plan.tiles_expected:,} in the tile store"),
        ("descriptors", f"{most}{plan.units:,} in all, {most}{plan.units_to_embed:,} to embed"),
        ("writes", f"about {size_text(plan.bytes_needed)}, {size_text(plan.bytes_free)} free"),
        ("time", "none" if plan.idle else time),
    ]
    if plan.tiles_to_import:
        rows.insert(
            0, ("import", f"{plan.tiles_to_import:,} tiles of the demo into the empty tile store, before the build")
        )
    for label, text in rows:
        figures.add_row(label, text)
    return plain_text(table, figures, width=width)


def explain(session: Session, task: str) -> list[Explanation]:
    """Return the explanations of the steps of a task.

    Args:
        session: the stages of the mission.
        task: the name of a stage, or of one step, as `doit plan` shows it. `engine` means all stages of this kind, and
            `parity` all steps of this kind.

    Raises:
        CommandLineError: the mission has no such stage or step.
    """
    if stages := _stages(session, task):
        return [item for name in stages for item in session.explain(name)]
    return [item for name in _holding(session, task) for item in session.explain(name) if _is(task, item.step)]


def waiting_for(session: Session, task: str) -> list[str]:
    """Return what will run before a task. Its results may give the task more reasons to run.

    Returns the earlier stages that are not up to date. For a step, it also returns the earlier steps of its stage.
    Raises CommandLineError as `explain` does.
    """
    asked = _stages(session, task)
    own = asked or _holding(session, task)
    before: set[str] = set()
    ahead = list(own)
    while ahead:
        new = set(session.stages[ahead.pop()].after) - before
        before |= new
        ahead += new
    waiting = [name for name in session.stages if name in before and not _current(session, name)]
    return waiting if asked else [*waiting, *(step for name in own for step in _earlier(session, name, task))]


def _is(task: str, name: str) -> bool:
    return task in (name, name.partition(":")[0])


def _stages(session: Session, task: str) -> list[str]:
    return [name for name in session.stages if _is(task, name)]


def _holding(session: Session, task: str) -> list[str]:
    """Return the stages with a step of this name. Raises CommandLineError if there is none."""
    steps = {name: [step.name for step in stage.steps] for name, stage in session.stages.items()}
    found = [name for name, inside in steps.items() if any(_is(task, step) for step in inside)]
    if not found:
        further = [step for inside in steps.values() for step in inside if not _stages(session, step)]
        raise CommandLineError(
            f"{task or 'an empty name'} is no stage or step of this mission. Choose a stage: {', '.join(session.stages)}; or a "
            f"step: {', '.join(further)}"
        )
    return found


def _earlier(session: Session, stage: str, task: str) -> Iterator[str]:
    """Yield the steps of a stage that are not up to date and run before the first one of this name."""
    for item in session.explain(stage):
        if _is(task, item.step):
            return
        if not item.verdict.current:
            yield item.step


def _current(session: Session, name: str) -> bool:
    return all(item.verdict.current for item in session.explain(name))


def why_json(found: list[Explanation], waiting: list[str]) -> str:
    """Return the explanations as a JSON object on one line, for programs. It has the full old and new digests."""
    return json.dumps(
        {
            "after": waiting,
            "steps": [
                {
                    "step": item.step,
                    "current": item.verdict.current,
                    "reasons": list(item.verdict.reasons),
                    "changes": [
                        {"component": change.component, "old": change.old, "new": change.new}
                        for change in item.verdict.changes
                    ],
                    "last_built_because": None if item.last is None else list(item.last.reasons),
                }
                for item in found
            ],
        }
    )


def why_text(found: list[Explanation], waiting: list[str]) -> str:
    """Return the explanations as a few lines for each step, for people."""
    lines = [f"this is the state now; {', '.join(waiting)} will run before and may change it"] if waiting else []
    for item in found:
        lines.append(f"{item.step}: {'up to date' if item.verdict.current else 'will be built'}")
        lines += [f"    {_short(reason)}" for reason in item.verdict.reasons]
        if item.last is not None and item.verdict.current:
            lines += [f"    last built because of {_short(reason)}" for reason in item.last.reasons]
    return "\n".join(lines)


def _short(reason: str) -> str:
    """Shorten digests to 12 digits."""
    return " ".join(word[:12] if len(word) == 64 and word.isalnum() else word for word in reason.split(" "))
