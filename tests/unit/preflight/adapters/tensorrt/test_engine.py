"""Loading and running engines, with a fake CUDA driver in host memory and a fake TensorRT that computes there."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from preflight.adapters.tensorrt.runtime import TensorRtRuntime
from preflight.errors import EngineBuildError
from preflight.ports import OutOfDeviceMemory

IMAGE = ["FLOAT", [-1, 3, 8, 8], [4, 3, 8, 8]]


@pytest.fixture
def runtime(fake_library, cuda):
    return TensorRtRuntime(fake_library, cuda=cuda.path)


@pytest.fixture
def engine_file(tmp_path):
    """engine_file(**plan): writes a plan of the fake TensorRT."""

    def write(**changes):
        plan = {"name": "preflight:fp32", "inputs": {"image": IMAGE}, "outputs": {"y": ["FLOAT", 2, "DEVICE"]}}
        path = tmp_path / "tiny.engine"
        path.write_text(json.dumps(plan | changes))
        return path

    return write


@pytest.fixture
def asked(request_for, tmp_path):
    return lambda **changes: request_for(tmp_path / "tiny.onnx", **changes)


@pytest.fixture
def images():
    return np.random.default_rng(3).uniform(0, 1, size=(4, 3, 8, 8)).astype(np.float32)


def _expected(images):
    flat = images.reshape(len(images), -1).astype(np.float64)
    return np.stack([flat.mean(1), flat.sum(1)], 1).astype(np.float32)


def test_version_has_digits_and_dots(runtime):
    assert runtime.version == "10.3.0"
    assert runtime.name == "tensorrt"


@pytest.mark.parametrize("count", [1, 3, 4])
def test_any_batch_up_to_the_largest_runs(runtime, engine_file, asked, images, count):
    with runtime.load(engine_file(scratch=64), asked()) as engine:
        found = engine.run({"image": images[:count]})
    assert list(found) == ["y"]
    assert found["y"].dtype == np.float32
    np.testing.assert_array_equal(found["y"], _expected(images[:count]))


def test_results_belong_to_the_caller_and_buffers_are_kept(runtime, engine_file, asked, images, cuda):
    with runtime.load(engine_file(scratch=64), asked()) as engine:
        first = engine.run({"image": images})["y"]
        kept, held = first.copy(), cuda.held
        engine.run({"image": 1 - images[:2]})
        np.testing.assert_array_equal(first, kept)
        assert cuda.held == held


def test_arrays_of_any_layout_are_taken(runtime, engine_file, asked, images):
    with runtime.load(engine_file(), asked()) as engine:
        turned = np.asfortranarray(images)
        np.testing.assert_array_equal(engine.run({"image": turned})["y"], _expected(images))


def test_another_thread_may_run_it(runtime, engine_file, asked, images):
    found = []
    with runtime.load(engine_file(), asked()) as engine:
        thread = threading.Thread(target=lambda: found.append(engine.run({"image": images})["y"]))
        thread.start()
        thread.join()
    np.testing.assert_array_equal(found[0], _expected(images))


@pytest.mark.parametrize(("kind", "tolerance"), [("HALF", 1e-3), ("BF16", 1e-2)])
def test_other_outputs_become_float32(runtime, engine_file, asked, images, kind, tolerance):
    with runtime.load(engine_file(outputs={"y": [kind, 2, "DEVICE"]}), asked()) as engine:
        found = engine.run({"image": images})["y"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, _expected(images), rtol=tolerance)


def test_a_graph_with_a_fixed_batch_takes_any(runtime, engine_file, asked, images):
    path = engine_file(inputs={"image": ["FLOAT", [2, 3, 8, 8], [2, 3, 8, 8]]})
    with runtime.load(path, asked()) as engine:
        np.testing.assert_array_equal(engine.run({"image": images})["y"], _expected(images))


def test_several_inputs_are_fed_by_name(runtime, engine_file, asked):
    shapes = {"left": (1, 5), "ids": (1, 2)}
    path = engine_file(inputs={"left": ["FLOAT", [-1, 5], [4, 5]], "ids": ["INT64", [-1, 2], [4, 2]]})
    left = np.arange(10, dtype=np.float32).reshape(2, 5)
    with runtime.load(path, asked(inputs=shapes)) as engine:
        found = engine.run({"ids": np.ones((2, 2), np.int64), "left": left})
    np.testing.assert_array_equal(found["y"], _expected(left))


def test_memory_that_runs_out_is_a_signal_and_a_smaller_batch_runs(runtime, engine_file, asked, images, cuda):
    cuda.free = 4 * 3 * 64 * 4 + 100  # the images, the results, and scratch memory for one image
    with runtime.load(engine_file(scratch=64), asked()) as engine:
        with pytest.raises(OutOfDeviceMemory, match="cuMemAlloc_v2: out of memory"):
            engine.run({"image": images})
        assert cuda.buffers == 0
        np.testing.assert_array_equal(engine.run({"image": images[:1]})["y"], _expected(images[:1]))


def test_memory_that_runs_out_inside_tensorrt_is_the_same_signal(runtime, engine_file, asked, images, cuda):
    with runtime.load(engine_file(), asked()) as engine:
        with pytest.raises(OutOfDeviceMemory, match="Error Code 2: OutOfMemory") as caught:
            engine.run({"image": images * np.inf})
        assert "Skipping" not in str(caught.value)
        assert cuda.buffers == 0
        assert engine.run({"image": images})["y"].shape == (4, 2)


def test_a_kernel_that_fails_is_an_error_with_its_words(runtime, engine_file, asked, images, cuda):
    with runtime.load(engine_file(), asked()) as engine:
        with pytest.raises(EngineBuildError, match=r"tiny\.engine failed: ERROR: Error Code 1: kernel failed"):
            engine.run({"image": images * np.nan})
        cuda.synchronize = 700
        with pytest.raises(EngineBuildError, match="illegal memory access"):
            engine.run({"image": images})
        cuda.synchronize = 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"picture": np.zeros((1, 3, 8, 8), np.float32)},
        {"image": np.zeros((1, 3, 8, 8), np.float64)},
        {"image": np.zeros((1, 2, 8, 8), np.float32)},
        {"image": np.zeros((5, 3, 8, 8), np.float32)},
        {"image": np.zeros((1, 3, 8), np.float32)},
        {},
    ],
    ids=["name", "type", "channels", "batch", "rank", "none"],
)
def test_wrong_inputs_are_refused_and_the_engine_goes_on(runtime, engine_file, asked, images, wrong):
    with runtime.load(engine_file(), asked()) as engine:
        with pytest.raises(EngineBuildError, match=r"tiny\.engine"):
            engine.run(wrong)
        assert engine.run({"image": images})["y"].shape == (4, 2)


def test_an_output_of_unknown_length_is_refused(runtime, engine_file, asked, images):
    with (
        runtime.load(engine_file(outputs={"y": ["FLOAT", -1, "DEVICE"]}), asked()) as engine,
        pytest.raises(EngineBuildError, match="shape of its output y before it runs"),
    ):
        engine.run({"image": images})


def test_a_closed_engine_refuses_and_closes_again(runtime, engine_file, asked, images):
    engine = runtime.load(engine_file(), asked())
    engine.close()
    engine.close()
    with pytest.raises(EngineBuildError, match="closed"):
        engine.run({"image": images})


@pytest.mark.parametrize(
    ("plan", "request_changes", "said"),
    [
        ({"name": "preflight:fp16"}, {}, "its name is 'preflight:fp16', not 'preflight:fp32'"),
        ({"name": ""}, {}, "its name is ''"),
        ({}, {"inputs": {"picture": (1, 3, 8, 8)}}, "has the inputs"),
        ({}, {"batch_size": 5}, r"allows shapes up to \[4, 3, 8, 8\], not \[5, 3, 8, 8\]"),
        ({}, {"inputs": {"image": (1, 3, 9, 8)}}, "allows shapes up to"),
        ({"inputs": {"image": ["FP8", *IMAGE[1:]]}}, {}, "image is FP8"),
        ({"inputs": {"image": ["BF16", *IMAGE[1:]]}}, {}, "image is BF16"),
        ({"outputs": {"y": ["FLOAT", 2, "HOST"]}}, {}, "in host memory"),
        ({"no context": True}, {}, "OutOfMemory"),
    ],
)
def test_an_engine_that_is_not_what_was_asked_for_is_refused(runtime, engine_file, asked, plan, request_changes, said):
    with pytest.raises(EngineBuildError, match=said):
        runtime.load(engine_file(**plan), asked(**request_changes))


def test_an_engine_of_another_gpu_or_version_is_refused_with_the_words(runtime, asked, tmp_path):
    path = tmp_path / "tiny.engine"
    path.write_bytes(b"another")
    with pytest.raises(EngineBuildError, match=r"tiny\.engine.*expecting compute 8\.9 got compute 8\.6"):
        runtime.load(path, asked())


@pytest.mark.parametrize("content", [None, b""])
def test_an_absent_or_empty_engine_is_refused(runtime, asked, tmp_path, content):
    path = tmp_path / "tiny.engine"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineBuildError, match=r"tiny\.engine"):
        runtime.load(path, asked())


def test_another_gpu_than_the_name_promises_is_refused(fake_library, cuda, engine_file, asked):
    with pytest.raises(EngineBuildError, match=r"named for sm 86, but CUDA's device 0 is Orin \(nvgpu\), sm 87"):
        TensorRtRuntime(fake_library, cuda=cuda.path, sm="86").load(engine_file(), asked())
    TensorRtRuntime(fake_library, cuda=cuda.path, sm="87").load(engine_file(), asked()).close()


def test_another_release_than_the_name_promises_is_refused(fake_library, cuda, engine_file, asked):
    with pytest.raises(
        EngineBuildError, match=r"installed as release 11\.4, but the imported module is 10\.3\.0\.post1"
    ):
        TensorRtRuntime(fake_library, cuda=cuda.path, version="11.4").load(engine_file(), asked())
    TensorRtRuntime(fake_library, cuda=cuda.path, version="10.3.0").load(engine_file(), asked()).close()


def test_without_a_gpu_the_library_is_not_touched(asked, engine_file, tmp_path):
    """The library named here does not exist, so its import would give another error."""
    from preflight.adapters.tensorrt.runtime import TensorRtLibrary

    absent = TensorRtLibrary("no_such_tensorrt", "TensorRT", builds_without_device=False, keeps_timings=True)
    runtime = TensorRtRuntime(absent, cuda=str(tmp_path / "libcuda.so.1"))
    with pytest.raises(EngineBuildError, match=r"cannot load .* there is no GPU here"):
        runtime.load(engine_file(), asked())
    with pytest.raises(EngineBuildError, match=r"cannot build .*tiny\.onnx: there is no GPU here"):
        runtime.compile(asked(), tmp_path / "engine")
    assert not (tmp_path / "engine").exists()
    with pytest.raises(EngineBuildError, match=r"pip install -e '\.\[gpu,tensorrt\]'"):
        _ = runtime.version


def test_a_runtime_whose_factory_gives_nothing_is_an_error(runtime, engine_file, asked, monkeypatch):
    import sys

    def nothing(logger):
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(sys.modules["fake_tensorrt"], "Runtime", nothing)
    with pytest.raises(EngineBuildError, match="does not start"):
        runtime.load(engine_file(), asked())
