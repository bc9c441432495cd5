from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from preflight.errors import (
    BuildCancelledError,
    BuildLockHeldError,
    CacheRootError,
    CallbackError,
    CoverageError,
    InputChangedError,
    PreflightError,
)
from preflight.records import BuildReport
from preflight.report.run_log import RunLog
from preflight.run.session import Hooks, Session, Stage
from preflight.store import atomic
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import Generations
from preflight.store.lock import BuildLock
from preflight.trace.digests import DigestCache
from preflight.trace.rule import Step, Tracer

NOW = datetime(2026, 5, 1, tzinfo=timezone.utc)
HASH = "ab" * 32


class Line:
    """A cache root with two stages: `engine:m` copies source to a, and `index` builds b from a."""

    def __init__(self, folder):
        self.layout = CacheLayout(folder / "cache")
        self.source = folder / "source"
        self.source.write_bytes(b"one")
        self.a, self.b = self.layout.work / "a", self.layout.work / "b"
        self.ran, self.closed = [], 0
        self.prepare = lambda: None
        self.fail = None
        self.observer = None
        self.sessions = []
        self.run_log = RunLog()

    def step(self, name, source, target, digests):
        def build():
            self.ran.append(name)
            if self.fail is not None:
                raise self.fail
            atomic.atomic_write(target, source.read_bytes().upper())
            if name == "compile":
                self.run_log.counts["engines_built"] += 1
            return ()

        return Step(name, 1, (source,), lambda: {"source": digests.sha256(source)}, (target,), build)

    def open(self, *, repair=False):
        digests = DigestCache(self.layout.digests, wall_ns=lambda: 1 << 62)

        def close():
            self.closed += 1

        ticks = iter(range(10_000))
        self.run_log = RunLog()
        session = Session(
            layout=self.layout,
            stages=(
                Stage("engine:m", (), (self.step("compile", self.source, self.a, digests),)),
                Stage("index", ("engine:m",), (self.step("index", self.a, self.b, digests),)),
            ),
            tracer=Tracer(digests, atomic.atomic_write),
            generations=Generations(self.layout, digests),
            lock=BuildLock(self.layout.lock, pid=os.getpid(), host="h"),
            run_log=self.run_log,
            clock=lambda: NOW,
            hooks=Hooks(self.prepare, close, lambda: HASH, self.observer),
            repair=repair,
            monotonic=lambda: float(next(ticks)),
        )
        self.sessions.append(session)
        return session

    def report(self):
        return json.loads(self.layout.report.read_bytes())


@pytest.fixture
def line(tmp_path):
    line = Line(tmp_path)
    yield line
    for session in line.sessions:
        session.close()


@pytest.fixture
def events():
    """Collect (level, event, fields) of every log record."""
    seen = []

    class Keep(logging.Handler):
        def emit(self, record):
            seen.append((record.levelname, record.event, record.fields))

    logger = logging.getLogger("c10_provisioning")
    level = logger.level
    handler = Keep()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield seen
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_build_runs_its_stages_in_order_and_reports_success(line):
    report = line.open().build()
    assert line.ran == ["compile", "index"]
    assert report == BuildReport(1, 0, 0, HASH, "success")
    assert line.report()["outcome"] == "success"
    assert line.b.read_bytes() == b"ONE"


def test_a_refused_run_closes_nothing_because_the_run_that_holds_the_lock_may_use_the_same_parts(line):
    first = line.open()
    first.begin()
    with pytest.raises(BuildLockHeldError):
        line.open().build()
    assert line.closed == 0
    first.close()
    assert line.closed == 1


def test_a_cancellation_between_stages_is_reported_once(line, events):
    session = line.open()
    asked = []

    def cancel():
        asked.append(None)
        if len(asked) == 3:
            raise BuildCancelledError("stop")

    line.run_log.checkpoint = cancel
    with pytest.raises(BuildCancelledError):
        session.build()
    assert line.ran == ["compile"]
    assert line.report()["failure_reason"] == "stop"
    assert [event for _, event, _ in events].count("c10.build.failed") == 1


def test_an_observer_that_raises_does_not_hide_the_first_error(line, events):
    line.fail = CoverageError("first")

    def observe(name, event):
        if event == "failed":
            raise CallbackError("second")

    line.observer = observe
    with pytest.raises(CoverageError, match="first"):
        line.open().build()
    assert line.report()["failure_reason"] == "first"
    assert "c10.stage.failed" in [event for _, event, _ in events]


