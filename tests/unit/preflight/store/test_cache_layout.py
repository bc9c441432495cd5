from __future__ import annotations

from pathlib import Path

from preflight.store.cache_layout import CacheLayout


def paths(layout):
    return {
        name: getattr(layout, name) for name in dir(CacheLayout) if isinstance(getattr(CacheLayout, name), property)
    }


def test_everything_lies_below_the_root_and_nothing_is_made(tmp_path):
    root = tmp_path / "cache"
    found = paths(CacheLayout(root))
    assert len(found) >= 15
    assert all(root in path.parents for path in found.values())
    assert not root.exists()


def test_the_names_other_programs_rely_on():
    """C11 takes the lock; the aircraft reads `current`; C12 reads the report (SPEC.md)."""
    layout = CacheLayout(Path("/c"))
    assert layout.lock == Path("/c/.c10.lock")
    assert layout.current == Path("/c/current")
    assert layout.report == Path("/c/work/build_report.json")
    assert layout.generations == Path("/c/gen")


def test_all_but_lock_links_generations_and_staging_lies_in_work():
    layout = CacheLayout(Path("/c"))
    outside = {name for name, path in paths(layout).items() if layout.work not in path.parents}
    assert outside == {"work", "lock", "current", "previous", "generations", "staging"}


def test_no_two_things_share_a_place():
    found = paths(CacheLayout(Path("/c")))
    assert len(set(found.values())) == len(found)
