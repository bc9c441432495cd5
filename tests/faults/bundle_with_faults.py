"""Copies a generation to a card repeatedly, with a fault at the first, second, ... file operation there.

A test runs it.

usage: bundle_with_faults.py FOLDER KIND WHAT, where KIND is the name of an errno or `kill`, and WHAT is `next` or
`mend`. Prints one outcome for each fault, as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


harness = load("preflight_fault_harness", HERE / "harness.py")
places = load("preflight_bundle_places", HERE.parent / "unit" / "preflight" / "store" / "carry" / "conftest.py")


def scenes(folder):
    """Make the starting point: a card with generation 1, and a generation 2 to copy that differs in one file."""
    ground = places.Scene(folder / "ground")
    ground.copy(ground.generation(1))
    ground.generation(2, {"camera.json": b'{"fx": 1300}'})
    return ground


def copy_of(ground, number):
    folder = ground.folder.parent / str(number)
    shutil.copytree(ground.folder, folder, symlinks=True)
    return places.Scene(folder)


def damaged(scene):
    """Damage the current cache on the card. The copy must repair it."""
    path = scene.current.resolve() / "index.faiss"
    path.chmod(0o644)
    path.write_bytes(b"\0" * path.stat().st_size)


def attempt(ground, kind, at, *, mend):
    """Make one copy with one fault in a child process. Returns None if there are fewer operations."""
    scene = copy_of(ground, f"{'mend' if mend else 'next'}-{at}")
    source = scene.generation(1) if mend else scene.generation(2, {"camera.json": b'{"fx": 1300}'})
    if mend:
        damaged(scene)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        ended = "nothing raised"
        harness.Faults(kind, at, scene.folder, writing).install()
        try:
            scene.copy(source)
        except BaseException as error:  # noqa: BLE001 - reported to the test
            ended = type(error).__name__
        os.write(writing, f"|{ended}".encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        told, _, ended = pipe.read().decode().partition("|")
    calls = told.split()
    if not calls:
        return None
    outcome = {"at": at, "call": calls[0], "ended": ended or os.waitstatus_to_exitcode(status), "state": scene.state()}
    scene.copy(source)
    outcome["after the next run"] = scene.state()
    outcome["left over"] = [path.name for path in scene.card.glob(".preflight-*")]
    shutil.rmtree(scene.folder)
    return outcome


def main():
    folder, kind, mend = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "mend"
    ground = scenes(folder)
    outcomes = []
    while (outcome := attempt(ground, kind, len(outcomes) + 1, mend=mend)) is not None:
        outcomes.append(outcome)
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main()
