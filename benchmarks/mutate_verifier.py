"""Mutation check of the verifier: disables each of its checks in turn; a test must notice it.

    python benchmarks/mutate_verifier.py [--sample N] [--quick] [--checks] [MODULE ...]

A mutant is a copy of lib/takeoff with one of these changes:

- a `raise` is left out, or a failure that is yielded, returned or appended;
- a comparison is replaced by a similar one, `and` by `or`, or the reverse;
- a `not` is dropped;
- a condition is never true.

The golden corpus judges each mutant first, in about a second. Mutants that survive it are judged by the tests of
takeoff, in half a minute each. --quick stops after the corpus. --checks only leaves out failures, and does not change
conditions. If mutants survive, the program lists them and ends with status 1. EQUIVALENT lists mutants that change no
behaviour, with the reason.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TAKEOFF = ROOT / "lib" / "takeoff"
CORPUS = ROOT / "tests" / "vectors" / "caches"
TESTS = ("manifest", "keys", "host", "verify", "command_line", "every_change")
NEAREST = {
    "keys": "keys",
    "envelope": "keys",
    "host": "host",
    "policy": "host",
    "verify": "verify",
    "filesystem": "verify",
}
NEAREST |= dict.fromkeys(("digest", "floor"), "verify") | dict.fromkeys(
    ("command_line", "verdict", "__main__"), "command_line"
)
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip

CHECKS = ("raise left out", "yield left out", "append left out", "failures left out", "returns nothing")

EQUIVALENT: dict[tuple[str, str, str], str] = {}
"""(module, kind, source before the change) -> why no test can notice the change."""


class Mutant(NamedTuple):
    """One change of one module. was: the source before the change. text: the source of the changed module."""

    module: str
    line: int
    kind: str
    was: str
    text: str


def mutants(path: Path) -> Iterator[Mutant]:
    """Yield every mutant of a module."""
    tree = ast.parse(path.read_text())
    for number, node in enumerate(ast.walk(tree)):
        for kind in kinds(node):
            changed = copy.deepcopy(tree)
            target = next(other for position, other in enumerate(ast.walk(changed)) if position == number)
            apply(changed, target, kind)
            yield Mutant(path.name, node.lineno, kind, " ".join(ast.unparse(node).split()), ast.unparse(changed))


def kinds(node: ast.AST) -> Iterator[str]:
    """Yield the kinds of changes that apply to a node."""
    if isinstance(node, ast.Raise) and node.exc is not None:
        yield "raise left out"
    if isinstance(node, ast.Expr) and isinstance(node.value, (ast.Yield, ast.YieldFrom)):
        yield "yield left out"
    if (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) == "failures.append"
    ):
        yield "append left out"
    if isinstance(node, ast.AugAssign) and ast.unparse(node.target) == "failures":
        yield "failures left out"
    if isinstance(node, ast.Return) and node.value is not None and "Error(" in ast.unparse(node.value):
        yield "returns nothing"
    if isinstance(node, ast.If) and ast.unparse(node.test) != "TYPE_CHECKING":
        yield "never"
    if isinstance(node, ast.Compare) and len(node.ops) <= 2:
        yield from (f"comparison {position}" for position, op in enumerate(node.ops) if type(op) in COMPARISONS)
    if isinstance(node, ast.BoolOp):
        yield "and for or"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not dropped"


def apply(tree: ast.Module, node: ast.AST, kind: str) -> None:
    """Make one change in place."""
    if isinstance(node, ast.If):
        node.test = ast.Constant(False)
    elif isinstance(node, ast.Return):
        node.value = None
    elif isinstance(node, ast.Compare):
        position = int(kind.split()[1])
        node.ops[position] = COMPARISONS[type(node.ops[position])]()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    else:
        replacement: ast.AST = node.operand if isinstance(node, ast.UnaryOp) else ast.Pass()
        if isinstance(node, ast.Expr) and isinstance(node.value, (ast.Yield, ast.YieldFrom)):
            replacement = ast.Expr(ast.YieldFrom(ast.Tuple([], ast.Load())))  # so that the function stays a generator
        for parent in ast.walk(tree):
            for name, value in ast.iter_fields(parent):
                if value is node:
                    setattr(parent, name, replacement)
                elif isinstance(value, list) and any(item is node for item in value):
                    value[:] = [replacement if item is node else item for item in value]
    ast.fix_missing_locations(tree)


def load_corpus(folder: Path) -> tuple[ModuleType, list[Any]]:
    """Unpack the golden corpus once for all mutants. Returns the module that judges it, and its cases."""
    spec = importlib.util.spec_from_file_location("corpus", CORPUS / "corpus.py")
    assert spec is not None
    assert spec.loader is not None
    corpus = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(corpus)
    return corpus, [corpus.unpack(path, folder / str(number)) for number, path in enumerate(corpus.paths())]


def noticed_by_corpus(lib: Path, corpus: ModuleType, cases: list[Any]) -> bool:
    """Return whether the takeoff below `lib` gives a wrong verdict or none.

    Runs in a forked process, so that each mutant is imported into a process without another takeoff.
    """
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] != 0
    try:
        signal.alarm(30)  # a mutant may never end
        sys.path.insert(0, str(lib))
        right = all(corpus.verdict(case) == (sorted(case.expected), not case.expected) for case in cases)
        os._exit(0 if right else 1)
    except BaseException:  # noqa: BLE001 - a crash counts as noticed
        os._exit(1)


def noticed_by_tests(lib: Path, module: str) -> bool:
    """Return whether the tests of takeoff fail with the takeoff below `lib`.

    Leaves out tests that start processes, because these would run the installed takeoff.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-o", f"pythonpath={lib} {ROOT}"]
    nearest = NEAREST.get(module.removesuffix(".py"), "manifest")
    files = [f"tests/unit/takeoff/test_{name}.py" for name in sorted(TESTS, key=lambda name: name != nearest)]
    command += [
        *files,
        "tests/properties/test_manifest_format.py",
        "-k",
        "not process and not planted and not one_sitting and not exit_status and not do_not_decode",
    ]
    environment = {**os.environ, "PYTHONPATH": str(lib), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        pytest = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=300)
    except subprocess.TimeoutExpired:
        return True
    if pytest.returncode in (4, 5):  # wrong usage, or no tests
        raise SystemExit(pytest.stdout.decode() + pytest.stderr.decode())
    return pytest.returncode != 0 or b" passed" not in pytest.stdout  # a mutant may end the process with status 0


