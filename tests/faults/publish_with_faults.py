"""Publishes a tiny cache repeatedly, with a fault at the first, second, ... file system call. A test runs it.

usage: publish_with_faults.py FOLDER KIND, where KIND is the name of an errno, `kill before` or `kill after`. Prints
JSON.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import atomicwrites

from preflight.errors import CacheRootError
from preflight.store import atomic
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import Generations
from preflight.trace.digests import DigestCache

OLD = {"engines/same.engine": b"same", "engines/changed.engine": b"old", "index.faiss": b"old index"}
NEW = {"engines/same.engine": b"same", "engines/changed.engine": b"new", "index.faiss": b"new index"}
SMALL = {"manifest.json": b"{}", "SHA256SUMS": b""}
CALLS = ("fsync", "rename", "replace", "link", "symlink", "mkdir", "unlink", "fchmod", "rmdir")


class Faults:
    """Counts file system calls. Call number `at` fails."""

    def __init__(self, kind, at):
        self.kind, self.at, self.count, self.call = kind, at, 0, None

    def wrap(self, name, real):
        def act(*arguments, **more):
            self.count += 1
            if self.count != self.at:
                return real(*arguments, **more)
            self.call = name
            if self.kind == "kill after":
                with suppress(OSError):
                    real(*arguments, **more)
            if self.kind.startswith("kill"):
                os.write(3, name.encode())
                os._exit(137)
            code = getattr(errno, self.kind)
            raise OSError(code, os.strerror(code))

        return act

    def install(self):
        for name in CALLS:
            setattr(os, name, self.wrap(name, getattr(os, name)))
        atomicwrites._proper_fsync = os.fsync
        atomic._write_all = self.wrap("write", atomic._write_all)
        opened = atomic._Writer.get_fileobject

        def open_counted(writer, *arguments, **more):
            return _Counted(opened(writer, *arguments, **more), self)

        atomic._Writer.get_fileobject = open_counted


class _Counted:
    """A file whose `write` can fail."""

    def __init__(self, file, faults):
        self._file = file
        self.write = faults.wrap("write", file.write)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


def open_root(folder):
    layout = CacheLayout(folder)
    return layout, Generations(layout, DigestCache(None, wall_ns=lambda: 1 << 62))


def publish(folder, contents):
    layout, generations = open_root(folder)
    artifacts = {}
    for name, content in contents.items():
        path = layout.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        artifacts[name] = (path, hashlib.sha256(content).hexdigest())
    digest = hashlib.sha256(repr(contents).encode()).hexdigest()
    return lambda: generations.publish(generations.stage(artifacts, SMALL), 1 if contents is OLD else 2, digest)


def content_of(folder):
    """Return which generation `current` is: old, new, or what is wrong with it."""
    _, generations = open_root(folder)
    current = generations.current()
    if current is None:
        return "none"
    found = {
        path.relative_to(current.path).as_posix(): path.read_bytes()
        for path in current.path.rglob("*")
        if path.is_file()
    }
    for name, contents in (("old", OLD), ("new", NEW)):
        if found == {**contents, **SMALL}:
            return name
    return f"damaged: {sorted(found)}"


def attempt(folder, kind, at):
    """Publish once with one fault in a child process. Returns None if there are fewer calls."""
    publish(folder, OLD)()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 3)
        faults = Faults(kind, at)
        act = publish(folder, NEW)
        faults.install()
        ended = "nothing raised"
        try:
            act()
        except CacheRootError:
            ended = "CacheRootError"
        except BaseException as error:  # noqa: BLE001 - reported to the test
            ended = repr(error)
        os.write(3, f"{faults.call}|{ended}".encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        call, _, ended = pipe.read().decode().partition("|")
    if call == "None":
        return None
    killed = os.waitstatus_to_exitcode(status)
    outcome = {"at": at, "call": call, "ended": ended or killed, "current": content_of(folder)}
    layout, generations = open_root(folder)
    generations.sweep()
    left = list(layout.root.rglob(f"{atomic.TEMPORARY_PREFIX}*"))
    outcome["left over"] = [str(path) for path in (*left, *layout.staging.glob("*"))]
    if outcome["current"] == "old":
        publish(folder, NEW)()
    outcome["after sweep and next run"] = content_of(folder)
    return outcome


def main():
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    outcomes = []
    while (outcome := attempt(folder / str(len(outcomes)), kind, len(outcomes) + 1)) is not None:
        outcomes.append(outcome)
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main()
