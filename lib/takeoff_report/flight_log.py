"""The file of the flight recorder: append-only JSON lines that survive a kill, a full disk and a power cut.

A line is a JSON object with its number, counted from 1 without gaps, and a CRC-32 of the object without `crc32`:

    {"event":"verification_passed",...,"number":7,"crc32":"89abcdef"}

A record is appended by one write, then fsync. A writer that is killed during the write leaves one torn line without its
line feed. The next writer then begins a new line, and the reader reports the torn line.

A full file is renamed to `<name>.<number of the next record>`, and a new file begins. If there are more than `keep`
full files, the oldest are removed after the new record is stored, because the newest verdict is the most important. The
numbers of the records show how many were removed.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from takeoff_report.errors import ReportError

MAX_LINE = 2**16
MIN_BYTES = 2 * MAX_LINE
_MAX_TEXT, _MAX_ITEMS = 300, 16
_LINE = re.compile(rb'(\{.*),"crc32":"([0-9a-f]{8})"\}', re.DOTALL)
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Appended(NamedTuple):
    """The number of the appended record, and the names of the files that were removed to make room."""

    number: int
    removed: tuple[str, ...]


class Records(NamedTuple):
    """The content of a flight recorder.

    records: oldest first.
    problems: one sentence for each torn, damaged or missing record.
    removed: number of the oldest records that were removed to make room.
    """

    records: list[dict[str, object]]
    problems: list[str]
    removed: int


def append(path: Path, event: Mapping[str, object], *, max_bytes: int, keep: int) -> Appended:
    """Appends one record and syncs it to the disk.

    Args:
        path: the current file of the recorder.
        event: the record, without `number` and `crc32`.
        max_bytes: the largest size of a file. A record that does not fit begins a new file.
        keep: how many full files are kept.

    Raises:
        ReportError: the record cannot be written. A torn line may be left, as after a kill.
    """
    try:
        with _locked(path.parent, fcntl.LOCK_EX) as folder:
            return _append(folder, path.name, event, max_bytes, keep)
    except OSError as error:
        raise ReportError(f"{path}: the record cannot be written: {error}; free space, or repair the disk") from error


def read(path: Path) -> Records:
    """Reads every record, from the oldest file to the current one.

    Raises:
        ReportError: there are no records, or the files cannot be read.
    """
    log = Records([], [], 0)
    try:
        with _locked(path.parent, fcntl.LOCK_SH) as folder:
            names = [*_full_files(folder, path.name), path.name]
            contents = {name: _content(folder, name) for name in names}
    except OSError as error:
        raise ReportError(f"{path}: the file cannot be read: {error}") from error
    if not any(contents.values()):
        raise ReportError(f"{path}: the file has no records")
    for name, content in contents.items():
        for number, line in enumerate(content.split(b"\n"), 1):
            _add(log, line, f"{name} line {number}")
    first = log.records[0]["number"] if log.records else 1
    return log._replace(removed=int(str(first)) - 1)


def encode(event: Mapping[str, object], number: int) -> bytes:
    """Returns the line of a record, with its line feed. Long texts and lists are cut.

    Raises:
        ReportError: the line would still have more than 64 KiB.
    """
    body = json.dumps(_cut({**event, "number": number}), separators=(",", ":"), allow_nan=False).encode()
    line = body[:-1] + b',"crc32":"%08x"}\n' % zlib.crc32(body)
    if len(line) > MAX_LINE:
        raise ReportError(f"the record has {len(line)} bytes, more than {MAX_LINE}")
    return line


def decode(line: bytes) -> dict[str, object] | None:
    """Returns the record in a line without its line feed, or None if the line is not exactly one valid record."""
    match = _LINE.fullmatch(line)
    if match is None or zlib.crc32(match[1] + b"}") != int(match[2], 16):
        return None
    try:
        value = json.loads(match[1] + b"}")
    except ValueError:
        return None
    return value if isinstance(value, dict) and type(value.get("number")) is int else None


def _append(folder: int, name: str, event: Mapping[str, object], max_bytes: int, keep: int) -> Appended:
    content = _content(folder, name)
    number = _last_number(folder, name, content) + 1
    line = encode(event, number)
    if content and not content.endswith(b"\n"):
        line = b"\n" + line
    if content and len(content) + len(line) > max_bytes:
        os.rename(name, f"{name}.{number:012d}", src_dir_fd=folder, dst_dir_fd=folder)
        line = line.lstrip(b"\n")
    descriptor = os.open(name, _APPEND, 0o644, dir_fd=folder)
    try:
        _write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.fsync(folder)
    full = _full_files(folder, name)
    removed = full[: max(len(full) - keep, 0)]
    for old in removed:
        os.unlink(old, dir_fd=folder)
    return Appended(number, tuple(removed))


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _last_number(folder: int, name: str, content: bytes) -> int:
    """Returns the number of the last valid record, or 0 if there is none. content: of the current file."""
    for text in (content, *(_content(folder, old) for old in reversed(_full_files(folder, name)))):
        for line in reversed(text.split(b"\n")):
            record = decode(line)
            if record is not None:
                return int(str(record["number"]))
    return 0


def _add(log: Records, line: bytes, where: str) -> None:
    record = decode(line)
    if record is None:
        if line:
            log.problems.append(f"{where} is torn or damaged ({len(line)} bytes)")
        return
    number = int(str(record["number"]))
    expected = int(str(log.records[-1]["number"])) + 1 if log.records else number
    if number != expected:
        log.problems.append(f"{where} has number {number} instead of {expected}")
    log.records.append(record)


def _full_files(folder: int, name: str) -> list[str]:
    pattern = re.compile(re.escape(name) + r"\.\d{12}")
    return sorted(other for other in os.listdir(folder) if pattern.fullmatch(other))


def _content(folder: int, name: str) -> bytes:
    try:
        descriptor = os.open(name, _READ, dir_fd=folder)
    except FileNotFoundError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ReportError(f"{name} is not a regular file")
        return file.read()


def _cut(value: object) -> object:
    if isinstance(value, str):
        return value if len(value) <= _MAX_TEXT else value[:_MAX_TEXT] + " [cut]"
    if isinstance(value, Mapping):
        return {name: _cut(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cut(item) for item in value[:_MAX_ITEMS]]
    return value


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[int]:
    """Locks the folder and yields its descriptor. The kernel releases the lock when the process ends.

    how: LOCK_EX for writers, LOCK_SH for readers.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, how)
        yield descriptor
    finally:
        os.close(descriptor)
