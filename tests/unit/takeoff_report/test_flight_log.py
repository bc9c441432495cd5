"""The flight recorder keeps acknowledged records, reports torn ones, and counts removed ones."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from takeoff_report import flight_log
from takeoff_report.errors import ReportError

ROOMY = {"max_bytes": 2**20, "keep": 2}
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
events = st.dictionaries(st.text(max_size=8).filter(lambda name: name not in ("number", "crc32")), values, max_size=4)
# Each example uses its own folder.
in_folders = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def fresh(tmp_path):
    count = iter(range(10**6))

    def make() -> Path:
        folder = tmp_path / f"log{next(count)}"
        folder.mkdir()
        return folder / "log.jsonl"

    return make


@in_folders
@given(st.lists(events, min_size=1, max_size=5))
def test_appended_records_are_read_back(fresh, several):
    path = fresh()
    for number, event in enumerate(several, 1):
        assert flight_log.append(path, event, **ROOMY) == (number, ())
    expected = [{**event, "number": number} for number, event in enumerate(several, 1)]
    assert flight_log.read(path) == (expected, [], 0)
    assert all(json.loads(line)["number"] for line in path.read_text().splitlines())  # any JSON parser can read a line


@in_folders
@given(st.data())
def test_after_a_write_torn_anywhere_the_next_record_is_whole(fresh, data):
    path = fresh()
    flight_log.append(path, {"event": "one"}, **ROOMY)
    whole = path.read_bytes()
    flight_log.append(path, {"event": "two"}, **ROOMY)
    cut = data.draw(st.integers(len(whole), path.stat().st_size))
    os.truncate(path, cut)
    flight_log.append(path, {"event": "three"}, **ROOMY)
    found = flight_log.read(path)
    names = [record["event"] for record in found.records]
    assert names in (["one", "three"], ["one", "two", "three"])
    torn = len(whole) < cut and "two" not in names
    assert found.problems == ([f"log.jsonl line 2 is torn or damaged ({cut - len(whole)} bytes)"] if torn else [])
    assert [record["number"] for record in found.records] == list(range(1, len(names) + 1))


@in_folders
@given(st.data())
def test_a_changed_byte_is_found(fresh, data):
    path = fresh()
    for number in range(3):
        flight_log.append(path, {"event": f"e{number}"}, **ROOMY)
    before, content = flight_log.read(path).records, bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 2))
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    found = flight_log.read(path)
    assert found.problems
    assert all(record in before for record in found.records)
    assert len(found.records) >= 1


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_not_a_record(line):
    assert flight_log.decode(line) is None


@pytest.mark.parametrize("body", [b'{"number":"1"', b'{"number":true', b'{"number":1,]', b'{"a":1'])
def test_a_line_with_a_correct_checksum_but_no_number_is_not_a_record(body):
    import zlib

    assert flight_log.decode(body + b',"crc32":"%08x"}' % zlib.crc32(body + b"}")) is None


def test_a_full_file_gives_way_and_only_the_oldest_are_removed(fresh):
    path, event = fresh(), {"event": "x" * 200, "more": ["y" * 300] * 16}
    removed = []
    for number in range(1, 201):
        done = flight_log.append(path, event, max_bytes=flight_log.MIN_BYTES, keep=2)
        assert done.number == number
        removed += done.removed
    files = sorted(other.name for other in path.parent.iterdir())
    assert len(files) == 3
    assert all(other.stat().st_size <= flight_log.MIN_BYTES for other in path.parent.iterdir())
    found = flight_log.read(path)
    assert found.problems == []
    assert found.removed == found.records[0]["number"] - 1 > 0
    assert [record["number"] for record in found.records] == list(range(found.removed + 1, 201))
    assert len(removed) == len(set(removed)) > 0


def test_a_kill_between_renaming_and_writing_loses_nothing(fresh):
    path = fresh()
    for _ in range(3):
        flight_log.append(path, {"event": "e"}, **ROOMY)
    path.rename(path.with_name("log.jsonl.000000000004"))
    assert [record["number"] for record in flight_log.read(path).records] == [1, 2, 3]
    assert flight_log.append(path, {"event": "e"}, **ROOMY).number == 4
    assert flight_log.read(path).problems == []


def test_a_missing_file_in_the_middle_is_said(fresh):
    path = fresh()
    for number in range(1, 7):
        flight_log.append(path, {"event": "e"}, **ROOMY)
        if number % 2 == 0 and number < 6:
            path.rename(path.with_name(f"log.jsonl.{number + 1:012d}"))
    path.with_name("log.jsonl.000000000005").unlink()
    assert flight_log.read(path).problems == ["log.jsonl line 1 has number 5 instead of 3"]


WRITER = """
import sys
from pathlib import Path
from takeoff_report import flight_log
for turn in range(int(sys.argv[2])):
    done = flight_log.append(Path(sys.argv[1]), {"event": "e", "more": "z" * 200}, max_bytes=2**20, keep=1000)
    print(done.number, flush=True)
