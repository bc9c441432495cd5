"""The self-test: does the engine and index just built find simulated photographs of this area?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from preflight.descriptors.descriptor_store import DescriptorStore
from preflight.engine.model_input import image_size
from preflight.errors import DescriptorBatchError
from preflight.evaluation.backbone_card import BackboneCard
from preflight.mission.job import Job
from preflight.ports import DescriptorIndex, DescriptorIndexFactory, ImageCodec, TilePixelStore
from preflight.stages.embedding import Embedding
from preflight.stages.reading import read_tile
from preflight.stages.units import Units, open_units, units_file
from preflight.store.atomic import atomic_write
from preflight.store.cache_layout import CacheLayout
from preflight.tileset.inventory import Inventory, read_header
from preflight.tileset.mapped import columns_of
from preflight.trace.record import record_of
from preflight.trace.rule import Step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from preflight.evaluation.queries import TileTable
    from preflight.ports import Engine

SELFTEST_VERSION = 2
SEED = 20
TILE_PIXELS = 256


class SelftestStage:
    """Draws queries from the map with a fixed seed and looks them up as the aircraft does."""

    def __init__(
        self,
        job: Job,
        layout: CacheLayout,
        embedding: Embedding,
        card: Callable[[], BackboneCard],
        store: Callable[[], DescriptorStore],
        index: Callable[[], DescriptorIndexFactory],
        identity: Mapping[str, str],
        pixels: Callable[[], TilePixelStore],
        images: Callable[[], ImageCodec],
        checkpoint: Callable[[], None],
    ) -> None:
        self._job = job
        self._spec = job.descriptor
        self._layout = layout
        self._embedding = embedding
        self._card = card
        self._store = store
        self._index = index
        self._identity = dict(identity)
        self._pixels = pixels
        self._images = images
        self._checkpoint = checkpoint

    def components(self) -> Mapping[str, str]:
        """Returns the components of the action key.

        The index counts by its bytes and by the library that searches it. The engine counts by its action key, because its
        bytes need not be reproducible.
        """
        return {
            "index": record_of(self._layout.index).outputs[self._layout.index.name],
            **self._identity,
            **self._embedding.components(),
            "tiles": read_header(self._layout.inventory).aggregate,
            "card": repr(self._card()),
            "queries": str(self._job.config.selftest.queries),
            "seed": str(SEED),
        }

    def build(self) -> Iterable[Path]:
        """Measures, and writes selftest.json."""
        from preflight.evaluation.retrieval_quality import evaluate  # noqa: PLC0415 - loads numpy
        from preflight.tileset.tile_lookup import TileLookup  # noqa: PLC0415 - loads numpy

        inventory = Inventory.open(self._layout.inventory, vouched=True)
        images = self._images()
        units = open_units(self._job, self._layout)
        tiles = _table(Units(inventory.rows, 1))
        table = tiles if units.steps == 1 else _table(units)
        places = TileLookup(tiles.zooms, tiles.xs, tiles.ys)
        pixels = self._pixels()
        height, _ = image_size(self._spec) or (224, 224)

        # A query reads nine tiles. The next query reads most of them again.
        @lru_cache(maxsize=64)
        def open_rgb(zoom: int, x: int, y: int) -> NDArray[np.uint8] | None:
            number = places.row(zoom, x, y)
            return None if number < 0 else read_tile(inventory, number, pixels, images, TILE_PIXELS)

        # Open the index at the first search, after the pass over the thumbnails. Both take memory.
        @lru_cache(maxsize=1)
        def index() -> DescriptorIndex:
            return self._index().open(self._layout.index)

        with self._embedding.open() as engine:
            result = evaluate(
                tiles,
                table,
                self._card(),
                open_rgb=open_rgb,
                embed=lambda views: self._embed(engine, views, images),
                search=lambda queries, k: index().search(queries, k),
                thumbnail=images.thumbnail16,
                thumbnails=lambda: self._thumbnails(units, table.ids),
                queries=self._job.config.selftest.queries,
                seed=SEED,
                size=height,
            )
        atomic_write(self._layout.selftest, result.to_json())
        return ()

    def _embed(self, engine: Engine, views: NDArray[np.uint8], images: ImageCodec) -> NDArray[np.float32]:
        """Embeds in batches of the build's size and pads the last one: the batch size can change the last bits.

        Raises DescriptorBatchError for vectors of another shape or with numbers that are not finite.
        """
        import numpy as np  # noqa: PLC0415 - heavy

        size = self._job.config.descriptors.batch_size
        pixels = self._embedding.batch(views, images)
        name = self._embedding.input_name
        found = []
        for at in range(0, len(pixels), size):
            part = pixels[at : at + size]
            padded = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
            self._checkpoint()
            vectors = next(iter(engine.run({name: padded}).values()))
            if vectors.shape != (size, self._embedding.dim()) or not np.isfinite(vectors).all():
                raise DescriptorBatchError(
                    f"the embedding of the self-test gives {vectors.shape} numbers, or some that are not finite, for "
                    f"{size} images; check the model or the embedder"
                )
            found.append(vectors[: len(part)])
        return np.concatenate(found)

    def _thumbnails(
        self, units: Units, ids: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        at = 0
        for chunk in self._store().gather_thumbs(units.blocks(), units.keys()):
            yield ids[at : at + len(chunk)], chunk
            at += len(chunk)

    def step(self) -> Step:
        """Returns the step for the up-to-date rule."""
        reads = (
            self._layout.inventory,
            units_file(self._job, self._layout),
            self._layout.index,
            *self._embedding.reads,
        )
        return Step("selftest", SELFTEST_VERSION, reads, self.components, (self._layout.selftest,), self.build)


def _table(units: Units) -> TileTable:
    import numpy as np  # noqa: PLC0415 - heavy

    from preflight.evaluation.queries import TileTable  # noqa: PLC0415 - loads numpy

    ids, zooms, xs, ys, lats, lons = columns_of(units.rows, "id", "zoom", "x", "y", "lat", "lon")
    zooms, xs, ys = (column.astype(np.int64) for column in (zooms, xs, ys))
    return TileTable(ids, zooms, xs, ys, lats, lons, steps=units.steps)
