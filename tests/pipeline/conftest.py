"""A small mission that is built once by the real program. Each test works on a copy of its folder, in another place."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import tempfile
import venv
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import count
from pathlib import Path

import pytest
import yaml

from preflight import wiring
from preflight.adapters.demo import landscape
from preflight.area.web_mercator import tile_bounds
from preflight.tile_import.importing import import_tiles
from preflight.tile_import.source import OfferedTile
from takeoff.manifest import SCHEMA_VERSION

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
SEED, COLUMNS, ROWS = 7, 8, 8
SOURCE = "small-landscape"
OTHER_SCHEMA = "99.1"
BACKBONE = {
    "model_name": "weight_free_vpr",
    "role": "descriptor",
    "onnx_path": "builtin:weight_free_vpr",
    "input_name": "image",
    "expected_input_shape": [1, 3, 224, 224],
    "precision": "fp32",
}


@dataclass(frozen=True)
class Done:
    """A finished process: its exit status and its output."""

    status: int
    out: str
    err: str

    @property
    def said(self):
        return self.out + self.err

    @property
    def sentences(self):
        """All output as one line, without the line breaks of the terminal."""
        return " ".join(self.said.split())

    @property
    def events(self):
        """Parse each line of standard output, which must be a JSON object."""
        found = [json.loads(line) for line in self.out.splitlines()]
        assert all(isinstance(line, dict) for line in found)
        return found

    def event(self, name):
        return [line for line in self.events if line.get("event") == name]

    @property
    def ran(self):
        """The names of the steps that ran."""
        return [line["step"] for line in self.event("c10.step.start")]


@dataclass(frozen=True)
class Place:
    """A folder with everything a mission needs: mission file, camera, tiles, keys, trust and cache.

    python: how to call the interpreter of the release of preflight that works on it.
    """

    folder: Path
    python: tuple[str, ...] = (sys.executable,)

    @property
    def mission(self):
        return self.folder / "mission.yaml"

    @property
    def cache(self):
        return self.folder / "cache"

    @property
    def work(self):
        return self.cache / "work"

    @property
    def current(self):
        return self.cache / "current"

    @property
    def generation(self):
        """The folder that `current` points to."""
        return self.current.resolve(strict=True)

    @property
    def manifest(self):
        return json.loads((self.current / "manifest.json").read_bytes())

    @property
    def report(self):
        return json.loads((self.work / "build_report.json").read_bytes())

    @property
    def database(self):
        """The data folder of the embedded server."""
        return (self.folder / "tiles").resolve() / "postgres" / "data"

    def edit(self, change):
        """Edit the mission file: `change` modifies the parsed YAML in place."""
        value = yaml.safe_load(self.mission.read_text())
        change(value)
        self.mission.write_text(yaml.safe_dump(value, sort_keys=False))

    def command(self, *arguments):
        return [*self.python, "-m", "doit", *arguments, f"mission={self.mission}"]

    def doit(self, *arguments, **options):
        return run(self.command(*arguments), **options)

    def provision(self, *arguments):
        return self.doit("provision", *arguments)

    def provision_json(self, *arguments):
        done = self.doit("provision", "log=json", *arguments)
        assert done.err == ""
        return done

    def takeoff(self):
        """Run the stand-alone verifier in its own process."""
        return run([*self.python, "-I", "-m", "takeoff", str(self.current), "--trust", str(self.folder / "trust")])

    def start(self, *arguments):
        """Start a doit process and do not wait for it. Its output is discarded."""
        return subprocess.Popen(
            self.command(*arguments), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def tiles(self):
        """Open the tile store. The caller must close it."""
        return wiring.tile_access(self.folder / "tiles", "embedded")

    def servers(self):
        """Return the process ids of this place's database server."""
        found = []
        for process in Path("/proc").iterdir():
            try:
                if process.name.isdigit() and (process / "cwd").readlink().is_relative_to(self.database):
                    found.append(int(process.name))
            except OSError:
                continue  # the process has ended, or is a zombie
        return found


def environment():
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFLIGHT_")}
    return {**kept, "COLUMNS": "400"}


def run(command, **options):
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        **{"cwd": ROOT, "env": environment(), "timeout": 300, **options},
    )
    return Done(done.returncode, done.stdout, done.stderr)


def fill(place, tiles, area, zooms):
    """Write the mission file and the camera file of a new place, and import tiles into its store."""
    (place.folder / "camera.json").write_text('{"fx": 1000.0, "fy": 1000.0, "cx": 640.0, "cy": 360.0}\n')
    value = {
        "version": 1,
        "cache_root": "cache",
        "tile_store": {"root": "tiles", "database": "embedded"},
        "area": area,
        "zoom_levels": zooms,
        "sector_class": "stable_rear",
        "calibration": "camera.json",
        "trust": "trust",
        # A point inside the landscape. A place without tiles has no origin, because its area may be anywhere.
        "takeoff_origin": {"lat": 45.99, "lon": -29.99, "alt": 120.0} if tiles else None,
        "flight_id": "0b6cf8c6-3a0e-4a55-9b0e-0a2a2a6d7f10",
        "components": {
            "c10_provisioning": {
                "runtime": "openvino",
                "workspace_mb": 256,
                "backbones": [BACKBONE],
                "descriptors": {"batch_size": 16},
                "selftest": {"queries": 20, "margin_over_thumbnail": -1.0},
                "manifest": {"signing_mode": "dev", "signing_key": "keys/dev.pem", "valid_for_days": 30},
            }
        },
    }
    place.mission.write_text(yaml.safe_dump(value, sort_keys=False))
    if not tiles:
        return
    access = place.tiles()
    try:
        import_tiles(
            (OfferedTile(tile.zoom, tile.x, tile.y, tile.content, ".jpg") for tile in tiles),
            source=SOURCE,
            captured_at=datetime.now(timezone.utc),
            metadata=access.metadata(),
            pixels=access.pixels(),
            check_image=wiring.check_image,
            clock=wiring.wall_clock,
        )
    finally:
        access.close()


