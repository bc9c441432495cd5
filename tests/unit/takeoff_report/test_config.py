"""The configuration is read strictly. The documented examples are valid."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takeoff_report import config
from takeoff_report.errors import ReportError

ROOT = Path(__file__).parents[3]
GOOD = {
    "flight_log": {"path": "/var/lib/x/log", "max_bytes": 200_000, "keep": 1},
    "mavlink": {"endpoint": "udpout:127.0.0.1:14540", "system": 10, "component": 191},
    "arm": {"max_age_s": 30, "valid_for_s": 5},
    "patience_s": 2,
}


def test_a_complete_configuration_is_read():
    made = config.parse(json.dumps(GOOD).encode())
    assert made == config.Config(
        config.FlightLog(Path("/var/lib/x/log"), 200_000, 1),
        config.Mavlink(config.Endpoint("udpout", "127.0.0.1", 14540), 10, 191),
        config.Arm(30, 5),
        2.0,
    )
    assert config.parse(b"{}") == config.Config()


def test_the_documented_examples_are_valid():
    (example,) = re.findall(r"\n    \{.*?\n    \}\n", config.__doc__, re.DOTALL)
    assert config.parse(example.encode()).arm == config.Arm()
    template = json.loads((ROOT / "cache_templates" / "report.json").read_text())
    assert config.parse(json.dumps(template).encode()).mavlink is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("udpin:0.0.0.0:14550", ("udpin", "0.0.0.0", 14550)),  # noqa: S104 - read, not bound
        ("udpout:[::1]:1", ("udpout", "::1", 1)),
        ("serial:/dev/ttyTHS1:921600", ("serial", "/dev/ttyTHS1", 921600)),
    ],
)
def test_endpoints(text, expected):
    endpoint = config.endpoint(text)
    assert (endpoint.kind, endpoint.where, endpoint.number) == expected


@pytest.mark.parametrize("text", ["", "tcp:a:1", "udpout:a", "udpout::1", "udpout:a:70000", "serial:/dev/x", None, 7])
def test_endpoints_that_are_refused(text):
    with pytest.raises(ReportError, match=r"mavlink\.endpoint is"):
        config.endpoint(text)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["more"], 1, "'more'"),
        (["flight_log", "more"], 1, "'more'"),
        (["flight_log"], None, "flight_log is not a JSON object"),
        (["flight_log", "path"], "log", "absolute"),
        (["flight_log", "path"], 1, "absolute"),
        (["flight_log", "max_bytes"], 1000, "max_bytes is 1000"),
        (["flight_log", "max_bytes"], True, "max_bytes is True"),
        (["flight_log", "keep"], 0, "keep is 0"),
        (["mavlink", "system"], 0, "system is 0"),
        (["mavlink", "component"], 256, "component is 256"),
        (["arm", "max_age_s"], 0.5, "max_age_s"),
        (["patience_s"], 0, "patience_s"),
    ],
)
def test_values_that_are_refused(path, value, message):
    changed = json.loads(json.dumps(GOOD))
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    with pytest.raises(ReportError, match=re.escape(message)):
        config.parse(json.dumps(changed).encode())


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"patience_s":1,"patience_s":2}', b"{} " * 40_000, b"\xff", b"[" * 10_000]
)
def test_documents_that_are_refused(data):
    with pytest.raises(ReportError):
        config.parse(data)


@given(st.binary(max_size=60))
def test_any_bytes_give_a_configuration_or_a_report_error(data):
    with contextlib.suppress(ReportError):
        assert isinstance(config.parse(data), config.Config)


def test_a_missing_or_invalid_file_is_named(tmp_path):
    for content in (None, b"["):
        path = tmp_path / "report.json"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ReportError, match=r"report\.json: "):
            config.load(path)
