"""A mission with a backbone in int8: calibrated once on the area's tiles, quantised, checked by the gate, and kept."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from preflight import wiring
from preflight.adapters.demo import landscape
from preflight.engine.calibration_table import CalibrationTable
from preflight.errors import BackboneError, CalibrationCacheError, ParityError
from preflight.mission.loading import load_mission
from preflight.records import BuildReport

MODEL = "weight_free_vpr"
ENGINE = f"engine:{MODEL}"
CALIBRATED = [f"calibration:{MODEL}", f"precision:{MODEL}"]
# Convolutions with one input or output channel. OpenVINO computes them differently from the ONNX definition.
NOT_IN_OPENVINO = {"conv_2": "fp32", "conv_17": "fp32", "conv_27": "fp32", "conv_37": "fp32"}


@dataclass(frozen=True)
class Built:
    report: BuildReport
    ran: list[str]


def section(mission):
    return mission["components"]["c10_provisioning"]


def change(place, runtime, **changes):
    """Set the runtime, and change keys of the only backbone."""

    def edit(mission):
        section(mission)["runtime"] = runtime
        section(mission)["backbones"][0].update(changes)

    place.edit(edit)


def table(place):
    return place.work / "calibration" / f"{MODEL}.json"


def prepared(place, runtime="onnxruntime"):
    return place.work / "onnx" / f"{MODEL}.{runtime}.int8.onnx"


def replace_a_tile(place, tiles, folder):
    """Replace the pixels of the tile that is last in the calibration sample.

    The sample is drawn in the order of hashes.
    """
    tile = max(tiles, key=lambda tile: hashlib.sha256(tile.content).digest())
    other = next(iter(landscape.generate(99, columns=2, rows=2)))
    path = folder / str(tile.zoom) / str(tile.x) / f"{tile.y}.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(other.content)
    store, now = place.tiles(), wiring.wall_clock
    try:
        done = wiring.import_folder(store, folder, "small-landscape", now(), now, replace_tiles=True)
    finally:
        store.close()
    assert done.replaced == 1


@pytest.fixture(scope="module")
def open_session():
    """open_session(place): open a session of its mission in this process."""
    host = wiring.Surroundings.real().host

    def make(place, **options):
        surroundings = wiring.Surroundings(wiring.wall_clock, {}, host)
        return wiring.assemble(load_mission(place.mission, {}), surroundings, wiring.Options(**options)).session()

    return make


@pytest.fixture(scope="module")
def build(open_session):
    """build(place): run one provision; returns its report and the steps that ran."""

    def provision(place, **options):
        session = open_session(place, **options)
        ran, run = [], session._tracer.run

        def noting(step, reasons=()):
            ran.append(step.name)
            run(step, reasons)

        session._tracer.run = noting
        return Built(session.build(), ran)

    return provision


@pytest.fixture(scope="module")
def quantised(first, room, build):
    """The small mission in int8 on ONNX Runtime, and what building it did. Tests must not change it."""
    if platform.machine() == "x86_64" and "vnni" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("without VNNI, x86-64 saturates sums of int8 products: the gate may refuse what this builds")
    folder = room / "quantised"
    subprocess.run(["cp", "-a", first[0].folder, folder], check=True)
    place = type(first[0])(folder)
    change(place, "onnxruntime", precision="int8")
    return place, build(place)


@pytest.fixture
def int8(quantised, copy_of):
    """A copy of the int8 mission that shares the tile store."""
    return copy_of(quantised[0], own_tiles=False)


def test_int8_is_provisioned_and_verifies(quantised, build):
    place, done = quantised
    assert done.ran[:2] == ["calibration_sample", CALIBRATED[0]]
    assert set(CALIBRATED) < set(done.ran)
    assert done.report.engines_built == 1
    (engine,) = (place.current / "engines").glob("*_int8.engine")
    assert b"DequantizeLinear" in prepared(place).read_bytes()
    assert place.takeoff().status == 0
    (gate,) = (json.loads(path.read_bytes()) for path in (place.work / "parity").glob(f"{MODEL}.json"))
    assert 0.99 <= float(gate["cosine_min"]) < 1
    sample = np.load(place.work / "samples" / "calibration.npy")
    found = CalibrationTable.decode(table(place).read_bytes(), "table")
    assert found.samples == len(sample) == 48  # those of the 80 tiles that the gate does not use
    assert not {tile.tobytes() for tile in sample} & {
        tile.tobytes() for tile in np.load(place.work / "samples" / "parity.npy")
    }
    # The engine's action key contains the measured ranges, and the manifest contains the action key.
    record = json.loads(next(place.work.glob("engines/*_int8.engine.record.json")).read_bytes())
    assert engine.name in {name.removeprefix("engines/") for name in map(str, _subjects(place))}
    assert record["components"]["prepared onnx"]
    again = build(place)
    assert (again.report.outcome, again.ran) == ("idempotent_no_op", [])


def _subjects(place):
    return [subject["name"] for subject in place.manifest["subject"]]


def test_why_names_the_precision(first, copy_of, open_session):
    place = copy_of(first[0], own_tiles=False)
    change(place, "openvino", precision="int8")
    session = open_session(place)
    try:
        told = {item.step: item.verdict.reasons for item in session.explain(ENGINE)}
    finally:
        session.close()
    assert "precision: fp32 → int8" in told[ENGINE]
    assert any(reason.endswith("is not there") for reason in told[ENGINE])
    assert told[CALIBRATED[0]] == ("never built here",)


def test_recalibrate_measures_again_but_a_changed_tile_does_not(quantised, copy_of, build, landscape_tiles, tmp_path):
    place = copy_of(quantised[0])
    before = table(place).read_bytes()
    replace_a_tile(place, landscape_tiles, tmp_path)
    done = build(place)
    assert {"tiles", "descriptors"} <= set(done.ran)
    assert not [step for step in done.ran if MODEL in step or "sample" in step]
    assert table(place).read_bytes() == before
    done = build(place, recalibrate=True)
    assert {"sample", "calibration_sample", *CALIBRATED} <= set(done.ran)
    assert table(place).read_bytes() != before
    assert build(place).report.outcome == "idempotent_no_op"


def test_changing_the_precision_and_back_measures_nothing_again(int8, build):
    change(int8, "onnxruntime", precision="fp32")
    assert not set(CALIBRATED) & set(build(int8).ran)
    change(int8, "onnxruntime", precision="int8")
    assert not [step for step in build(int8).ran if step in CALIBRATED or step == ENGINE]


@pytest.mark.parametrize("damage", ["flip", "truncate", "text"])
def test_a_damaged_table_stops_the_build_and_says_what_to_do(int8, build, damage):
    good = table(int8).read_bytes()
    bad = {
        "flip": good.replace(b'"samples":48', b'"samples":49'),
        "truncate": good[: len(good) // 2],
        "text": b"no table",
    }[damage]
    assert bad != good
    table(int8).write_bytes(bad)
    with pytest.raises(
        CalibrationCacheError, match=r"calibration table .*weight_free_vpr\.json is damaged.*recalibrate=1"
    ):
        build(int8)
    assert table(int8).read_bytes() == bad
    assert int8.report["outcome"] == "failure"
    assert int8.takeoff().status == 0
    done = build(int8, recalibrate=True)
    assert CALIBRATED[0] in done.ran
    assert ENGINE not in done.ran  # the same tiles give the same ranges
    assert table(int8).read_bytes() == good


def test_a_table_of_another_model_is_refused_and_one_of_this_model_is_used(int8, build):
    good = table(int8).read_bytes()
    own = CalibrationTable.decode(good, "table")
    key = type(own.key)(**{**{name: getattr(own.key, name) for name in own.key.__slots__}, "model": "0" * 64})
    table(int8).write_bytes(CalibrationTable(key, own.samples, own.ranges).encode())
    with pytest.raises(CalibrationCacheError, match=r"made for another model 0{64}, not [0-9a-f]{64}.*recalibrate=1"):
        build(int8)
    # A table from another machine, on which the last digits differed.
    wider = {name: (least, most * (1 + 2**-20)) for name, (least, most) in own.ranges.items()}
    carried = CalibrationTable(own.key, own.samples, wider).encode()
    table(int8).write_bytes(carried)
    assert set(CALIBRATED) <= set(build(int8).ran)
    assert table(int8).read_bytes() == carried


def test_openvino_passes_the_gate_only_without_the_layers_that_it_computes_differently(int8, build):
    """OpenVINO loads the file without an error, but its results differ from those of ONNX Runtime."""
    change(int8, "openvino", precision="int8")
    with pytest.raises(ParityError, match=r"openvino.*_int8\.engine, output descriptor: cosine 0\.[0-8]"):
        build(int8)
    assert int8.takeoff().status == 0
    change(int8, "openvino", precision="int8", precision_overrides=NOT_IN_OPENVINO)
    done = build(int8)
    assert CALIBRATED[1] in done.ran
    assert CALIBRATED[0] not in done.ran
    assert done.report.outcome == "success"
    assert int8.takeoff().status == 0


def test_an_override_that_matches_no_layer_is_refused(int8, build):
    change(int8, "onnxruntime", precision="int8", precision_overrides={"/blocks.*": "fp32"})
    with pytest.raises(BackboneError, match=r"no node '/blocks\.\*'.*weight_free_vpr.*begin with"):
        build(int8)


def test_a_check_of_the_engines_uses_the_existing_table(int8):
    """It behaves like a build: it does not measure again, and it refuses a damaged table."""
    int8.edit(lambda mission: section(mission).update(workspace_mb=512))

    def check():
        done = int8.doit("engines", "--check", "log=json")
        (entry,) = next(line["engines"] for line in done.events if "engines" in line)
        assert entry["tried"]
        return done.status, entry

    folder = int8.work / "calibration"
    before = {path: (path.read_bytes(), path.stat().st_ctime_ns) for path in folder.iterdir()}
    gate = json.loads((int8.work / "parity" / f"{MODEL}.json").read_bytes())
    status, entry = check()
    assert (status, entry["problem"], entry["parity"]) == (0, None, gate["cosine_min"])
    assert {path: (path.read_bytes(), path.stat().st_ctime_ns) for path in folder.iterdir()} == before
    table(int8).write_bytes(table(int8).read_bytes()[:-1])
    status, entry = check()
    assert status == 1
    assert "is damaged" in entry["problem"]
