"""The composition root: the only place that knows which adapter stands behind which port.

runtimes      chooses the runtime that compiles and runs engines
libraries     images, ONNX files and the index
signing       chooses the signer
surroundings  what a run gets from outside: clock, environment, host, options
factories     SPEC.md's factories, from the configuration
assembly      one run: stages, session, planner
outlook       sizes and counts before a build
provisioner   the Python API
imports       tiles into the store
verifying     what `doit verify` needs

Each module is imported when one of its names is first used: a verification loads nothing that builds.
"""

# mypy: implicit-reexport
# ruff: noqa: F401 - what mypy is told; Python finds it by the table
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preflight.wiring.api_verifier import ManifestVerifierImpl, build_manifest_verifier
    from preflight.wiring.assembly import Assembly, assemble, assemble_job
    from preflight.wiring.factories import (
        build_backbone_specs,
        build_descriptor_batcher,
        build_engine_compiler,
        build_inference_runtime,
        build_manifest_builder,
    )
    from preflight.wiring.imports import check_image, import_demo, import_folder, import_source
    from preflight.wiring.libraries import image_codec, index_factory, index_identity
    from preflight.wiring.parts import C7EngineBackboneEmbedder, DescriptorBatcher, ManifestBuilder
    from preflight.wiring.provisioner import CacheProvisionerImpl, build_cache_provisioner
    from preflight.wiring.runtimes import runtime_choice
    from preflight.wiring.surroundings import Options, Surroundings
    from preflight.wiring.verifying import flying_host, manifest_verifier, tile_access, wall_clock
else:
    _HOMES = {
        "assembly": (
            "Assembly",
            "assemble",
            "assemble_job",
        ),
        "factories": (
            "build_backbone_specs",
            "build_descriptor_batcher",
            "build_engine_compiler",
            "build_inference_runtime",
            "build_manifest_builder",
        ),
        "imports": (
            "check_image",
            "import_demo",
            "import_folder",
            "import_source",
        ),
        "libraries": (
            "image_codec",
            "index_factory",
            "index_identity",
        ),
        "parts": (
            "C7EngineBackboneEmbedder",
            "DescriptorBatcher",
            "ManifestBuilder",
        ),
        "provisioner": (
            "CacheProvisionerImpl",
            "build_cache_provisioner",
        ),
        "runtimes": ("runtime_choice",),
        "surroundings": (
            "Options",
            "Surroundings",
        ),
        "api_verifier": ("ManifestVerifierImpl", "build_manifest_verifier"),
        "verifying": (
            "flying_host",
            "manifest_verifier",
            "tile_access",
            "wall_clock",
        ),
    }

    # Hidden from mypy, which would accept any misspelt name.
    def __getattr__(name: str) -> object:
        """Returns a name of one of the modules (PEP 562)."""
        home = next((home for home, names in _HOMES.items() if name in names), None)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{home}"), name)
