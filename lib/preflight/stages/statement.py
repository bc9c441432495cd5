"""The statement: the facts that a manifest states about a cache, read from what was built."""

from __future__ import annotations

import json
from dataclasses import dataclass

from preflight.engine.compiler import EngineCompiler
from preflight.mission.job import Job
from preflight.records import BackboneSpec, HostCapabilities
from preflight.stages.artifacts import artifact_paths
from preflight.stages.parity_gate import parity_path
from preflight.store.cache_layout import CacheLayout
from preflight.tileset.inventory import read_header
from preflight.trace.digests import DigestCache
from preflight.trace.record import canonical_json, record_of
from takeoff import manifest as format_

DAY = 86400


@dataclass(frozen=True, slots=True)
class Facts:
    """Reads the facts about one job's cache from work/. Each method raises FileNotFoundError if a stage did not run yet.

    builder: name -> version of each program that built the cache.
    """

    job: Job
    layout: CacheLayout
    compiler: EngineCompiler
    digests: DigestCache
    builder: dict[str, str]

    def components(self) -> dict[str, str]:
        """Returns everything that decides a statement, except its signer, its times and its generation number."""
        section = self.job.config.manifest
        artifacts = artifact_paths(self.job, self.layout, self.compiler)
        return {
            **{f"artifact {name}": self.digests.sha256(path) for name, path in artifacts.items()},
            **{
                f"parity {spec.model_name}": self.digests.sha256(parity_path(spec, self.layout))
                for spec in self.job.backbones
            },
            **_flat(self.identity()),
            "signing_mode": section.signing_mode,
            "valid_for_days": str(section.valid_for_days),
            "margin_over_thumbnail": repr(self.job.config.selftest.margin_over_thumbnail),
            "builder": canonical_json(self.builder).decode(),
        }

    def stated(self, *, generation: int, issued_at: int, valid_from: int) -> format_.Manifest:
        """Returns the manifest with this generation number and these times, in seconds since 1970."""
        identity = self.identity()
        section = self.job.config.manifest
        artifacts = artifact_paths(self.job, self.layout, self.compiler)
        return format_.Manifest(
            subjects={name: self.digests.sha256(path) for name, path in artifacts.items()},
            manifest_hash=format_.identity_hash(identity),
            generation=generation,
            issued_at=issued_at,
            valid_from=valid_from,
            valid_until=valid_from + section.valid_for_days * DAY,
            signing_mode=section.signing_mode,
            identity=identity,
            sizes={name: path.stat().st_size for name, path in artifacts.items()},
            target=self._target(self.compiler.host),
            builder=self.builder,
            quality=format_.Quality(
                parity=tuple(self._parity(spec) for spec in self.job.backbones), selftest=self.selftest()
            ),
        )

    def identity(self) -> format_.Identity:
        """Returns what decides the content of this cache (D-C10-1)."""
        job, layout = self.job, self.layout
        header = read_header(layout.inventory)
        coverage = json.loads(layout.coverage.read_bytes())
        origin = job.takeoff_origin
        return format_.Identity(
            models=tuple(self._model(spec) for spec in job.backbones),
            calibration_sha256=self.digests.sha256(job.calibration),
            corpus=format_.Corpus(
                tiles_coverage_sha256=header.aggregate,
                tile_count=header.count,
                zoom_levels=job.zoom_levels,
                area_sha256=job.area.digest(),
                covered=tuple(
                    (repr(box.lat_min), repr(box.lon_min), repr(box.lat_max), repr(box.lon_max))
                    for box in job.area.boxes()
                ),
                allow_missing=repr(float(job.allow_missing)),
                missing=coverage["missing"],
            ),
            sector_class=job.sector_class,
            takeoff_origin=None
            if origin is None
            else format_.Origin(repr(float(origin.lat)), repr(float(origin.lon)), repr(float(origin.alt))),
            flight_id=None if job.flight_id is None else str(job.flight_id),
            action_keys={
                "descriptors": record_of(layout.descriptor_set).action_key,
                "index": record_of(layout.index).action_key,
                "selftest": record_of(layout.selftest).action_key,
            },
        )

    def selftest(self) -> dict[str, str]:
        """Returns the result of the self-test as the manifest states it."""
        result = json.loads(self.layout.selftest.read_bytes())
        known, unknown = result["heading_known"], result["heading_unknown"]
        return {
            "queries": str(result["queries"]),
            "recall_at_1_heading_known": str(known["index"]["recall"]["1"]),
            "recall_at_1_heading_unknown": str(unknown["index"]["recall"]["1"]),
            "margin_over_thumbnail": str(result["margin_over_thumbnail"]),
        }

    def _model(self, spec: BackboneSpec) -> format_.Model:
        name = str(self.compiler.name(spec))
        runtime = self.compiler.runtime_of(spec)
        return format_.Model(
            model_name=spec.model_name,
            role=spec.role,
            onnx_sha256=self.digests.sha256(spec.onnx_path),
            precision=spec.precision,
            runtime=runtime.name,
            runtime_version=runtime.version,
            engine=f"engines/{name}",
            action_key=record_of(self.layout.engines / name).action_key,
        )

    def _target(self, host: HostCapabilities) -> format_.Target:
        """The host the engines need: engines of a CPU need no GPU, also where they were built beside one."""
        on_gpu = any(self.compiler.name(spec).sm is not None for spec in self.job.backbones)
        return format_.Target(host.arch, host.isa, host.sm if on_gpu else None, host.jetpack)

    def _parity(self, spec: BackboneSpec) -> format_.Parity:
        report = json.loads(parity_path(spec, self.layout).read_bytes())
        return format_.Parity(
            engine=f"engines/{self.compiler.name(spec)}",
            sample_sha256=self.digests.sha256(self.layout.parity_sample),
            cosine_min=report["cosine_min"],
            threshold=report["threshold"],
        )


def _flat(identity: format_.Identity) -> dict[str, str]:
    """The identity field by field, so that `doit why manifest` names what changed."""
    corpus = {f"corpus {name}": value for name, value in identity.corpus._asdict().items()}
    keys = {f"action key of {name}": value for name, value in identity.action_keys.items()}
    models = {f"model {model.model_name}": list(model) for model in identity.models}
    rest = {
        "calibration": identity.calibration_sha256,
        "sector_class": identity.sector_class,
        "takeoff_origin": identity.takeoff_origin,
        "flight_id": identity.flight_id,
    }
    merged = {**corpus, **keys, **models, **rest}
    return {name: value if isinstance(value, str) else canonical_json(value).decode() for name, value in merged.items()}
