"""Tiles offered by a GeoTIFF, cloud-optimised or not: resampled to the tile grid at the zooms asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preflight.adapters.rasters.rendering import MIN_COVERAGE, render
from preflight.adapters.rasters.tile_grid import (
    Placement,
    check_picture,
    date_of,
    grids_of,
    open_raster,
    terms_of,
)
from preflight.errors import ImportSourceError
from preflight.tile_import.source import OfferedTile, Zooms

__all__ = ["SIGNATURES", "GeoTiff"]

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""TIFF 6.0 and BigTIFF, of both byte orders."""


class GeoTiff:
    """A TileSource over a GeoTIFF, by zoom, then row by row from the north."""

    def __init__(
        self,
        path: Path,
        zooms: Zooms | None = None,
        *,
        min_coverage: float = MIN_COVERAGE,
        threads: int | None = None,
    ) -> None:
        """Read the header. zooms: None is the one nearest to the picture's own resolution.

        min_coverage: the share of a tile's pixels the picture must fill, by its alpha, mask or no-data value. threads: how
        many render; None is one a core, at most 4. The tiles are the same.

        Raises:
            ImportSourceError: it does not read, has no georeference, crosses the 180th meridian, is not of 8 bits, or
                would give too many tiles.
        """
        self._path = path
        self._min_coverage = min_coverage
        self._threads = threads
        with open_raster(path, "GTiff") as dataset:
            self._placement = _placement(path, dataset)
            check_picture(path, dataset)
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
            raise ImportSourceError(f"{path} is placed by control points alone. Rectify it: gdalwarp -t_srs EPSG:3857")
        raise ImportSourceError(
            f"{path} has no georeference. Export it as a GeoTIFF with one, or give a PNG or JPEG with a CSV of its corners"
        )
    return Placement(dataset.crs, dataset.transform)