def test_a_second_build_has_nothing_to_do_and_counts_the_reused_engine(line):
    line.open().build()
    line.ran.clear()
    report = line.open().build()
    assert line.ran == []
    assert report == BuildReport(0, 1, 0, HASH, "idempotent_no_op")
    assert line.report()["outcome"] == "idempotent_no_op"


def test_an_engine_that_is_judged_twice_counts_once(line):
    line.open().build()
    session = line.open()
    session.begin()
    assert session.judge("engine:m")
    assert session.judge("engine:m")
    assert session.finish().engines_reused == 1


def test_an_engine_for_which_only_the_gate_runs_again_is_reused(line):
    def opened():
        session = line.open()
        stage = session.stages["engine:m"]
        gate = line.step("parity", line.a, line.layout.work / "parity", session.digests)
        session.stages["engine:m"] = replace(stage, steps=(*stage.steps, gate))
        return session

    opened().build()
    (line.layout.work / "parity").unlink()
    line.ran.clear()
    report = opened().build()
    assert line.ran == ["parity"]
    assert (report.engines_built, report.engines_reused, report.outcome) == (0, 1, "success")


def test_only_the_stage_whose_inputs_changed_is_built(line):
    line.open().build()
    line.ran.clear()
    line.source.write_bytes(b"One")
    report = line.open().build()
    assert line.ran == ["compile"]
    assert report.outcome == "success"


def test_log_events_and_levels_of_a_success(line, events):
    line.open().build()
    assert [event[:2] for event in events] == [
        ("INFO", "c10.build.start"),
        ("DEBUG", "c10.step.start"),
        ("DEBUG", "c10.step.start"),
        ("INFO", "c10.build.complete"),
    ]
    assert events[0][2] == {"cache_root": str(line.layout.root)}
    assert events[1][2] == {"step": "compile", "why": ["never built here"]}
    assert events[-1][2] == {
        "engines_built": 1,
        "engines_reused": 0,
        "descriptors_generated": 0,
        "manifest_hash": HASH,
        "outcome": "success",
        "failure_reason": None,
    }


def test_a_failure_is_reported_logged_and_raised(line, events):
    line.fail = CoverageError("12 tiles are missing")
    session = line.open()
    with pytest.raises(CoverageError):
        session.build()
    assert line.report() == {
        "engines_built": 0,
        "engines_reused": 0,
        "descriptors_generated": 0,
        "manifest_hash": None,
        "outcome": "failure",
        "failure_reason": "12 tiles are missing",
    }
    assert events[-1][:2] == ("ERROR", "c10.build.failed")
    assert events[-1][2] == {"error": "CoverageError", **line.report()}
    assert [event[1] for event in events].count("c10.build.failed") == 1
    assert session.last_failure is line.fail
    assert line.closed == 1


def test_what_was_built_before_a_failure_is_not_built_again(line):
    session = line.open()
    session.begin()
    session.run("engine:m")
    line.fail = CoverageError("no")
    with pytest.raises(CoverageError):
        session.run("index")
    session.close()
    line.fail = None
    line.open().build()
    assert line.ran == ["compile", "index", "index"]


def test_an_unexpected_error_is_reported_with_its_type_and_raised(line):
    line.fail = ZeroDivisionError("division by zero")
    with pytest.raises(ZeroDivisionError):
        line.open().build()
    assert line.report()["failure_reason"] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("stop", [SystemExit(143), KeyboardInterrupt()])
def test_a_stop_by_a_signal_is_reported_as_such(line, stop):
    line.fail = stop
    with pytest.raises(type(stop)):
        line.open().build()
    assert line.report()["failure_reason"] == "stopped by a signal; run doit provision again to go on"


def test_a_full_disk_is_reported_as_a_cache_root_error(line):
    line.fail = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(line.a))
    with pytest.raises(CacheRootError, match="No space left on device") as error:
        line.open().build()
    assert str(line.a) in str(error.value)
    assert line.report()["failure_reason"] == str(error.value)


def test_a_failed_write_of_the_report_does_not_hide_the_error(line, events, monkeypatch):
    line.fail = CoverageError("12 tiles are missing")
    session = line.open()
    session.begin()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic, "atomic_write", full)
    with pytest.raises(CoverageError, match="12 tiles"):
        session.run("engine:m")
    assert events[-1][2]["failure_reason"] == "12 tiles are missing"


