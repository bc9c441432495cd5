"""provenance.json: where the sealed tiles come from and under which terms, and what of the area they cover.

Format: docs/manifest-format.md. Written in the manifest stage, because it is signed, and because it changes where no tile does.
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
    """The step that writes it. store: asked for when the step is judged.

    Its whole content is in its action key: recording where a source comes from does not advance the store's revision, so
    that other terms of the same tiles lead to another manifest and to nothing else.
    """

    def content() -> dict[str, Any]:
        # Before the store is opened: where nothing is sealed yet, there is nothing to ask it.
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
    """sealed: what the seal says of its set (coverage.json); its tiles by source are told with their origins."""
    origins: dict[str, list[dict[str, str | None]]] = {name: [] for name in sealed["sources"]}
    for record in sorted(records, key=lambda record: (record.name, record.origin)):
        # A source of which no tile was sealed is none of this cache's.
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
    """RFC 3339 in UTC, whole seconds, rounded down."""
    return moment.astimezone(timezone.utc).replace(microsecond=0, tzinfo=None).isoformat() + "Z"
