"""The composition root: the one place that knows which adapter stands behind which port.

parts         adapters behind ports; clock, environment, host
factories     SPEC.md's factories, from the configuration
assembly      one run: stages, session, planner
provisioning  the Python API
imports       tiles into the store
"""

from preflight.wiring.assembly import Assembly, assemble, open_session
from preflight.wiring.factories import (
    build_backbone_specs,
    build_descriptor_batcher,
    build_engine_compiler,
    build_manifest_builder,
    build_manifest_verifier,
    flying_host,
)
from preflight.wiring.imports import check_image, import_demo, import_folder, import_source
from preflight.wiring.parts import (
    Options,
    Surroundings,
    image_codec,
    index_factory,
    index_identity,
    runtime_choice,
    tile_access,
    wall_clock,
)
from preflight.wiring.provisioning import build_cache_provisioner

__all__ = [
    "Assembly",
    "Options",
    "Surroundings",
    "assemble",
    "build_backbone_specs",
    "build_cache_provisioner",
    "build_descriptor_batcher",
    "build_engine_compiler",
    "build_manifest_builder",
    "build_manifest_verifier",
    "check_image",
    "flying_host",
    "image_codec",
    "import_demo",
    "import_folder",
    "import_source",
    "index_factory",
    "index_identity",
    "open_session",
    "runtime_choice",
    "tile_access",
    "wall_clock",
]
