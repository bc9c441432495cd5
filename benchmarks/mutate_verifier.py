"""Mutation check of the verifier: each of its checks is disabled in turn, and a test must notice.

    python benchmarks/mutate_verifier.py [--sample N] [--quick] [--checks] [MODULE ...]

A mutant is a copy of lib/takeoff with one change: a `raise` or a failure that is yielded, returned or appended left out; a
comparison turned to its neighbour; an `and` to `or`; a `not` dropped; a condition made never true. The golden corpus judges
it first (a second); what survives that meets the tests of takeoff (half a minute each). --quick stops after the corpus;
--checks takes the failures left out alone, not the conditions that lead to them.
It ends with 1 and the list where a mutant survives. Mutants that change nothing are listed in EQUIVALENT, each with its reason.
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
"""(module, kind, source of what is changed) -> why no test can tell."""


class Mutant(NamedTuple):
    """One change of one module."""

    module: str
    line: int
    kind: str
    was: str
    text: str


def mutants(path: Path) -> Iterator[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    tree = ast.parse(path.read_text())
    for number, node in enumerate(ast.walk(tree)):
        for kind in kinds(node):
            changed = copy.deepcopy(tree)
            target = next(found for at, found in enumerate(ast.walk(changed)) if at == number)
            apply(changed, target, kind)
            yield Mutant(path.name, node.lineno, kind, " ".join(ast.unparse(node).split()), ast.unparse(changed))


def kinds(node: ast.AST) -> Iterator[str]:
    """The ways a node can be changed."""
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
        yield from (f"comparison {place}" for place, op in enumerate(node.ops) if type(op) in COMPARISONS)
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
        place = int(kind.split()[1])
        node.ops[place] = COMPARISONS[type(node.ops[place])]()
    elif isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    else:
        replacement: ast.AST = node.operand if isinstance(node, ast.UnaryOp) else ast.Pass()
        if isinstance(node, ast.Expr) and isinstance(node.value, (ast.Yield, ast.YieldFrom)):
            replacement = ast.Expr(ast.YieldFrom(ast.Tuple([], ast.Load())))  # it stays a generator
        for parent in ast.walk(tree):
            for name, value in ast.iter_fields(parent):
                if value is node:
                    setattr(parent, name, replacement)
                elif isinstance(value, list) and any(item is node for item in value):
                    value[:] = [replacement if item is node else item for item in value]
    ast.fix_missing_locations(tree)


def load_corpus(folder: Path) -> tuple[ModuleType, list[Any]]:
    """The golden corpus, unpacked once for all mutants, and the module that judges it."""
    spec = importlib.util.spec_from_file_location("corpus", CORPUS / "corpus.py")
    assert spec is not None
    assert spec.loader is not None
    corpus = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(corpus)
    return corpus, [corpus.unpack(path, folder / str(number)) for number, path in enumerate(corpus.paths())]


def noticed_by_corpus(lib: Path, corpus: ModuleType, cases: list[Any]) -> bool:
    """Whether a verdict is another one, or none, with the takeoff below `lib`. In a process of its own, which has no other."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] != 0
    try:
        signal.alarm(30)  # a mutant may run for ever
        sys.path.insert(0, str(lib))
        right = all(corpus.verdict(case) == (sorted(case.expected), not case.expected) for case in cases)
        os._exit(0 if right else 1)
    except BaseException:  # noqa: BLE001 - a crash is noticed
        os._exit(1)


def noticed_by_tests(lib: Path, module: str) -> bool:
    """Whether the tests of takeoff fail with the takeoff below `lib`. Processes of their own would run the installed one."""
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
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=300)
    except subprocess.TimeoutExpired:
        return True
    if done.returncode in (4, 5):  # called wrongly, or no tests
        raise SystemExit(done.stdout.decode() + done.stderr.decode())
    return done.returncode != 0 or b" passed" not in done.stdout  # a mutant may end the process with 0


def survivors(found: list[Mutant], quick: bool) -> Iterator[Mutant]:
    """The mutants that nothing notices."""
    with tempfile.TemporaryDirectory() as folder:
        corpus, cases = load_corpus(Path(folder) / "corpus")
        lib = Path(folder) / "lib"
        shutil.copytree(TAKEOFF.parent, lib, ignore=shutil.ignore_patterns("__pycache__"))
        assert not noticed_by_corpus(lib, corpus, cases), "the verifier itself gives other verdicts"
        for mutant in found:
            place = lib / "takeoff" / mutant.module
            whole = place.read_text()
            place.write_text(mutant.text)
            if not (noticed_by_corpus(lib, corpus, cases) or (not quick and noticed_by_tests(lib, mutant.module))):
                yield mutant
            place.write_text(whole)


def chosen(modules: list[str]) -> list[Mutant]:
    """The mutants of these modules, all where none is named, but for those that change nothing."""
    paths = sorted(path for path in TAKEOFF.glob("*.py") if not modules or path.name in modules)
    found = [mutant for path in paths for mutant in mutants(path)]
    return [mutant for mutant in found if (mutant.module, mutant.kind, mutant.was) not in EQUIVALENT]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=0, help="every N-th mutant alone")
    parser.add_argument("--quick", action="store_true", help="by the golden corpus alone")
    parser.add_argument("--checks", action="store_true", help="failures left out alone")
    parser.add_argument("modules", nargs="*")
    given = parser.parse_args()
    unknown = sorted(set(given.modules) - {path.name for path in TAKEOFF.glob("*.py")})
    if unknown:
        parser.error(f"lib/takeoff has no {', '.join(unknown)}: name files, such as keys.py")
    found = [mutant for mutant in chosen(given.modules) if not given.checks or mutant.kind in CHECKS][
        :: given.sample or 1
    ]
    alive = 0
    for mutant in survivors(found, given.quick):
        alive += 1
        print(f"SURVIVES {mutant.module}:{mutant.line} {mutant.kind}: {mutant.was[:160]}", flush=True)
    print(f"{len(found)} mutants, {alive} survive")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
