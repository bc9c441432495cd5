"""Shared by the fault tests and `benchmarks/kill_campaign.py`: a small mission, runs with faults, and the checks.

This file is also a program (`harness.py serve`). It loads the heavy libraries once and forks a child for each run of
doit. So a run costs a fraction of a second. A child can fail or end at the n-th file operation below a folder.
"""

# ruff: noqa: PTH100, PTH115, PTH117, PTH118 - plain functions of os, since some are called inside an audit hook, where pathlib is slow
from __future__ import annotations

import errno
import importlib.util
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIRST = "0b6cf8c6-3a0e-4a55-9b0e-0a2a2a6d7f10"
SECOND = "11111111-2222-4333-8444-555555555555"
BY_SIGNAL = 128
TEMPORARY = ".preflight-*"


# In the child: faults at file operations of our own code.

# Audit event -> the positions of two arguments: the path, and the descriptor of the folder to which it is relative.
AUDITED = {
    "os.rename": (1, 3),
    "os.link": (1, 3),
    "os.symlink": (1, 2),
    "os.remove": (0, 1),
    "os.mkdir": (0, 2),
    "os.rmdir": (0, 1),
    "os.chmod": (0, 2),
}


class Faults:
    """Counts the file operations below a folder, and acts at number `at`.

    The name of an errno as `kind` raises this error. `kill` ends the process. `fill` writes a file that takes all free
    space, so that the following operations get the real error. `count` only counts.
    """

    def __init__(self, kind, at, below, told):
        self.kind, self.at, self.below, self.told = kind, at, str(below) + os.sep, told
        self.count = 0
        self.busy = False

    def meet(self, name, path, before=lambda: None):
        if self.busy or not path.startswith(self.below):
            return
        self.count += 1
        if self.kind == "count":
            self.tell(name)
        if self.count != self.at:
            return
        self.tell(name)
        if self.kind == "kill":
            before()
            os._exit(137)
        if self.kind == "fill":
            self.fill()
        elif self.kind != "count":
            before()
            code = getattr(errno, self.kind)
            raise OSError(code, os.strerror(code), path)

    def tell(self, name):
        os.write(self.told, f"{name}\n".encode())

    def fill(self):
        self.busy = True
        with (Path(self.below) / "ballast").open("ab", buffering=0) as file, suppress(OSError):
            while file.write(bytes(1 << 16)) == 1 << 16:
                pass
        self.busy = False

    def audit(self, event, arguments):
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.meet("open", _path(path, -1))
        elif event in AUDITED:
            path, folder = (arguments[at] for at in AUDITED[event])
            path = _path(path, folder)
            if event == "os.mkdir" and os.path.lexists(path):
                return  # the folder exists already
            self.meet(event.removeprefix("os."), path)

    def install(self):
        import atomicwrites

        from preflight.store import atomic

        fsync, write_all, opened = os.fsync, atomic._write_all, atomic._Writer.get_fileobject

        def fsync_counted(file):
            self.meet("fsync", _path(file, -1))
            fsync(file)

        def write_counted(writer, view):
            self.meet("write", _path(writer.fileno(), -1), lambda: writer.write(view[: len(view) // 2]))
            write_all(writer, view)

        def open_counted(writer, *arguments, **more):
            return _Counted(opened(writer, *arguments, **more), self)

        os.fsync = atomicwrites._proper_fsync = fsync_counted
        atomic._write_all = write_counted
        atomic._Writer.get_fileobject = open_counted
        sys.addaudithook(self.audit)


class _Counted:
    """A file whose `write` can fail after half of the bytes."""

    def __init__(self, file, faults):
        self._file = file
        self._faults = faults

    def write(self, chunk):
        def half():
            self._file.write(bytes(chunk)[: len(chunk) // 2])
            self._file.flush()

        self._faults.meet("write", self._file.name, half)
        return self._file.write(chunk)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()


def _path(path, folder):
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    path = os.fsdecode(path)
    if not os.path.isabs(path) and isinstance(folder, int) and folder >= 0:
        return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    return os.path.abspath(path)


def edit_model(path):
    """Replace a model by one with the same graph and other bytes."""
    import onnx

    model = onnx.load(path)
    model.producer_name = "edited"
    onnx.save(model, path)


def edit_while_compiling(path):
    """Edit the model in the middle of its compilation."""
    from preflight.engine.compiler import EngineCompiler

    real = EngineCompiler.compile

    def compile_edited(compiler, spec, target, inputs=None):
        real(compiler, spec, target, inputs)
        edit_model(path)

    EngineCompiler.compile = compile_edited


def edit_while_signing(path):
    """Edit the camera calibration while the manifest is made."""
    from preflight.stages.manifest import ManifestStage

    real = ManifestStage._statement

    def statement_edited(builder):
        made = real(builder)
        Path(path).write_text('{"fx": 1.0}\n')
        return made

    ManifestStage._statement = statement_edited


HOOKS = {"edit while compiling": edit_while_compiling, "edit while signing": edit_while_signing}


# The server.


def serve():
    """Answer requests, one JSON object on each line: start a run of doit, or wait for one."""
    import atomicwrites  # noqa: F401 - loaded once for all children, like the modules below
    import numpy  # noqa: F401
    import PIL.Image  # noqa: F401
    import psycopg  # noqa: F401
    import shapely  # noqa: F401
    from doit.doit_cmd import DoitMain

    import preflight.wiring
    from preflight.adapters.onnxruntime import runtime as onnxruntime
    from preflight.adapters.openvino import library as openvino_library
    from recipes.commands import generations, prepare, reports  # noqa: F401
    from recipes.commands import signing as keys  # noqa: F401

    # Import both libraries through the adapters, which turn off their reports to a server.
    onnxruntime._library()
    openvino_library.library()

    preflight.wiring.index_factory().identity()  # loads FAISS with the instruction set to which the adapter limits it
    os.chdir(ROOT)
    for line in sys.stdin:
        order = json.loads(line)
        answer = {"pid": _fork(order, DoitMain)} if order["do"] == "start" else {"status": _wait(order)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _fork(order, main):
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        out = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        # Line buffering, so that a kill loses no line.
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        if order.get("hook"):
            name, argument = order["hook"]
            HOOKS[name](argument)
        if order.get("fault"):
            fault = order["fault"]
            told = os.open(fault["told"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            Faults(fault["kind"], fault["at"], fault["below"], told).install()
        status = _doit(main, order["arguments"])
    except BaseException:  # noqa: BLE001 - a child must never return into the server's loop
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def _doit(main, arguments):
    import atexit

    try:
        status = main().run(arguments)
    except SystemExit as error:
        status = error.code
    atexit._run_exitfuncs()
    sys.stdout.flush()
    return 0 if status is None else status


def _wait(order):
    """Wait for a child; return its exit status, negative for a signal.

    Sends a signal after some seconds if requested.
    """
    pid = order["pid"]
    if order.get("signal"):
        handle = os.pidfd_open(pid)
        if not select.select([handle], [], [], order["after"])[0]:
            signal.pidfd_send_signal(handle, order["signal"])
        os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# In the test process.


def pipeline():
    """Load the module of tests/pipeline that makes places. It has the same small mission."""
    name = "preflight_pipeline_places"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / "pipeline" / "conftest.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


class Server:
    """The forking process. Starts runs and waits for them."""

    def __init__(self, folder):
        self._logs = folder
        folder.mkdir()
        self._number = 0
        # With one thread, forking is safe. Compiling and verifying run in their own processes anyway.
        single = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        path = os.pathsep.join([str(ROOT / "lib"), str(ROOT)])
        self._process = subprocess.Popen(
            [sys.executable, __file__, "serve"],
            env={**pipeline().environment(), **single, "PYTHONPATH": path},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self):
        return self._process.pid

    def close(self):
        self._process.communicate()

    def _ask(self, **order):
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, place, *arguments, fault=None, hook=None):
        """Start a run, by default of `doit provision`. fault: (kind, at)."""
        self._number += 1
        log = self._logs / f"{self._number}.log"
        told = self._logs / f"{self._number}.told"
        if fault is not None:
            fault = {"kind": fault[0], "at": fault[1], "below": str(place.folder), "told": str(told)}
        given = [*(arguments or ("provision", "log=json")), f"mission={place.mission}"]
        pid = self._ask(do="start", arguments=given, log=str(log), fault=fault, hook=hook)["pid"]
        return Run(self, pid, log, told)

    def provision(self, place, *arguments, fault=None, hook=None):
        """Start a run and wait for its end."""
        run = self.start(place, *arguments, fault=fault, hook=hook)
        run.wait()
        return run

    def wait(self, pid, signal_number=None, after=None):
        return self._ask(do="wait", pid=pid, signal=signal_number, after=after)["status"]


@dataclass
class Run:
    """One run of doit in a child of the server."""

    server: Server
    pid: int
    log: Path
    told: Path
    status: int | None = None

    def wait(self, signal_number=None, after=None):
        self.status = self.server.wait(self.pid, signal_number, after)
        return self.status

    @property
    def said(self):
        return self.log.read_text() if self.log.exists() else ""

    @property
    def events(self):
        return [json.loads(line) for line in self.said.splitlines() if line.startswith("{") and line.endswith("}")]

    def event(self, name):
        return [line for line in self.events if line.get("event") == name]

    @property
    def ran(self):
        """The steps that ran."""
        return [line["step"] for line in self.event("c10.step.start")]

    @property
    def met(self):
        """The file operations that the child reported."""
        return self.told.read_text().split() if self.told.exists() else []


def records(place):
    """Return the bytes of each build record, by step."""
    found = {}
    for path in place.work.rglob("*.record.json"):
        content = path.read_bytes()
        with suppress(ValueError):
            found[json.loads(content)["step"]] = content
    return found


@dataclass
class Before:
    """The state of a place before a run with a fault. flights: the old and the new flight id."""

    records: dict
    segments: set
    generation: Path
    flights: tuple

    @classmethod
    def of(cls, place, old, new):
        return cls(records(place), set(place.work.rglob("*.seg")), place.generation, (old, new))


def flight(place):
    return place.manifest["predicate"]["identity"]["flight_id"]


def stray(place):
    """Return files that no run may leave behind."""
    staging = place.cache / "staging"
    return [*place.cache.rglob(TEMPORARY), *(staging.iterdir() if staging.is_dir() else ())]


def check_current(place, before):
    """Check that `current` verifies and is completely the old or the new generation. Returns `old` or `new`."""
    done = place.takeoff()
    assert done.status == 0, done.said
    name = {before.flights[0]: "old", before.flights[1]: "new"}[flight(place)]
    assert (place.generation == before.generation) == (name == "old")
    return name


def finished(place, before):
    """Return the steps that finished since, judged by their records."""
    return {step for step, content in records(place).items() if before.records.get(step) != content}


def _block_of(segment):
    """Return the part zoom-x-y of a segment's name."""
    return segment.name.rpartition("-")[0]


def check_next(server, place, before, *, engines=0, edited=()):
    """Check that the next provision resumes, repeats no finished step and leaves no stray file.

    engines: how many it may build. edited: steps whose inputs have changed since they were finished.
    """
    done_before = finished(place, before) - set(edited)
    embedded = set(place.work.rglob("*.seg")) - before.segments
    run = server.provision(place)
    assert run.status == 0, run.said
    assert not done_before & set(run.ran), (done_before, run.ran)
    (report,) = run.event("c10.build.complete")
    assert report["engines_built"] <= (0 if "engine:weight_free_vpr" in done_before else engines), report
    # Each block is written as one segment here. So no new segment may have a block of the stopped run's segments.
    again = {_block_of(path) for path in set(place.work.rglob("*.seg")) - before.segments - embedded}
    assert not again & {_block_of(path) for path in embedded}, (sorted(embedded), report)
    assert place.report["outcome"] in {"success", "idempotent_no_op"}
    assert check_current(place, before) == "new"
    assert stray(place) == []
    assert lock_is_free(place)
    return run


def lock_is_free(place):
    import fcntl

    with (place.cache / ".c10.lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def rows(address, place):
    """Return the status of each generation from the `manifests` table."""
    from preflight.adapters.postgres.tile_store import PostgresTileStore

    with PostgresTileStore(address) as store:
        return {row.generation: row.status for row in store.manifests(str(place.cache))}


def check_rows_of(place):
    """The same for a place with its own server, which is started for this."""
    from preflight.adapters.postgres.embedded import EmbeddedPostgres

    with EmbeddedPostgres(place.folder / "tiles") as address:
        check_rows(address, place)
    assert place.servers() == []


def check_rows(address, place):
    """Check that exactly the current generation is active and all other registered ones are retired."""
    found = rows(address, place)
    current = place.manifest["predicate"]["generation"]
    assert found.pop(current) == "active"
    assert set(found.values()) <= {"retired"}


@dataclass
class Ground:
    """A small mission that was provisioned once and then changed: one tile replaced, another flight.

    Tests must not change it.

    The tile store of `place` is served by a Postgres at `address`, which runs all the time. `whole` is the same mission
    with its own tile store and its own embedded server, which is stopped.
    """

    folder: Path
    server: Server
    place: object
    whole: object
    address: str
    _made: list = field(default_factory=list)

    def copy(self, *, own_tiles=False, at=None):
        """Make a copy for one run with a fault."""
        folder = at or self.folder / f"copy-{len(self._made)}"
        self._made.append(folder)
        return pipeline().duplicate(self.whole if own_tiles else self.place, folder, own_tiles=own_tiles)


def change_flight(place, flight_id):
    place.edit(lambda mission: mission.update(flight_id=flight_id))


@contextmanager
def ground(folder):
    """Build a Ground in a folder that the embedded server's user can enter."""
    from preflight import wiring
    from preflight.adapters.demo import landscape
    from preflight.adapters.postgres.embedded import EmbeddedPostgres
    from preflight.tile_import.importing import import_tiles
    from preflight.tile_import.source import OfferedTile

    parts = pipeline()
    with ExitStack() as stack:
        server = Server(folder / "logs")
        stack.callback(server.close)
        tiles = list(landscape.generate(7, columns=4, rows=4))
        whole = parts.Place(folder / "whole")
        whole.folder.mkdir()
        parts.fill(whole, tiles, {"bbox": parts.box_around(tiles)}, [17, 18])

        def small(mission):
            section = mission["components"]["c10_provisioning"]
            section["descriptors"] = {"batch_size": 4}
            section["selftest"]["queries"] = 2

        whole.edit(small)
        run = server.provision(whole)
        assert run.status == 0, run.said
        other = next(iter(landscape.generate(8, columns=2, rows=2)))
        access = whole.tiles()
        stack.callback(access.close)
        import_tiles(
            [OfferedTile(tiles[0].zoom, tiles[0].x, tiles[0].y, other.content, ".jpg")],
            source=parts.SOURCE,
            captured_at=wiring.wall_clock(),
            metadata=access.metadata(),
            pixels=access.pixels(),
            check_image=wiring.check_image,
            clock=wiring.wall_clock,
            replace=True,
        )
        access.close()
        change_flight(whole, SECOND)
        place = parts.duplicate(whole, folder / "place")
        socket = stack.enter_context(EmbeddedPostgres(place.folder / "tiles"))
        fields = dict(part.split("=") for part in socket.split())
        address = f"postgresql:///{fields['dbname']}?host={fields['host']}&port={fields['port']}&user={fields['user']}"
        place.edit(lambda mission: mission["tile_store"].update(database=address))
        yield Ground(folder, server, place, whole, address)


def remove(place):
    if not (place.folder / "tiles").is_symlink():
        assert place.servers() == []
    shutil.rmtree(place.folder)


# Campaigns.


def operations(scene):
    """Return all file operations of our own code in the second provision, in order."""
    place = scene.copy()
    run = scene.server.provision(place, fault=("count", 0))
    assert run.status == 0, run.said
    remove(place)
    return run.met


def chosen(calls, seed, more):
    """Sample (fault, n): the first, the last and one other call of each kind, the very last call, and `more` others."""
    draw = random.Random(seed)
    places = {}
    for at, call in enumerate(calls, 1):
        places.setdefault(call, []).append(at)
    found = [("kill", 1), ("kill", len(calls))]
    for at in places.values():
        found += [("ENOSPC", at[0]), ("EIO", at[-1]), ("kill", draw.choice(at))]
    found += [(draw.choice(KINDS), draw.randint(1, len(calls))) for _ in range(more)]
    return sorted(set(found), key=lambda fault: (fault[1], fault[0]))


KINDS = ("ENOSPC", "EIO", "kill")


def attempt(scene, kind, at):
    """Run a second provision with one fault, and make all the checks. Returns what happened."""
    place = scene.copy()
    before = Before.of(place, FIRST, SECOND)
    run = scene.server.provision(place, fault=(kind, at))
    if kind == "kill":
        assert run.status == 137, run.said
    else:
        # A failure is one message, never a traceback. Some faults do no harm.
        assert run.status in {0, 1}, run.said
        assert "Traceback" not in run.said, run.said
        assert lock_is_free(place)
    current = check_current(place, before)
    if run.status == 0:
        assert current == "new"
    assert current == "new" or run.status != 0
    check_next(scene.server, place, before)
    check_rows(scene.address, place)
    remove(place)
    warned = bool(run.event("c10.build.rates_not_kept"))
    return {"at": at, "call": run.met[-1], "status": run.status, "current": current, "warned": warned}


@dataclass
class Tally:
    """Counts what happened in a campaign of kills."""

    kills: int = 0
    ended: int = 0
    old: int = 0
    new: int = 0
    steps: set = field(default_factory=set)


CHANGES = ("flight", "flight", "index", "queries", "engine")


def kill_campaign(scene, *, kills, seed, own_tiles=False):
    """Provision one place repeatedly and kill each run at a random moment, until `kills` were killed.

    Then let one finish.
    """
    draw = random.Random(seed)
    place = scene.copy(own_tiles=own_tiles)
    tally, number, old, new = Tally(), 0, FIRST, SECOND
    engines, span, good = 0, 1.5, place.generation
    while tally.kills < kills:
        before = Before(records(place), set(place.work.rglob("*.seg")), good, (old, new))
        began = time.monotonic()
        run = scene.server.start(place)
        run.wait(signal.SIGKILL, draw.uniform(0, span))
        if run.status == 0:
            tally.ended += 1
            # The range of the moments depends on the speed of the machine.
            span = min(2.0, 1.1 * (time.monotonic() - began))
        else:
            assert run.status == -signal.SIGKILL, run.said
            tally.kills += 1
            tally.steps |= set(run.ran[-1:])
            which = check_current(place, before)
            setattr(tally, which, getattr(tally, which) + 1)
            assert lock_is_free(place)
            if draw.random() < 0.6:
                # The next run is killed as well. It must not repeat finished steps.
                continue
            check_next(scene.server, place, before, engines=engines)
        assert check_current(place, before) == "new"
        number += 1
        old, new, good = new, f"00000000-0000-4000-8000-{number:012x}", place.generation
        engines = _change(place, draw, number, new)
    before = Before(records(place), set(place.work.rglob("*.seg")), good, (old, new))
    check_next(scene.server, place, before, engines=engines)
    check_rows_of(place) if own_tiles else check_rows(scene.address, place)
    verified = scene.server.provision(place, "verify")
    assert verified.status == 0, verified.said
    remove(place)
    return tally


def _change(place, draw, number, new):
    """Change a part of the mission, and its flight id, which identifies the generation.

    Returns how many engines this costs.
    """
    kind = draw.choice(CHANGES)

    def change(mission):
        section = mission["components"]["c10_provisioning"]
        mission["flight_id"] = new
        if kind == "index":
            section["index"] = {"m": 8 + number % 8}
        elif kind == "queries":
            section["selftest"]["queries"] = 2 + number % 3
        elif kind == "engine":
            section["workspace_mb"] = 256 + number

    place.edit(change)
    return int(kind == "engine")


if __name__ == "__main__":
    assert sys.argv[1:] == ["serve"]
    serve()
