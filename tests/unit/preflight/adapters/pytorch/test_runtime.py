"""PyTorch engines: archives contain only data, and engines have the requested precision and device."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from preflight.adapters.pytorch.runtime import TorchRuntime, release
from preflight.engine.file_names import EngineName
from preflight.errors import EngineBuildError
from preflight.ports import CompileRequest
from preflight.records import HostCapabilities
from preflight.wiring import runtime_choice

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[cpu,torch]'")

from preflight.adapters.pytorch.archive import pack, unpack  # noqa: E402 - imports PyTorch

CPU = HostCapabilities("x86_64", "avx2")
MODEL = "models/model.json"


def _save(path, batch="n"):
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="/m"),
        helper.make_node("Gather", ["m", "places"], ["g"], axis=1),
        helper.make_node("Relu", ["g"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        [weight, numpy_helper.from_array(np.array([3, 0, 1]), "places")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def _request(path, **changes):
    return CompileRequest(**({"onnx_path": path, "inputs": {"x": (1, 6)}, "precision": "fp16"} | _REST | changes))


_REST = {"workspace_mb": 64, "batch_size": 4}


@pytest.fixture(scope="module")
def request_(tmp_path_factory):
    return _request(_save(tmp_path_factory.mktemp("m") / "m.onnx"))


@pytest.fixture(scope="module")
def built(request_, tmp_path_factory):
    path = tmp_path_factory.mktemp("e") / "m.engine"
    TorchRuntime().compile(request_, path)
    return path.read_bytes()


def _changed(content, changes):
    """Return the archive with files replaced, added, or (None) removed.

    `changes` has their paths below the archive's one folder.
    """
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        folder = old.namelist()[0].partition("/")[0]
        left = {f"{folder}/{name}": value for name, value in changes.items()}
        for name in old.namelist():
            value = left.pop(name) if name in left else old.read(name)
            if value is not None:
                new.writestr(name, value)
        for name, value in left.items():
            new.writestr(name, value)
    return made.getvalue()


def _member(content, name):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(next(entry for entry in archive.namelist() if entry.endswith(f"/{name}")))


class _Bomb:
    def __init__(self, path):
        self._path = str(path)

    def __reduce__(self):
        return (Path(self._path).touch, ())


def _refused(content, request, tmp_path, match):
    path = tmp_path / "bad.engine"
    path.write_bytes(content)
    with pytest.raises(EngineBuildError, match=match) as caught:
        TorchRuntime().load(path, request)
    assert "bad.engine" in str(caught.value)


def test_an_engine_is_small_and_names_nothing_of_the_machine_that_built_it(built):
    model = _member(built, MODEL).decode()
    assert "stack_trace" not in model
    assert str(Path(__file__).parents[5]) not in model
    assert _member(built, "data/sample_inputs/model.pt") == b""
    assert json.loads(_member(built, "extra/preflight.json")) == {
        "device": "cpu",
        "inputs": {"x": {"dtype": "float32", "shape": [None, 6]}},
        "order": ["x"],
        "outputs": ["y"],
        "precision": "fp16",
    }


def test_a_copy_with_nothing_changed_loads(built, request_, tmp_path):
    path = tmp_path / "e"
    path.write_bytes(_changed(built, {}))
    with TorchRuntime().load(path, request_) as engine:
        assert engine.run({"x": np.ones((2, 6), np.float32)})["y"].shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("data/sample_inputs/model.pt", "pickled samples"),
        ("data/constants/custom_obj_0", "custom_obj_0"),
        ("data/weights/weight_0.pkl", "weight_0.pkl"),
        ("code.py", "code.py"),
        ("data/aotinductor/model/model.so", r"model\.so"),
    ],
)
def test_nothing_is_unpickled(built, request_, tmp_path, name, why):
    fuse = tmp_path / "went_off"
    bomb = io.BytesIO()
    torch.save(_Bomb(fuse), bomb)
    assert pickle.loads(pickle.dumps(_Bomb(fuse))) is None  # noqa: S301 - the test's own pickle, to show that it works
    fuse.unlink()
    _refused(_changed(built, {name: bomb.getvalue()}), request_, tmp_path, why)
    assert not fuse.exists()


def test_weights_that_ask_to_be_unpickled_are_refused(built, request_, tmp_path):
    fuse, bomb = tmp_path / "went_off", io.BytesIO()
    torch.save(_Bomb(fuse), bomb)
    for kind, entry in (("weights", "weight_0"), ("constants", "tensor_0")):
        name = f"data/{kind}/model_{kind}_config.json"
        config = json.loads(_member(built, name))
        assert config["config"], kind
        for value in config["config"].values():
            value["use_pickle"] = True
        changes = {name: json.dumps(config), f"data/{kind}/{entry}": bomb.getvalue()}
        _refused(_changed(built, changes), request_, tmp_path, "pickled data")
    assert not fuse.exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r'"expr_str": "Symbol[^"]*"', '"expr_str": "__import__(\'os\').getcwd()"'),
        (r'"expr_str": "Symbol[^"]*"', '"expr_str": "Add.__class__"'),
        (r'"target": "torch.ops.aten.relu.default"', '"target": "builtins.eval"'),
        (r'"target": "torch.ops.aten.relu.default"', '"target": "torch.ops.aten.relu.default.__class__"'),
        (r'"guards_code": \[\]', '"guards_code": ["print(1)"]'),
        (r'"custom_obj_values": {}', '"custom_obj_values": {"a": {"name": "a", "class_fqn": "b"}}'),
    ],
)
def test_no_text_of_an_archive_is_evaluated(built, request_, tmp_path, old, new):
    model = _member(built, MODEL).decode()
    changed = re.sub(old, lambda _: new, model, count=1)
    assert changed != model
    _refused(_changed(built, {MODEL: changed}), request_, tmp_path, r"it (contains|calls) .*Remove the file")


@pytest.mark.parametrize(
    "changes", [{MODEL: None}, {MODEL: b"{"}, {MODEL: b"[]"}, {MODEL: b"{}"}, {MODEL: b"[" * 99_999}]
)
def test_a_damaged_program_is_refused(built, request_, tmp_path, changes):
    _refused(_changed(built, changes), request_, tmp_path, "engine")


def test_a_byte_changed_in_the_weights_is_refused(built, request_, tmp_path):
    weight = _member(built, "data/weights/weight_0")
    at = built.index(weight) + 3
    _refused(built[:at] + bytes([built[at] ^ 1]) + built[at + 1 :], request_, tmp_path, "checksums")


@given(st.data())
@settings(max_examples=100, derandomize=True, deadline=None)
def test_any_damage_is_refused_or_does_no_harm(built, request_, tmp_path_factory, data):
    at = data.draw(st.integers(0, len(built) - 1))
    damaged = data.draw(st.sampled_from([built[:at], built[:at] + bytes([built[at] ^ 255]) + built[at + 1 :]]))
    path = tmp_path_factory.getbasetemp() / "damaged.engine"
    path.write_bytes(damaged)
    try:
        engine = TorchRuntime().load(path, request_)
    except EngineBuildError as error:
        assert "damaged.engine" in str(error)  # noqa: PT017 - it may also load, because some bytes of a zip file have no meaning
        return
    path.write_bytes(built)
    feed = {"x": np.ones((2, 6), np.float32)}
    np.testing.assert_array_equal(engine.run(feed)["y"], TorchRuntime().load(path, request_).run(feed)["y"])


def test_a_program_in_another_precision_is_refused(built, request_, tmp_path):
    """This is what a silent fallback would look like: everything works, but the numbers are fp32."""

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight_0", torch.ones(6, 3))

        def forward(self, *inputs):
            return (torch.matmul(inputs[0], self.weight_0),)

    class Mixed(Whole):
        def forward(self, *inputs):
            return (torch.matmul(inputs[0], self.weight_0.float()),)

    _, signature = unpack(built, "m")
    for module in (Whole(), Mixed().half()):
        program = torch.export.export(module, (torch.zeros(2, 6),), strict=False)
        _refused(pack(program, signature), request_, tmp_path, r"torch.float32, not fp16")


def test_a_device_that_is_not_there_is_refused(request_, built, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(EngineBuildError, match="cannot use it"):
        TorchRuntime("cuda").compile(request_, tmp_path / "e")
    (tmp_path / "e").write_bytes(built)
    with pytest.raises(EngineBuildError, match="cannot use it"):
        TorchRuntime("cuda").load(tmp_path / "e", request_)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_other_precisions_are_refused(request_, tmp_path, precision):
    with pytest.raises(EngineBuildError, match=rf"fp16 engines, not {precision}"):
        TorchRuntime().compile(_request(request_.onnx_path, precision=precision), tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_other_sizes_than_the_graphs_are_refused(request_, tmp_path):
    for shape in ((1, 7), (1, 6, 1)):
        with pytest.raises(EngineBuildError, match="but the request has"):
            TorchRuntime().export(_request(request_.onnx_path, inputs={"x": shape}), tmp_path / "e")


def test_an_engine_of_other_inputs_is_refused(request_, built, tmp_path):
    (tmp_path / "e").write_bytes(built)
    with pytest.raises(EngineBuildError, match="picture"):
        TorchRuntime().load(tmp_path / "e", _request(request_.onnx_path, inputs={"picture": (1, 6)}))


def test_what_a_run_does_to_the_threads_is_undone(request_, built, tmp_path):
    (tmp_path / "e").write_bytes(built)
    before = torch.get_num_threads()
    with TorchRuntime(threads=before + 1).load(tmp_path / "e", request_) as engine:
        engine.run({"x": np.ones((2, 6), np.float32)})
    assert torch.get_num_threads() == before


def test_arrays_that_may_not_be_written_are_read(request_, built, tmp_path):
    (tmp_path / "e").write_bytes(built)
    whole = np.ones((4, 12), np.float32)
    whole.flags.writeable = False
    with TorchRuntime().load(tmp_path / "e", request_) as engine:
        expected = engine.run({"x": np.ones((4, 6), np.float32)})["y"]
        np.testing.assert_array_equal(engine.run({"x": whole[:, ::2]})["y"], expected)


@pytest.mark.parametrize(
    ("version", "expected"), [("2.13.0+cpu", "2.13.0"), ("2.8.0a0+34c6371d24.nv25.08", "2.8.0"), ("2.13.0", "2.13.0")]
)
def test_a_build_is_named_after_its_release(version, expected):
    assert release(version) == expected


def test_a_version_without_a_number_is_refused():
    with pytest.raises(EngineBuildError, match="unknown"):
        release("unknown")


def test_the_missions_runtime_is_found_by_name_and_gives_a_file_name():
    choice = runtime_choice("pytorch_fp16", CPU, {"BUILD_PYTORCH_FP16_RUNTIME": "1"})
    runtime = choice.make()
    assert (runtime.name, runtime.version) == (choice.name, choice.version)
    name = EngineName.on_host("vpr", CPU, choice.row, choice.version, "fp16", gpu=choice.gpu)
    assert str(name) == f"vpr__cpu-avx2_torch{choice.version}_fp16.engine"


def test_a_host_with_a_gpu_is_built_for_on_the_gpu_and_nowhere_else(request_, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    choice = runtime_choice("pytorch_fp16", HostCapabilities("x86_64", "avx2", sm="87"))
    with pytest.raises(EngineBuildError, match="this machine has a GPU"):
        choice.make().compile(request_, tmp_path / "e")


@pytest.mark.parametrize(("value", "why"), [("0", "forbidden"), ("yes", "BUILD_PYTORCH_FP16_RUNTIME is 'yes'")])
def test_the_gate_forbids_it(value, why):
    with pytest.raises(EngineBuildError, match=why):
        runtime_choice("pytorch_fp16", CPU, {"BUILD_PYTORCH_FP16_RUNTIME": value})


def test_a_missing_pytorch_names_the_extra(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(EngineBuildError, match=r"PyTorch is not installed.*\[cpu,torch\]"):
        runtime_choice("pytorch_fp16", CPU)
