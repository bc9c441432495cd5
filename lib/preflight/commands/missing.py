"""`doit plan --missing=FILE`: the tiles the area lacks, as GeoJSON for the C11 TileDownloader."""

from __future__ import annotations

from pathlib import Path

from preflight.area.area import cover
from preflight.errors import CommandLineError
from preflight.mission.job import Job
from preflight.ports import Clock
from preflight.run.tile_access import TileAccess
from preflight.stages.reading import intact
from preflight.store.atomic import atomic_write
from preflight.tileset.coverage import CoverageReport, CoverageWalk, lacks_geojson
from preflight.tileset.source_choice import choose_sources, rows_of_cover


def write_missing(job: Job, tiles: TileAccess, clock: Clock, path: Path) -> CoverageReport:
    """Write every missing, stale or corrupt tile of the job's area to `path`, atomically, and return what was counted.

    Every tile's file is read.

    A file is written also when nothing is missing: it then holds no features.

    Raises:
        CommandLineError: the file is no GeoJSON by its name, or cannot be written.
        DatabaseError: as the tile store raises.
    """
    if path.suffix.lower() not in {".geojson", ".json"}:
        # It is replaced when it is there: a slip must not cost a mission file.
        raise CommandLineError(f"--missing={path}: name a file that ends in .geojson or .json")
    walk = CoverageWalk(cover(job.area, job.zoom_levels), now=clock(), max_age=job.max_tile_age)
    # Opening an embedded tile store that is not there would make one.
    if tiles.root.is_dir():
        rows = rows_of_cover(tiles.metadata(), cover(job.area, job.zoom_levels))
        pixels = tiles.pixels()
        for row in walk.through(choose_sources(rows, job.source_order, walk.passed_over)):
            if not intact(pixels, row.path, row.sha256):
                walk.corrupt((row.zoom, row.x, row.y))
    try:
        atomic_write(path.absolute(), (part.encode("ascii") for part in lacks_geojson(walk.lacks())))
    except OSError as error:
        raise CommandLineError(f"--missing={path} cannot be written ({error.strerror}); name another file") from error
    return walk.report()
