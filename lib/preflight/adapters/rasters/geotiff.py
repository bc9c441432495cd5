"""A source of tiles: a GeoTIFF, cloud-optimised or not, resampled to the tile grid at the requested zooms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preflight.adapters.rasters.rendering import MIN_COVERAGE, render
from preflight.adapters.rasters.tile_grid import (
    Placement,
    check_image,
    date_of,
    grids_of,
    open_raster,
    terms_of,
)
from preflight.errors import ImportSourceError
from preflight.tile_import.source import OfferedTile, Zooms

__all__ = ["SIGNATURES", "GeoTiff"]

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first four bytes of TIFF 6.0 and BigTIFF files, in both byte orders."""


class GeoTiff:
    """A TileSource over a GeoTIFF. Yields tiles by zoom, then row by row from the north."""

    def __init__(
        self,
        path: Path,
        zooms: Zooms | None = None,
        *,
        min_coverage: float = MIN_COVERAGE,
        threads: int | None = None,
    ) -> None:
        """Read the header.

        Args:
            path: the GeoTIFF file.
            zooms: the first and last zoom; None for the zoom nearest to the resolution of the image.
            min_coverage: the share of a tile's pixels that the image must fill; tiles with less are left out. Alpha,
                mask and no-data value tell which pixels it fills.
            threads: the number of rendering threads; None for one for each core, at most 4. It does not change the
                tiles.

        Raises:
            ImportSourceError: the file cannot be read, has no georeference, crosses the 180th meridian, does not have
                8 bits, or would give too many tiles.
        """
        self._path = path
        self._min_coverage = min_coverage
        self._threads = threads
        with open_raster(path, "GTiff") as dataset:
            self._placement = _placement(path, dataset)
            check_image(path, dataset)
            self._grids = grids_of(path, dataset, self._placement, zooms)
            self.captured_at = date_of(dataset)
            self.terms = terms_of(dataset)

    def __len__(self) -> int:
        return sum(grid.count for grid in self._grids)

    def __iter__(self) -> Iterator[OfferedTile]:
        yield from render(
            self._path,
            lambda: open_raster(self._path, "GTiff"),
            self._placement,
            self._grids,
            self._min_coverage,
            threads=self._threads,
        )


def _placement(path: Path, dataset: Any) -> Placement:  # noqa: ANN401 - rasterio's dataset is untyped
    if dataset.crs is None or dataset.transform.is_identity:
        points = dataset.gcps[0] or dataset.rpcs
        if points:
            raise ImportSourceError(
                f"{path} is georeferenced by control points only. Rectify it: gdalwarp -t_srs EPSG:3857"
            )
        raise ImportSourceError(
            f"{path} has no georeference. Export it as a GeoTIFF with one, or give a PNG or JPEG with a CSV file of "
            "its corners"
        )
    return Placement(dataset.crs, dataset.transform)
