"""`python -I -m takeoff`: one verdict, a status of its own for each refusal, and 0 for a verified cache alone."""

from __future__ import annotations

import io
import json
import os
import re
import runpy
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from takeoff import __main__ as start
from takeoff import command_line, digest, errors, manifest, verdict, verify

FLIGHT = "0b6cf8c6-3a0e-4a55-9b0e-0a2a2a6d7f10"


def run(*arguments, **options):
    """In a process of its own, as an aircraft calls it: by the installed package."""
    return python("-I", "-m", "takeoff", *arguments, **options)


def python(*arguments, **options):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture
def fresh(tmp_path, private, kit):
    """A cache that is valid by the machine's own clock, with changes."""

    def make(**changes):
        now = int(time.time())
        fields = {"issued_at": now - 10, "valid_from": now - 10, "valid_until": now + kit.DAY, **changes}
        return kit.write_cache(tmp_path / f"cache{len(list(tmp_path.iterdir()))}", private, kit.make_manifest(**fields))

    return make


def test_a_pass_in_words(fresh, trust, tmp_path):
    done = run(
        fresh(), "--trust", trust, "--floor", tmp_path / "floor", "--expect-flight", FLIGHT, "--expect-position=0.35,32.59",
        "--timeout", "60",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        r"PASSED .* generation 1, manifest [0-9a-f]{12}, 3 artifacts, .* valid until 2.*Z\n", done.stdout
    )
    assert (tmp_path / "floor").exists()


def test_a_pass_as_json(fresh, trust):
    done = run(fresh(), f"--trust={trust}", "--json")
    said = json.loads(done.stdout)
    assert (done.returncode, said["outcome"], said["exit_status"]) == (0, "pass", 0)
    assert said["takeoff_origin"] == [0.348, 32.59, 1190.0]
    assert said["fail_reasons"] == []
    assert set(said["per_artifact_hash_match"].values()) == {True}


def test_a_refusal_in_words_names_each_file_and_the_remedy(fresh, trust):
    cache = fresh()
    (cache / "camera.json").write_bytes(b"")
    (cache / "index.faiss.sha256").unlink()
    done = run(cache, "--trust", trust)
    assert done.returncode == 29
    assert done.stdout.splitlines() == [
        f"REFUSED {cache}",
        "  [sidecar_missing] index.faiss.sha256: the sidecar is missing",
        "  [content_hash] camera.json: has 0 bytes, not 12",
        "run `doit provision` again",
    ]


def test_a_refusal_as_json(fresh, trust):
    cache = fresh()
    (cache / "bad\udcff").write_bytes(b"")
    done = run(cache, "--trust", trust, "--json")
    said = json.loads(done.stdout)
    assert done.returncode == said["exit_status"] == 30
    assert said["statustext"] == "CACHE REFUSED: unlisted file"
    assert said["fail_reasons"] == [
        {"code": "file_unlisted", "file": "bad\\udcff", "message": "is not in the manifest (file)"}
    ]
    assert said["takeoff_origin"] is said["flight_id"] is None


def _status_cases():
    def remove(name):
        return lambda cache, trust: (cache / name).unlink()

    def write(name, content):
        return lambda cache, trust: (cache / name).write_bytes(content)

    def fifo(cache, trust):
        (cache / "camera.json").unlink()
        os.mkfifo(cache / "camera.json")

    def revoke(cache, trust):
        sealed = json.loads((cache / "manifest.dsse.json").read_bytes())
        (trust / "revoked").write_text(sealed["signatures"][0]["keyid"])

    def other_key(cache, trust):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        from takeoff import keys

        (trust / "operator.pem").write_bytes(keys.to_pem(Ed25519PrivateKey.generate().public_key().public_bytes_raw()))

    def bad_signature(cache, trust):
        sealed = json.loads((cache / "manifest.dsse.json").read_bytes())
        sealed["signatures"][0]["sig"] = "A" * 86 + "=="
        data = json.dumps(sealed, sort_keys=True, separators=(",", ":"))
        (cache / "manifest.dsse.json").write_text(data)

    nothing = {}
    now = int(time.time())
    return [
        (19, nothing, remove("manifest.json"), ()),
        (20, nothing, lambda cache, trust: (trust / "operator.pem").unlink(), ()),
        (21, nothing, revoke, ()),
        (22, nothing, other_key, ()),
        (23, nothing, write("manifest.dsse.json", b"{}"), ()),
        (24, nothing, bad_signature, ()),
        (24, nothing, write("manifest.json", b"{}"), ()),
        (27, {"manifest_hash": "ab" * 32}, None, ()),
        (28, nothing, remove("camera.json"), ()),
        (29, nothing, remove("camera.json.sha256"), ()),
        (30, nothing, write("more", b""), ()),
        (31, nothing, fifo, ()),
        (33, nothing, write("camera.json", b"{}"), ()),
        (34, nothing, write("SHA256SUMS", b""), ()),
        (35, {"signing_mode": "dev"}, None, ()),
        (36, nothing, lambda cache, trust: None, ("--floor", b'{"issued_at":1,"last_seen":99999999999}')),
        (37, {"valid_from": now + 9000}, None, ()),
        (38, {"valid_from": 1, "valid_until": 2}, None, ()),
        (39, {"issued_at": 1000}, None, ("--floor", b'{"issued_at":1001,"last_seen":1}')),
        (40, nothing, None, ("--floor", b"")),
        (41, nothing, None, ("--expect-flight", "11111111-3a0e-4a55-9b0e-0a2a2a6d7f10")),
        (42, nothing, None, ("--expect-position", "1,1")),
        (43, {"target": manifest.Target("pdp11", "generic", None, None)}, None, ()),
        (43, nothing, None, ("--expect-sm", "87")),
    ]


