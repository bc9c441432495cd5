"""With log=json, each line is one JSON object with the levels and events of SPEC.md."""

from __future__ import annotations

from datetime import datetime, timedelta


def levels(done, event):
    return {line["level"] for line in done.event(event)}


def test_a_build_logs_the_events_of_the_specification(first):
    place, done = first
    assert done.err == ""
    for line in done.events:
        assert {"time", "level", "event", "message", "logger"} <= line.keys()
        assert line["level"] in {"DEBUG", "INFO", "WARN", "ERROR"}
        assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)
    (miss,) = done.event("c10.engine.miss")
    assert miss["level"] == "WARN"
    assert {"model", "sm", "jp", "trt", "precision"} <= miss.keys()
    assert (miss["model"], miss["precision"]) == ("weight_free_vpr", "fp32")
    assert levels(done, "c10.build.start") == levels(done, "c10.build.complete") == {"INFO"}
    (end,) = done.event("c10.build.complete")
    assert {name: end[name] for name in place.report} == place.report
    (key,) = done.event("c10.signing.dev_key_made")
    assert key["level"] == "WARN"
    assert not [line for line in done.events if line["level"] == "ERROR"]


def test_progress_of_the_descriptors_is_logged_at_each_tenth(first):
    _, done = first
    found = done.event("c10.descriptor.progress")
    assert {line["level"] for line in found} == {"DEBUG"}
    assert 5 <= len(found) <= 10
    assert (found[-1]["done"], found[-1]["total"], found[-1]["percent"]) == (80, 80, 100)


def test_a_build_with_nothing_to_do(built):
    done = built.provision_json()
    assert [line["event"] for line in done.events] == ["c10.build.start", "c10.build.complete"]
    assert done.event("c10.build.complete")[0]["outcome"] == "idempotent_no_op"


def test_a_failing_build(built):
    (built.folder / "camera.json").unlink()
    done = built.provision_json()
    assert done.status == 1
    (line,) = [line for line in done.events if line["level"] == "ERROR"]
    assert line["error"] == "MissionError"
    assert "camera.json" in line["message"]


def test_a_build_that_fails_in_a_stage(built):
    built.edit(lambda mission: mission["area"]["bbox"].update(lat_max=46.003))
    done = built.provision_json()
    assert done.status == 1
    (line,) = [line for line in done.events if line["level"] == "ERROR"]
    assert line["error"] == "CoverageError"
    assert line["outcome"] == "failure"
    assert line["failure_reason"] == built.report["failure_reason"] == line["message"]
    assert built.report["outcome"] == "failure"


def test_an_unknown_variable(unbuilt):
    done = unbuilt.provision_json("misson=x")
    assert done.status == 1
    assert {line["level"] for line in done.events} == {"ERROR"}
    assert {line["error"] for line in done.events} == {"CommandLineError"}


def test_commands(fresh, built):
    done = fresh.doit("import", "no-such-folder", "log=json")
    assert done.status == 1
    (line,) = done.events
    assert (line["level"], line["error"]) == ("ERROR", "ImportSourceError")
    assert done.err == ""
    assert len(built.doit("verify", "log=json").events) == 1
    assert len(built.doit("status", "log=json").events) == 1


def test_a_refused_cache(built):
    (built.generation / "corpus.json.sha256").unlink()
    (line,) = built.doit("verify", "log=json").events
    assert (line["level"], line["event"]) == ("ERROR", "c10.verify.fail")
    assert "corpus.json.sha256" in line["message"]


def test_the_text_log_has_no_json_and_no_debug_events(built):
    built.edit(lambda mission: mission.update(flight_id=None))
    done = built.provision()
    assert done.status == 0
    assert not any(line.startswith("{") for line in done.out.splitlines())
    for part in ("recall@1", "manifest", "valid until", "built and published", "doit verify", "80", "1 reused"):
        assert part in done.out, part
