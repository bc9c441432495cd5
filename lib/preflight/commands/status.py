"""`doit status`: the generations of a cache root, what they are for, who signed them, how long they hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

from preflight.commands.sign import Awaited
from preflight.report.table import plain_text, size_text
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import Generation, Generations
from preflight.trace.digests import DigestCache
from takeoff import envelope
from takeoff import manifest as format_
from takeoff.errors import VerificationError
from takeoff.names import ENVELOPE, MANIFEST


@dataclass(frozen=True, slots=True)
class GenerationStatus:
    """One generation. mark: current, previous or nothing. fault: why its manifest cannot be read, else None."""

    name: str
    mark: str
    tiles: int
    flight_id: str | None
    signer: str
    signing_mode: str
    valid_until: str
    size: int
    fault: str | None


def read_status(layout: CacheLayout) -> list[GenerationStatus]:
    """Every generation, ascending. Nothing is hashed: only `doit verify` says whether a cache is intact."""
    generations = Generations(layout, DigestCache(None))
    marks = {
        generation.path: mark
        for mark, generation in (("previous", generations.previous()), ("current", generations.current()))
        if generation is not None
    }
    return [_read(generation, marks.get(generation.path, "")) for generation in generations.all()]


def _read(generation: Generation, mark: str) -> GenerationStatus:
    size = sum(path.stat().st_size for path in generation.path.rglob("*") if path.is_file())
    name = generation.path.name
    try:
        manifest = format_.decode((generation.path / MANIFEST).read_bytes())
        signer = envelope.decode((generation.path / ENVELOPE).read_bytes(), format_.MAX_BYTES * 2).keyid
    except (OSError, VerificationError) as error:
        return GenerationStatus(name, mark, 0, None, "", "", "", size, str(error))
    return GenerationStatus(
        name=name,
        mark=mark,
        tiles=manifest.identity.corpus.tile_count,
        flight_id=manifest.identity.flight_id,
        signer=signer,
        signing_mode=manifest.signing_mode,
        valid_until=datetime.fromtimestamp(manifest.valid_until, timezone.utc).isoformat(timespec="minutes"),
        size=size,
        fault=None,
    )


def status_json(
    layout: CacheLayout, mission: str, found: list[GenerationStatus], awaited: Awaited | None = None
) -> str:
    """For programs."""
    generations = [{name: getattr(item, name) for name in item.__slots__} for item in found]
    value = {
        "mission": mission,
        "cache_root": str(layout.root),
        "generations": generations,
        "awaited": None if awaited is None else {name: getattr(awaited, name) for name in awaited.__slots__},
    }
    return json.dumps(value)


def status_text(
    layout: CacheLayout, mission: str, found: list[GenerationStatus], awaited: Awaited | None = None, *, width: int
) -> str:
    """For people."""
    parts = [f"mission    {mission}\ncache root {layout.root}"]
    if found:
        parts.append(_table(found, width))
    elif awaited is None:
        parts.append("no generation yet: run doit provision")
    else:
        parts.append("no generation yet")
    return "\n".join(parts if awaited is None else [*parts, *_awaited_lines(awaited)])


def _table(found: list[GenerationStatus], width: int) -> str:
    from rich import box  # noqa: PLC0415 - only this command's output needs it
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in ("generation", "", "tiles", "flight", "signed by", "valid until (UTC)", "size"):
        table.add_column(column)
    for item in found:
        signer = f"{item.signer[:12]} ({item.signing_mode})" if item.fault is None else f"unreadable: {item.fault}"
        until = item.valid_until.replace("T", " ").removesuffix("+00:00")
        table.add_row(
            item.name, item.mark, f"{item.tiles:,}", item.flight_id or "none", signer, until, size_text(item.size)
        )
    return plain_text(table, width=width).strip("\n")


def _awaited_lines(awaited: Awaited) -> Iterator[str]:
    facts = awaited.facts
    state = "has its signature" if awaited.signed else "waits for its signature"
    if awaited.problem is not None:
        yield f"waits      {awaited.problem}"
    else:
        what = f"generation {facts['generation']} for flight {facts['flight_id']}, written {facts['issued_at']}"
        yield f"waits      {what}, {state} by {facts['signer'][:12]}"
    yield f"next       {awaited.next}"
