from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preflight.errors import CacheRootError
from preflight.run.estimate import RESERVE, bytes_below, check_space, expected_sizes, still_needed


def test_sizes_of_a_map():
    """An HNSW index of 100,000 vectors of 512 numbers with M 32 was measured to have 232 MB."""
    sizes = expected_sizes(100_000, None, 512, 32, 5_000)
    assert sizes.index == pytest.approx(232e6, rel=0.02)
    assert sizes.engines == 5_000
    assert sizes.work == sizes.inventory + sizes.descriptors + sizes.index + 5_000
    assert sizes.generation == sizes.inventory + sizes.index + 5_000


def test_an_empty_area_needs_its_engines():
    assert expected_sizes(0, None, 512, 32, 7).work == 7


def test_bytes_of_files_and_folders(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(bytes(10))
    (tmp_path / "two").write_bytes(bytes(5))
    assert bytes_below([tmp_path / "a", tmp_path / "two", tmp_path / "absent"]) == 15
    assert bytes_below([tmp_path]) == 15
    assert bytes_below([]) == 0


@given(count=st.integers(1, 10**6), dim=st.integers(1, 50_000), engines=st.integers(0, 10**9))
def test_written_bytes_are_not_needed_again(count, dim, engines):
    sizes = expected_sizes(count, None, dim, 32, engines)
    assert still_needed(sizes, 0) == sizes.work + sizes.generation
    assert still_needed(sizes, sizes.work) == still_needed(sizes, 2 * sizes.work) == 0
    # An estimate up to 1 % above the written bytes does not count as a build.
    assert still_needed(sizes, sizes.work - sizes.work // 100) == 0


def test_a_grown_area_needs_the_rest_and_a_generation():
    small, large = expected_sizes(1000, None, 512, 32, 0), expected_sizes(1100, None, 512, 32, 0)
    assert still_needed(large, small.work) == large.work - small.work + large.generation


def test_enough_space_is_accepted(tmp_path):
    check_space(tmp_path, 1000, RESERVE + 1000)


def test_too_little_space_is_refused_with_both_figures(tmp_path):
    with pytest.raises(CacheRootError) as refused:
        check_space(tmp_path, 9_300_000_000, 2_000_000_000)
    message = str(refused.value)
    for part in (str(tmp_path), "2,000 MB free", "9,300 MB", "67 MB", "cache_root"):
        assert part in message
    with pytest.raises(CacheRootError):
        check_space(tmp_path, 1000, RESERVE + 999)


def test_windows_count_in_the_inventory_and_have_the_descriptors():
    tiles, windows = expected_sizes(100, None, 512, 32, 0), expected_sizes(100, 1600, 512, 32, 0)
    assert windows.inventory == tiles.inventory + 1600 * 65
    assert (windows.descriptors, windows.index) == (16 * tiles.descriptors, 16 * tiles.index)
