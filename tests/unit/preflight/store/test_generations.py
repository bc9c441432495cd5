from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from pathlib import Path

import pytest

from preflight.errors import CacheRootError, ManifestCoverageError, ManifestWriteError
from preflight.store import atomic
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import Generation, Generations, coverage_walk
from preflight.trace.digests import DigestCache

HASH = "0123456789ab" + "c" * 52


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Root:
    """A cache root with builds: artifacts in work/ by name, and one small file."""

    def __init__(self, folder):
        self.layout = CacheLayout(folder)
        self.layout.work.mkdir(parents=True)
        self.generations = self.fresh()

    def fresh(self):
        """Returns the generations as the next run sees them."""
        return Generations(self.layout, DigestCache(None, wall_ns=lambda: 1 << 62))

    def stage(self, **contents):
        artifacts = {}
        for name, content in contents.items():
            path = self.layout.work / name
            if not path.exists() or path.read_bytes() != content:
                atomic.atomic_write(path, content)
            artifacts[f"engines/{name}"] = (path, sha256(content))
        return self.generations.stage(artifacts, {"manifest.json": repr(contents).encode()})

    def publish(self, number=None, content=HASH, **contents):
        staging = self.stage(**contents)
        return self.generations.publish(staging, number or self.generations.next_number(), content)


@pytest.fixture
def root(tmp_path):
    return Root(tmp_path / "cache")


def files(generation):
    return {
        path.relative_to(generation.path).as_posix(): path.read_bytes()
        for path in generation.path.rglob("*")
        if path.is_file()
    }


def inode(path):
    return path.stat().st_ino


def test_a_new_root_has_no_generations(root):
    generations = root.generations
    assert (generations.all(), generations.current(), generations.previous()) == ([], None, None)
    assert generations.next_number() == 1


def test_the_first_generation_is_published(root):
    made = root.publish(a=b"one")
    assert made == Generation(1, root.layout.generations / "000001-0123456789ab")
    assert root.generations.current() == made
    assert root.generations.previous() is None
    assert files(made) == {"engines/a": b"one", "manifest.json": b"{'a': b'one'}"}
    assert root.layout.current.readlink() == Path("gen/000001-0123456789ab")
    assert list(root.layout.staging.iterdir()) == []


def test_files_are_read_only(root):
    made = root.publish(a=b"one")
    assert {stat.S_IMODE((made.path / name).stat().st_mode) for name in files(made)} == {0o444}


def test_published_files_share_no_inode_with_work(root):
    made = root.publish(a=b"one", b=b"two")
    later = root.publish(a=b"one", b=b"new")
    published = {inode(generation.path / name) for generation in (made, later) for name in files(generation)}
    assert published.isdisjoint({inode(path) for path in root.layout.work.rglob("*") if path.is_file()})


def test_an_edit_in_work_does_not_change_a_published_file(root):
    made = root.publish(a=b"one")
    with (root.layout.work / "a").open("r+b") as file:
        file.write(b"ONE")
    assert files(made)["engines/a"] == b"one"


def test_an_unchanged_file_is_a_link_to_that_of_the_current_generation(root):
    first = root.publish(same=b"same", other=b"one")
    second = root.publish(same=b"same", other=b"two")
    assert inode(first.path / "engines/same") == inode(second.path / "engines/same")
    assert inode(first.path / "engines/other") != inode(second.path / "engines/other")
    assert inode(first.path / "manifest.json") != inode(second.path / "manifest.json")


def test_a_published_file_that_was_edited_is_not_linked(root):
    first = root.publish(same=b"same")
    (first.path / "engines/same").chmod(0o644)
    (first.path / "engines/same").write_bytes(b"evil")
    second = root.publish(same=b"same")
    assert files(second)["engines/same"] == b"same"


def test_current_and_previous_name_the_two_newest_generations(root):
    made = [root.publish(a=str(number).encode()) for number in range(3)]
    assert (root.generations.current(), root.generations.previous()) == (made[2], made[1])
    assert root.generations.all() == made
    assert root.fresh().next_number() == 4


def test_numbers_with_seven_digits_are_sorted_as_numbers(root):
    big = root.publish(number=1_000_000, a=b"2")
    small = root.publish(number=999_999, a=b"1")
    assert root.generations.all() == [small, big]
    assert root.generations.next_number() == 1_000_001