def survivors(candidates: list[Mutant], quick: bool) -> Iterator[Mutant]:
    """Yield the mutants that no test notices."""
    with tempfile.TemporaryDirectory() as folder:
        corpus, cases = load_corpus(Path(folder) / "corpus")
        lib = Path(folder) / "lib"
        shutil.copytree(TAKEOFF.parent, lib, ignore=shutil.ignore_patterns("__pycache__"))
        assert not noticed_by_corpus(lib, corpus, cases), "the unchanged verifier gives wrong verdicts"
        for mutant in candidates:
            path = lib / "takeoff" / mutant.module
            original = path.read_text()
            path.write_text(mutant.text)
            if not (noticed_by_corpus(lib, corpus, cases) or (not quick and noticed_by_tests(lib, mutant.module))):
                yield mutant
            path.write_text(original)


def chosen(modules: list[str]) -> list[Mutant]:
    """Return the mutants of these modules, without the equivalent ones. No names stand for all modules."""
    paths = sorted(path for path in TAKEOFF.glob("*.py") if not modules or path.name in modules)
    candidates = [mutant for path in paths for mutant in mutants(path)]
    return [mutant for mutant in candidates if (mutant.module, mutant.kind, mutant.was) not in EQUIVALENT]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=0, help="only every N-th mutant")
    parser.add_argument("--quick", action="store_true", help="judge with the golden corpus only")
    parser.add_argument("--checks", action="store_true", help="only leave out failures")
    parser.add_argument("modules", nargs="*", help="file names, such as keys.py (default: all)")
    options = parser.parse_args()
    unknown = sorted(set(options.modules) - {path.name for path in TAKEOFF.glob("*.py")})
    if unknown:
        parser.error(f"lib/takeoff has no {', '.join(unknown)}. Give file names, such as keys.py")
    all_mutants = [mutant for mutant in chosen(options.modules) if not options.checks or mutant.kind in CHECKS]
    sample = all_mutants[:: options.sample or 1]
    surviving = 0
    for mutant in survivors(sample, options.quick):
        surviving += 1
        print(f"SURVIVES {mutant.module}:{mutant.line} {mutant.kind}: {mutant.was[:160]}", flush=True)
    print(f"{len(sample)} mutants, {surviving} survive")
    return 1 if surviving else 0


if __name__ == "__main__":
    sys.exit(main())
