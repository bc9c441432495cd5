"""Measures what the port costs over each bare runtime, on a ViT-S/14: build, reuse, load, images per second, memory.

    python benchmarks/engines.py [--batches 1,8,32] [--rounds 9] [--seconds 1] [--turns 3] [--scratch DIR] [--no-docs]

benchmarks/README.md describes the measurements.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import incremental_scene as scene
import page
import yaml
from incremental import HERE, ROOT, Used, measured, say

TILES = 64
PACKAGES = ("openvino", "onnxruntime", "torch", "numpy")
LONGEST_CALL_S = 20.0  # a batch size whose calls take longer is left out
TOLERANCE = 1e-3  # port and bare use the same arithmetic, so their results may differ by at most this
Pairs = list[tuple[tuple[float, float], tuple[float, float]]]  # for each round: (wall, CPU) of port and of bare


@dataclass(frozen=True)
class Kind:
    """An engine of one runtime and one precision. queued: the port can also process several batches at a time."""

    runtime: str
    precision: str
    queued: bool = False

    @property
    def name(self) -> str:
        return f"{self.runtime} {self.precision}"


@dataclass
class Rate:
    """The figures of one engine at one batch size."""

    images: int = 0  # in one burst
    pairs: Pairs = field(default_factory=list)
    own: list[float] = field(default_factory=list)  # images/s of the vendor's own loop
    fixed: list[float] = field(default_factory=list)  # the same, with the batch size fixed in the graph
    port_mb: float = 0.0
    bare_mb: float = 0.0

    def ratio(self, clock: int) -> float:
        """Return port : bare, as the median of the rounds. clock: 0 for wall time, 1 for CPU."""
        return statistics.median(port[clock] / bare[clock] for port, bare in self.pairs)

    def per_second(self, side: int) -> float:
        return self.images / statistics.median(pair[side][0] for pair in self.pairs)

    def cpu_ms(self, side: int) -> float:
        """Return the CPU milliseconds for one image. side: 0 for port, 1 for bare."""
        return statistics.median(pair[side][1] for pair in self.pairs) / self.images * 1e3


@dataclass
class Figures:
    """All figures of one engine."""

    kind: Kind
    built: list[Used] = field(default_factory=list)
    built_bare: list[Used] = field(default_factory=list)
    steps: dict[str, tuple[Used, dict[str, Any]]] = field(
        default_factory=dict
    )  # each run of `doit engine`, and what it opened
    loads: list[dict[str, float]] = field(default_factory=list)
    loads_bare: list[dict[str, float]] = field(default_factory=list)
    rates: dict[tuple[int, bool], Rate] = field(default_factory=dict)  # by batch size and queue
    empty: dict[tuple[int, bool], Rate] = field(default_factory=dict)  # the same for a graph that does nothing
    # By batch size: images, rounds, and CPU seconds to prepare one image.
    batcher: dict[int, tuple[int, Pairs, float]] = field(default_factory=dict)
    left_out: dict[int, float] = field(default_factory=dict)  # batch size -> estimated seconds for one call


class Bench:
    """Runs each measurement in a separate process, with an empty home folder."""

    def __init__(self, place: Path, options: argparse.Namespace) -> None:
        self.place, self.options = place, options
        (place / "home").mkdir(exist_ok=True)
        os.environ["HOME"] = str(place / "home")
        os.environ.pop("XDG_CACHE_HOME", None)
        say("writing the models")
        program = "import engines_models, pathlib, sys; engines_models.write(pathlib.Path(sys.argv[1]))"
        path = f"import sys; sys.path[:0] = [{str(HERE)!r}]; {program}"
        measured([sys.executable, "-c", path, str(place)], place, ROOT)

    def run(self, measurement: str, kind: Kind, model: str, **more: object) -> tuple[Used, dict[str, Any]]:
        """Run one measurement of engines_run.py. Returns what the process used, and its result."""
        engine = self.place / f"{kind.runtime}-{kind.precision}-{model}.engine"
        job = {"name": kind.runtime, "precision": kind.precision, "model": str(self.place / f"{model}.onnx")}
        job |= {"engine": str(engine), "batch": 1, "queue": False, "tolerance": TOLERANCE}
        job |= {"rounds": self.options.rounds, "seconds": self.options.seconds, **more}
        used = measured([sys.executable, str(HERE / "engines_run.py"), measurement, json.dumps(job)], self.place, ROOT)
        return used, json.loads(used.output.splitlines()[-1])


def measure(bench: Bench, kind: Kind) -> Figures:
    figures = Figures(kind)
    build_and_load(bench, figures)
    image_s = statistics.median(one["first_s"] for one in figures.loads)
    for batch in bench.options.batches:
        if batch * image_s > LONGEST_CALL_S and batch > min(bench.options.batches):
            figures.left_out[batch] = batch * image_s
            continue
        for queue in (False, True) if kind.queued else (False,):
            say(f"{kind.name}: batches of {batch}{', in a queue' if queue else ''}")
            figures.rates[batch, queue] = rate(bench, kind, batch, queue, slow=batch * image_s > LONGEST_CALL_S / 4)
    bench.run("build", kind, "empty")
    for batch in bench.options.batches:
        for queue in (False, True) if kind.queued else (False,):
            figures.empty[batch, queue] = empty(bench, kind, batch, queue)
    if kind.runtime != "pytorch_fp16":  # it would take minutes for each on a CPU
        embed(bench, figures)
        reuse(bench, figures)
    return figures


def build_and_load(bench: Bench, figures: Figures) -> None:
    kind = figures.kind
    for turn in range(bench.options.turns):
        say(f"{kind.name}: build and load, {turn + 1} of {bench.options.turns}")
        figures.built.append(bench.run("build", kind, "vit")[0])
        if kind.runtime != "pytorch_fp16":
            figures.built_bare.append(bench.run("build-bare", kind, "vit", engine=str(bench.place / "bare.engine"))[0])
        figures.loads.append(bench.run("load", kind, "vit")[1])
        figures.loads_bare.append(bench.run("load-bare", kind, "vit")[1])


def embed(bench: Bench, figures: Figures) -> None:
    kind, rounds = figures.kind, max(3, bench.options.rounds // 2)
    for batch in [batch for batch in bench.options.batches if batch > 1]:
        say(f"{kind.name}: the whole batcher, batches of {batch}")
        _, result = bench.run("batcher", kind, "vit", batch=batch, queue=kind.queued, rounds=rounds)
        figures.batcher[batch] = result["images"], _pairs(result), result["prepare_s"]


def rate(bench: Bench, kind: Kind, batch: int, queue: bool, *, slow: bool) -> Rate:
    """Measure port and bare in turns in one process, and the vendor's own loop between two such processes.

    slow: run at most two processes, with one batch in each burst.
    """
    result = Rate()
    more: dict[str, Any] = {"batch": batch, "queue": queue}
    more |= {"rounds": 1, "seconds": 0} if slow else {}
    for _ in range(min(bench.options.turns, 2) if slow else bench.options.turns):
        compared = bench.run("compare", kind, "vit", **more)[1]
        # Bursts of different processes may differ in length, so all times are for one image.
        result.pairs += _pairs(compared, compared["images"])
        result.own.append(bench.run("vendor", kind, "vit", static=False, **more)[1]["images_per_s"])
        if kind.runtime == "openvino":
            result.fixed.append(bench.run("vendor", kind, "vit", static=True, **more)[1]["images_per_s"])
    result.images = 1
    if batch == max(bench.options.batches) or slow:
        result.port_mb, result.bare_mb = (
            bench.run("alone", kind, "vit", port=port, **more)[0].rss_mb for port in (True, False)
        )
    return result


def empty(bench: Bench, kind: Kind, batch: int, queue: bool) -> Rate:
    """Measure the cost of the port itself, with many calls of a graph that does nothing. Times are for one call."""
    result = bench.run("compare", kind, "empty", batch=batch, queue=queue, seconds=0.1, rounds=15)[1]
    return Rate(images=1, pairs=_pairs(result, result["calls"]))


def _pairs(result: dict[str, Any], divisor: int = 1) -> Pairs:
    def divided(times: list[float]) -> tuple[float, float]:
        return times[0] / divisor, times[1] / divisor

    return [(divided(port), divided(bare)) for port, bare in result["turns"]]


# Reusing an engine


def reuse(bench: Bench, figures: Figures) -> None:
    """Run `doit engine` three times: to build the ViT, with nothing to do, and after its file was written again."""
    place, kind = bench.place / "mission", figures.kind
    if not (place / "tiles").exists():
        place.mkdir(mode=0o755)
        scene.write_mission(place, "made.yaml", TILES, "embedded")
        measured([sys.executable, str(HERE / "incremental_scene.py"), str(place), str(TILES), str(TILES)], place, ROOT)
    (place / "vit.onnx").write_bytes((bench.place / "vit.onnx").read_bytes())
    say(f"{kind.name}: `doit engine`")
    mission = _mission(place, kind)
    shutil.rmtree(place / "cache", ignore_errors=True)
    figures.steps["built"] = _doit_engine(place, mission)
    _doit_engine(place, mission)  # this run caches the digests of the files that the build wrote
    figures.steps["again"] = _doit_engine(place, mission)
    (place / "vit.onnx").write_bytes((bench.place / "vit.onnx").read_bytes())
    figures.steps["rewritten"] = _doit_engine(place, mission)
    if any(figures.steps[name][1]["ran"] for name in ("again", "rewritten")):
        raise SystemExit(f"the engine was built again: {figures.steps}")


def _mission(place: Path, kind: Kind) -> Path:
    value = yaml.safe_load((place / "made.yaml").read_text())
    section = value["components"]["c10_provisioning"]
    section["runtime"] = kind.runtime
    section["descriptors"]["batch_size"] = 32
    section["backbones"][0] |= {
        "model_name": "vit", "onnx_path": "vit.onnx", "expected_input_shape": [1, 3, 224, 224], "precision": kind.precision,
    }  # fmt: skip
    path = place / f"{kind.runtime}-{kind.precision}.yaml"
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    return path


def _doit_engine(place: Path, mission: Path) -> tuple[Used, dict[str, Any]]:
    result = place / "watched.json"
    command = [sys.executable, str(HERE / "engines_watch.py"), str(result), ".onnx,.engine,.blob"]
    used = measured([*command, "engine", f"mission={mission}", "log=json"], place, ROOT)
    watched: dict[str, Any] = json.loads(result.read_text())
    watched["ran"] = [line["step"] for line in used.events if line["event"] == "c10.step.start"]
    return used, watched


# The tables


def tables(done: Sequence[Figures]) -> str:
    parts = (rates_table, empty_table, build_table, reuse_table, batcher_table)
    return "\n\n".join(text for part in parts if (text := part(done)))


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(page.row(cells) for cells in (head, ["---"] * len(head), *lines)) if lines else ""


def _label(kind: Kind, queue: bool) -> str:
    return f"{kind.name}, queue" if queue else kind.name


def rates_table(done: Sequence[Figures]) -> str:
    head = ["engine", "batch", "images/s, port", "images/s, bare", "**port : bare**, wall", "**port : bare**, CPU"]
    head += ["CPU ms an image", "images/s, vendor's own", "the same, batch fixed", "MB, port : bare"]
    lines = []
    for one in done:
        for (batch, queue), rate in one.rates.items():
            cells = [_label(one.kind, queue), str(batch), f"{rate.per_second(0):.2f}", f"{rate.per_second(1):.2f}"]
            cells += [f"**{rate.ratio(0):.3f}**", f"**{rate.ratio(1):.3f}**", f"{rate.cpu_ms(0):.1f}"]
            cells += [f"{statistics.median(rates):.2f}" if rates else "" for rates in (rate.own, rate.fixed)]
            lines.append([*cells, f"{rate.port_mb:.0f} : {rate.bare_mb:.0f}" if rate.port_mb else ""])
        for batch, call_s in one.left_out.items():
            lines.append([one.kind.name, str(batch), f"left out: some {call_s:.0f} s a call", *[""] * 7])
    return _table(head, lines)


def empty_table(done: Sequence[Figures]) -> str:
    """Return the table of what the port adds to a call, and its share of a call of the ViT."""
    head = ["engine", "batch", "µs a call, port", "µs a call, bare", "port adds, CPU µs", "of a call of the ViT"]
    lines = []
    for one in done:
        for (batch, queue), rate in one.empty.items():
            port, bare = (rate.cpu_ms(side) * 1e3 for side in (0, 1))
            added = statistics.median(pair[0][1] - pair[1][1] for pair in rate.pairs) * 1e6
            vit = one.rates.get((batch, queue))
            share = f"{added / (vit.cpu_ms(1) * batch * 1e3):.2%}" if vit else ""
            lines.append([_label(one.kind, queue), str(batch), f"{port:.0f}", f"{bare:.0f}", f"{added:.0f}", share])
    return _table(head, lines)


def build_table(done: Sequence[Figures]) -> str:
    head = ["engine", "cold build, port", "cold build, bare", "s to import, load, first image: port", "the same, bare"]
    lines = []
    for one in done:
        cells = [one.kind.name, _cost(one.built), _cost(one.built_bare)]
        lines.append([*cells, *(_loading(loads) for loads in (one.loads, one.loads_bare))])
    return _table(head, lines)


def reuse_table(done: Sequence[Figures]) -> str:
    head = ["`doit engine`", "built", "nothing changed", "ONNX file written anew, same bytes"]
    head += ["models opened in these two", "runtimes imported in them"]
    lines = []
    for one in done:
        if one.steps:
            watched = [one.steps[name][1] for name in ("again", "rewritten")]
            counts = [[f"{name} {count}" for name, count in run["opened"].items()] for run in watched]
            opened = [", ".join(files) or "none" for files in counts]
            imported = [", ".join(run["imported"]) or "none" for run in watched]
            costs = [_cost([one.steps[name][0]]) for name in ("built", "again", "rewritten")]
            lines.append([one.kind.name, *costs, " / ".join(opened), " / ".join(imported)])
    return _table(head, lines)


def batcher_table(done: Sequence[Figures]) -> str:
    head = ["tiles to descriptors", "batch", "images/s", "images/s, inference alone"]
    head += ["**batcher : alone**, wall", "the same, CPU", "CPU ms to decode and prepare one"]
    lines = []
    for one in done:
        for batch, (images, pairs, prepare_s) in one.batcher.items():
            rate = Rate(images, pairs)
            cells = [
                _label(one.kind, one.kind.queued),
                str(batch),
                *(f"{rate.per_second(side):.2f}" for side in (0, 1)),
            ]
            lines.append([*cells, f"**{rate.ratio(0):.3f}**", f"{rate.ratio(1):.3f}", f"{prepare_s * 1e3:.2f}"])
    return _table(head, lines)


def _cost(runs: Sequence[Used]) -> str:
    if not runs:
        return "-"
    wall, cpu, rss = (page.median(runs, figure) for figure in ("wall_s", "cpu_s", "rss_mb"))
    return f"{wall:.2f} / {cpu:.2f} s, {rss:.0f} MB"


def _loading(runs: Sequence[dict[str, float]]) -> str:
    names = ("import_s", "load_s", "first_s")
    return " + ".join(f"{statistics.median(one[name] for one in runs):.2f}" for name in names)


NOTES = """\
Port and bare take turns in one process, on one engine file with the same options, and must give the same numbers. A
ratio is the median of the ratios of up to {rounds} rounds in each of {turns} processes. These alternate with the
vendor's own loop: `benchmark_app` for OpenVINO (its latency hint, or its throughput hint beside the queue), a session
with ONNX Runtime's default options, and the ViT written by hand in PyTorch. µs a call are CPU, on a graph that takes
the same images and does nothing. Builds and commands: wall / CPU seconds and MB of the largest process. Builds and
loads are medians of {turns}. Models opened: ONNX files and engines, in the command with nothing changed / with the file
written again.
"""


def kinds(runtimes: str | None) -> list[Kind]:
    """Return the engines that this machine can run. runtimes: a comma-separated list; None for all."""
    program = (
        f"import sys; sys.path[:0] = [{str(ROOT / 'lib')!r}]; from preflight.adapters.openvino.library import library\n"
        "print('BF16' in library().Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES'))"
    )
    with tempfile.TemporaryDirectory() as folder:
        bf16 = measured([sys.executable, "-c", program], Path(folder), ROOT).output.strip() == "True"
    possible = [Kind("openvino", "fp32", queued=True)]
    possible += [Kind("openvino", "bf16", queued=True)] if bf16 else []
    possible += [Kind("onnxruntime", "fp32")]
    possible += [Kind("pytorch_fp16", "fp16")] if _installed("torch") else []
    return [kind for kind in possible if runtimes is None or kind.runtime in runtimes.split(",")]


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runtimes", help="some of openvino,onnxruntime,pytorch_fp16 (default: all installed ones)")
    parser.add_argument("--batches", default="1,8,32", help="batch sizes (default %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=9, help="rounds of port and bare in one process (default %(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="seconds for each of them in a round (default %(default)s)"
    )
    parser.add_argument("--turns", type=int, default=3, help="processes for each measurement (default %(default)s)")
    parser.add_argument("--scratch", type=Path, help="folder to keep and reuse (default: a temporary folder)")
    parser.add_argument("--no-docs", action="store_true", help="do not change docs/performance.md")
    options = parser.parse_args()
    command = " ".join(["python benchmarks/engines.py", *_shown(sys.argv[1:])])
    options.batches = sorted(int(text) for text in options.batches.split(","))
    started = datetime.now(timezone.utc)
    with ExitStack() as stack:
        scratch = options.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="preflight-engines-")))
        scratch = scratch.absolute()
        scratch.mkdir(parents=True, exist_ok=True)
        scratch.chmod(0o755)  # if this is root, the database server runs as another user, who must reach the folder
        bench = Bench(scratch, options)
        done: list[Figures] = []
        for kind in kinds(options.runtimes):
            done.append(measure(bench, kind))
            about = page.machine(command, started, [name for name in PACKAGES if _installed(name)], ())
            text = f"{about}\n\n{tables(done)}\n\n{NOTES.format(rounds=options.rounds, turns=options.turns)}"
            if not options.no_docs:
                page.write("engines", text)  # after each engine, so that a stopped run keeps its figures
            (scratch / "engines.md").write_text(text)
    print(text)
    return 0


def _shown(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without the scratch folder, for the page."""
    return [part for part in arguments if not part.startswith("--scratch")]


if __name__ == "__main__":
    raise SystemExit(main())