@pytest.mark.parametrize(("status", "changes", "spoil", "options"), _status_cases())
def test_each_refusal_has_its_exit_status(fresh, trust, tmp_path, status, changes, spoil, options):
    cache = fresh(**changes)
    if spoil:
        spoil(cache, trust)
    if options[:1] == ("--floor",):
        (tmp_path / "floor").write_bytes(options[1])
        options = ("--floor", tmp_path / "floor")
    done = run(cache, "--trust", trust, *options)
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stdout.startswith("REFUSED")
    (kind,) = (kind for kind in errors.VerificationError.__subclasses__() if kind.exit_status == status)
    assert kind.remedy in done.stdout.splitlines()


@pytest.mark.parametrize(("old", "new", "status"), [(b'"1.1"', b'"9.9"', 26), (b'"operator"', b'"operater"', 25)])
def test_signed_manifests_that_do_not_decode(tmp_path, private, kit, trust, old, new, status):
    made = kit.make_manifest()
    cache = kit.write_cache(tmp_path / "c", private, made, manifest.encode(made).replace(old, new))
    assert run(cache, "--trust", trust).returncode == status


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["-h"],
        ["cache"],
        ["--trust", "t"],
        ["a", "b", "--trust", "t"],
        ["a", "--trust"],
        ["a", "--trust="],
        ["a", "--trust", "t", "--trust", "u"],
        ["a", "--trust", "t", "--mode=operator"],
        ["a", "--trust", "t", "--json=1"],
        ["a", "--trust", "t", "--expect-flight", "7"],
        ["a", "--trust", "t", "--expect-position", "1"],
        ["a", "--trust", "t", "--expect-position", "91,0"],
        ["a", "--trust", "t", "--expect-position", "nan,0"],
        ["a", "--trust", "t", "--expect-position", "0,181"],
        ["a", "--trust", "t", "--expect-position", "x,0"],
        ["a", "--trust", "t", "--expect-position", "0,0,0"],
        ["a", "--trust", "t", "--expect-sm", "8.7"],
        ["a", "--trust", "t", "--expect-sm="],
        ["a", "--trust", "t", "--floor="],
        ["", "--trust", "t"],
        ["a", "--trust", "t", "--timeout", "0"],
        ["a", "--trust", "t", "--timeout", "nan"],
        ["a", "--trust", "t", "--timeout", "-1"],
        ["a", "--trust", "t", "--timeout", "inf"],
        ["a", "--trust", "t", "--timeout", "1000000"],
    ],
)
def test_wrong_calls_and_help_are_no_pass(arguments, capsys):
    assert command_line.main(arguments) == 18
    said = capsys.readouterr().out
    assert said.startswith("REFUSED\n  [usage] ")
    assert "provision" not in said


def test_help_in_a_process_of_its_own():
    done = run("--help")
    assert done.returncode == 18
    assert "usage: python -I -m takeoff CACHE --trust DIR" in done.stdout


def test_a_crash_refuses(fresh, trust, monkeypatch, capsys):
    def broken(*_, **__):
        raise MemoryError("none left")

    monkeypatch.setattr(verify, "verify_manifest", broken)
    assert command_line.main([str(fresh()), "--trust", str(trust), "--json"]) == 16
    said = json.loads(capsys.readouterr().out)
    assert said["fail_reasons"][0]["message"] == "MemoryError: none left"
    assert said["remedy"] == errors.VerifierCrashedError.remedy
    assert said["manifest_hash_match"] is False


def test_a_pass_within_the_time(fresh, trust, capsys):
    assert command_line.main([str(fresh()), "--trust", str(trust), "--timeout=60"]) == 0
    assert re.search(rf"signed by [0-9a-f]{{12}} \(operator\), flight {FLIGHT}, valid until", capsys.readouterr().out)


