"""The ViT on PyTorch in fp16, and the two kinds of models that PyTorch does not support."""

from __future__ import annotations

import pytest

from preflight.adapters.onnxruntime.runtime import OnnxRuntime
from preflight.adapters.pytorch.runtime import TorchRuntime
from preflight.engine.parity import check_parity
from preflight.errors import EngineBuildError

pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[cpu,torch]'")


@pytest.fixture
def gated(request_for, tmp_path):
    def gate(kind, path, feed, *, here=False):
        """here: convert in this process. `compile` starts one that does the same, and waits for PyTorch's import."""
        asked, engine = request_for(kind, path, precision="fp16"), tmp_path / "engine"
        if here:
            engine.touch()
            TorchRuntime().export(asked, engine)
        else:
            TorchRuntime().compile(asked, engine)
        with TorchRuntime().load(engine, asked) as built, OnnxRuntime().reference(path) as reference:
            return check_parity(kind, built.run, reference.run, feed, precision="fp16", batch_size=4)

    return gate


@pytest.mark.parametrize("opset", range(13, 21))
def test_a_vit_of_every_opset_is_gated(model_file, gated, pictures, opset):
    report = gated("tiny_vit", model_file("tiny_vit", opset), {"image": pictures(6, 56)}, here=True)
    assert 0.9999 < report.cosine_min < 0.99999999  # fp16, and not something finer


def test_a_fixed_batch_and_weights_beside_the_graph(model_file, gated, pictures):
    gated("tiny_vit", model_file("tiny_vit", batch=1), {"image": pictures(3, 56)})
    gated("tiny_vit", model_file("tiny_vit", external=True), {"image": pictures(3, 56)})


def test_vit_s_14_in_full_size(model_file, gated, pictures):
    """Runs once with one image, because a CPU without fp16 arithmetic takes seconds for each image."""
    assert gated("vit", model_file("vit"), {"image": pictures(1, 224)}).cosine_min > 0.9999


@pytest.mark.parametrize(
    ("kind", "operators"),
    [
        ("aliked", r"GatherElements \(node /GatherElements\); Mod \(node /Mod\); TopK \(node /TopK\)"),
        ("aliked_sampled", r"GridSample \(node /desc_head/GridSample\)"),
        ("lightglue", r"ArgMax \(node /log_assignment/ArgMax\); TopK \(node /log_assignment/TopK\)"),
    ],
)
def test_a_model_that_cannot_be_converted_is_refused_with_its_operators(
    model_file, request_for, tmp_path, kind, operators
):
    path = model_file(kind)
    with pytest.raises(EngineBuildError, match=rf"{kind}_17\.onnx cannot be converted to PyTorch: .*{operators}"):
        TorchRuntime().compile(request_for(kind, path, precision="fp16"), tmp_path / "engine")
    assert not (tmp_path / "engine").exists()
