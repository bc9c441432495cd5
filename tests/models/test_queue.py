"""Throughput mode gives the same bits as one batch at a time, with any number of threads."""

from __future__ import annotations

import numpy as np
import pytest

from preflight.adapters.openvino.runtime import OpenVinoRuntime
from preflight.errors import EngineBuildError


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["tiny_vit", "aliked"])
def test_a_queue_gives_the_bits_of_one_batch_at_a_time(model_file, request_for, pictures, tmp_path, kind, precision):
    asked = request_for(kind, model_file(kind), precision=precision)
    path = tmp_path / "engine"
    try:
        OpenVinoRuntime().compile(asked, path)
    except EngineBuildError as error:
        if precision != "bf16":
            raise
        pytest.skip(str(error))
    side = asked.inputs["image"][-1]
    batches = [pictures(8, side) * np.float32(1 + number) for number in range(6)]
    with OpenVinoRuntime(threads=1).load(path, asked) as engine:
        expected = [engine.run({"image": batch}) for batch in batches]
        assert engine.depth == 1
    for threads in (2, 4):
        found = []
        with OpenVinoRuntime(threads=threads).load(path, asked) as engine:
            for number, batch in enumerate(batches):
                if number >= engine.depth:
                    found.append(engine.collect())
                engine.submit({"image": batch})
            found += [engine.collect() for _ in range(engine.depth)]
        for one, other in zip(found, expected, strict=True):
            for name, array in other.items():
                np.testing.assert_array_equal(one[name], array)
