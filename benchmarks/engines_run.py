"""One measurement in a process of its own: `python engines_run.py WHAT '{"name": ..., ...}'`, its answer as a line of JSON.

build, build-bare   ONNX file to engine
load, load-bare     seconds to import the library, to load the engine, and for the first image
compare             seconds of port and bare in turns, in one process
alone               one of the two by itself, for the memory that measured.py sees
vendor              the vendor's own: benchmark_app, a session as it comes, a model written in PyTorch
batcher             tiles to descriptors beside the inference alone
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

import engines_sides as sides  # noqa: E402 - after the path
import numpy as np  # noqa: E402 - after the path

from preflight import wiring  # noqa: E402 - after the path
from preflight.adapters.demo import landscape  # noqa: E402 - after the path
from preflight.descriptors.batcher import EngineBatcher  # noqa: E402 - after the path
from preflight.records import Preprocessing  # noqa: E402 - after the path

IMAGENET = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
TILES = 64
FEWEST, LONGEST_S = 3, 20.0  # rounds, and seconds after which no other is begun


def batches_of(size: int, count: int) -> list[sides.Batch]:
    """Two different ones in turn, so that no result can be that of the batch before."""
    random = np.random.default_rng(size)
    two = [random.standard_normal((size, 3, sides.SIDE, sides.SIDE), np.float32) for _ in range(2)]
    return list(islice(cycle(two), count))


def seconds(burst: sides.Burst, batches: list[sides.Batch]) -> tuple[float, float]:
    """(wall, CPU of the process) of one burst."""
    wall, cpu = time.perf_counter(), time.process_time()
    burst(batches)
    return time.perf_counter() - wall, time.process_time() - cpu


def in_turns(one: Callable[[], object], other: Callable[[], object], rounds: int) -> list[list[list[float]]]:
    """For each round [wall, CPU] of both; the first of a round is the second of the next. Long rounds are fewer: at least 3."""
    found: list[list[list[float]]] = []
    began = time.perf_counter()
    for turn in range(rounds):
        if turn >= FEWEST and time.perf_counter() - began > LONGEST_S:
            break
        pair: dict[int, list[float]] = {}
        for which in (0, 1) if turn % 2 else (1, 0):
            wall, cpu = time.perf_counter(), time.process_time()
            (one, other)[which]()
            pair[which] = [time.perf_counter() - wall, time.process_time() - cpu]
        found.append([pair[0], pair[1]])
    return found


def build(ask: dict[str, Any]) -> object:
    order = sides.request(Path(ask["model"]), ask["precision"], ask["batch"])
    sides.runtime(ask["name"]).compile(order, Path(ask["engine"]))
    return {}


def build_bare(ask: dict[str, Any]) -> object:
    target, library = Path(ask["engine"]), sides.library(ask["name"])
    if ask["name"] == "openvino":
        properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": sides.HINTS[ask["precision"]]}
        compiled = library.Core().compile_model(ask["model"], "CPU", properties)
        blob = compiled.export_model()
        target.write_bytes(blob if isinstance(blob, bytes) else blob.getvalue())
    elif ask["name"] == "onnxruntime":
        options = library.SessionOptions()
        options.graph_optimization_level = library.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(target)
        library.InferenceSession(ask["model"], options, providers=["CPUExecutionProvider"])
    return {}


def load(ask: dict[str, Any]) -> object:
    model = Path(ask["model"])
    return _load(ask, lambda engine: sides.port(ask["name"], model, ask["precision"], engine, 1, queue=False))


def load_bare(ask: dict[str, Any]) -> object:
    return _load(ask, lambda engine: sides.bare(ask["name"], ask["precision"], engine, queue=False))


def _load(ask: dict[str, Any], opened: Callable[[Path], sides.Burst]) -> object:
    start = time.perf_counter()
    sides.library(ask["name"])
    imported = time.perf_counter()
    burst = opened(Path(ask["engine"]))
    loaded = time.perf_counter()
    burst(batches_of(1, 1))
    return {"import_s": imported - start, "load_s": loaded - imported, "first_s": time.perf_counter() - loaded}


def compare(ask: dict[str, Any]) -> object:
    """A burst lasts about as long as asked, and takes at least one batch; in a queue, twice what fits into it."""
    engine, queue = Path(ask["engine"]), ask["queue"]
    port = sides.port(ask["name"], Path(ask["model"]), ask["precision"], engine, ask["batch"], queue=queue)
    bare = sides.bare(ask["name"], ask["precision"], engine, queue=queue)
    few = batches_of(ask["batch"], 2 if queue else 1)
    expected, found = bare(few), port(few)
    worst = float(np.abs(expected - found).max())
    if worst > ask["tolerance"]:
        raise SystemExit(f"port and bare differ by {worst}: this compares different work")
    least = 2 * sides.CORES if queue else 1
    count = least
    if ask["seconds"]:
        count = max(least, round(ask["seconds"] * len(few) / min(seconds(bare, few)[0] for _ in range(2))))
    batches = batches_of(ask["batch"], count)
    turns = in_turns(lambda: port(batches), lambda: bare(batches), ask["rounds"])
    return {"images": count * ask["batch"], "calls": count, "turns": turns, "differ": worst}


def alone(ask: dict[str, Any]) -> object:
    engine, queue = Path(ask["engine"]), ask["queue"]
    if ask["port"]:
        burst = sides.port(ask["name"], Path(ask["model"]), ask["precision"], engine, ask["batch"], queue=queue)
    else:
        burst = sides.bare(ask["name"], ask["precision"], engine, queue=queue)
    burst(batches_of(ask["batch"], 2 * sides.CORES if queue else 2 if ask["seconds"] else 1))
    return {}


def vendor(ask: dict[str, Any]) -> object:
    if ask["name"] == "openvino":
        return {"images_per_s": _benchmark_app(ask)}
    if ask["name"] == "onnxruntime":
        burst = sides.bare_onnxruntime(Path(ask["model"]), defaults=True)
    else:
        import engines_models  # noqa: PLC0415 - reads the ONNX file, which nothing else here does

        burst = sides.bare_pytorch(engines_models.eager(Path(ask["model"]), ask["precision"]))
    one = batches_of(ask["batch"], 1)
    burst(one)
    count = max(1, round(ask["seconds"] / seconds(burst, one)[0])) if ask["seconds"] else 1
    batches = batches_of(ask["batch"], count)
    return {"images_per_s": len(batches) * ask["batch"] / seconds(burst, batches)[0]}


def _benchmark_app(ask: dict[str, Any]) -> float:
    """Its Python tool, without the reporter; the batch stays dynamic, as it is in the engine, unless asked otherwise."""
    batch, shape = ask["batch"], f"3,{sides.SIDE},{sides.SIDE}"
    shapes = ["-shape", f"{sides.INPUT}[{batch},{shape}]"]
    if not ask["static"]:
        shapes = ["-shape", f"{sides.INPUT}[?,{shape}]", "-data_shape", f"{sides.INPUT}[{batch},{shape}]"]
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'lib')!r})\n"
        "from preflight.adapters.openvino.library import library; library()\n"
        "from openvino.tools.benchmark.main import main; sys.argv[0] = 'benchmark_app'; main()"
    )
    options = ["-hint", "throughput" if ask["queue"] else "latency", "-infer_precision", sides.HINTS[ask["precision"]]]
    command = [sys.executable, "-c", program, "-m", ask["model"], "-d", "CPU", *options, *shapes]
    done = subprocess.run(
        [*command, "-t", str(max(1, round(ask["seconds"] * ask["rounds"])))],
        cwd=Path(ask["engine"]).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = re.search(r"Throughput:\s+([0-9.]+) FPS", done.stdout)
    if said is None:
        raise SystemExit(f"benchmark_app gave no figure:\n{(done.stdout + done.stderr)[-2000:]}")
    return float(said.group(1))


def batcher(ask: dict[str, Any]) -> object:
    """JPEG tiles of 256 pixels, decoded to what the model takes: through the batcher, beside the batches alone."""
    engine, size = Path(ask["engine"]), ask["batch"]
    order = sides.request(Path(ask["model"]), ask["precision"], size)
    loaded = sides.runtime(ask["name"]).load(engine, order)
    images = wiring.image_codec()
    shape = (sides.SIDE, sides.SIDE)
    columns = int(TILES**0.5)
    tiles = [tile.content for tile in islice(landscape.generate(1, columns=columns, rows=columns), TILES)]

    def items(count: int) -> Iterator[tuple[int, Callable[[], Any]]]:
        for number, content in enumerate(islice(cycle(tiles), count)):
            yield number, partial(images.decode_rgb, content, shape)

    whole = EngineBatcher(
        loaded,
        input_name=sides.INPUT,
        dim=384,
        batch_size=size,
        preprocess=lambda image: images.to_batch(image[None], IMAGENET)[0],
    )
    burst = sides.port_queue(loaded) if ask["queue"] else sides.port_run(loaded)
    count = max(3, -(-TILES // size))
    batches = batches_of(size, count)

    def embed() -> None:
        if sum(len(one.keys) for one in whole.embed(items(count * size), count * size)) != count * size:
            raise SystemExit("tiles were lost")

    burst(batches[:1])
    turns = in_turns(embed, lambda: burst(batches), ask["rounds"])
    start = time.process_time()
    whole._decode(list(items(len(tiles))))
    return {"images": count * size, "turns": turns, "prepare_s": (time.process_time() - start) / len(tiles)}


WHAT: dict[str, Callable[[dict[str, Any]], object]] = {
    "build": build, "build-bare": build_bare, "load": load, "load-bare": load_bare,
    "compare": compare, "alone": alone, "vendor": vendor, "batcher": batcher,
}  # fmt: skip

if __name__ == "__main__":
    print(json.dumps(WHAT[sys.argv[1]](json.loads(sys.argv[2]))), flush=True)
