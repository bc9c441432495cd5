"""The parts that a cache is built with, as the factories make them and `build_cache_provisioner` takes them."""

from __future__ import annotations

from dataclasses import dataclass

from preflight.mission.config import Blocks
from preflight.mission.schema import DescriptorsSection
from preflight.ports import BackboneEmbedder, Clock, DescriptorIndexRebuilder
from preflight.ports.c6 import C6TileMetadataStore, C6TileStore

__all__ = ["C7EngineBackboneEmbedder", "DescriptorBatcher", "ManifestBuilder"]


@dataclass(frozen=True)
class C7EngineBackboneEmbedder:
    """Says that the descriptor backbone's own engine embeds the tiles. The build compiles, checks and loads it."""


@dataclass(frozen=True)
class DescriptorBatcher:
    """How tiles become descriptors, and who gets the descriptors.

    tile_metadata_store, tile_store: C6's rows and pixels, or `TileAccess` for both.
    section: how images are batched.
    rebuilder: gets the (N, dim) matrix after the index file was written; None if nobody else needs it.
    """

    embedder: BackboneEmbedder | C7EngineBackboneEmbedder
    tile_metadata_store: C6TileMetadataStore
    tile_store: C6TileStore
    rebuilder: DescriptorIndexRebuilder | None
    clock: Clock
    section: DescriptorsSection


@dataclass(frozen=True)
class ManifestBuilder:
    """Who signs, and who keeps the `manifests` rows. A run makes its statement from this and from what it built."""

    blocks: Blocks
    tile_metadata_store: C6TileMetadataStore
    clock: Clock
