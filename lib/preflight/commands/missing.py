"""`doit plan --missing=FILE`: writes the tiles that the area lacks as GeoJSON, for the C11 TileDownloader."""

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
    """Write every missing, stale or corrupt tile of the job's area to a GeoJSON file, atomically.

    Reads the file of every tile. If nothing is missing, it writes a file without features.

    Args:
        job: the mission.
        tiles: its tile store.
        clock: the time against which the age of a tile counts.
        path: the file to write; its name must end in .geojson or .json.

    Returns:
        The counts of the area's tiles.

    Raises:
        CommandLineError: the file has another ending, or cannot be written.
        DatabaseError: the tile store does not answer.
    """
    if path.suffix.lower() not in {".geojson", ".json"}:
        # An existing file is replaced. A typing error must not overwrite a mission file.
        raise CommandLineError(f"--missing={path} is not a GeoJSON file: give a name that ends in .geojson or .json")
    walk = CoverageWalk(cover(job.area, job.zoom_levels), now=clock(), max_age=job.max_tile_age)
    # Opening an embedded tile store that does not exist would create one.
    if tiles.exists():
        rows = rows_of_cover(tiles.metadata(), cover(job.area, job.zoom_levels))
        pixels = tiles.pixels()
        for row in walk.through(choose_sources(rows, job.source_order, walk.passed_over)):
            if not intact(pixels, row.path, row.sha256):
                walk.corrupt((row.zoom, row.x, row.y))
    try:
        atomic_write(path.absolute(), (part.encode("ascii") for part in lacks_geojson(walk.lacks())))
    except OSError as error:
        raise CommandLineError(f"--missing={path} cannot be written ({error.strerror}). Name another file") from error
    return walk.report()