def box_around(tiles):
    """Return a box over exactly these tiles: their outer borders, moved inwards by 1e-7 degrees."""
    bounds = [tile_bounds(tile.zoom, tile.x, tile.y) for tile in tiles]
    return {
        "lat_min": min(bound.lat_min for bound in bounds) + 1e-7,
        "lon_min": min(bound.lon_min for bound in bounds) + 1e-7,
        "lat_max": max(bound.lat_max for bound in bounds) - 1e-7,
        "lon_max": max(bound.lon_max for bound in bounds) - 1e-7,
    }


@contextmanager
def open_folder():
    """Make a folder that the embedded server's user can also enter if the tests run as root.

    Pytest's folders are 0700.
    """
    folder = Path(tempfile.mkdtemp(prefix="preflight-pipeline-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def duplicate(place, folder, *, own_tiles=True):
    """Copy a place with its modes, owners and hard links.

    Without `own_tiles`, share the tile store, which is quicker.
    """
    if own_tiles:
        subprocess.run(["cp", "-a", place.folder, folder], check=True)
        return Place(folder)
    folder.mkdir()
    parts = [path for path in place.folder.iterdir() if path.name != "tiles"]
    subprocess.run(["cp", "-a", *parts, folder], check=True)
    (folder / "tiles").symlink_to(place.folder / "tiles")
    return Place(folder)


@pytest.fixture(scope="session")
def room():
    with open_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def landscape_tiles():
    return list(landscape.generate(SEED, columns=COLUMNS, rows=ROWS))


@pytest.fixture(scope="session")
def place_over(room):
    """place_over(name, tiles): a mission over exactly these tiles, which are imported. Nothing is built."""

    def make(name, tiles):
        place = Place(room / name)
        place.folder.mkdir()
        fill(place, tiles, {"bbox": box_around(tiles)}, [17, 18])
        return place

    return make


@pytest.fixture(scope="session")
def unbuilt(place_over, landscape_tiles):
    """The small mission with imported tiles and nothing built. Tests must not change it."""
    return place_over("unbuilt", landscape_tiles)


@pytest.fixture(scope="session")
def copy_whole(room):
    """copy_whole(place, name): a copy that stays until the session ends."""
    return lambda place, name: duplicate(place, room / name)


@pytest.fixture(scope="session")
def first(copy_whole, unbuilt):
    """The small mission built by `doit provision`, and the finished process. Tests must not change it."""
    place = copy_whole(unbuilt, "built")
    done = place.provision_json()
    assert done.status == 0, done.said
    return place, done


@pytest.fixture(scope="session")
def numbers():
    return count()


@pytest.fixture
def copy_of(room, numbers):
    """copy_of(place): make a copy of a place for one test, and remove it after the test."""
    made = []

    def copy(place, **options):
        made.append(duplicate(place, room / f"copy-{next(numbers)}", **options))
        return made[-1]

    yield copy
    for place in made:
        assert place.servers() == []
        shutil.rmtree(place.folder)


@pytest.fixture
def built(first, copy_of):
    """A copy of the built mission that shares the tile store. For tests that change no tiles and no rows."""
    return copy_of(first[0], own_tiles=False)


@pytest.fixture
def whole(first, copy_of):
    """A copy of the built mission with its own tile store."""
    return copy_of(first[0])


@pytest.fixture
def fresh(unbuilt, copy_of):
    """A copy of the mission that is not built yet, with its own tile store."""
    return copy_of(unbuilt)


@pytest.fixture(scope="session")
def releases(room):
    """Manifest schema -> how to call the interpreter of a release that writes and reads it.

    One is this checkout. The other differs in its schema version alone. It is an environment of its own, so that
    `python -I -m takeoff` finds its verifier, too.
    """
    folder = room / "other-release"
    venv.create(folder, symlinks=True)
    takeoff = folder / "lib" / "takeoff"
    shutil.copytree(ROOT / "lib" / "takeoff", takeoff)
    module = takeoff / "manifest.py"
    here, there = (f'SCHEMA_VERSION = "{version}"' for version in (SCHEMA_VERSION, OTHER_SCHEMA))
    assert module.read_text().count(here) == 1
    module.write_text(module.read_text().replace(here, there))
    (packages,) = (folder / "lib").glob("python3*/site-packages")
    before = [str(takeoff.parent), str(ROOT / "lib")]
    (packages / "other_release.pth").write_text("\n".join([*before, *site.getsitepackages()]) + "\n")
    # -E: a PYTHONPATH that names this checkout would come first.
    return {SCHEMA_VERSION: (sys.executable,), OTHER_SCHEMA: (str(folder / "bin" / "python"), "-E")}


@pytest.fixture(scope="session")
def place_in():
    """place_in(folder, area, zooms): make a new place with a mission and without tiles."""

    def make(folder, area, zooms):
        place = Place(folder)
        folder.mkdir()
        fill(place, [], area, zooms)
        return place

    return make


@pytest.fixture(scope="session")
def oam():
    """The folder with the real tiles. Skips the test if it does not exist."""
    if not (SHARED / "oam").is_dir():
        pytest.skip("there are no real tiles in ../shared/data/oam")
    return SHARED


@pytest.fixture(scope="session")
def python_outside():
    """run(command): run any program, as `Place.doit` runs doit."""
    return run
