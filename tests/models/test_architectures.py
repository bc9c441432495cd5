"""Each CPU runtime compiles and runs the three kinds of models at several opsets, and they pass the parity gate."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from preflight.adapters.onnx.models import inspect
from preflight.adapters.onnxruntime.runtime import OnnxRuntime
from preflight.adapters.openvino.runtime import OpenVinoRuntime
from preflight.engine.parity import THRESHOLDS, check_parity, synthetic_inputs
from preflight.errors import EngineBuildError
from preflight.records import BackboneSpec

OPSETS = range(13, 21)
CASES = [
    *((kind, opset) for kind in ("tiny_vit", "aliked", "lightglue") for opset in OPSETS),
    *(("aliked_sampled", opset) for opset in (16, 20)),
]


@pytest.fixture
def gated(request_for, tmp_path):
    """gated(...): compile and load a model, and compare it with the fp32 reference."""

    def gate(runtime, kind, path, feed, precision="fp32", **changes):
        asked = request_for(kind, path, precision=precision, **changes)
        engine = tmp_path / "engine"
        runtime.compile(asked, engine)
        with runtime.load(engine, asked) as built, OnnxRuntime().reference(path) as reference:
            report = check_parity(kind, built.run, reference.run, feed, precision=precision, batch_size=4)
            return report, built.run(feed)

    return gate


@pytest.mark.parametrize(("kind", "opset"), CASES)
def test_every_kind_at_every_opset_is_inspected_built_and_gated(runtime, model_file, gated, kind, opset):
    path = model_file(kind, opset)
    shapes = inspect(path).inputs
    assert inspect(path).opset == opset
    sizes = {"m": 20, "n": 30}
    asked = {name: (1, *(_size(path, name, axis, sizes) for axis in range(1, len(shapes[name])))) for name in shapes}
    inspect(path).check_against(BackboneSpec(kind, "auxiliary", path, asked, "fp32"))
    report, outputs = gated(runtime, kind, path, synthetic_inputs(asked, 6, seed=1))
    assert report.sample_count == 6
    assert set(outputs) == set(inspect(path).outputs)
    for name, shape in inspect(path).outputs.items():
        assert len(outputs[name]) == 6
        assert all(fixed in {None, size} for fixed, size in zip(shape, outputs[name].shape, strict=True))


def _size(path, name, axis, sizes):
    model = onnx.load(str(path), load_external_data=False)
    (value,) = [value for value in model.graph.input if value.name == name]
    dim = value.type.tensor_type.shape.dim[axis]
    return sizes[dim.dim_param] if dim.dim_param else dim.dim_value


def test_the_graphs_of_the_opsets_differ_but_compute_the_same(architectures, model_file, pictures):
    feed = {"image": pictures(2, 56)}
    found = []
    for opset in (13, 17, 18, 20):
        with OnnxRuntime().reference(model_file("tiny_vit", opset)) as reference:
            found.append(reference.run(feed)["descriptor"])
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=2e-6)
    kinds = [{node.op_type for node in architectures.tiny_vit(opset).graph.node} for opset in (13, 17, 20)]
    assert "LayerNormalization" not in kinds[0]
    assert "LayerNormalization" in kinds[1]
    assert "Gelu" not in kinds[1]
    assert "Gelu" in kinds[2]


def test_models_give_different_outputs_for_different_inputs(model_file, pictures):
    """A model with the same output for every input would pass any gate."""
    with OnnxRuntime().reference(model_file("tiny_vit")) as reference:
        descriptors = reference.run({"image": pictures(8, 56)})["descriptor"]
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-5)
    assert (descriptors @ descriptors.T)[~np.eye(8, dtype=bool)].max() < 0.9
    with OnnxRuntime().reference(model_file("aliked")) as reference:
        points = reference.run({"image": pictures(8, 64)})["keypoints"]
    assert np.abs(points).max() <= 1
    assert len({row.tobytes() for row in points}) == 8


@pytest.mark.parametrize("counts", [(1, 1), (7, 50), (50, 7)])
def test_a_matcher_takes_any_number_of_points(runtime, model_file, request_for, tmp_path, counts):
    path = model_file("lightglue")
    asked = request_for("lightglue", path)
    runtime.compile(asked, tmp_path / "engine")
    shapes = {
        f"{what}{side}": (1, count, width)
        for what, width in (("keypoints", 2), ("descriptors", 32))
        for side, count in enumerate(counts)
    }
    feed = synthetic_inputs(shapes, 2, seed=3)
    with runtime.load(tmp_path / "engine", asked) as engine, OnnxRuntime().reference(path) as reference:
        check_parity("lightglue", engine.run, reference.run, feed, precision="fp32", batch_size=2)
        assert engine.run(feed)["log_assignment"].shape == (2, *counts)


@pytest.mark.parametrize("kind", ["tiny_vit", "lightglue"])
def test_a_fixed_batch_of_one_is_gated_too(runtime, model_file, gated, kind, request_for):
    path = model_file(kind, batch=1)
    report, _ = gated(runtime, kind, path, synthetic_inputs(request_for(kind, path).inputs, 4, seed=1))
    assert report.sample_count == 4


@pytest.mark.parametrize("kind", ["tiny_vit", "aliked", "lightglue"])
def test_weights_in_a_file_beside_the_graph(model_file, gated, kind, request_for, tmp_path):
    path = model_file(kind, external=True)
    (weights,) = inspect(path).external_data
    assert weights.stat().st_size > path.stat().st_size / 2
    feed = synthetic_inputs(request_for(kind, path).inputs, 2, seed=1)
    gated(OpenVinoRuntime(), kind, path, feed)
    with OnnxRuntime().reference(path) as beside, OnnxRuntime().reference(model_file(kind)) as inside:
        for name, expected in inside.run(feed).items():
            np.testing.assert_array_equal(beside.run(feed)[name], expected)
    with pytest.raises(EngineBuildError, match="one file"):
        OnnxRuntime().compile(request_for(kind, path), tmp_path / "other")


def test_vit_s_14_in_full_size(runtime, model_file, gated, pictures):
    """The model has 22 million weights, so the test uses it once for each runtime."""
    report, outputs = gated(runtime, "vit", model_file("vit"), {"image": pictures(2, 224)})
    assert outputs["descriptor"].shape == (2, 384)
    assert report.cosine_min >= THRESHOLDS["fp32"]


def test_the_gate_distinguishes_bf16_from_fp32_on_a_vit(model_file, gated, pictures):
    """OpenVINO may compute in bf16 if fp32 is not enforced. The fp32 gate refuses the result."""
    runtime, path = OpenVinoRuntime(), model_file("tiny_vit")
    try:
        report, _ = gated(runtime, "tiny_vit", path, {"image": pictures(8, 56)}, "bf16")
    except EngineBuildError as error:
        if "does not compute in bf16" in str(error):
            pytest.skip("this CPU has no bf16")
        raise
    assert THRESHOLDS["bf16"] <= report.cosine_min < THRESHOLDS["fp32"]
