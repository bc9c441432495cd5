from __future__ import annotations

from pathlib import Path

from preflight.store.cache_layout import CacheLayout


def paths(layout):
    return {
        name: getattr(layout, name) for name in dir(CacheLayout) if isinstance(getattr(CacheLayout, name), property)
    }


def test_all_paths_are_below_the_root_and_nothing_is_created(tmp_path):
    root = tmp_path / "cache"
    by_name = paths(CacheLayout(root))
    assert len(by_name) >= 15
    assert all(root in path.parents for path in by_name.values())
    assert not root.exists()


def test_the_names_that_other_programs_use():
    """C11 takes the lock; the aircraft reads `current`; C12 reads the report (SPEC.md)."""
    layout = CacheLayout(Path("/c"))
    assert layout.lock == Path("/c/.c10.lock")
    assert layout.current == Path("/c/current")
    assert layout.report == Path("/c/work/build_report.json")
    assert layout.generations == Path("/c/gen")


def test_everything_except_lock_links_generations_and_staging_is_in_work():
    layout = CacheLayout(Path("/c"))
    outside = {name for name, path in paths(layout).items() if layout.work not in path.parents}
    assert outside == {"work", "lock", "current", "previous", "generations", "staging"}


def test_no_two_properties_have_the_same_path():
    by_name = paths(CacheLayout(Path("/c")))
    assert len(set(by_name.values())) == len(by_name)
