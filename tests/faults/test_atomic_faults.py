"""While a file is replaced, any call may fail. The file is then the old one or the new one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import atomicwrites
import pytest

from preflight.store import atomic
from preflight.store.atomic import TEMPORARY_PREFIX, atomic_path, atomic_write, copy_hashed, replace_symlink

CALLS = ("fsync", "rename", "replace", "symlink", "fchmod", "chmod")


@pytest.fixture
def fail_at(monkeypatch):
    """Make the n-th of the calls below raise an error. Returns a counter that shows whether it was reached."""

    def install(at, code):
        seen = []

        def wrap(name, real):
            def act(*arguments, **more):
                seen.append(name)
                if len(seen) == at:
                    raise OSError(code, os.strerror(code))
                return real(*arguments, **more)

            return act

        for name in CALLS:
            monkeypatch.setattr(os, name, wrap(name, getattr(os, name)))
        monkeypatch.setattr(atomicwrites, "_proper_fsync", os.fsync)
        monkeypatch.setattr(atomic, "_write_all", wrap("write", atomic._write_all))
        return seen

    yield install
    monkeypatch.undo()


def by_path(path):
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")


def by_copy(path):
    path.with_name("source").write_bytes(b"new")
    copy_hashed(path.with_name("source"), path.with_name("fresh"), mode=0o444)
    path.with_name("fresh").rename(path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("write", [lambda path: atomic_write(path, b"new"), by_path, by_copy])
def test_a_file_is_old_or_new_after_any_failure(tmp_path, fail_at, monkeypatch, write, code):
    reached = 0
    for at in range(1, 20):
        path = tmp_path / str(at) / "file"
        path.parent.mkdir()
        path.write_bytes(b"old")
        seen = fail_at(at, code)
        raised = None
        try:
            write(path)
        except OSError as error:
            raised = error.errno
            reached += 1
        monkeypatch.undo()
        assert raised in {None, code}
        content = path.read_bytes()
        assert content in {b"old", b"new"}
        if len(seen) < at:
            assert content == b"new"
            break
        assert not list(path.parent.glob(f"{TEMPORARY_PREFIX}*"))
        (path.parent / "again").mkdir()
        write(path.parent / "again" / "file")
        assert (path.parent / "again" / "file").read_bytes() == b"new"
    assert reached >= 2


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_link_points_to_old_or_new_after_any_failure(tmp_path, fail_at, monkeypatch, code):
    for at in range(1, 4):
        link = tmp_path / f"current{at}"
        replace_symlink(link, "old")
        fail_at(at, code)
        with pytest.raises(OSError, match=os.strerror(code)):
            replace_symlink(link, "new")
        monkeypatch.undo()
        # The third call syncs the folder. The link already points to the new target.
        assert link.readlink() == Path("new" if at == 3 else "old")
        replace_symlink(link, "new")
        assert link.readlink() == Path("new")
