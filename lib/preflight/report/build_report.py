"""The build report as JSON, with the fields and names of SPEC.md."""

from __future__ import annotations

import json
from dataclasses import asdict

from preflight.records import BuildReport


def report_fields(report: BuildReport) -> dict[str, object]:
    """Return field name -> JSON value."""
    return asdict(report)


def encode_report(report: BuildReport) -> bytes:
    """Return the content of work/build_report.json."""
    return (json.dumps(report_fields(report), indent=2) + "\n").encode()