def test_other_entries_of_gen_are_ignored(root):
    made = root.publish(a=b"1")
    for name in ("lost+found", "000002-xyz", ".DS_Store", "2-0123456789ab", "000002-0123456789AB"):
        (root.layout.generations / name).mkdir()
    (root.layout.generations / "000009-0123456789ab").write_text("a file")
    assert root.generations.all() == [made]


@pytest.mark.parametrize("target", ["gen/000001-ffffffffffff", "nowhere", "gen", "../x"])
def test_a_link_to_something_else_is_not_a_generation(root, target):
    root.layout.current.symlink_to(target)
    assert root.generations.current() is None


def test_a_folder_in_the_place_of_the_link_is_not_a_generation(root):
    root.layout.current.mkdir()
    assert root.generations.current() is None


def test_a_source_that_changed_after_signing_is_refused_and_current_is_kept(root):
    made = root.publish(a=b"one")
    (root.layout.work / "a").write_bytes(b"two")
    with pytest.raises(ManifestWriteError, match="work/a changed after the manifest was signed"):
        root.generations.stage({"engines/a": (root.layout.work / "a", sha256(b"other"))}, {})
    assert root.generations.current() == made


def test_a_missing_source_raises_an_error_that_says_what_to_do(root):
    with pytest.raises(CacheRootError, match="run doit provision again"):
        root.generations.stage({"a": (root.layout.work / "none", "0" * 64)}, {})


def test_a_full_disk_is_reported_and_current_is_kept(root, monkeypatch):
    made = root.publish(a=b"one")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic, "_write_all", full)
    with pytest.raises(CacheRootError, match="No space left on device; free space"):
        root.publish(a=b"two")
    assert root.generations.current() == made
    assert files(made)["engines/a"] == b"one"


