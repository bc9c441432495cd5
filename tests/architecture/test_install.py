"""Installs preflight, editable and as a wheel. Any folder can import it, mypy sees its types, doit finds its commands.

Each environment is new and contains only preflight. The editable install uses a clone whose folder has the name of the
package, as `git clone` makes it. Nothing is downloaded: the build backend comes from the environment of the tests.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SITE_PACKAGES = sysconfig.get_path("purelib")
IN_A_CLONE = ("pyproject.toml", "README.md", "LICENSE", ".gitignore", "dodo.py", "lib", "recipes", "cache_templates")
NOT_IN_A_CLONE = shutil.ignore_patterns("__pycache__", "*.egg-info")
PACKAGES = ("preflight", "recipes", "takeoff", "takeoff_report")
WHERE = f"import {', '.join(PACKAGES)}\nfor package in ({', '.join(PACKAGES)}): print(package.__file__)\n"
# If mypy cannot import a module, it reveals the type as Any.
TYPED = """
import preflight
from datetime import datetime, timezone
from pathlib import Path
from takeoff import verify_manifest
from takeoff_report.config import MAX_BYTES

reveal_type(preflight.__version__)
now = datetime.now(timezone.utc)
reveal_type(verify_manifest("/cache", trust=Path("/trust"), now=lambda: now).manifest_hash_match)
reveal_type(MAX_BYTES)
"""
# The packages of the environment come first, then those of the tests, which include doit.
DOIT = """
import sys
sys.path.append(sys.argv.pop(1))
from doit.doit_cmd import DoitMain
sys.exit(DoitMain().run(sys.argv[1:]))
"""


class Installed(NamedTuple):
    """An environment with preflight in it.

    python: its interpreter.
    packages: the folder of each package.
    """

    python: Path
    packages: dict[str, Path]


def run(*command: str | Path, cwd: Path, status: int = 0, **variables: str) -> str:
    """Run a command without the variables that tell Python or mypy where to search. Returns its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MYPY"))}
    done = subprocess.run(
        command, cwd=cwd, env={**environment, **variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def new_environment(folder: Path) -> tuple[Path, Path]:
    """Make a virtual environment without pip. Returns its interpreter and its site-packages."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    return python, Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())


def pip(command: str, *arguments: str | Path, cwd: Path, python: Path | str = sys.executable) -> None:
    """Run the pip of the tests for `python`, with the build backend of the tests and without a network."""
    offline = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    run(
        *(sys.executable, "-m", "pip", "--python", python, command, *offline, *arguments),
        cwd=cwd,
        PYTHONPATH=SITE_PACKAGES,
    )


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside") / "preflight"
    folder.mkdir()
    for name in IN_A_CLONE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=NOT_IN_A_CLONE)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(clone, tmp_path_factory):
    target = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--wheel-dir", target, clone, cwd=target)
    return next(target.iterdir())


@pytest.fixture(scope="module")
def editable(clone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("editable")
    python, _ = new_environment(folder)
    pip("install", "--no-compile", "--ignore-installed", "--editable", clone, python=python, cwd=folder)
    return Installed(python, {name: clone / ("" if name == "recipes" else "lib") / name for name in PACKAGES})


@pytest.fixture(scope="module")
def from_wheel(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("from_wheel")
    python, site_packages = new_environment(folder)
    pip("install", "--no-compile", "--ignore-installed", wheel, python=python, cwd=folder)
    return Installed(python, {name: site_packages / name for name in PACKAGES})


@pytest.fixture(params=["editable", "from_wheel"])
def installed(request):
    return request.getfixturevalue(request.param)


def test_a_script_beside_the_clone_imports_the_packages(installed, clone):
    script = clone.parent / "script.py"
    script.write_text(WHERE)
    found = run(installed.python, script, cwd=clone.parent).splitlines()
    assert found == [str(installed.packages[name] / "__init__.py") for name in PACKAGES]


def test_mypy_sees_the_types_from_another_folder(installed, tmp_path):
    (tmp_path / "script.py").write_text(TYPED)
    mypy = (sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", tmp_path / "cache")
    output = run(*mypy, "--python-executable", installed.python, "script.py", cwd=tmp_path)
    assert [line.partition("note: ")[2] for line in output.splitlines() if "note:" in line] == [
        'Revealed type is "str"',
        'Revealed type is "bool"',
        'Revealed type is "int"',
    ]


@pytest.fixture
def with_libraries(installed):
    """The environment, which also sees the packages of the tests: those that `preflight[cpu]` installs are among them."""
    packages = run(installed.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=ROOT).strip()
    link = Path(packages) / "libraries.pth"
    link.write_text(SITE_PACKAGES + "\n")
    yield installed
    link.unlink()


def test_mypy_accepts_the_program_of_the_document(with_libraries, tmp_path):
    program = (ROOT / "docs" / "python-api.md").read_text().partition("```python\n")[2].partition("```\n")[0]
    (tmp_path / "c12.py").write_text(program + "\nreveal_type(report)\n")
    mypy = (sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", tmp_path / "cache")
    output = run(*mypy, "--python-executable", with_libraries.python, "c12.py", cwd=tmp_path)
    assert 'Revealed type is "preflight.records.BuildReport"' in output
    broken = program.replace("pf.SectorClassification.STABLE_REAR", '"calm"').replace("report.outcome", "report.result")
    (tmp_path / "broken.py").write_text(broken)
    refused = run(*mypy, "--python-executable", with_libraries.python, "broken.py", cwd=tmp_path, status=1)
    assert re.findall(r"\[([a-z-]+)\]$", refused, re.MULTILINE) == ["arg-type", "attr-defined"]


def test_the_isolated_interpreter_finds_the_verifier(installed, tmp_path):
    refused = subprocess.run(
        [installed.python, "-I", "-m", "takeoff", tmp_path, "--trust", tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (refused.returncode, refused.stdout.splitlines()[0]) == (19, "REFUSED"), refused.stdout + refused.stderr


def test_doit_has_the_commands_in_any_folder(installed, tmp_path):
    listed = run(installed.python, "-c", DOIT, SITE_PACKAGES, "help", cwd=tmp_path)
    commands = {line.split()[1] for line in listed.splitlines() if line.startswith("  ")}
    assert {"bundle", "import", "new", "plan", "rollback", "status", "trust", "why"} <= commands


def test_doit_reads_the_clone_from_any_folder(editable, clone, tmp_path):
    listed = run(editable.python, "-c", DOIT, SITE_PACKAGES, "list", "-f", clone / "dodo.py", cwd=tmp_path)
    assert {"tiles", "descriptors", "provision", "verify"} <= {line.split()[0] for line in listed.splitlines()}


def test_the_wheel_contains_exactly_the_files_of_the_packages(wheel, clone):
    ours = {
        f"{name}/{path.relative_to(folder).as_posix()}"
        for name in PACKAGES
        for folder in [clone / ("" if name == "recipes" else "lib") / name]
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    distribution = "-".join(wheel.name.split("-")[:2])
    information = {
        f"{distribution}.dist-info/{name}"
        for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    }
    assert {"preflight/py.typed", "takeoff/py.typed", "takeoff_report/py.typed"} <= ours
    assert "preflight/adapters/postgres/sql/0001_tiles.sql" in ours
    assert sorted(zipfile.ZipFile(wheel).namelist()) == sorted(ours | information)


def test_the_source_distribution_builds_the_same_wheel(wheel, clone, tmp_path):
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path / "sdist", cwd=clone)
    with tarfile.open(next((tmp_path / "sdist").iterdir())) as sources:
        sources.extractall(tmp_path / "unpacked", filter="data")
    pip("wheel", "--wheel-dir", tmp_path / "wheel", next((tmp_path / "unpacked").iterdir()), cwd=tmp_path)
    assert next((tmp_path / "wheel").iterdir()).read_bytes() == wheel.read_bytes()
