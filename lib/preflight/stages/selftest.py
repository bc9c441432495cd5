"""Self-test: would simulated photographs of this area be recognised by the engine and index just built?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from preflight.cards import BackboneCard
from preflight.descriptor_store import DescriptorStore
from preflight.mission import Job
from preflight.ports import DescriptorIndexFactory, ImageCodec, TilePixelStore
from preflight.stages.descriptors import blocks_of, keys_of
from preflight.stages.engines import EngineCompiler, image_size, preprocessing_text
from preflight.stages.reading import read_tile
from preflight.store.atomic import atomic_write
from preflight.store.layout import CacheLayout
from preflight.tileset import Inventory, read_header
from preflight.trace.record import record_of
from preflight.trace.rule import Step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from preflight.evaluation.queries import TileTable
    from preflight.ports import Engine

SELFTEST_VERSION = 1
SEED = 20
TILE_PIXELS = 256


class SelftestStage:
    """Draws seeded queries from the map and looks them up as the aircraft would."""

    def __init__(
        self,
        job: Job,
        layout: CacheLayout,
        compiler: EngineCompiler,
        card: Callable[[], BackboneCard],
        store: Callable[[], DescriptorStore],
        index: Callable[[], DescriptorIndexFactory],
        identity: Mapping[str, str],
        pixels: Callable[[], TilePixelStore],
        images: Callable[[], ImageCodec],
    ) -> None:
        self._job = job
        self._spec = job.descriptor
        self._layout = layout
        self._compiler = compiler
        self._card = card
        self._store = store
        self._index = index
        self._identity = dict(identity)
        self._pixels = pixels
        self._images = images

    @property
    def _engine(self) -> Path:
        return self._layout.engines / str(self._compiler.name(self._spec))

    def components(self) -> Mapping[str, str]:
        """Of the action key.

        The index counts by its bytes and what searches it; the engine, whose bytes need not be reproducible, by its key.
        """
        return {
            "index": record_of(self._layout.index).outputs[self._layout.index.name],
            **self._identity,
            "engine": record_of(self._engine).action_key,
            "tiles": read_header(self._layout.inventory).aggregate,
            "preprocessing": preprocessing_text(self._spec),
            "card": repr(self._card()),
            "queries": str(self._job.config.selftest.queries),
            "seed": str(SEED),
        }

    def build(self) -> Iterable[Path]:
        """Measure and write selftest.json."""
        from preflight.evaluation.places import Places  # noqa: PLC0415 - loads numpy
        from preflight.selftest import evaluate  # noqa: PLC0415 - loads numpy

        inventory = Inventory.open(self._layout.inventory, vouched=True)
        images = self._images()
        table = _table(inventory)
        places = Places(table.zooms, table.xs, table.ys)
        pixels = self._pixels()
        height, _ = image_size(self._spec) or (224, 224)

        # A query looks at nine tiles, its neighbours at most of them again.
        @lru_cache(maxsize=64)
        def open_rgb(zoom: int, x: int, y: int) -> NDArray[np.uint8] | None:
            number = places.row(zoom, x, y)
            return None if number < 0 else read_tile(inventory, number, pixels, images, TILE_PIXELS)

        index = self._index().open(self._layout.index)
        with self._compiler.load(self._spec, self._engine) as engine:
            result = evaluate(
                table,
                self._card(),
                open_rgb=open_rgb,
                embed=lambda views: self._embed(engine, views, images),
                search=index.search,
                thumbnail=images.thumbnail16,
                thumbnails=lambda: self._thumbnails(inventory),
                queries=self._job.config.selftest.queries,
                seed=SEED,
                size=height,
            )
        atomic_write(self._layout.selftest, result.to_json())
        return ()

    def _embed(self, engine: Engine, views: NDArray[np.uint8], images: ImageCodec) -> NDArray[np.float32]:
        """In batches of the build's size, the last one padded: batch size can change the last bits."""
        import numpy as np  # noqa: PLC0415 - heavy

        size = self._job.config.descriptors.batch_size
        pixels = images.to_batch(views, self._spec.preprocessing)
        name = next(iter(self._spec.inputs))
        found = []
        for at in range(0, len(pixels), size):
            part = pixels[at : at + size]
            padded = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
            found.append(next(iter(engine.run({name: padded}).values()))[: len(part)])
        return np.concatenate(found)

    def _thumbnails(self, inventory: Inventory) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        at = 0
        for chunk in self._store().gather_thumbs(blocks_of(inventory), keys_of(inventory)):
            yield inventory.rows["id"][at : at + len(chunk)].copy(), chunk
            at += len(chunk)

    def step(self) -> Step:
        """As the rule judges it."""
        reads = (self._layout.inventory, self._layout.index, self._engine)
        return Step("selftest", SELFTEST_VERSION, reads, self.components, (self._layout.selftest,), self.build)


def _table(inventory: Inventory) -> TileTable:
    import numpy as np  # noqa: PLC0415 - heavy

    from preflight.evaluation.queries import TileTable  # noqa: PLC0415 - loads numpy

    rows = inventory.rows
    return TileTable(
        ids=rows["id"].astype(np.int64),
        zooms=rows["zoom"].astype(np.int64),
        xs=rows["x"].astype(np.int64),
        ys=rows["y"].astype(np.int64),
        lats=rows["lat"].astype(np.float64),
        lons=rows["lon"].astype(np.float64),
    )
