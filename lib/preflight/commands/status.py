"""`doit status`: shows the generations of a cache root, their flight, their signer and the end of their validity."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

from preflight.commands.sign import Awaited
from preflight.report.table import plain_text, size_text
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import Generation, Generations
from preflight.store.manifests import WRITTEN, read_manifest
from preflight.trace.digests import DigestCache
from takeoff import envelope
from takeoff import manifest as format_
from takeoff.errors import VerificationError
from takeoff.names import ENVELOPE


@dataclass(frozen=True, slots=True)
class GenerationStatus:
    """The state of one generation.

    name: the name of its folder.
    mark: `current`, `previous` or empty.
    tiles: the number of its tiles.
    flight_id: its flight, or None.
    signer: the fingerprint of the key that signed it.
    signing_mode: `dev` or `operator`.
    valid_until: the end of its validity, in UTC and ISO 8601.
    size: its size in bytes.
    fault: why its manifest or envelope cannot be read; None if both can be read.
    other_schema: its manifest schema if this release writes another one; otherwise None.
    """

    name: str
    mark: str
    tiles: int
    flight_id: str | None
    signer: str
    signing_mode: str
    valid_until: str
    size: int
    fault: str | None
    other_schema: str | None = None


def read_status(layout: CacheLayout) -> list[GenerationStatus]:
    """Return the state of every generation, in ascending order. Hashes no file: only `doit verify` detects damage."""
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
    file = read_manifest(generation.path)
    manifest, schema = file.manifest, file.other_schema
    if manifest is None:
        return GenerationStatus(name, mark, 0, None, "", "", "", size, f"the manifest {file.fault}", schema)
    try:
        signer = envelope.decode((generation.path / ENVELOPE).read_bytes(), format_.MAX_BYTES * 2).keyid
    except (OSError, VerificationError) as error:
        return GenerationStatus(name, mark, 0, None, "", "", "", size, f"the envelope cannot be read ({error})", schema)
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
        other_schema=schema,
    )


def status_json(
    layout: CacheLayout, mission: str, found: list[GenerationStatus], awaited: Awaited | None = None
) -> str:
    """Return the state of the cache root as JSON, for programs."""
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
    """Return the state of the cache root as text of at most `width` columns, for people."""
    parts = [f"mission    {mission}\ncache root {layout.root}"]
    if found:
        parts.append(_table(found, width))
        parts += _advice(found)
    elif awaited is None:
        parts.append("no generation yet: run doit provision")
    else:
        parts.append("no generation yet")
    return "\n".join(parts if awaited is None else [*parts, *_awaited_lines(awaited)])


def _table(found: list[GenerationStatus], width: int) -> str:
    from rich import box  # noqa: PLC0415 - only this output needs it
    from rich.table import Table  # noqa: PLC0415 - as above

    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in ("generation", "", "tiles", "flight", "signed by", "valid until (UTC)", "size"):
        table.add_column(column)
    for item in found:
        size = size_text(item.size)
        if item.fault is not None:
            said = f"unreadable: {item.fault}" if item.other_schema is None else f"manifest schema {item.other_schema}"
            table.add_row(item.name, item.mark, "?", "?", said, "?", size)
            continue
        until = item.valid_until.replace("T", " ").removesuffix("+00:00")
        signer = f"{item.signer[:12]} ({item.signing_mode})"
        table.add_row(item.name, item.mark, f"{item.tiles:,}", item.flight_id or "none", signer, until, size)
    return plain_text(table, width=width).strip("\n")


def _advice(found: list[GenerationStatus]) -> Iterator[str]:
    """Yield advice about generations with another schema, or that cannot be read."""
    others = sum(item.other_schema is not None for item in found)
    if others:
        yield f"schema     {others} of {len(found)} generations have another manifest schema than {WRITTEN} of this release"
    for item in found:
        if item.mark == "current" and item.other_schema is not None:
            yield f"next       doit provision publishes the mission in schema {WRITTEN}; until then current does not change"
        elif item.mark == "current" and item.fault is not None:
            yield "next       doit provision publishes the mission again; doit verify shows what else is damaged"


def _awaited_lines(awaited: Awaited) -> Iterator[str]:
    facts = awaited.facts
    state = "has its signature" if awaited.signed else "waits for its signature"
    if awaited.problem is not None:
        yield f"waits      {awaited.problem}"
    else:
        what = f"generation {facts['generation']} for flight {facts['flight_id']}, written {facts['issued_at']}"
        yield f"waits      {what}, {state} by {facts['signer'][:12]}"
    yield f"next       {awaited.next}"
