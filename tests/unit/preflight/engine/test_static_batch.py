from __future__ import annotations

import numpy as np
import pytest

from preflight.engine.static_batch import run_in_slices
from preflight.errors import EngineBuildError


def _run(inputs):
    assert len(inputs["x"]) == 2
    return {"sum": inputs["x"] + inputs["y"]}


@pytest.mark.parametrize("count", [2, 6])
def test_slices_are_concatenated_in_order(count):
    x, y = np.arange(count, dtype=np.float32)[:, None], np.full((count, 1), 10, np.float32)
    np.testing.assert_array_equal(run_in_slices(_run, {"x": x, "y": y}, 2)["sum"], x + y)


@pytest.mark.parametrize(("of_x", "of_y"), [(3, 3), (0, 0), (2, 4), (4, 2)])
def test_other_counts_are_refused(of_x, of_y):
    with pytest.raises(EngineBuildError, match="2 samples at a time"):
        run_in_slices(_run, {"x": np.zeros((of_x, 1), np.float32), "y": np.zeros((of_y, 1), np.float32)}, 2)


def test_nothing_and_scalars_are_refused():
    for inputs in ({}, {"x": np.float32(1)[None][0].reshape(())}):
        with pytest.raises(EngineBuildError):
            run_in_slices(_run, inputs, 2)
