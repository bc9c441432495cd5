"""Caches of an earlier version stay up to date. Its build records, kept as a test vector, must equal those of today.

`tests/vectors/records/small_mission.json` contains the records of the small mission as commit 545933d wrote them,
before the modules moved into packages. A renamed component, a changed value or a raised step version rebuilds every
cache in the field. If a change is intended, write the file again:
`python tests/pipeline/test_build_records.py WORK >tests/vectors/records/small_mission.json`
"""

from __future__ import annotations

import json
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "vectors" / "records" / "small_mission.json"
# The libraries that encode, compile and index. Together with the instruction set they determine the bytes.
LIBRARIES = ("faiss-cpu", "numpy", "onnx", "onnxruntime", "openvino", "pillow")
ENGINE = re.compile(r"weight_free_vpr__[a-z0-9-]+_openvino[0-9.]+_fp32\.engine")
DIGEST = re.compile(r"[0-9a-f]{64}")
# Components that differ in each cache: they depend on a new key, a new store, or the time of the import.
OWN = {"signer", "tile_store", "coverage", "artifact provenance.json", "envelope", "manifest"}
OWN_FILES = {"coverage.json", "manifest.dsse.json", "manifest.json", "provenance.json", "published.json", "tiles.times"}
# Components that depend on this machine and its libraries.
MACHINE = {"host", "runtime_version", "reference", "runtime", "faiss", "simd", "builder", "model weight_free_vpr"}


def made_with(found):
    """Return the versions of the libraries, and the host as the engine's action key describes it."""
    host = found["engines/ENGINE.record.json"]["components"]["host"]
    return {name: metadata.version(name) for name in LIBRARIES} | {"host": host}


def named(text):
    """Replace the engine's file name, which depends on the machine, by a fixed one."""
    return ENGINE.sub("ENGINE", text)


def records(work):
    """Return each build record below work/ by its path: the step, its version, its components, its outputs."""
    found = {}
    for path in sorted(work.rglob("*.record.json")):
        value = json.loads(path.read_bytes())
        found[named(str(path.relative_to(work)))] = {
            "step": value["step"],
            "version": value["version"],
            "components": {named(key): named(text) for key, text in sorted(value["components"].items())},
            "outputs": {named(key): digest for key, digest in sorted(value["outputs"].items())},
        }
    return found


def of_any_machine(record):
    """Return the parts of a record that depend on no machine and no time: no digests, library versions or times."""
    kept = {
        key: text for key, text in record["components"].items() if key not in OWN | MACHINE and not DIGEST.search(text)
    }
    return record["step"], record["version"], sorted(record["components"]), kept


def of_equal_machines(record):
    components = {key: text for key, text in record["components"].items() if key not in OWN}
    return components, {key: digest for key, digest in record["outputs"].items() if key not in OWN_FILES}


def test_the_action_keys_have_the_components_they_had(built):
    golden, today = json.loads(GOLDEN.read_text())["records"], records(built.work)
    assert {path: of_any_machine(record) for path, record in today.items()} == {
        path: of_any_machine(record) for path, record in golden.items()
    }


def test_the_outputs_have_the_bytes_they_had(built):
    golden, today = json.loads(GOLDEN.read_text()), records(built.work)
    if (recorded := golden["made_with"]) != (here := made_with(today)):
        pytest.skip(f"recorded with {recorded}, here are {here}: their bytes differ")
    assert {path: of_equal_machines(record) for path, record in today.items()} == {
        path: of_equal_machines(record) for path, record in golden["records"].items()
    }


if __name__ == "__main__":
    found = records(Path(sys.argv[1]))
    json.dump({"made_with": made_with(found), "records": found}, sys.stdout, indent=1, sort_keys=True)
