from __future__ import annotations

import numpy as np
import pytest

from preflight.engine.parity import THRESHOLDS, check_parity, cosines, synthetic_inputs
from preflight.errors import ParityError

_SAMPLES = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)


def _double(inputs):
    return {"out": inputs["x"] * 2}


def _check(engine, precision="fp32", reference=_double, samples=_SAMPLES, **more):
    return check_parity("m.engine", engine, reference, {"x": samples}, precision=precision, batch_size=4, **more)


def _turned(angle):
    """Return a pair of outputs whose cosine is cos(angle)."""
    return lambda inputs: {"out": np.tile(np.float32([np.cos(angle), np.sin(angle)]), (len(inputs["x"]), 1))}


def test_equal_outputs_pass():
    report = _check(_double)
    assert report.cosine_min == pytest.approx(1, abs=1e-12)
    assert (report.threshold, report.sample_count, report.worst_output) == (THRESHOLDS["fp32"], 10, "out")


@pytest.mark.parametrize(("precision", "threshold"), sorted(THRESHOLDS.items()))
def test_each_precision_has_its_threshold(precision, threshold):
    limit = np.arccos(threshold)
    report = _check(_turned(limit * 0.98), precision, _turned(0))
    assert threshold < report.cosine_min < 1
    with pytest.raises(ParityError, match=rf"m.engine, output out: cosine 0\.9\d+ .*{threshold}"):
        _check(_turned(limit * 1.02), precision, _turned(0))


def test_bf16_fails_at_the_threshold_of_fp32():
    assert THRESHOLDS["fp32"] > 0.99997


def test_a_threshold_can_be_given():
    with pytest.raises(ParityError, match=r"0\.9999999"):
        _check(_turned(1e-3), "int8", _turned(0), threshold=0.9999999)


def test_one_bad_sample_in_the_last_batch_is_found():
    def engine(inputs):
        found = _double(inputs)["out"]
        found[(inputs["x"] == _SAMPLES[9]).all(axis=1)] *= -1
        return {"out": found}

    with pytest.raises(ParityError, match="cosine -1"):
        _check(engine)


def test_the_worst_output_is_named():
    both = {"a": _SAMPLES, "b": _SAMPLES}
    off = {"a": _SAMPLES, "b": _SAMPLES + np.float32(0.001)}
    report = check_parity("m", lambda _: off, lambda _: both, {"x": _SAMPLES}, precision="bf16", batch_size=10)
    assert report.worst_output == "b"


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["engine", "reference"])
def test_values_that_are_not_finite_fail(value, side):
    def bad(inputs):
        found = _double(inputs)["out"]
        found[0, 0] = value
        return {"out": found}

    with pytest.raises(ParityError, match="not finite"):
        _check(bad if side == "engine" else _double, reference=bad if side == "reference" else _double)


def test_outputs_must_have_the_same_names_and_shapes():
    with pytest.raises(ParityError, match="other"):
        _check(lambda inputs: {"other": inputs["x"]})
    with pytest.raises(ParityError, match="shape"):
        _check(lambda inputs: {"out": inputs["x"][:, :5]})


def test_a_check_without_samples_is_refused():
    with pytest.raises(ParityError, match="no sample"):
        _check(_double, samples=_SAMPLES[:0])


def test_cosines_of_zeros_and_extremes():
    zero, one = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    assert cosines(zero, zero).tolist() == [1]
    assert cosines(zero, one).tolist() == [0]
    assert cosines(one * np.float32(3e38), one * np.float32(1e-38)) == pytest.approx(1)
    assert cosines(np.ones((2, 2, 3)), -np.ones((2, 2, 3))) == pytest.approx([-1, -1])
    assert cosines(np.array([[2**62, 0]]), np.array([[2**62, 1]])) == pytest.approx(1)


def test_synthetic_inputs_depend_on_the_seed_and_not_on_the_order():
    shapes = {"b": (1, 4, 2), "a": (1, 3)}
    drawn = synthetic_inputs(shapes, 5, seed=1)
    again = synthetic_inputs(dict(reversed(shapes.items())), 5, seed=1)
    assert {name: array.shape for name, array in drawn.items()} == {"a": (5, 3), "b": (5, 4, 2)}
    for name in shapes:
        assert drawn[name].dtype == np.float32
        np.testing.assert_array_equal(drawn[name], again[name])
    assert not np.array_equal(drawn["a"], synthetic_inputs(shapes, 5, seed=2)["a"])


def test_synthetic_inputs_have_the_types_of_the_graph():
    shapes = {"points": (1, 4, 2), "half": (1, 3), "sizes": (1, 2), "mask": (1, 4)}
    types = {"points": "FLOAT", "half": "FLOAT16", "sizes": "INT64", "mask": "BOOL"}
    drawn = synthetic_inputs(shapes, 50, seed=1, types=types)
    assert {name: str(array.dtype) for name, array in drawn.items()} == {
        "points": "float32", "half": "float16", "sizes": "int64", "mask": "bool",
    }  # fmt: skip
    np.testing.assert_array_equal(drawn["points"], synthetic_inputs(shapes, 50, seed=1)["points"])
    assert set(drawn["sizes"].ravel()) == {0, 1}
    assert set(drawn["mask"].ravel()) == {False, True}


def test_an_input_type_without_synthetic_samples_is_refused():
    with pytest.raises(ParityError, match="text is of ONNX type STRING"):
        synthetic_inputs({"text": (1, 2)}, 3, seed=1, types={"text": "STRING"})