def test_unchanged_files_are_copied_if_no_link_can_be_made(root, monkeypatch):
    first = root.publish(same=b"same")

    def no_links(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(atomic.Path, "hardlink_to", no_links)
    second = root.publish(same=b"same")
    assert files(second)["engines/same"] == b"same"
    assert inode(first.path / "engines/same") != inode(second.path / "engines/same")


def test_after_a_kill_between_rename_and_link_the_next_run_publishes(root):
    made = root.publish(a=b"one")
    staging = root.stage(a=b"two")
    left = root.layout.generations / "000002-0123456789ab"
    staging.rename(left)
    assert root.generations.current() == made
    (left / "engines/a").chmod(0o644)
    (left / "engines/a").write_bytes(b"bad")
    again = root.publish(number=2, a=b"two")
    assert root.generations.current() == again == Generation(2, left)
    assert files(again)["engines/a"] == b"two"
    assert root.generations.previous() == made


def test_after_a_kill_between_the_two_links_the_next_run_publishes(root):
    made = root.publish(a=b"one")
    root.layout.previous.symlink_to("gen/000001-0123456789ab")
    again = root.publish(a=b"two")
    assert (root.generations.current(), root.generations.previous()) == (again, made)


@pytest.mark.parametrize("content", [b"two", b"three"])
def test_current_is_never_replaced_by_a_generation_with_its_name(root, content):
    """Between its removal and the rename, there would be no cache."""
    first = root.publish(a=b"one")
    second = root.publish(a=b"two")
    with pytest.raises(CacheRootError, match="000002-0123456789ab is already current"):
        root.publish(number=2, a=content)
    assert (root.generations.current(), root.generations.previous()) == (second, first)
    assert files(second)["engines/a"] == b"two"


def test_prune_keeps_the_newest_the_current_and_the_previous(root):
    made = [root.publish(a=str(number).encode()) for number in range(5)]
    assert root.generations.prune(2) == made[:3]
    assert root.generations.all() == made[3:]
    atomic.replace_symlink(root.layout.current, f"gen/{made[3].path.name}")
    newer = root.publish(a=b"x")
    assert root.generations.previous() == made[3]
    assert root.generations.prune(1) == [made[4]]
    assert root.generations.all() == [made[3], newer]
    assert root.generations.prune(7) == []


def test_prune_does_not_remove_files_that_other_generations_share(root):
    made = [root.publish(same=b"same", other=str(number).encode()) for number in range(3)]
    root.generations.prune(1)
    assert files(made[2])["engines/same"] == b"same"


def test_sweep_removes_what_killed_runs_left(root):
    made = root.publish(a=b"one")
    root.stage(a=b"two")
    left = [
        root.layout.work / "index" / f"{atomic.TEMPORARY_PREFIX}x",
        root.layout.root / f"{atomic.TEMPORARY_PREFIX}current-1",
    ]
    left[0].parent.mkdir()
    left[0].write_bytes(b"half")
    left[1].symlink_to("gen/x")
    root.generations.sweep()
    assert not any(path.exists() or path.is_symlink() for path in left)
    assert list(root.layout.staging.iterdir()) == []
    assert (root.layout.work / "a").read_bytes() == b"two"
    assert files(made)["engines/a"] == b"one"


def test_sweep_keeps_files_that_preflight_did_not_make(root):
    staged = root.layout.staging / ("0" * 32)
    staged.mkdir(parents=True)
    (root.layout.staging / "thesis.txt").write_bytes(b"years")
    (root.layout.staging / "notes").mkdir()
    root.generations.sweep()
    assert sorted(path.name for path in root.layout.staging.iterdir()) == ["notes", "thesis.txt"]


@pytest.mark.parametrize("name", ["staging", "work", "gen"])
def test_sweep_refuses_a_link_in_the_place_of_a_folder_and_does_not_follow_it(root, tmp_path, name):
    precious = tmp_path / "precious"
    (precious / ("0" * 32)).mkdir(parents=True)
    folder = root.layout.root / name
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.symlink_to(precious)
    with pytest.raises(CacheRootError, match="symbolic link"):
        root.generations.sweep()
    assert (precious / ("0" * 32)).is_dir()


@pytest.mark.parametrize("name", ["current", "previous"])
def test_sweep_names_a_folder_in_the_place_of_a_link(root, name):
    (root.layout.root / name).mkdir()
    with pytest.raises(CacheRootError, match=f"{name} is a folder where a link must be"):
        root.generations.sweep()


def test_sweep_of_a_missing_root_does_nothing(tmp_path):
    Generations(CacheLayout(tmp_path / "none"), DigestCache(None)).sweep()
    assert not (tmp_path / "none").exists()


def expected(generation):
    return {name: sha256(content) for name, content in files(generation).items()}


def test_fault_names_the_first_difference(root):
    made = root.publish(a=b"one", b=b"two")
    digests = expected(made)
    assert root.generations.fault(made, digests) is None
    (made.path / "extra").write_bytes(b"")
    assert "holds extra, which its manifest does not name" in root.generations.fault(made, digests)
    (made.path / "extra").unlink()
    (made.path / "engines/b").unlink()
    assert "lacks engines/b" in root.generations.fault(made, digests)
    (made.path / "engines/b").write_bytes(b"TWO")
    assert "engines/b in 000001-0123456789ab differs from the published file" in root.generations.fault(made, digests)


def test_adopted_files_are_not_hashed(root):
    made = root.publish(a=b"one")
    digests = DigestCache(None, wall_ns=lambda: 1 << 62)
    generations = Generations(root.layout, digests)
    generations.adopt(made, expected(made))
    assert generations.fault(made, expected(made)) is None
    assert digests.hashed_files == 0


def test_coverage_walk_names_every_unexpected_and_every_missing_file(tmp_path):
    for name in ("a", "b/c", "b/extra", "d/e/extra"):
        atomic.atomic_write(tmp_path / name, b"")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestCoverageError) as error:
        coverage_walk(tmp_path, ["a", "b/c", "gone", "b/gone"])
    text = str(error.value)
    for part in (
        "b/extra is not in the manifest",
        "d/e/extra is not in the manifest",
        "link is not in the manifest",
        "b/gone is missing",
        "; gone is missing",
    ):
        assert part in text
    assert "a is" not in text.replace("extra is", "")


def test_coverage_walk_accepts_exactly_the_expected_files(tmp_path):
    atomic.atomic_write(tmp_path / "b" / "c", b"")
    coverage_walk(tmp_path, iter(["b/c"]))


def test_coverage_walk_handles_ten_thousand_files(tmp_path):
    names = {f"{number % 100}/{number}" for number in range(10_000)}
    for number in range(100):
        (tmp_path / str(number)).mkdir()
    for name in names:
        os.close(os.open(tmp_path / name, os.O_CREAT | os.O_WRONLY))
    coverage_walk(tmp_path, names)
    (tmp_path / "7" / "7").rename(tmp_path / "8" / "7")
    with pytest.raises(ManifestCoverageError, match="8/7 is not in the manifest; 7/7 is missing"):
        coverage_walk(tmp_path, names)
