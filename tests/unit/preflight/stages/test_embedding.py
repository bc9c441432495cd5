"""An embedder of the caller's stands where the descriptor backbone's engine stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from preflight.errors import DescriptorBatchError, ParityError
from preflight.ports import OutOfDeviceMemory
from preflight.records import BackboneSpec
from preflight.stages.embedding import CallerEmbedding

SPEC = BackboneSpec("net", "descriptor", Path("net.onnx"), {"x": (1, 3, 32, 48)}, "fp32")
IMAGES = np.zeros((2, 32, 32, 3), np.uint8)


class Embedder:
    def __init__(self, found=None, *, identity="net:1", dim=8, error=None):
        self.found = np.ones((2, 8), np.float32) if found is None else found
        self.identity = identity
        self.descriptor_dim = dim
        self.error = error
        self.got = []

    def embed(self, images):
        self.got.append(images)
        if self.error is not None:
            raise self.error
        return self.found


def run(embedder):
    embedding = CallerEmbedding(embedder, SPEC)
    with embedding.open() as engine:
        return engine.run({embedding.input_name: embedding.batch(IMAGES, None)})


def test_the_embedder_gets_the_images_as_they_are_and_its_array_is_used():
    embedder = Embedder()
    (found,) = run(embedder).values()
    assert found is embedder.found
    assert embedder.got[0] is IMAGES


def test_its_identity_is_in_the_action_key_and_it_reads_no_file():
    embedding = CallerEmbedding(Embedder(identity="net:2"), SPEC)
    assert embedding.components() == {"embedder": "net:2", "images": "version 1 size (32, 48)"}
    assert embedding.reads == ()
    assert embedding.dim() == 8


@pytest.mark.parametrize("identity", ["", None, 5])
def test_an_embedder_without_an_identity_is_refused(identity):
    with pytest.raises(DescriptorBatchError, match="Embedder states no identity"):
        CallerEmbedding(Embedder(identity=identity), SPEC).components()


@pytest.mark.parametrize("dim", [0, -1, 8.0, None, True])
def test_a_length_that_is_no_positive_number_is_refused(dim):
    with pytest.raises(DescriptorBatchError, match="give a positive number"):
        CallerEmbedding(Embedder(dim=dim), SPEC).dim()


def test_a_length_may_be_a_number_of_numpy():
    dim = CallerEmbedding(Embedder(dim=np.int64(8)), SPEC).dim()
    assert (dim, type(dim)) == (8, int)


@pytest.mark.parametrize(
    ("found", "said"), [([[1.0] * 8] * 2, "a list"), (np.ones((2, 8)), "an array of float64"), ("x", "a str")]
)
def test_anything_but_an_array_of_float32_is_refused(found, said):
    with pytest.raises(DescriptorBatchError, match=f"Embedder returns {said}"):
        run(Embedder(found))


def test_an_error_of_the_embedder_is_translated_and_kept_as_the_cause():
    error = ValueError("no layer")
    with pytest.raises(DescriptorBatchError, match="Embedder failed: ValueError: no layer") as caught:
        run(Embedder(error=error))
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [OutOfDeviceMemory("full"), ParityError("other")])
def test_errors_that_the_build_knows_are_raised_as_they_are(error):
    with pytest.raises(type(error)) as caught:
        run(Embedder(error=error))
    assert caught.value is error


def test_the_embedder_is_the_caller_s_and_is_not_closed():
    embedder = Embedder()
    embedder.close = lambda: pytest.fail("closed")
    run(embedder)
    assert len(embedder.got) == 1
