"""The flight recorder's file: append-only JSON lines that survive a kill, a full disk and a power cut.

A line is a JSON object with its number, counted from 1 without gaps, and a CRC-32 of what stands before it:

    {"event":"verification_passed",...,"number":7,"crc32":"89abcdef"}

It is appended by one write, then fsync. Who is killed within the write leaves one torn line, without its line feed; the next
writer begins on a new line, and the reader names the torn one. A full file is renamed to `<name>.<number of the record
that comes next>` and a new one begun. When there are more than `keep` of those, the oldest are removed after the new
record is safe: the verdict of now is worth more than the oldest. The numbers show what is gone.
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
    """The record's number, and the files that were removed to make room."""

    number: int
    removed: tuple[str, ...]


class Records(NamedTuple):
    """What a recorder holds, oldest first; what is torn, damaged or missing, in words; how many were removed for room."""

    records: list[dict[str, object]]
    problems: list[str]
    removed: int


def append(path: Path, event: Mapping[str, object], *, max_bytes: int, keep: int) -> Appended:
    """Append one record durably. Raises ReportError; a torn line may then be left, as after a kill."""
    try:
        with _locked(path.parent, fcntl.LOCK_EX) as folder:
            return _append(folder, path.name, event, max_bytes, keep)
    except OSError as error:
        raise ReportError(f"{path}: the record cannot be written: {error}; make room, or mend the disk") from error


def read(path: Path) -> Records:
    """Every record, from the oldest file on. Raises ReportError where nothing can be read."""
    found = Records([], [], 0)
    try:
        with _locked(path.parent, fcntl.LOCK_SH) as folder:
            names = [*_full(folder, path.name), path.name]
            contents = {name: _content(folder, name) for name in names}
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {error}") from error
    if not any(contents.values()):
        raise ReportError(f"{path}: there is no record")
    for name, content in contents.items():
        for number, line in enumerate(content.split(b"\n"), 1):
            _take(found, line, f"{name} line {number}")
    first = found.records[0]["number"] if found.records else 1
    return found._replace(removed=int(str(first)) - 1)


def encode(event: Mapping[str, object], number: int) -> bytes:
    """One line with its line feed. Long texts and lists are cut, so that a line has at most 64 KiB. Raises ReportError."""
    body = json.dumps(_cut({**event, "number": number}), separators=(",", ":"), allow_nan=False).encode()
    line = body[:-1] + b',"crc32":"%08x"}\n' % zlib.crc32(body)
    if len(line) > MAX_LINE:
        raise ReportError(f"the record has {len(line)} bytes, more than {MAX_LINE}")
    return line


def decode(line: bytes) -> dict[str, object] | None:
    """A record; None for what is not exactly one."""
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
    number = _last(folder, name, content) + 1
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
    full = _full(folder, name)
    removed = full[: max(len(full) - keep, 0)]
    for old in removed:
        os.unlink(old, dir_fd=folder)
    return Appended(number, tuple(removed))


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _last(folder: int, name: str, content: bytes) -> int:
    """The number of the last whole record; 0 where there is none."""
    for text in (content, *(_content(folder, old) for old in reversed(_full(folder, name)))):
        for line in reversed(text.split(b"\n")):
            record = decode(line)
            if record is not None:
                return int(str(record["number"]))
    return 0


def _take(found: Records, line: bytes, where: str) -> None:
    record = decode(line)
    if record is None:
        if line:
            found.problems.append(f"{where} is torn or damaged ({len(line)} bytes)")
        return
    number = int(str(record["number"]))
    expected = int(str(found.records[-1]["number"])) + 1 if found.records else number
    if number != expected:
        found.problems.append(f"{where} has number {number} where {expected} comes next")
    found.records.append(record)


def _full(folder: int, name: str) -> list[str]:
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
    """The folder's descriptor, locked against other writers; the kernel frees it when a process dies."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, how)
        yield descriptor
    finally:
        os.close(descriptor)
