"""The table of runtimes. An incomplete row is refused when the table is made, which is when the module is imported."""

from __future__ import annotations

import dataclasses

import pytest

from preflight.engine.runtimes import RUNTIMES, OnCuda, Runtime, RuntimeTable, either
from preflight.errors import EngineBuildError
from preflight.records import HostCapabilities

CPU = HostCapabilities("x86_64", "avx2")
GPU = HostCapabilities("x86_64", "avx2", sm="86")
FIELDS = {
    "name": "toy",
    "title": "Toy",
    "tag": "toy",
    "adapter": "preflight.adapters.toy",
    "extra": "cpu",
    "place": "cpu",
    "precisions": ("fp32",),
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_row_without_one_of_these_is_refused(field):
    Runtime(**FIELDS)
    with pytest.raises(TypeError, match=field):
        Runtime(**{name: value for name, value in FIELDS.items() if name != field})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        *(({field: ""}, f"its {field} is ''") for field in ("name", "title", "tag", "adapter", "extra", "gate")),
        ({"name": "Toy"}, "its name is 'Toy'"),
        ({"name": "toy__b"}, "its name is"),
        ({"tag": "toy2"}, "its tag is 'toy2'"),
        ({"tag": "2toy"}, "its tag is"),
        ({"tag": "to_y"}, "its tag is"),
        ({"tag": "toy\n"}, "its tag is"),
        ({"adapter": "preflight/adapters"}, "its adapter is"),
        ({"adapter": "preflight."}, "its adapter is"),
        ({"extra": "cpu, toy"}, "its extra is"),
        ({"gate": "BUILD_toy"}, "its gate is"),
        ({"place": "tpu"}, "its place is 'tpu'"),
        ({"precisions": ()}, "it has no precisions"),
        ({"precisions": ("fp32", "fp8")}, "the unknown precisions fp8"),
        ({"prepared": ("int8",)}, "it prepares int8, which it does not build"),
        ({"fp16_layers": True}, "prepares no int8"),
        ({"place": "gpu", "cuda": OnCuda(extra="gpu", precisions=("fp32",))}, "its place is cpu, not gpu"),
        ({"cuda": OnCuda(extra="", precisions=("fp32",))}, "its extra on CUDA is ''"),
        ({"cuda": OnCuda(extra="gpu", precisions=())}, "on CUDA it builds"),
        ({"cuda": OnCuda(extra="gpu", precisions=("fp16",))}, "on CUDA it builds"),
    ],
)
def test_an_invalid_row_is_refused_and_named(changes, said):
    with pytest.raises(ValueError, match="cannot be in the table") as refusal:
        Runtime(**FIELDS | changes)
    assert repr((FIELDS | changes)["name"]) in str(refusal.value)
    assert said in str(refusal.value)


@pytest.mark.parametrize("field", ["name", "tag"])
def test_two_rows_must_have_different_names_and_tags(field):
    other = Runtime(**FIELDS | {field: getattr(RUNTIMES.rows[-1], field)})
    with pytest.raises(ValueError, match=f"2 runtimes have the {field} '{getattr(other, field)}'"):
        RuntimeTable((*RUNTIMES.rows, other))
    assert len(RuntimeTable((*RUNTIMES.rows, Runtime(**FIELDS))).names) == len(RUNTIMES.names) + 1


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="no runtime"):
        RuntimeTable(())


def test_a_runtime_is_found_by_name_and_tag():
    for row in RUNTIMES:
        assert RUNTIMES.get(row.name) is RUNTIMES.named(row.name) is RUNTIMES.tagged(row.tag) is row
    assert RUNTIMES.get("caffe") is RUNTIMES.tagged("caffe") is None
    with pytest.raises(EngineBuildError, match="openvino, onnxruntime, tensorrt or pytorch_fp16"):
        RUNTIMES.named("caffe")


def test_the_device_of_each_runtime():
    where = {
        row.name: [row.on_gpu(host, device) for host in (None, CPU, GPU) for device in (None, "cpu", "cuda")]
        for row in RUNTIMES
    }
    assert where == {
        "openvino": [False] * 9,
        "onnxruntime": [False, False, True] * 3,
        "tensorrt": [True] * 9,
        "pytorch_fp16": [False] * 6 + [True] * 3,
    }


def test_precisions_and_extra_may_differ_for_cuda():
    row = dataclasses.replace(
        Runtime(**FIELDS | {"precisions": ("fp32", "int8")}), cuda=OnCuda(extra="gpu", precisions=("fp32",))
    )
    assert (row.precisions_on(None), row.precisions_on("cuda")) == (("fp32", "int8"), ("fp32",))
    assert row.install_command() == "pip install -e '.[cpu]'"
    assert row.install_command(gpu=True) == "pip install -e '.[gpu]'"
    plain = Runtime(**FIELDS)
    assert plain.install_command(gpu=True) == plain.install_command()


def test_names_are_listed_with_commas_and_or():
    assert [either(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a or b", "a, b or c"]
