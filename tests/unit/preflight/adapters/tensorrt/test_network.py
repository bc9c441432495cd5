from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preflight.adapters.tensorrt.library import Words, release
from preflight.adapters.tensorrt.network import Profile, check_precision, profiles, timing_cache_name
from preflight.errors import EngineBuildError
from preflight.ports import CompileRequest


def _request(inputs, batch_size=8):
    return CompileRequest(Path("m.onnx"), inputs, "fp32", 64, batch_size)


def test_a_dynamic_batch_goes_from_one_to_the_batch_size():
    found = profiles({"image": (-1, 3, 8, 8)}, _request({"image": (1, 3, 8, 8)}))
    assert found == {"image": Profile((1, 3, 8, 8), (8, 3, 8, 8), (8, 3, 8, 8))}


def test_other_dynamic_dimensions_are_what_the_mission_declares():
    network = {"left": (-1, -1, 16), "right": (-1, -1, 16), "scale": (1, 2)}
    found = profiles(network, _request({"left": (1, 300, 16), "right": (1, 200, 16), "scale": (1, 2)}))
    assert found["left"] == Profile((1, 300, 16), (8, 300, 16), (8, 300, 16))
    assert found["right"] == Profile((1, 200, 16), (8, 200, 16), (8, 200, 16))
    assert "scale" not in found


def test_a_batch_the_graph_fixes_stays():
    assert profiles({"x": (2, 3)}, _request({"x": (1, 3)})) == {}
    assert profiles({"x": (2, -1)}, _request({"x": (1, 3)})) == {"x": Profile((2, 3), (2, 3), (2, 3))}


@pytest.mark.parametrize(
    ("network", "inputs", "said"),
    [
        ({"image": (-1, 3)}, {"picture": (1, 3)}, r"\['image'\], but the request has \['picture'\]"),
        ({"image": (-1, 3)}, {"image": (1, 4)}, r"image has the shape \[-1, 3\], but the request has \[1, 4\]"),
        ({"image": (-1, 3)}, {"image": (1, 3, 1)}, r"image has the shape \[-1, 3\]"),
    ],
)
def test_what_does_not_fit_is_refused(network, inputs, said):
    with pytest.raises(EngineBuildError, match=said):
        profiles(network, _request(inputs))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=4), st.integers(1, 64), st.data())
def test_a_profile_keeps_what_tensorrt_asks_of_it(shape, batch, data):
    """Conditions 2 and 3 of IOptimizationProfile.set_shape."""
    network = tuple(data.draw(st.sampled_from([-1, size])) for size in shape)
    found = profiles({"x": network}, _request({"x": tuple(shape)}, batch))
    assert (found == {}) == (-1 not in network)
    for profile in found.values():
        assert all(
            0 < least <= opt <= most and (fixed == -1 or fixed == least == most)
            for fixed, least, opt, most in zip(network, profile.least, profile.opt, profile.most, strict=True)
        )


@pytest.mark.parametrize(
    ("precision", "types", "layers"),
    [
        ("fp32", {"FLOAT", "INT64", "BOOL"}, {"CONVOLUTION"}),
        ("fp16", {"FLOAT", "HALF"}, {"CAST"}),
        ("fp16", {"HALF"}, set()),
        ("bf16", {"BF16", "FLOAT"}, set()),
        ("int8", {"FLOAT", "INT8"}, {"QUANTIZE", "DEQUANTIZE"}),
        ("int8", {"FLOAT", "HALF", "INT8"}, {"DEQUANTIZE"}),
    ],
)
def test_a_network_of_the_precision_asked_for_passes(precision, types, layers):
    check_precision(precision, types, layers)


@pytest.mark.parametrize(
    ("precision", "types", "layers", "said"),
    [
        ("fp32", {"FLOAT", "HALF"}, set(), "HALF tensors"),
        ("fp32", {"FLOAT", "INT8"}, {"QUANTIZE"}, "Q/DQ nodes"),
        ("fp16", {"FLOAT", "INT64"}, set(), "no HALF tensors"),
        ("fp16", {"FLOAT", "HALF", "INT8"}, {"DEQUANTIZE"}, "Q/DQ nodes"),
        ("fp16", {"HALF", "BF16"}, set(), "BF16 tensors"),
        ("bf16", {"FLOAT"}, set(), "no BF16 tensors"),
        ("int8", {"FLOAT"}, set(), "no Q/DQ nodes"),
        ("int8", {"FLOAT", "FP8"}, {"QUANTIZE"}, "no Q/DQ nodes"),
        ("int8", {"FLOAT", "INT8", "FP8"}, {"QUANTIZE"}, "FP8 tensors"),
        ("fp8", {"FP8"}, set(), "precision fp8 is not supported"),
    ],
)
def test_another_precision_is_refused_by_what_it_holds(precision, types, layers, said):
    with pytest.raises(EngineBuildError, match=f"{precision}.*{said}|{said}"):
        check_precision(precision, types, layers)


def test_timings_are_of_one_gpu_model_and_version():
    assert timing_cache_name("10.3.0", "87", "Orin (nvgpu)") == "trt10.3.0_sm87_orin--nvgpu-.timings"
    assert timing_cache_name("10.3.0", "90", "NVIDIA H200/1") == "trt10.3.0_sm90_nvidia-h200-1.timings"


def test_versions_are_digits_and_dots():
    assert release("10.13.3.9.post1") == "10.13.3.9"
    with pytest.raises(EngineBuildError, match="'next'"):
        release("next")


def test_words_are_kept_once_on_one_line_and_errors_hide_warnings():
    echoed = []
    words = Words(echoed.append)
    assert str(words) == "it gave no reason"
    words.add("WARNING", "a\n  b")
    words.add("WARNING", "a b")
    assert str(words) == "WARNING: a b"
    words.add("INVALID_CONFIG", "c")
    assert str(words) == "INVALID_CONFIG: c"
    assert echoed == ["WARNING: a b", "INVALID_CONFIG: c"]


@pytest.mark.parametrize(
    ("said", "out"),
    [
        ("Skipping tactic 0x3e8 due to insufficient memory on requested size of 9 detected", False),
        ("Skipping tactic 1 due to exception Cuda Runtime (out of memory)", False),
        ("Error Code 2: OutOfMemory (Requested size was 1 bytes.)", True),
        ("[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)", True),
        ("Error Code 6: API Usage Error", False),
    ],
)
def test_running_out_of_memory_is_told_from_a_tactic_left_out(said, out):
    words = Words()
    words.add("ERROR", said)
    assert words.out_of_memory is out