def test_a_crash_with_a_timer_set_is_a_crash(fresh, trust, monkeypatch, capsys):
    monkeypatch.setattr(verify, "verify_manifest", lambda *_, **__: 1 // 0)
    assert command_line.main([str(fresh()), "--trust", str(trust), "--timeout=60"]) == 16
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_many_failures_of_one_kind_are_counted_in_words_and_whole_in_json(fresh, trust, capsys):
    cache = fresh()
    for number in range(25):
        (cache / f"more{number:02}").write_bytes(b"")
    (cache / "camera.json").write_bytes(b"")
    assert command_line.main([str(cache), "--trust", str(trust)]) == 30
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("]")[0] for line in lines[1:-1]] == ["  [file_unlisted"] * 21 + ["  [content_hash"]
    assert lines[21] == "  [file_unlisted] and 5 more, all in the JSON verdict"
    assert command_line.main([str(cache), "--trust", str(trust), "--json"]) == 30
    assert len(json.loads(capsys.readouterr().out)["fail_reasons"]) == 26
    for number in range(5):
        (cache / f"more{number:02}").unlink()
    assert command_line.main([str(cache), "--trust", str(trust)]) == 30
    lines = capsys.readouterr().out.splitlines()
    assert lines[20].startswith("  [file_unlisted] more24")
    assert lines[21].startswith("  [content_hash]")


def test_the_remedies_of_all_failures_once_each_the_lowest_status_first():
    failures = (errors.ExpiredError("was"), errors.TrustError("is"), errors.NotYetValidError("is"))
    remedies = [errors.TrustError.remedy, errors.ExpiredError.remedy]
    assert verdict.human_verdict(None, None, failures).splitlines()[4:] == remedies
    assert json.loads(verdict.json_verdict(None, None, failures))["remedy"] == "; ".join(remedies)


def test_time_out_refuses_what_comes_too_late(fresh, trust, monkeypatch, capsys):
    late, real = threading.Event(), verify.verify_manifest

    def slow(*arguments, **options):
        assert late.wait(30)
        return real(*arguments, **options)

    monkeypatch.setattr(verify, "verify_manifest", slow)
    assert command_line.main([str(fresh()), "--trust", str(trust), "--timeout=0.01"]) == 17
    late.set()
    assert "[timeout] no verdict within 0.01 s" in capsys.readouterr().out


def test_time_out_is_no_failure_of_one_file(fresh, trust, monkeypatch, capsys):
    late = threading.Event()

    def hang(_):
        assert late.wait(30)
        yield 1

    monkeypatch.setattr(digest, "sha256_steps", hang)
    assert command_line.main([str(fresh()), "--trust", str(trust), "--timeout=0.05", "--json"]) == 17
    late.set()
    assert [reason["code"] for reason in json.loads(capsys.readouterr().out)["fail_reasons"]] == ["timeout"]


@pytest.mark.parametrize("part", ["digest.sha256_steps", "keys.load_trust", "manifest.decode"])
def test_time_out_in_a_process_of_its_own_whatever_hangs(fresh, trust, part):
    """Nothing that hangs hears a signal, as a read from a dying card does not; the verdict comes all the same."""
    program = (
        "import sys, threading, runpy, signal\n"
        "from takeoff import digest, keys, manifest\n"
        f"{part} = lambda _: threading.Event().wait()\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "sys.argv = ['takeoff', *sys.argv[1:]]\n"
        "runpy.run_module('takeoff', run_name='__main__')\n"
    )
    done = python("-I", "-c", program, fresh(), "--trust", trust, "--timeout", "0.2", timeout=60)
    assert done.returncode == 17, done.stderr
    assert "[timeout]" in done.stdout


