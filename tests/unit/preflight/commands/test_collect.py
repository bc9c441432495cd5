from __future__ import annotations

import os

import pytest

from preflight.commands.collect import Garbage, choose, find_garbage, remove
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import Generations
from preflight.trace.digests import DigestCache
from preflight.trace.record import BuildRecord, action_key, record_path
from preflight.trace.rule import Step


class Root:
    """A cache root with one step that has a recorded segment, and four generations."""

    def __init__(self, folder):
        self.layout = CacheLayout(folder)
        self.generations = Generations(self.layout, DigestCache(None))
        self.target = self.write(self.layout.descriptors / "descriptors.json")
        self.segment = self.write(self.layout.descriptors / "space" / "named.seg")
        self.engine = self.write(self.layout.engines / "new.engine")
        record = BuildRecord(
            "descriptors", 1, action_key("descriptors", 1, {}), {}, {"descriptors.json": "0", "space/named.seg": "0"}
        )
        record_path(self.target).write_bytes(record.encode())
        for number in range(1, 5):
            self.write(self.layout.generations / f"{number:06d}-0123456789ab" / "file")
        self.point("current", 4)
        self.point("previous", 3)
        self.steps = [
            Step("descriptors", 1, (), dict, (self.target,), list),
            Step("engine:vpr", 1, (), dict, (self.engine,), list),
        ]

    def point(self, link, number):
        path = self.layout.root / link
        path.unlink(missing_ok=True)
        path.symlink_to(f"gen/{number:06d}-0123456789ab")

    def write(self, path, content=b"1234", age=0):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1000 - age, 1000 - age))
        return path

    def garbage(self, keep=4, resumable=()):
        return [
            str(item.path.relative_to(self.layout.root))
            for item in find_garbage(self.layout, self.generations, self.steps, keep, resumable)
        ]


@pytest.fixture
def root(tmp_path):
    return Root(tmp_path)


def test_files_that_records_and_steps_name_are_kept(root):
    assert root.garbage() == []


def test_an_empty_cache_root_has_no_garbage(tmp_path):
    layout = CacheLayout(tmp_path)
    assert find_garbage(layout, Generations(layout, DigestCache(None)), [], 3) == []


def test_unreferenced_files_are_garbage_the_oldest_first(root):
    root.write(root.layout.engines / "old.engine", age=10)
    root.write(root.layout.descriptors / "other" / "old.seg", age=30)
    root.write(root.layout.onnx / "gone.onnx", age=20)
    root.write(root.layout.work / "parity" / "gone.json", age=5)
    assert root.garbage() == [
        "work/descriptors/other/old.seg",
        "work/onnx/gone.onnx",
        "work/engines/old.engine",
        "work/parity/gone.json",
    ]


def test_other_kinds_of_files_are_never_garbage(root):
    for path in (root.layout.digests, root.layout.report, root.layout.parity_sample, root.layout.lock):
        root.write(path)
    assert root.garbage() == []


def test_segments_without_a_record_are_kept_if_a_run_can_resume_from_them(root):
    loose = root.write(root.layout.descriptors / "space" / "loose.seg")
    assert root.garbage() == ["work/descriptors/space/loose.seg"]
    assert root.garbage(resumable=[loose]) == []


def test_an_output_stays_when_its_record_is_damaged(root):
    record_path(root.target).write_bytes(b"{")
    assert root.garbage(resumable=[root.segment]) == []


def test_surplus_generations_are_garbage_but_never_current_or_previous(root):
    assert root.garbage(keep=3) == ["gen/000001-0123456789ab"]
    assert root.garbage(keep=1) == ["gen/000001-0123456789ab", "gen/000002-0123456789ab"]
    root.point("current", 1)
    assert root.garbage(keep=1) == ["gen/000002-0123456789ab"]


def test_removing_a_shared_file_frees_no_bytes(root):
    (root.layout.generations / "000002-0123456789ab" / "shared").hardlink_to(
        root.layout.generations / "000001-0123456789ab" / "file"
    )
    sizes = [item.size for item in find_garbage(root.layout, root.generations, root.steps, 1)]
    assert sizes == [0, 4]


def some(*sizes):
    return [Garbage(path, size, 0.0) for path, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("limit", "chosen"), [(None, 3), (1000, 0), (100, 0), (99, 1), (90, 1), (89, 2), (70, 2), (69, 3), (0, 3)]
)
def test_only_as_much_is_chosen_as_the_size_limit_requires(limit, chosen):
    garbage = some(10, 20, 30)
    assert choose(garbage, 100, limit) == garbage[:chosen]


def test_files_and_folders_are_removed(root):
    root.write(root.layout.engines / "old.engine")
    remove(find_garbage(root.layout, root.generations, root.steps, 3))
    assert not (root.layout.engines / "old.engine").exists()
    assert not (root.layout.generations / "000001-0123456789ab").exists()
    assert root.garbage(keep=3) == []
    assert root.engine.exists()
