"""The weight-free backbone: it agrees with descriptors of the PyTorch prototype, and keeps its own contract."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from preflight.adapters.demo.weight_free_vpr import CARD, build_model, write
from preflight.adapters.onnxruntime.runtime import OnnxRuntime
from preflight.evaluation.backbone_card import BackboneCard, card_without_shifts

VECTORS = Path(__file__).parents[4] / "vectors" / "backbone"


@pytest.fixture(scope="module")
def images():
    spec = importlib.util.spec_from_file_location("make_golden", VECTORS / "make_golden.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.synthetic_images().astype(np.float32)


@pytest.fixture(scope="module")
def embed(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    write(path)
    with OnnxRuntime(threads=1).reference(path) as engine:
        yield lambda batch: engine.run({"image": batch})["descriptor"]


def test_descriptors_equal_the_golden_vectors(images, embed):
    golden = np.load(VECTORS / "golden.npy")
    assert golden.shape == (len(images), 2080)
    assert golden.dtype == np.float32
    assert np.abs(embed(images) - golden).max() < 1e-4
    # The golden vectors differ from each other. Otherwise agreement with them would prove little.
    assert (golden @ golden.T - np.eye(len(golden))).max() < 0.95


def test_model_is_valid_and_declares_its_inputs_and_outputs():
    model = onnx.load_from_string(build_model())
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    (image,), (descriptor,) = model.graph.input, model.graph.output
    assert image.name == "image"
    assert descriptor.name == "descriptor"
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ["batch", 3, 224, 224]
    assert [d.dim_param or d.dim_value for d in descriptor.type.tensor_type.shape.dim] == ["batch", 2080]
    assert "no learned weights; not for flight" in model.graph.doc_string
    assert "no learned weights; not for flight" in CARD.description


def test_bytes_are_the_same_at_each_call_and_in_another_process(tmp_path):
    content = build_model()
    write(tmp_path / "model.onnx")
    assert build_model() == content
    assert (tmp_path / "model.onnx").read_bytes() == content
    program = (
        "import hashlib; from preflight.adapters.demo.weight_free_vpr import build_model; "
        "print(hashlib.sha256(build_model()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert other.stdout.strip() == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_batch_size_does_not_change_descriptors(images, embed, size):
    single = np.concatenate([embed(image[None]) for image in images[:size]])
    batched = embed(images[:size])
    assert batched.shape == (size, CARD.descriptor_dim)
    assert np.abs(single - batched).max() < 1e-5
    assert np.abs(np.linalg.norm(batched, axis=1) - 1).max() < 1e-5


@pytest.mark.parametrize("level", [0, 127, 255])
def test_a_blank_image_has_a_unit_vector_too(embed, level):
    blank = np.full((1, 3, 224, 224), level, dtype=np.float32)
    descriptor = embed(blank)
    assert np.isfinite(descriptor).all()
    assert abs(np.linalg.norm(descriptor) - 1) < 1e-4


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_quarter_turn_is_a_shift_by_four(images, embed, turns):
    upright = CARD.shifts(embed(images))
    rotated = embed(np.ascontiguousarray(np.rot90(images, turns, axes=(2, 3))))
    cosines = np.einsum("snd,nd->ns", upright, rotated)
    assert set(cosines.argmax(axis=1)) == {(-4 * turns) % 16}
    assert (cosines.max(axis=1) > 0.99).all()
    assert (cosines.max(axis=1) > cosines[:, 0] + 0.05).all()


def test_shifts_are_the_input_and_its_rolls():
    card = BackboneCard("toy", "", descriptor_dim=6, shift_count=3)
    shifted = card.shifts(np.array([[1, 2, 3, 4, 5, 6]], dtype=np.float32))
    assert shifted.tolist() == [[[1, 2, 3, 4, 5, 6]], [[3, 1, 2, 6, 4, 5]], [[2, 3, 1, 5, 6, 4]]]


def test_a_card_without_a_shift_group_returns_the_input_only():
    vectors = np.ones((2, 7), dtype=np.float32)
    assert card_without_shifts("other", 7).shifts(vectors).shape == (1, 2, 7)


def test_a_card_refuses_wrong_dimensions():
    with pytest.raises(ValueError, match="16 shifts do not divide"):
        BackboneCard("toy", "", descriptor_dim=20, shift_count=16)
    with pytest.raises(ValueError, match="2080 numbers"):
        CARD.shifts(np.zeros((1, 2079), dtype=np.float32))


def test_importing_the_card_loads_neither_numpy_nor_onnx():
    program = (
        "import sys, preflight.evaluation.backbone_card; sys.exit(any(m in sys.modules for m in ('numpy', 'onnx')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
