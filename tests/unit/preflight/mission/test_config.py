"""The configuration of the whole program, as callers of the Python API hand it in."""

from __future__ import annotations

from collections import UserDict
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import msgspec
import pytest

from preflight.errors import MissionError
from preflight.mission.config import (
    BackboneConfig,
    C7InferenceConfig,
    C10BatcherConfig,
    C10ManifestConfig,
    C10ProvisionerConfig,
    C10ProvisioningConfig,
    Config,
    read_blocks,
)
from preflight.records import PrecisionMode

BACKBONE = BackboneConfig("net", "net.onnx", (1, 3, 224, 224), "image")
MANIFEST = C10ManifestConfig("dev", "keys/dev.pem", "trust")
BLOCK = C10ProvisioningConfig([BACKBONE], MANIFEST, workspace_mb=256)


class Struct(msgspec.Struct):
    """A block as a msgspec struct of the caller's."""

    backbones: list
    manifest: object
    workspace_mb: int


class Mode(Enum):
    """A plain enum of a caller's."""

    DEV = "dev"


def config_of(block=BLOCK, **others):
    return Config({"c10_provisioning": block, **others})


def mapping(block):
    """A block as nested mappings, as a YAML file would give it."""
    made = {name: value for name, value in asdict(block).items() if value is not None}
    made["backbones"] = [{name: v for name, v in one.items() if v is not None} for one in made["backbones"]]
    return {name: msgspec.to_builtins(value) for name, value in made.items()}


def faults(config, **options):
    with pytest.raises(MissionError) as caught:
        read_blocks(config, **options)
    return caught.value.problems


FORMS = {
    "dataclass": BLOCK,
    "mapping": mapping(BLOCK),
    "mapping of another class": UserDict(mapping(BLOCK)),
    "plain object": SimpleNamespace(
        backbones=(SimpleNamespace(**vars(BACKBONE)),), manifest=SimpleNamespace(**vars(MANIFEST)), workspace_mb=256
    ),
    "msgspec": Struct([BACKBONE], MANIFEST, 256),
    "dataclass over mappings": replace(BLOCK, backbones=[mapping(BLOCK)["backbones"][0]]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("whole", [Config, lambda it: SimpleNamespace(components=it), lambda it: {"components": it}])
def test_a_block_may_have_any_form(form, whole):
    expected = read_blocks(config_of())
    assert read_blocks(whole(MappingProxyType({"c10_provisioning": FORMS[form]}))) == expected
    assert expected.provisioning.workspace_mb == 256
    assert expected.provisioning.backbones[0].expected_input_shape == (1, 3, 224, 224)


def test_relative_paths_start_at_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = read_blocks(config_of(replace(BLOCK, manifest=replace(MANIFEST, trust=Path("trust")))))
    assert (blocks.trust, blocks.signing_key) == (tmp_path / "trust", tmp_path / "keys" / "dev.pem")


def test_defaults_are_those_of_a_mission_file():
    blocks = read_blocks(config_of(replace(BLOCK, workspace_mb=2048)))
    provisioning = blocks.provisioning
    assert (provisioning.workspace_mb, provisioning.runtime, provisioning.device) == (2048, "openvino", None)
    assert (provisioning.descriptors.batch_size, provisioning.descriptors.max_oom_retries) == (64, 1)
    assert (provisioning.manifest.schema_version, provisioning.provisioner.keep_generations) == ("1.1", 3)
    assert (blocks.source_order, blocks.allow_missing) == ((), 0.0)


def test_every_section_is_read():
    block = replace(
        BLOCK,
        provisioner=C10ProvisionerConfig(5, {"stable_rear": 10}, ["a", "b"], 0.25),
        batcher=C10BatcherConfig(8, 2, 0.5),
        index={"m": 16},
        selftest={"queries": 5},
        manifest=replace(MANIFEST, signing_mode=Mode.DEV, valid_for_days=7),
    )
    blocks = read_blocks(config_of(block))
    made = blocks.provisioning
    assert (made.provisioner.keep_generations, made.provisioner.max_tile_age_days.stable_rear) == (5, 10)
    assert (blocks.source_order, blocks.allow_missing) == (("a", "b"), 0.25)
    assert (made.descriptors.batch_size, made.descriptors.max_oom_retries, made.descriptors.overlap) == (8, 2, 0.5)
    assert (made.index.m, made.selftest.queries) == (16, 5)
    assert (made.manifest.signing_mode, made.manifest.valid_for_days) == ("dev", 7)


@pytest.mark.parametrize(
    "block", [C7InferenceConfig("onnxruntime", "cuda"), {"runtime": "onnxruntime", "device": "cuda"}]
)
def test_the_block_c7_chooses_the_runtime(block):
    provisioning = read_blocks(config_of(c7_inference=block)).provisioning
    assert (provisioning.runtime, provisioning.device) == ("onnxruntime", "cuda")


def test_an_object_as_block_c7_may_have_fields_of_its_own():
    block = SimpleNamespace(runtime="onnxruntime", device=None, streams=4)
    assert read_blocks(config_of(c7_inference=block)).provisioning.runtime == "onnxruntime"


def test_an_unknown_key_of_the_block_c7_is_named():
    assert faults(config_of(c7_inference={"runtim": "openvino"})) == (
        "components.c7_inference.runtim: unknown key; known here: device, runtime",
    )


def test_a_block_c7_without_fields_is_refused():
    assert faults(config_of(c7_inference="openvino")) == ("components.c7_inference: is not a block with fields",)


def without(name, form):
    """The block without one field of its manifest or of its backbone."""
    section, field = name.split(".")
    block = mapping(BLOCK)
    holder = block["backbones"][0] if section == "backbones[0]" else block[section]
    del holder[field]
    if form == "mapping":
        return block
    backbones = [SimpleNamespace(**one) for one in block["backbones"]]
    return SimpleNamespace(backbones=backbones, manifest=SimpleNamespace(**block["manifest"]))


@pytest.mark.parametrize("form", ["mapping", "plain object"])
@pytest.mark.parametrize(
    "name",
    [
        "manifest.signing_mode",
        "manifest.signing_key",
        "manifest.trust",
        "backbones[0].model_name",
        "backbones[0].onnx_path",
    ],
)
def test_a_missing_field_is_named_by_its_path(name, form):
    assert faults(config_of(without(name, form))) == (f"components.c10_provisioning.{name}: is missing",)


@pytest.mark.parametrize("name", ["backbones", "manifest"])
def test_a_missing_section_is_named_by_its_path(name):
    block = mapping(BLOCK)
    del block[name]
    assert f"components.c10_provisioning.{name}: is missing" in faults(config_of(block))


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (SimpleNamespace(), "components: is missing"),
        (SimpleNamespace(components=[BLOCK]), "components: is missing"),
        ({"components": {}}, "components.c10_provisioning: is missing"),
        (Config({"c10_provisioning": None}), "components.c10_provisioning: is missing"),
        (Config({"c10_provisioning": "block"}), "components.c10_provisioning: is not a block with fields"),
    ],
)
def test_a_missing_block_is_named_by_its_path(config, problem):
    (said,) = faults(config)
    assert said.startswith(problem)


