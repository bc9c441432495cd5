"""The configuration of the whole program, as callers of the Python API hand it in: `config.components[NAME]` is a block.

A block may be one of the classes below, a mapping, or any object with the same attributes. `read_blocks` checks it with the
rules of a mission file and names each fault by its path, such as `components.c10_provisioning.manifest.signing_mode`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import msgspec

from preflight.engine.runtimes import DEFAULT_RUNTIME
from preflight.errors import MissionError
from preflight.mission.fields import convert
from preflight.mission.reader import Problems
from preflight.mission.schema import (
    AgesSection,
    BackboneSection,
    IndexSection,
    ManifestSection,
    ParitySection,
    PreprocessingSection,
    ProvisioningConfig,
    SelftestSection,
)
from preflight.records import BackboneSpec

__all__ = [
    "BackboneConfig",
    "Blocks",
    "C7InferenceConfig",
    "C10BatcherConfig",
    "C10ManifestConfig",
    "C10ProvisionerConfig",
    "C10ProvisioningConfig",
    "Config",
    "load_config",
    "read_blocks",
]

C10 = "c10_provisioning"
C7 = "c7_inference"


@dataclass(frozen=True)
class BackboneConfig:
    """One model of the corpus.

    onnx_path: a file, or `builtin:weight_free_vpr`. expected_input_shape: batch first; NCHW for an image.
    role: `descriptor` or `auxiliary`. If no backbone of the corpus states a role, the first one is the descriptor.
    inputs: input name -> shape, instead of input_name and expected_input_shape, for a model with several inputs.
    preprocessing: a mapping with `mean` and `std`, three numbers each, on pixels in 0..255.
    """

    model_name: str
    onnx_path: str | Path
    expected_input_shape: Sequence[int] | None = None
    input_name: str | None = None
    role: Literal["descriptor", "auxiliary"] | None = None
    precision: str | Enum | None = None
    preprocessing: object = None
    inputs: Mapping[str, Sequence[int]] | None = None
    precision_overrides: Mapping[str, str] = field(default_factory=dict)
    parity: object = None
    runtime: str | None = None


@dataclass(frozen=True)
class C10ManifestConfig:
    """Who signs, with which key, and which keys are trusted.

    signing_key: the private key file; with `signing="offline"` the public key file. trust: the trust directory.
    schema_version: compared with the version that this program writes.
    """

    signing_mode: str | Enum
    signing_key: str | Path
    trust: str | Path
    allowed_operator_fingerprints: Sequence[str] = ()
    schema_version: str = "1.1"
    signing: Literal["here", "offline"] = "here"
    valid_for_days: int = 30


@dataclass(frozen=True)
class C10ProvisionerConfig:
    """What is kept and what is accepted.

    source_order: names of tile sources, the preferred one first; a tile that several sources hold comes from the first.
    allow_missing: share of the area's tiles that may be absent, 0 to 1.
    """

    keep_generations: int = 3
    max_tile_age_days: object = field(default_factory=AgesSection)
    source_order: Sequence[str] = ()
    allow_missing: float = 0.0


@dataclass(frozen=True)
class C10BatcherConfig:
    """How images are embedded. overlap: 0, 0.5 or 0.75 of a tile's side between neighbouring retrieval units."""

    batch_size: int = 64
    max_oom_retries: int = 1
    overlap: float = 0.0


@dataclass(frozen=True)
class C10ProvisioningConfig:
    """The block `c10_provisioning`."""

    backbones: Sequence[object]
    manifest: object
    workspace_mb: int = 2048
    provisioner: object = field(default_factory=C10ProvisionerConfig)
    batcher: object = field(default_factory=C10BatcherConfig)
    index: object = field(default_factory=IndexSection)
    selftest: object = field(default_factory=SelftestSection)


@dataclass(frozen=True)
class C7InferenceConfig:
    """The block `c7_inference`. device: for the runtime onnxruntime only."""

    runtime: str = DEFAULT_RUNTIME
    device: str | None = None


@dataclass(frozen=True)
class Config:
    """The configuration of the whole program. Any object with such an attribute `components` will do as well."""

    components: Mapping[str, object]


