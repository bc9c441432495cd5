"""Samples for the parity gate and for calibration. They are drawn once from the sealed set and kept when tiles change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from preflight.ports import ImageCodec, TilePixelStore
from preflight.stages.reading import read_tile
from preflight.stages.tiles import hash_heads
from preflight.store.atomic import atomic_path
from preflight.store.cache_layout import CacheLayout
from preflight.tileset.inventory import Inventory
from preflight.trace.rule import Step

SAMPLE_VERSION = 1
SAMPLE_SIZE = 32
SAMPLE_PIXELS = 256
CALIBRATION_SIZE = 128


def sample_step(
    layout: CacheLayout,
    pixels: Callable[[], TilePixelStore],
    images: Callable[[], ImageCodec],
    *,
    recalibrate: bool,
) -> Step:
    """Returns the step that draws tiles for the parity gate. They are kept until `recalibrate=1` asks for new ones."""
    first = slice(SAMPLE_SIZE)
    return _drawn("sample", layout.parity_sample, lambda _: first, SAMPLE_SIZE, layout, pixels, images, recalibrate)


def calibration_sample_step(
    layout: CacheLayout,
    pixels: Callable[[], TilePixelStore],
    images: Callable[[], ImageCodec],
    *,
    recalibrate: bool,
) -> Step:
    """Returns the step that draws tiles for calibration. They are kept like those of the gate.

    They differ from the gate's tiles if the set has at least twice as many tiles as the gate's sample.
    """

    def chosen(total: int) -> slice:
        first = SAMPLE_SIZE if total >= 2 * SAMPLE_SIZE else 0
        return slice(first, first + CALIBRATION_SIZE)

    target = layout.calibration_sample
    return _drawn("calibration_sample", target, chosen, CALIBRATION_SIZE, layout, pixels, images, recalibrate)


def _drawn(
    name: str,
    target: Path,
    places: Callable[[int], slice],
    size: int,
    layout: CacheLayout,
    pixels: Callable[[], TilePixelStore],
    images: Callable[[], ImageCodec],
    recalibrate: bool,
) -> Step:
    """places: number of tiles -> which of them to draw, in the order of their hashes."""
    asked = [recalibrate]

    def components() -> Mapping[str, str]:
        return {"size": str(size), "pixels": str(SAMPLE_PIXELS)}

    def build() -> Iterable[Path]:
        import numpy as np  # noqa: PLC0415 - heavy

        inventory = Inventory.open(layout.inventory, vouched=True)
        # The smallest hashes make a draw that needs no seed and is independent of the place on the ground.
        order = np.argsort(hash_heads(inventory), kind="stable")
        chosen = sorted(int(number) for number in order[places(len(order))])
        tiles = [read_tile(inventory, number, pixels(), images(), SAMPLE_PIXELS) for number in chosen]
        with atomic_path(target) as temporary, temporary.open("wb") as out:
            np.save(out, np.stack(tiles), allow_pickle=False)
        asked[0] = False
        return ()

    def rerun_reason() -> str | None:
        return "recalibrate=1" if asked[0] else None

    return Step(name, SAMPLE_VERSION, (), components, (target,), build, rerun_reason)
