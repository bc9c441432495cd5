"""The systemd units: their commands exist, they fit together, and systemd accepts them."""

from __future__ import annotations

import configparser
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from takeoff import command_line as verifier
from takeoff_report import command_line, config

TEMPLATES = Path(__file__).parents[3] / "cache_templates"
UNITS = ["preflight-verify.service", "preflight-arm.service", "preflight-flight.service"]
OURS = UNITS[:2]


class Settings(dict):
    """Keeps every value of a repeated setting."""

    def __setitem__(self, name, value):
        super().__setitem__(name, [*self[name], *value] if isinstance(value, list) and name in self else value)


def unit(name):
    """Returns section -> setting -> list of values."""
    parser = configparser.RawConfigParser(dict_type=Settings, strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str
    parser.read_string((TEMPLATES / name).read_text().replace("\\\n", " "))
    return {section: {key: value.splitlines() for key, value in parser.items(section)} for section in parser.sections()}


def command(name):
    (line,) = unit(name)["Service"]["ExecStart"]
    return shlex.split(line)


def verifier_arguments(name):
    """Returns the arguments after `--`, which go to the verifier."""
    return command(name)[command(name).index("--") + 1 :]


@pytest.mark.parametrize("name", OURS)
def test_the_command_is_valid_for_reporter_and_verifier(name):
    python, *options = command(name)
    assert python == "/opt/preflight/bin/python"
    assert options[:3] == ["-I", "-m", "takeoff_report"]
    assert options[4 : options.index("--")] == ["--config", "/etc/preflight/report.json"]
    parsed = verifier.parse(verifier_arguments(name))
    assert (parsed.cache, parsed.trust) == ("/srv/preflight/cache/current", "/etc/preflight/trust")
    assert parsed.floor is not None
    assert parsed.timeout is not None


def test_the_reporter_accepts_the_commands_of_the_units(monkeypatch):
    calls = []
    for name in ("verify", "authorise"):
        monkeypatch.setattr(command_line, name, lambda path, rest, name=name: calls.append((name, path, rest)) or 0)
    for name in OURS:
        assert command_line.main(command(name)[4:]) == 0
    assert [(name, str(path)) for name, path, _ in calls] == [
        ("verify", "/etc/preflight/report.json"),
        ("authorise", "/etc/preflight/report.json"),
    ]


def test_both_units_verify_with_equal_arguments():
    """Cache, trust and floor are equal: the arm service must not be more lenient than the verification."""
    assert verifier_arguments(OURS[0]) == verifier_arguments(OURS[1])


def test_the_flight_unit_starts_only_after_a_verification_of_its_own():
    flight, verify = unit("preflight-flight.service")["Unit"], unit("preflight-verify.service")
    assert flight["Requires"] == ["preflight-verify.service"]
    assert "preflight-verify.service" in flight["After"]
    # With RemainAfterExit, one verification would count for every later start, also after a warm reboot.
    assert verify["Service"]["Type"] == ["oneshot"]
    assert "RemainAfterExit" not in verify["Service"]
    assert "SuccessExitStatus" not in verify["Service"]
    assert not any(line.startswith("-") for line in verify["Service"]["ExecStart"])
    assert "Install" not in verify
    assert unit("preflight-flight.service")["Install"]["WantedBy"] == ["multi-user.target"]


@pytest.mark.parametrize("name", OURS)
def test_the_timeout_of_systemd_is_longer_than_that_of_the_verifier(name):
    parsed = verifier.parse(verifier_arguments(name))
    (limit,) = unit(OURS[0])["Service"]["TimeoutStartSec"]
    made = config.parse((TEMPLATES / "report.json").read_bytes())
    assert parsed.timeout + made.patience_s < int(limit)


def test_the_units_may_write_where_the_example_configuration_writes():
    made = config.parse((TEMPLATES / "report.json").read_bytes())
    for name in OURS:
        service = unit(name)["Service"]
        (state,) = service["StateDirectory"]
        assert str(made.flight_log.path).startswith(f"/var/lib/{state}/")
        assert service["ProtectSystem"] == ["strict"]
        assert service["NoNewPrivileges"] == ["yes"]
        assert "ProcSubset" not in service  # it would hide /proc/cpuinfo, which the verifier needs to identify the host
        assert service["CapabilityBoundingSet"] == [""] or service["CapabilityBoundingSet"] == []
    assert json.loads((TEMPLATES / "report.json").read_text())["arm"]


@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_it(name, tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    for other in UNITS:
        # Replace the programs, which do not exist here: systemd requires executable files.
        text = (TEMPLATES / other).read_text()
        text = text.replace("/opt/preflight/bin/python", sys.executable).replace(
            "/opt/flight/bin/place-recognition", "/bin/true"
        )
        (tmp_path / other).write_text(text)
    done = subprocess.run([analyze, "verify", tmp_path / name], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_refuses_a_mistake(tmp_path):
    """Shows that the test above can fail."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    text = (TEMPLATES / UNITS[0]).read_text().replace("Type=oneshot", "Type=onceshot")
    (tmp_path / UNITS[0]).write_text(text)
    done = subprocess.run([analyze, "verify", tmp_path / UNITS[0]], capture_output=True, text=True, check=False)
    assert done.stderr
