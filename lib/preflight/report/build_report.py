"""The build report as JSON: SPEC.md's fields under SPEC.md's names."""

from __future__ import annotations

import json
from dataclasses import asdict

from preflight.records import BuildReport


def report_fields(report: BuildReport) -> dict[str, object]:
    """Field name -> value, as JSON takes it."""
    return asdict(report)


def encode_report(report: BuildReport) -> bytes:
    """The content of work/build_report.json."""
    return (json.dumps(report_fields(report), indent=2) + "\n").encode()
