"""The reporter on a cache that was built and published."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from takeoff_report import arm, flight_log


def report(place, config):
    """Run `takeoff_report verify` as the systemd unit does.

    Returns the status, the verdict, and the events on stderr.
    """
    command = [sys.executable, "-I", "-m", "takeoff_report", "verify", "--config", str(config), "--"]
    verifier = [str(place.current), "--trust", str(place.folder / "trust"), "--floor", str(place.folder / "floor")]
    done = subprocess.run([*command, *verifier], capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout), [json.loads(line[3:]) for line in done.stderr.splitlines()]


def test_the_verdicts_of_a_valid_cache_and_of_one_damaged_before_a_warm_reboot(built, tmp_path):
    log, config = tmp_path / "log.jsonl", tmp_path / "report.json"
    config.write_text(json.dumps({"flight_log": {"path": str(log)}}))
    status, verdict, _ = report(built, config)
    assert (status, verdict["outcome"]) == (0, "pass")
    folders = (str(built.current), str(built.folder / "trust"))
    before = arm.snapshot(*folders)
    index = built.generation / "descriptors.faiss"
    times = index.stat()
    content = bytearray(index.read_bytes())
    content[len(content) // 2] ^= 1
    index.chmod(0o644)
    with index.open("r+b") as file:
        file.write(content)
    index.chmod(0o444)
    os.utime(index, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert arm.snapshot(*folders) != before
    status, verdict, (event,) = report(built, config)
    assert status == verdict["exit_status"] == 33
    assert event["fail_reasons"] == ["[content_hash] descriptors.faiss: its SHA-256 differs from the manifest"]
    assert [record["exit_status"] for record in flight_log.read(log).records] == [0, 33]