"""


def writer(path, turns, **options):
    command = [sys.executable, "-I", "-c", WRITER, str(path), str(turns)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def test_a_kill_leaves_at_most_one_torn_line_and_every_acknowledged_record(fresh):
    path, acknowledged = fresh(), []
    for kills, after in enumerate((1, 3, 8), 1):
        process = writer(path, 10**6)
        with process:
            acknowledged += [int(process.stdout.readline()) for _ in range(after)]
            process.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in process.stdout if line.endswith("\n")]
        assert len(flight_log.read(path).problems) <= kills
    found = flight_log.read(path)
    assert set(acknowledged) <= {record["number"] for record in found.records}
    assert flight_log.append(path, {"event": "last"}, **ROOMY).number == found.records[-1]["number"] + 1


def test_concurrent_writers_share_one_sequence_of_numbers(fresh):
    path = fresh()
    processes = [writer(path, 25), writer(path, 25)]
    numbers = [int(line) for process in processes for line in process.communicate(timeout=60)[0].split()]
    assert sorted(numbers) == list(range(1, 51))
    assert flight_log.read(path).problems == []


def test_a_write_that_the_system_cuts_short_is_said_and_the_next_is_whole(fresh):
    """With a file size limit, the kernel writes what fits and then fails, as on a full disk."""
    path = fresh()
    flight_log.append(path, {"event": "one"}, **ROOMY)
    limit = path.stat().st_size + 20
    program = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom takeoff_report import errors, flight_log\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try:\n    flight_log.append(Path(sys.argv[1]), {'event': 'two'}, max_bytes=2**20, keep=2)\n"
        "except errors.ReportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program, path], capture_output=True, text=True, check=True)
    assert "the record cannot be written" in done.stdout
    assert path.stat().st_size == limit
    flight_log.append(path, {"event": "three"}, **ROOMY)
    found = flight_log.read(path)
    assert [record["event"] for record in found.records] == ["one", "three"]
    assert found.problems == ["log.jsonl line 2 is torn or damaged (20 bytes)"]


def test_a_link_or_a_pipe_is_not_written_to(fresh):
    path = fresh()
    (path.parent / "target").write_text("mine")
    path.symlink_to("target")
    with pytest.raises(ReportError, match="cannot be written"):
        flight_log.append(path, {"event": "e"}, **ROOMY)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ReportError, match="not a regular file"):
        flight_log.append(path, {"event": "e"}, **ROOMY)
    assert (path.parent / "target").read_text() == "mine"


def test_a_missing_folder_is_reported(tmp_path):
    for step in (lambda path: flight_log.append(path, {}, **ROOMY), flight_log.read):
        with pytest.raises(ReportError, match="No such file"):
            step(tmp_path / "none" / "log.jsonl")
    with pytest.raises(ReportError, match="the file has no records"):
        flight_log.read(tmp_path / "log.jsonl")


def test_long_texts_are_cut_and_a_record_has_at_most_64_kib():
    event = {f"name{number}": "\x00" * 10_000 for number in range(20)}
    assert len(flight_log.encode(event, 1)) <= flight_log.MAX_LINE
    with pytest.raises(ReportError, match="more than"):
        flight_log.encode({f"name{number}": ["\x00" * 300] * 16 for number in range(5)}, 1)


def test_readers_wait_for_a_writer(fresh):
    """The folder is locked, so that a reader never sees a record that is being appended as torn."""
    path = fresh()
    flight_log.append(path, {"event": "e"}, **ROOMY)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with flight_log._locked(path.parent, fcntl.LOCK_SH | fcntl.LOCK_NB):
            pytest.fail("the lock is free")
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)
