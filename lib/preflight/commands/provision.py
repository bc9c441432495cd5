"""The text that `doit provision` prints at the end."""

from __future__ import annotations

import json
from datetime import datetime, timezone

from preflight.records import BuildReport
from preflight.report.table import CacheFacts, closing_table
from preflight.run.session import Session
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import Generations
from preflight.store.manifests import read_manifest
from preflight.trace.digests import DigestCache


def closing_text(session: Session, report: BuildReport, *, width: int) -> str:
    """Return the closing table of a successful run. width: the maximum number of columns."""
    return closing_table(
        session.run_log.stages,
        report,
        cache_facts(session.layout),
        seconds=session.seconds,
        next_command="doit verify",
        width=width,
    )


def cache_facts(layout: CacheLayout) -> CacheFacts | None:
    """Return the facts about the current generation; None if there is none that this release can read."""
    current = Generations(layout, DigestCache(None)).current()
    manifest = None if current is None else read_manifest(current.path).manifest
    if current is None or manifest is None:
        return None
    result = json.loads((current.path / "selftest.json").read_bytes())
    known, unknown = result["heading_known"], result["heading_unknown"]
    return CacheFacts(
        generation=current.path.name,
        coverage=json.loads((current.path / "provenance.json").read_bytes())["coverage"],
        units=result["units"],
        recall={
            "known": known["index"]["recall"]["1"],
            "unknown": unknown["index"]["recall"]["1"],
            "thumbnail": known["thumbnail"]["recall"]["1"],
            "chance": known["chance"]["recall"]["1"],
        },
        error_median_m=known["index"]["median_error_m"],
        size=sum(manifest.sizes.values()),
        valid_until=datetime.fromtimestamp(manifest.valid_until, timezone.utc),
        manifest_hash=manifest.manifest_hash,
    )