def test_a_name_does_not_steer_the_terminal(fresh, trust, capsys):
    """Who puts files on a card must not put lines into the verdict, nor take them out."""
    cache = fresh()
    (cache / "x\x1b[2K\x1b[1A\rPASSED").write_bytes(b"")
    (cache / "y\nPASSED cache: generation 1\x7f\u202e").write_bytes(b"")
    moved = cache.rename(cache.with_name("cache\nPASSED"))
    assert command_line.main([str(moved), "--trust", str(trust)]) == 30
    said = capsys.readouterr().out
    assert said.isascii()
    assert all(line.isprintable() for line in said.splitlines())
    assert not any(line.startswith("PASSED") for line in said.splitlines())
    assert r"[file_unlisted] y\nPASSED cache: generation 1\x7f\u202e: is not" in said
    for name in [name for name in moved.iterdir() if not name.name.isprintable()]:
        name.unlink()
    assert command_line.main([str(moved), "--trust", str(trust)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("PASSED /")
    assert r"/cache\nPASSED: generation " in said
    assert said.count("\n") == 1


def test_a_closed_stdout_is_no_pass(fresh, trust):
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-I", "-m", "takeoff", fresh(), "--trust", trust]
    assert subprocess.run(command, check=False).returncode == 16


def test_a_verdict_that_cannot_be_said_is_no_pass(fresh, trust, monkeypatch):
    cache = fresh()
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    assert command_line.main([str(cache), "--trust", str(trust)]) == 16
    (cache / "more").write_bytes(b"")
    assert command_line.main([str(cache), "--trust", str(trust)]) == 30


def test_a_full_disk_behind_stdout_is_no_pass(fresh, trust):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-I", "-m", "takeoff", fresh(), "--trust", trust]
        done = subprocess.run(command, stdout=full, check=False)
    assert done.returncode == 16


def flags_with(**changes):
    """The interpreter's flags with others for isolation; Python 3.10 has no safe_path."""
    mine = {name: getattr(sys.flags, name) for name in dir(sys.flags) if name.islower() and name != "safe_path"}
    return SimpleNamespace(**{**mine, **changes})


@pytest.mark.parametrize("flags", [{"isolated": 1}, {"isolated": 0, "safe_path": True}])
def test_the_module_ends_with_the_status(monkeypatch, capsys, flags):
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(sys, "argv", ["takeoff"])
    monkeypatch.setattr(sys, "flags", flags_with(**flags))
    monkeypatch.delitem(sys.modules, "takeoff.__main__")
    runpy.run_module("takeoff", run_name="__main__")
    assert ended == [18]
    assert "[usage] exactly one CACHE" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [{"isolated": 0}, {"isolated": 0, "safe_path": False}])
@pytest.mark.parametrize("as_json", [False, True])
def test_an_interpreter_that_is_not_isolated_refuses(fresh, trust, monkeypatch, capsys, flags, as_json):
    monkeypatch.setattr(sys, "argv", ["takeoff", str(fresh()), f"--trust={trust}", *["--json"] * as_json])
    monkeypatch.setattr(sys, "flags", flags_with(**flags))
    monkeypatch.delitem(sys.modules, "takeoff.__main__")
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("takeoff", run_name="__main__")
    assert caught.value.code == errors.UsageError.exit_status == 18
    # The constants are what the verdict's own functions write.
    write = verdict.json_verdict if as_json else verdict.human_verdict
    assert capsys.readouterr().out == write(None, None, (errors.UsageError(start.NOT_ISOLATED),)) + "\n"


PLANTED = ["__future__", "hashlib", "json", "math", "re", "signal", "time", "typing"]


@pytest.fixture
def hostile(fresh):
    """A cache with modules that print a pass and end with status 0 when they are imported."""
    cache = fresh()
    for name in PLANTED:
        (cache / f"{name}.py").write_text("import os\nprint('PASSED forged', flush=True)\nos._exit(0)\n")
    # -B: the proof must leave no byte code beside them.
    forged = python("-B", "-c", f"import {', '.join(PLANTED)}", cwd=cache)
    assert (forged.returncode, forged.stdout) == (0, "PASSED forged\n")  # they work
    return cache


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_modules_planted_in_the_working_directory_do_not_run(hostile, trust, option):
    without = python("-m", "takeoff", ".", "--trust", trust, *option, cwd=hostile)
    assert without.returncode == 18, without.stdout + without.stderr
    assert start.NOT_ISOLATED in without.stdout
    assert "PASSED" not in without.stdout


def test_the_true_verdict_in_a_hostile_working_directory(hostile, fresh, trust):
    done = run(".", "--trust", trust, cwd=hostile)
    assert done.returncode == 30
    refused = [line.split(":")[0] for line in done.stdout.splitlines()[1:-1]]
    assert refused == [f"  [file_unlisted] {name}.py" for name in PLANTED]
    assert run(fresh(), "--trust", trust, cwd=hostile).returncode == 0


def test_the_command_line_as_read():
    arguments = [
        "--timeout=2",
        "c",
        "--expect-position",
        "-1.5,2",
        "--trust=t=u",
        "--floor",
        "f",
        "--expect-flight",
        FLIGHT,
        "--expect-sm=87",
    ]
    assert command_line.parse(arguments) == command_line.Options("c", "t=u", "f", FLIGHT, (-1.5, 2.0), "87", 2.0)
    assert command_line.parse(["c", "--trust", "t"]) == command_line.Options("c", "t")
    corner = command_line.parse(["c", "--trust", "t", "--expect-position=-90,180", "--timeout=999999"])
    assert (corner.expect_position, corner.timeout) == ((-90.0, 180.0), 999999.0)
