from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from preflight.store import atomic
from preflight.store.atomic import (
    TEMPORARY_PREFIX,
    atomic_path,
    atomic_write,
    copy_hashed,
    fsync_directory,
    link_or_copy,
    remove_file,
    remove_tree,
    rename_directory,
    replace_symlink,
    sweep_temporaries,
)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class Stop(Exception):  # noqa: N818 - raised by the tests only
    pass


@pytest.fixture(autouse=True)
def _tight_umask():
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "target"
    path.write_bytes(b"old")
    return path


@pytest.mark.parametrize("content", [b"new", bytearray(b"new"), memoryview(b"new"), [b"n", b"", b"ew"], iter([b"new"])])
def test_a_file_is_replaced_as_a_whole_and_its_digest_returned(target, content):
    assert atomic_write(target, content) == sha256(b"new")
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["target"]


def test_the_mode_does_not_depend_on_the_umask(target):
    atomic_write(target, b"x")
    assert mode_of(target) == 0o644
    atomic_write(target, b"x", mode=0o444)
    assert mode_of(target) == 0o444
    atomic_write(target, b"y", mode=0o600)
    assert (mode_of(target), target.read_bytes()) == (0o600, b"y")


def test_missing_parents_are_created(tmp_path):
    atomic_write(tmp_path / "a" / "b" / "c", b"x")
    with atomic_path(tmp_path / "d" / "e" / "f") as temporary:
        temporary.write_bytes(b"y")
    assert (tmp_path / "a" / "b" / "c").read_bytes() == b"x"
    assert (tmp_path / "d" / "e" / "f").read_bytes() == b"y"


def test_an_empty_file_can_be_written(target):
    assert atomic_write(target, b"") == atomic_write(target, []) == sha256(b"")
    assert target.read_bytes() == b""