def test_a_stage_fails_if_its_input_changes_while_it_runs(line):
    line.layout.work.mkdir(parents=True)
    real = line.step

    def editing(name, source, target, digests):
        step = real(name, source, target, digests)

        def build():
            step.build()
            line.source.write_bytes(b"edited")
            return ()

        return Step(step.name, 1, step.reads, step.components, step.outputs, build)

    line.step = editing
    with pytest.raises(InputChangedError, match=str(line.source)):
        line.open().build()
    assert "was edited while compile ran" in line.report()["failure_reason"]


def test_a_held_lock_stops_the_run_before_anything_is_written(line, events):
    holder = BuildLock(line.layout.lock, pid=7, host="other")
    holder.acquire(NOW)
    line.prepare = lambda: pytest.fail("prepared without the lock")
    before = sorted(line.layout.root.rglob("*"))
    session = line.open()
    try:
        with pytest.raises(BuildLockHeldError, match="pid 7 on other"):
            session.build()
    finally:
        text = line.layout.lock.read_text()
        holder.release()
    assert sorted(line.layout.root.rglob("*")) == before
    assert json.loads(text)["pid"] == 7
    assert line.ran == []
    assert [event[:2] for event in events] == [("ERROR", "c10.build.failed")]
    assert line.closed == 0


def test_a_failure_in_prepare_is_reported(line):
    def prepare():
        raise PreflightError("no database")

    line.prepare = prepare
    with pytest.raises(PreflightError):
        line.open().build()
    assert line.report()["failure_reason"] == "no database"
    assert line.ran == []


def test_begin_removes_what_a_killed_run_left_behind(line):
    leftovers = [line.layout.staging / ("0" * 32) / "file", line.layout.work / f"{atomic.TEMPORARY_PREFIX}y"]
    for path in leftovers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    session = line.open()
    session.begin()
    assert not any(path.exists() for path in leftovers)


def test_close_releases_the_lock_and_is_idempotent(line):
    session = line.open()
    session.begin()
    session.close()
    session.close()
    other = BuildLock(line.layout.lock, pid=1, host="h")
    other.acquire(NOW)
    other.release()


def test_close_releases_the_lock_even_if_the_hook_fails(line):
    session = line.open()
    session.begin()

    def broken():
        raise PreflightError("the server would not stop")

    object.__setattr__(session._hooks, "close", broken)
    with pytest.raises(PreflightError, match="would not stop"):
        session.close()
    other = BuildLock(line.layout.lock, pid=1, host="h")
    other.acquire(NOW)
    other.release()
    object.__setattr__(session._hooks, "close", lambda: None)


def test_close_stores_the_digests(line):
    line.open().build()
    line.source.touch()
    line.open().build()
    session = line.open()
    session.begin()
    assert session.judge("engine:m")
    assert session.digests.hashed_files == 0


def test_a_failed_write_of_the_digests_is_a_warning_and_the_lock_is_released(line, events, monkeypatch):
    session = line.open()
    session.begin()
    session.digests.sha256(line.source)

    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(session.digests, "flush", full)
    session.close()
    assert events[-1][:2] == ("WARNING", "c10.build.digests_not_kept")
    other = BuildLock(line.layout.lock, pid=1, host="h")
    other.acquire(NOW)
    other.release()


def test_closing_a_run_that_never_began_writes_nothing(line):
    line.open().close()
    assert not line.layout.root.exists()


def edit_behind_the_cache(line):
    """Change an artifact but let the digest cache keep its old digest, as a flipped bit on the disk would."""
    digests = DigestCache(line.layout.digests, wall_ns=lambda: 1 << 62)
    line.b.chmod(0o644)
    with line.b.open("r+b") as file:
        file.write(b"BAD")
    digests.adopt(line.b, hashlib.sha256(b"ONE").hexdigest())
    digests.flush()


@pytest.mark.parametrize("cause", ["repair", "refused"])
def test_all_files_are_hashed_again_for_repair_and_after_a_refused_cache(line, cause):
    line.open().build()
    edit_behind_the_cache(line)
    assert line.open().build().outcome == "idempotent_no_op"
    if cause == "refused":
        line.layout.refused.write_text("{}")
    line.ran.clear()
    assert line.open(repair=cause == "repair").build().outcome == "success"
    assert line.ran == ["index"]
    assert line.b.read_bytes() == b"ONE"