def test_unknown_keys_are_named_by_their_path():
    block = mapping(BLOCK)
    block["workspace"] = 256
    block["manifest"]["key"] = "x"
    block["backbones"][0]["name"] = "x"
    said = faults(config_of(block))
    for name in ("workspace", "manifest.key", "backbones[0].name"):
        assert any(one.startswith(f"components.c10_provisioning.{name}: ") for one in said)


def test_all_faults_are_named_at_once():
    block = replace(
        BLOCK,
        workspace_mb="much",
        manifest=replace(MANIFEST, signing_mode="sometimes", trust=""),
        provisioner=C10ProvisionerConfig(allow_missing=2.0),
        backbones=[replace(BACKBONE, expected_input_shape=(0, 3))],
    )
    at = "components.c10_provisioning"
    starts = {said.split(":")[0] for said in faults(config_of(block))}
    assert starts == {
        f"{at}.workspace_mb",
        f"{at}.manifest.signing_mode",
        f"{at}.manifest.trust",
        f"{at}.provisioner.allow_missing",
        f"{at}.backbones[0].expected_input_shape[0]",
    }


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ((None, None), ["descriptor", "auxiliary"]),
        ((None, "descriptor"), ["auxiliary", "descriptor"]),
        (("auxiliary", None), ["auxiliary", "auxiliary"]),
    ],
)
def test_the_first_backbone_is_the_descriptor_if_none_says_so(roles, expected):
    backbones = [replace(BACKBONE, model_name=name, role=role) for name, role in zip("ab", roles, strict=True)]
    made = read_blocks(config_of(replace(BLOCK, backbones=backbones))).provisioning.backbones
    assert [one.role for one in made] == expected


@pytest.mark.parametrize("precision", ["fp16", PrecisionMode.FP16])
def test_a_precision_of_the_caller_is_for_backbones_that_state_none(precision):
    backbones = [replace(BACKBONE, model_name="a"), replace(BACKBONE, model_name="b", precision=PrecisionMode.INT8)]
    block = replace(BLOCK, backbones=backbones)
    made = read_blocks(config_of(block), precision=precision).provisioning.backbones
    assert [one.precision for one in made] == ["fp16", "int8"]
    assert [one.precision for one in read_blocks(config_of(block)).provisioning.backbones] == ["fp32", "int8"]


def test_objects_inside_a_backbone_are_read_by_their_attributes():
    shaped = SimpleNamespace(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    backbone = SimpleNamespace(**{**vars(BACKBONE), "preprocessing": shaped})
    (section,) = read_blocks(with_backbone(backbone)).provisioning.backbones
    assert (section.preprocessing.mean, section.preprocessing.std) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))


@pytest.mark.parametrize("wrong", [object(), SimpleNamespace(means=(1, 2, 3)), {1, 2, 3}])
def test_an_object_of_which_nothing_can_be_read_is_refused(wrong):
    backbone = SimpleNamespace(**{**vars(BACKBONE), "preprocessing": wrong})
    with pytest.raises(MissionError, match=r"backbones\[0\]\.preprocessing"):
        read_blocks(with_backbone(backbone))


def test_a_set_is_no_sequence():
    backbone = SimpleNamespace(**{**vars(BACKBONE), "expected_input_shape": {1, 3, 224}})
    with pytest.raises(MissionError, match=r"backbones\[0\]\.expected_input_shape"):
        read_blocks(with_backbone(backbone))


def with_backbone(backbone):
    return Config({"c10_provisioning": SimpleNamespace(backbones=(backbone,), manifest=MANIFEST)})
