"""Runs one measurement: `python engines_run.py MEASUREMENT '{"name": ..., ...}'`. Prints the result as a line of JSON.

build, build-bare   compiles an ONNX file into an engine
load, load-bare     seconds to import the library, to load the engine, and for the first image
compare             seconds of port and bare in turns, in one process
alone               runs one of the two, so that measured.py measures its memory
vendor              the vendor's own loop: benchmark_app, a session with default options, or the model in PyTorch
batcher             tiles to descriptors, compared with inference only
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "lib"))

import engines_sides as sides  # noqa: E402 - the path must be set first
import numpy as np  # noqa: E402 - the path must be set first

from preflight import wiring  # noqa: E402 - the path must be set first
from preflight.adapters.demo import landscape  # noqa: E402 - the path must be set first
from preflight.descriptors.batcher import EngineBatcher  # noqa: E402 - the path must be set first
from preflight.records import Preprocessing  # noqa: E402 - the path must be set first

IMAGENET = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
TILES = 64
FEWEST, LONGEST_S = 3, 20.0  # the fewest rounds, and the seconds after which no further round starts


def batches_of(size: int, count: int) -> list[sides.Batch]:
    """Return batches that alternate between two contents, so that a stale result of the previous batch would differ."""
    random = np.random.default_rng(size)
    two = [random.standard_normal((size, 3, sides.SIDE, sides.SIDE), np.float32) for _ in range(2)]
    return list(islice(cycle(two), count))


def seconds(burst: sides.Burst, batches: list[sides.Batch]) -> tuple[float, float]:
    """Return wall and CPU seconds of one burst; the CPU is that of the process."""
    wall, cpu = time.perf_counter(), time.process_time()
    burst(batches)
    return time.perf_counter() - wall, time.process_time() - cpu


def in_turns(first: Callable[[], object], second: Callable[[], object], rounds: int) -> list[list[list[float]]]:
    """Run both functions in each round, in alternating order. Returns [wall, CPU] seconds of both for each round.

    After LONGEST_S no further round starts, but there are at least FEWEST rounds.
    """
    times: list[list[list[float]]] = []
    start = time.perf_counter()
    for turn in range(rounds):
        if turn >= FEWEST and time.perf_counter() - start > LONGEST_S:
            break
        pair: dict[int, list[float]] = {}
        for which in (0, 1) if turn % 2 else (1, 0):
            wall, cpu = time.perf_counter(), time.process_time()
            (first, second)[which]()
            pair[which] = [time.perf_counter() - wall, time.process_time() - cpu]
        times.append([pair[0], pair[1]])
    return times


def build(job: dict[str, Any]) -> object:
    request = sides.request(Path(job["model"]), job["precision"], job["batch"])
    sides.runtime(job["name"]).compile(request, Path(job["engine"]))
    return {}


def build_bare(job: dict[str, Any]) -> object:
    target, library = Path(job["engine"]), sides.library(job["name"])
    if job["name"] == "openvino":
        properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": sides.HINTS[job["precision"]]}
        compiled = library.Core().compile_model(job["model"], "CPU", properties)
        blob = compiled.export_model()
        target.write_bytes(blob if isinstance(blob, bytes) else blob.getvalue())
    elif job["name"] == "onnxruntime":
        options = library.SessionOptions()
        options.graph_optimization_level = library.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(target)
        library.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
    return {}


def load(job: dict[str, Any]) -> object:
    model = Path(job["model"])
    return _load(job, lambda engine: sides.port(job["name"], model, job["precision"], engine, 1, queue=False))


def load_bare(job: dict[str, Any]) -> object:
    return _load(job, lambda engine: sides.bare(job["name"], job["precision"], engine, queue=False))


def _load(job: dict[str, Any], opened: Callable[[Path], sides.Burst]) -> object:
    start = time.perf_counter()
    sides.library(job["name"])
    imported = time.perf_counter()
    burst = opened(Path(job["engine"]))
    loaded = time.perf_counter()
    burst(batches_of(1, 1))
    return {"import_s": imported - start, "load_s": loaded - imported, "first_s": time.perf_counter() - loaded}


def compare(job: dict[str, Any]) -> object:
    """Measure port and bare in turns.

    A burst lasts about the requested seconds. It has at least one batch; with a queue, two batches for each core.
    """
    engine, queue = Path(job["engine"]), job["queue"]
    port = sides.port(job["name"], Path(job["model"]), job["precision"], engine, job["batch"], queue=queue)
    bare = sides.bare(job["name"], job["precision"], engine, queue=queue)
    few = batches_of(job["batch"], 2 if queue else 1)
    expected, actual = bare(few), port(few)
    worst = float(np.abs(expected - actual).max())
    if worst > job["tolerance"]:
        raise SystemExit(f"the results of port and bare differ by {worst}, so their times cannot be compared")
    least = 2 * sides.CORES if queue else 1
    count = least
    if job["seconds"]:
        count = max(least, round(job["seconds"] * len(few) / min(seconds(bare, few)[0] for _ in range(2))))
    batches = batches_of(job["batch"], count)
    turns = in_turns(lambda: port(batches), lambda: bare(batches), job["rounds"])
    return {"images": count * job["batch"], "calls": count, "turns": turns, "differ": worst}


def alone(job: dict[str, Any]) -> object:
    engine, queue = Path(job["engine"]), job["queue"]
    if job["port"]:
        burst = sides.port(job["name"], Path(job["model"]), job["precision"], engine, job["batch"], queue=queue)
    else:
        burst = sides.bare(job["name"], job["precision"], engine, queue=queue)
    burst(batches_of(job["batch"], 2 * sides.CORES if queue else 2 if job["seconds"] else 1))
    return {}


def vendor(job: dict[str, Any]) -> object:
    if job["name"] == "openvino":
        return {"images_per_s": _benchmark_app(job)}
    if job["name"] == "onnxruntime":
        burst = sides.bare_onnxruntime(Path(job["model"]), defaults=True)
    else:
        import engines_models  # noqa: PLC0415 - imports onnx, which only this measurement needs

        burst = sides.bare_pytorch(engines_models.eager(Path(job["model"]), job["precision"]))
    single = batches_of(job["batch"], 1)
    burst(single)
    count = max(1, round(job["seconds"] / seconds(burst, single)[0])) if job["seconds"] else 1
    batches = batches_of(job["batch"], count)
    return {"images_per_s": len(batches) * job["batch"] / seconds(burst, batches)[0]}


def _benchmark_app(job: dict[str, Any]) -> float:
    """Run OpenVINO's benchmark_app, without telemetry. Returns images per second.

    The batch size is dynamic as in the engine, unless the job asks for a static one.
    """
    batch, shape = job["batch"], f"3,{sides.SIDE},{sides.SIDE}"
    shapes = ["-shape", f"{sides.INPUT}[{batch},{shape}]"]
    if not job["static"]:
        shapes = ["-shape", f"{sides.INPUT}[?,{shape}]", "-data_shape", f"{sides.INPUT}[{batch},{shape}]"]
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'lib')!r})\n"
        "from preflight.adapters.openvino.library import library; library()\n"
        "from openvino.tools.benchmark.main import main; sys.argv[0] = 'benchmark_app'; main()"
    )
    options = ["-hint", "throughput" if job["queue"] else "latency", "-infer_precision", sides.HINTS[job["precision"]]]
    command = [sys.executable, "-c", program, "-m", job["model"], "-d", "CPU", *options, *shapes]
    process = subprocess.run(
        [*command, "-t", str(max(1, round(job["seconds"] * job["rounds"])))],
        cwd=Path(job["engine"]).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    match = re.search(r"Throughput:\s+([0-9.]+) FPS", process.stdout)
    if match is None:
        raise SystemExit(f"benchmark_app printed no throughput:\n{(process.stdout + process.stderr)[-2000:]}")
    return float(match.group(1))


def batcher(job: dict[str, Any]) -> object:
    """Measure the batcher with JPEG tiles of 256 pixels, compared with inference on prepared batches."""
    engine, size = Path(job["engine"]), job["batch"]
    request = sides.request(Path(job["model"]), job["precision"], size)
    loaded = sides.runtime(job["name"]).load(engine, request)
    images = wiring.image_codec()
    shape = (sides.SIDE, sides.SIDE)
    columns = int(TILES**0.5)
    tiles = [tile.content for tile in islice(landscape.generate(1, columns=columns, rows=columns), TILES)]

    def items(count: int) -> Iterator[tuple[int, Callable[[], Any]]]:
        for number, content in enumerate(islice(cycle(tiles), count)):
            yield number, partial(images.decode_rgb, content, shape)

    descriptor_batcher = EngineBatcher(
        loaded,
        input_name=sides.INPUT,
        dim=384,
        batch_size=size,
        preprocess=lambda image: images.to_batch(image[None], IMAGENET)[0],
    )
    burst = sides.port_queue(loaded) if job["queue"] else sides.port_run(loaded)
    count = max(3, -(-TILES // size))
    batches = batches_of(size, count)

    def embed() -> None:
        results = descriptor_batcher.embed(items(count * size), count * size)
        if sum(len(result.keys) for result in results) != count * size:
            raise SystemExit("the batcher lost tiles")

    burst(batches[:1])
    turns = in_turns(embed, lambda: burst(batches), job["rounds"])
    start = time.process_time()
    descriptor_batcher._decode(list(items(len(tiles))))
    return {"images": count * size, "turns": turns, "prepare_s": (time.process_time() - start) / len(tiles)}


MEASUREMENTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "build": build, "build-bare": build_bare, "load": load, "load-bare": load_bare,
    "compare": compare, "alone": alone, "vendor": vendor, "batcher": batcher,
}  # fmt: skip

if __name__ == "__main__":
    print(json.dumps(MEASUREMENTS[sys.argv[1]](json.loads(sys.argv[2]))), flush=True)