def test_a_stage_with_an_unreadable_input_is_not_current_and_running_it_raises(line):
    line.open().build()
    line.source.unlink()
    line.source.mkdir()
    session = line.open()
    session.begin()
    assert not session.judge("engine:m")
    with pytest.raises(CacheRootError, match="source"):
        session.run("engine:m")


def test_seconds_count_from_begin(line):
    session = line.open()
    assert session.seconds == 0.0
    session.begin()
    assert session.seconds > 0


@pytest.fixture
def corpus(line, monkeypatch):
    """Three engines and a stage after them. `corpus(*broken)` opens a run in which these engines cannot be built."""

    def opened(*broken):
        session = line.open()

        def step(name):
            def build():
                line.ran.append(name)
                if name in broken:
                    raise PreflightError(f"{name} is broken")
                atomic.atomic_write(line.layout.work / name, b"engine")
                line.run_log.counts["engines_built"] += name != "after"
                return ()

            digests = session.digests
            return Step(
                name,
                1,
                (line.source,),
                lambda: {"source": digests.sha256(line.source)},
                (line.layout.work / name,),
                build,
            )

        engines = [Stage(f"engine:{name}", (), (step(name),)) for name in "xyz"]
        after = Stage("after", tuple(stage.name for stage in engines), (step("after"),))
        session.stages = {stage.name: stage for stage in (*engines, after)}
        return session

    return opened


def test_the_other_engines_are_built_when_one_fails(line, corpus, events):
    with pytest.raises(PreflightError, match="x is broken"):
        corpus("x").build()
    assert line.ran == ["x", "y", "z"]
    assert line.report()["failure_reason"] == "x is broken"
    assert [event for _, event, _ in events if event == "c10.build.failed"] == ["c10.build.failed"]
    line.ran.clear()
    report = corpus().build()
    assert line.ran == ["x", "after"]
    assert (report.outcome, report.engines_reused) == ("success", 2)


def test_each_failed_engine_is_logged_and_the_first_error_is_raised(line, corpus, events):
    with pytest.raises(PreflightError, match="y is broken"):
        corpus("y", "z").build()
    assert line.ran == ["x", "y", "z"]
    assert ("ERROR", "c10.stage.failed", {"stage": "engine:z", "error": "PreflightError"}) in events
    assert line.report()["failure_reason"] == "y is broken"


def test_the_other_engines_are_not_built_when_one_is_run_by_name(line, corpus):
    session = corpus("x")
    session.begin()
    with pytest.raises(PreflightError, match="x is broken"):
        session.run("engine:x")
    assert line.ran == ["x"]


def test_engines_not_built_yet_are_started_in_parallel_but_not_when_run_by_name(line, corpus):
    session = corpus()
    started = []

    def startable(stage):
        (step,) = stage.steps
        return replace(stage, steps=(replace(step, start=lambda: started.append(step.name)),))

    session.stages = {name: startable(stage) for name, stage in session.stages.items()}
    session.begin()
    session.run("engine:x")
    assert started == []
    session.run("engine:y", alone=False)
    assert started == ["z"]
    session.run("engine:z", alone=False)
    assert started == ["z"]
    assert line.ran == ["x", "y", "z"]


def test_steps_before_a_parallel_step_run_first_and_their_errors_wait_for_their_own_stage(line, corpus):
    session = corpus("before y")
    started = []

    def two(stage, name):
        (step,) = stage.steps

        def build():
            line.ran.append(f"before {name}")
            if name == "y":
                raise PreflightError("before y is broken")
            atomic.atomic_write(line.layout.work / f"before {name}", b"model")
            return ()

        before = replace(step, name=f"before {name}", outputs=(line.layout.work / f"before {name}",), build=build)
        return replace(stage, steps=(before, replace(step, start=lambda: started.append(name))))

    session.stages = {
        name: two(stage, stage.steps[0].name) if name.startswith("engine:") else stage
        for name, stage in session.stages.items()
    }
    with pytest.raises(PreflightError, match="before y is broken"):
        session.build()
    assert started == ["z", "z"]  # each stage tries again, because a slot may be free by then
    assert line.ran == ["before y", "before z", "before x", "x", "before y", "z"]


def test_a_step_that_cannot_start_in_parallel_is_built_in_its_own_stage(line, corpus):
    session = corpus()
    stage = session.stages["engine:z"]

    def refuse():
        raise PreflightError("no room")

    session.stages["engine:z"] = replace(stage, steps=(replace(stage.steps[0], start=refuse),))
    assert session.build().outcome == "success"
    assert line.ran == ["x", "y", "z", "after"]