def test_an_error_while_content_is_produced_changes_nothing(target):
    def content():
        yield b"half"
        raise Stop

    with pytest.raises(Stop):
        atomic_write(target, content())
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["target"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_complete(target):
    def content():
        yield b"half"
        assert target.read_bytes() == b"old"
        assert any(name.startswith(TEMPORARY_PREFIX) for name in names(target.parent))
        yield b" whole"

    atomic_write(target, content())
    assert target.read_bytes() == b"half whole"


def test_an_open_old_file_does_not_change(target):
    with target.open("rb") as reader:
        atomic_write(target, b"new")
        assert reader.read() == b"old"


def test_a_folder_in_the_place_of_the_file_raises_os_error(tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        atomic_write(tmp_path / "folder", b"x")
    assert names(tmp_path) == ["folder"]


def test_atomic_path_replaces_the_target_at_the_end_of_the_block(target):
    with atomic_path(target, mode=0o400) as temporary:
        assert temporary.parent == target.parent
        assert temporary.name.startswith(TEMPORARY_PREFIX)
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert (target.read_bytes(), mode_of(target)) == (b"new", 0o400)
    assert names(target.parent) == ["target"]


def test_atomic_path_accepts_a_recreated_file(target):
    """Some libraries write their own temporary file and rename it."""
    with atomic_path(target) as temporary:
        temporary.unlink()
        temporary.write_bytes(b"new")
    assert (target.read_bytes(), mode_of(target)) == (b"new", 0o644)


def test_atomic_path_changes_nothing_after_an_error(target):
    with pytest.raises(Stop), atomic_path(target) as temporary:  # noqa: PT012 - the block is what is tested
        temporary.write_bytes(b"half")
        raise Stop
    assert target.read_bytes() == b"old"
    assert names(target.parent) == ["target"]


def test_atomic_path_raises_os_error_if_the_file_was_removed(target):
    with pytest.raises(FileNotFoundError), atomic_path(target) as temporary:
        temporary.unlink()
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("size", [0, 1, atomic.CHUNK, atomic.CHUNK + 1])
def test_copy_hashed_copies_and_returns_the_digest(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "source").write_bytes(content)
    assert copy_hashed(tmp_path / "source", tmp_path / "copy", mode=0o444) == sha256(content)
    assert (tmp_path / "copy").read_bytes() == content
    assert mode_of(tmp_path / "copy") == 0o444
    assert (tmp_path / "copy").stat().st_ino != (tmp_path / "source").stat().st_ino


def test_copy_hashed_never_overwrites_a_file(tmp_path, target):
    (tmp_path / "source").write_bytes(b"new")
    with pytest.raises(FileExistsError):
        copy_hashed(tmp_path / "source", target, mode=0o444)
    assert target.read_bytes() == b"old"


def test_link_or_copy_makes_a_hard_link(target, tmp_path):
    assert link_or_copy(target, tmp_path / "new", mode=0o444)
    assert (tmp_path / "new").stat().st_ino == target.stat().st_ino


@pytest.mark.parametrize("code", [errno.EPERM, errno.EMLINK, errno.EXDEV, errno.EOPNOTSUPP])
def test_link_or_copy_copies_if_no_link_can_be_made(target, tmp_path, monkeypatch, code):
    """For example on exFAT, across file systems, or at 65,000 links."""

    def no_links(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic.Path, "hardlink_to", no_links)
    assert not link_or_copy(target, tmp_path / "new", mode=0o444)
    assert (tmp_path / "new").read_bytes() == b"old"
    assert (tmp_path / "new").stat().st_ino != target.stat().st_ino
    assert mode_of(tmp_path / "new") == 0o444


def test_link_or_copy_never_overwrites_a_file(target, tmp_path):
    (tmp_path / "existing").write_bytes(b"existing")
    with pytest.raises(FileExistsError):
        link_or_copy(target, tmp_path / "existing", mode=0o444)
    assert (tmp_path / "existing").read_bytes() == b"existing"


def test_a_symlink_is_created_and_replaced(tmp_path):
    link = tmp_path / "current"
    replace_symlink(link, "gen/1")
    replace_symlink(link, "gen/2")
    assert link.readlink() == Path("gen/2")
    assert names(tmp_path) == ["current"]


def test_a_temporary_symlink_of_a_killed_run_does_not_block_a_new_one(tmp_path):
    (tmp_path / f"{TEMPORARY_PREFIX}current-{os.getpid()}").symlink_to("nowhere")
    replace_symlink(tmp_path / "current", "gen/1")
    assert names(tmp_path) == ["current"]


def test_a_directory_is_never_renamed_over_another(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    rename_directory(tmp_path / "a", tmp_path / "c")
    with pytest.raises(OSError, match="not empty"):
        rename_directory(tmp_path / "b", tmp_path / "c")
    assert (tmp_path / "c" / "file").read_text() == "a"


def test_trees_and_files_are_removed(tmp_path):
    atomic_write(tmp_path / "tree" / "inner" / "file", b"x", mode=0o444)
    remove_tree(tmp_path / "tree")
    (tmp_path / "file").write_bytes(b"")
    remove_file(tmp_path / "file")
    remove_file(tmp_path / "file")
    assert names(tmp_path) == []


def test_the_sweep_removes_temporaries_and_nothing_else(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    left = [tmp_path / f"{TEMPORARY_PREFIX}x", tmp_path / "a" / "b" / f"{TEMPORARY_PREFIX}y"]
    for path in left:
        path.write_bytes(b"")
    (tmp_path / "a" / f"{TEMPORARY_PREFIX}link").symlink_to("nowhere")
    (tmp_path / "a" / f"{TEMPORARY_PREFIX}folder").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"")
    assert sorted(sweep_temporaries(tmp_path)) == sorted([*left, tmp_path / "a" / f"{TEMPORARY_PREFIX}link"])
    assert sorted(path.name for path in tmp_path.rglob("*")) == [f"{TEMPORARY_PREFIX}folder", "a", "b", "file"]


def test_fsync_of_a_missing_path_raises_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        fsync_directory(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        atomic.fsync_file(tmp_path / "none")


def test_every_file_is_synced_before_the_rename_and_its_folder_after_it(target, monkeypatch):
    """This order survives a power cut."""
    calls = []
    import atomicwrites

    real_fsync, real_rename, real_replace = os.fsync, os.rename, os.replace

    def fsync(handle):
        calls.append("sync folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync file")
        real_fsync(handle)

    def recording(name, real):
        def call(*arguments, **more):
            calls.append(name)
            return real(*arguments, **more)

        return call

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(atomicwrites, "_proper_fsync", fsync)
    monkeypatch.setattr(os, "rename", recording("rename", real_rename))
    monkeypatch.setattr(atomic.Path, "replace", recording("rename", real_replace))
    atomic_write(target, b"new")
    assert calls == ["sync file", "rename", "sync folder"]
    calls.clear()
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"x")
    assert calls == ["sync file", "rename", "sync folder"]
    calls.clear()
    replace_symlink(target.with_name("link"), "x")
    assert calls == ["rename", "sync folder"]
    calls.clear()
    copy_hashed(target, target.with_name("copy"), mode=0o444)
    assert calls == ["sync file"]
