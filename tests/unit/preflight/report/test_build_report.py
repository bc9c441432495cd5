from __future__ import annotations

import json

from preflight.records import BuildReport
from preflight.report.build_report import encode_report, report_fields

REPORT = BuildReport(3, 1, 640, "ab" * 32, "success")


def test_the_report_has_the_names_of_the_specification():
    assert json.loads(encode_report(REPORT)) == {
        "engines_built": 3,
        "engines_reused": 1,
        "descriptors_generated": 640,
        "manifest_hash": "ab" * 32,
        "outcome": "success",
        "failure_reason": None,
    }


def test_the_reason_of_a_failure_may_be_in_any_script():
    report = BuildReport(0, 0, 0, None, "failure", "плитка\n640")
    assert json.loads(encode_report(report)) == report_fields(report)


def test_the_file_ends_with_a_newline():
    assert encode_report(REPORT).endswith(b"}\n")
