"""provenance.json: the sources of the sealed tiles, their terms of use, and how much of the area they cover.

Format: docs/manifest-format.md. The manifest stage writes it because it is signed, and because it can change without a tile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from preflight.ports import TileMetadataStore
from preflight.records import SourceRecord
from preflight.store.atomic import atomic_write
from preflight.store.cache_layout import CacheLayout
from preflight.trace.record import canonical_json
from preflight.trace.rule import Step

__all__ = ["PROVENANCE_VERSION", "provenance_step"]

PROVENANCE_VERSION = 1


def provenance_step(layout: CacheLayout, store: Callable[[], TileMetadataStore]) -> Step:
    """Returns the step that writes provenance.json. Calls `store` when the step is judged.

    The action key contains the whole content. A source's record does not advance the store's revision. So new terms for
    the same tiles lead to a new manifest and to nothing else.
    """

    def content() -> dict[str, Any]:
        # Read this before opening the store: if nothing is sealed yet, the store is not needed.
        sealed = json.loads(layout.coverage.read_bytes())
        return _content(sealed, store().sources())

    def components() -> Mapping[str, str]:
        found = content()
        sources = {f"source {source['name']}": canonical_json(source).decode() for source in found["sources"]}
        return {"coverage": canonical_json(found["coverage"]).decode(), **sources}

    def build() -> Iterable[Path]:
        atomic_write(layout.provenance, canonical_json(content()) + b"\n")
        return ()

    return Step("provenance", PROVENANCE_VERSION, (), components, (layout.provenance,), build)


def _content(sealed: Mapping[str, Any], records: Iterable[SourceRecord]) -> dict[str, Any]:
    """Returns the content. sealed: coverage.json; its counts by source move to the entries of the sources."""
    origins: dict[str, list[dict[str, str | None]]] = {name: [] for name in sealed["sources"]}
    for record in sorted(records, key=lambda record: (record.name, record.origin)):
        # A source without a sealed tile does not belong to this cache.
        if record.name in origins:
            origins[record.name].append(_origin(record))
    return {
        "coverage": {name: value for name, value in sealed.items() if name != "sources"},
        "sources": [
            {"name": name, "tiles": sealed["sources"][name], "origins": origins[name]} for name in sorted(origins)
        ],
    }


def _origin(record: SourceRecord) -> dict[str, str | None]:
    return {
        "origin": record.origin,
        "terms": record.terms,
        "captured_at": None if record.captured_at is None else _utc(record.captured_at),
        "imported_at": _utc(record.imported_at),
    }


def _utc(moment: datetime) -> str:
    """Formats a time as RFC 3339 in UTC, in whole seconds, rounded down."""
    return moment.astimezone(timezone.utc).replace(microsecond=0, tzinfo=None).isoformat() + "Z"