@dataclass(frozen=True)
class Blocks:
    """The checked blocks.

    provisioning: both blocks as one, as a mission file has it. trust, signing_key: absolute paths.
    """

    provisioning: ProvisioningConfig
    trust: Path
    signing_key: Path
    source_order: tuple[str, ...]
    allow_missing: float


_OWN = {
    "manifest": frozenset({"trust"}),
    "provisioner": frozenset({"source_order", "allow_missing"}),
}


class _Provisioner(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of `C10ProvisionerConfig` that a mission file has elsewhere."""

    source_order: tuple[str, ...] = ()
    allow_missing: float = msgspec.field(default=0.0)


def read_blocks(config: object, precision: str = "fp32") -> Blocks:
    """Checks the blocks that this component reads: `c10_provisioning`, and `c7_inference` if there is one.

    Relative paths start at the working directory. precision: for backbones that state none.

    Raises:
        MissionError: a block or a field is missing, unknown or wrong. Names every fault by its path.
    """
    problems = Problems()
    components = _components(config, problems)
    block = _required(components, C10, "components", problems)
    problems.check("the configuration")
    at = f"components.{C10}"
    plain = _plain(block, C10ProvisioningConfig)
    if not isinstance(plain, dict):
        raise MissionError("the configuration", (f"{at}: is not a block with fields",))
    own = {name: _taken(plain, name, names) for name, names in _OWN.items()}
    plain["descriptors"] = plain.pop("batcher", {})
    _complete(plain.get("backbones"), precision)
    _take_runtime(plain, components.get(C7), problems)
    trust = _path(own["manifest"].get("trust"), f"{at}.manifest.trust", problems)
    extra = convert(own["provisioner"], _Provisioner, problems, f"{at}.provisioner") or _Provisioner()
    if not 0.0 <= extra.allow_missing <= 1.0:
        problems.add(f"{at}.provisioner.allow_missing", f"{extra.allow_missing} is not a share from 0 to 1")
    provisioning = convert(plain, ProvisioningConfig, problems, at)
    problems.check("the configuration")
    if provisioning is None or trust is None:
        raise MissionError("the configuration", (f"{at}: cannot be read",))
    key = Path(provisioning.manifest.signing_key).absolute()
    return Blocks(provisioning, trust, key, extra.source_order, extra.allow_missing)


def load_config(path: Path, environment: Mapping[str, str] | None = None) -> Config:
    """Reads the configuration from a mission file, so that the Python API builds what `doit provision` builds.

    environment: values for `${NAME}`; None: the variables of this process.

    Raises:
        MissionError: the mission file is refused.
    """
    from preflight.mission.loading import load_mission  # noqa: PLC0415 - reads flight plans, which few callers need

    job = load_mission(Path(path), os.environ if environment is None else environment).job
    config = job.config
    backbones = tuple(
        _backbone_config(spec, section) for spec, section in zip(job.backbones, config.backbones, strict=True)
    )
    manifest = C10ManifestConfig(
        **{name: getattr(config.manifest, name) for name in _names(ManifestSection) if name != "signing_key"},
        signing_key=job.signing_key,
        trust=job.trust,
    )
    section = config.descriptors
    block = C10ProvisioningConfig(
        backbones=backbones,
        manifest=manifest,
        workspace_mb=config.workspace_mb,
        provisioner=C10ProvisionerConfig(
            config.provisioner.keep_generations,
            config.provisioner.max_tile_age_days,
            job.source_order,
            job.allow_missing,
        ),
        batcher=C10BatcherConfig(section.batch_size, section.max_oom_retries, section.overlap),
        index=config.index,
        selftest=config.selftest,
    )
    return Config({C10: block, C7: C7InferenceConfig(config.runtime, config.device)})


def _backbone_config(spec: BackboneSpec, section: BackboneSection) -> BackboneConfig:
    return BackboneConfig(
        spec.model_name,
        spec.onnx_path,
        role=spec.role,
        precision=spec.precision,
        preprocessing=section.preprocessing,
        inputs=spec.inputs,
        precision_overrides=section.precision_overrides,
        parity=section.parity,
        runtime=spec.runtime,
    )


def _components(config: object, problems: Problems) -> Mapping[str, object]:
    components = config.get("components") if isinstance(config, Mapping) else getattr(config, "components", None)
    if not isinstance(components, Mapping):
        problems.add("components", "is missing: the configuration needs a mapping of component names to blocks")
        return {}
    return components


def _required(components: Mapping[str, object], name: str, at: str, problems: Problems) -> object:
    if components.get(name) is None and not len(problems):
        problems.add(f"{at}.{name}", "is missing")
    return components.get(name)


def _take_runtime(plain: dict[str, Any], block: object, problems: Problems) -> None:
    """Puts the block `c7_inference` where a mission file has its fields."""
    found = _plain(block, C7InferenceConfig) if block is not None else {}
    if not isinstance(found, dict):
        problems.add(f"components.{C7}", "is not a block with fields")
        return
    for name in found.keys() - {"runtime", "device"}:
        if isinstance(block, (Mapping, C7InferenceConfig)):
            problems.add(f"components.{C7}.{name}", "unknown key; known here: device, runtime")
    plain.update({name: found[name] for name in ("runtime", "device") if found.get(name) is not None})


def _taken(plain: dict[str, Any], block: str, names: frozenset[str]) -> dict[str, Any]:
    """Removes the named fields from a block and returns them."""
    held = plain.get(block)
    return {name: held.pop(name) for name in sorted(names) if name in held} if isinstance(held, dict) else {}


def _complete(backbones: object, precision: str) -> None:
    """Gives each backbone a role and a precision. The first one is the descriptor if none states a role."""
    entries = [entry for entry in backbones if isinstance(entry, dict)] if isinstance(backbones, list) else []
    stated = any(entry.get("role") is not None for entry in entries)
    for number, entry in enumerate(entries):
        if entry.get("role") is None:
            entry["role"] = "descriptor" if not stated and number == 0 else "auxiliary"
        entry.setdefault("precision", str(precision))


def _path(value: object, at: str, problems: Problems) -> Path | None:
    if not isinstance(value, str) or not value:
        problems.add(at, "is missing" if value is None else "is not a path")
        return None
    return Path(value).absolute()


# The class whose fields a hand-made object is asked for, by the field that holds it.
_BLOCKS: dict[str, type] = {
    "manifest": C10ManifestConfig,
    "provisioner": C10ProvisionerConfig,
    "batcher": C10BatcherConfig,
    "backbones": BackboneConfig,
    "index": IndexSection,
    "selftest": SelftestSection,
    "max_tile_age_days": AgesSection,
    "preprocessing": PreprocessingSection,
    "parity": ParitySection,
}


_UNORDERED = frozenset({"allowed_operator_fingerprints"})


def _names(kind: type) -> tuple[str, ...]:
    if is_dataclass(kind):
        return tuple(one.name for one in fields(kind))
    return tuple(one.name for one in msgspec.structs.fields(kind))


def _plain(value: object, kind: type | None = None, name: str = "") -> Any:  # noqa: ANN401 - plain values of any form
    """Returns a block as mappings, lists and scalars, as a YAML file would give it. Leaves out fields that are None."""
    kind = _BLOCKS.get(name, kind)
    if isinstance(value, (set, frozenset)):
        # Its order differs from run to run. As a text it is refused by the place of its field.
        value = sorted(map(str, value)) if name in _UNORDERED else repr(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (str, bytes, int, float)) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item, None, str(key)) for key, item in value.items() if item is not None}
    if isinstance(value, Sequence):
        return [_plain(item, kind) for item in value]
    names = (
        _names(type(value))
        if is_dataclass(value) or isinstance(value, msgspec.Struct)
        else _names(kind)
        if kind
        else ()
    )
    found = {one: getattr(value, one) for one in names if getattr(value, one, None) is not None}
    # An object of which nothing can be read stays as it is: the check of its field refuses it by its place.
    return {one: _plain(item, None, one) for one, item in found.items()} if found else value
