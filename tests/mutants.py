#!/usr/bin/env python3
"""Put deliberate faults into modules, one at a time, and see whether the modules' own tests notice.

    python tests/mutants.py core --sample 60         the reward: boxes, matching, criteria, schedule, gate ...
    python tests/mutants.py plugin --sample 30       what verl loads
    python tests/mutants.py launcher --sample 20     recipes/launch.sh and what it reads
    python tests/mutants.py verl_visionr1/gate.py    all faults of one file

Works on a copy of the repository. Prints each fault that no test notices, and how many were noticed. Look at each
survivor: a test is missing, or the fault changes nothing that anybody could see.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import multiprocessing
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
AREAS = {  # area -> files -> stems of the test files that are for them; `*`: the one of the file's name, too
    "core": {
        "verl_visionr1/[bmsg]*.py": "*",  # boxes, masks, matching, schedule, settings, gate
        "verl_visionr1/alarms.py": "alarms",
        "verl_visionr1/assignment.py": "assignment matching",
        "verl_visionr1/criteria/[!mr]*.py": "criteria * *_properties any_text",
        "verl_visionr1/criteria/math*.py": "mathematics",
        "verl_visionr1/criteria/regions.py": "pointing pointing_properties",
        "verl_visionr1/rewards/*.py": "rewards reward_properties released_reward composition routing box_presets "
        "any_text",
    },
    "plugin": {
        "verl_visionr1/plugin/*.py": "plugin plugin_settings progress reward_path several_images verl_hooks preflight "
        "extensions run_alarms turns run_record"
    },
    "launcher": {"recipes/[lsi]*.sh": "launch launch_command"},  # launch, settings, inputs
}


class Fault(NamedTuple):
    """A changed file, and the stems of its test files."""

    path: str
    line: int
    what: str
    text: str
    tests: str


COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
SKIPPED = (ast.Raise, ast.Assert, ast.arg, ast.Import, ast.ImportFrom, ast.JoinedStr)  # messages and annotations


def python_changes(node: ast.AST) -> Iterator[tuple[ast.AST, str, object]]:
    """Node, attribute and the value that is wrong, for each place below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, SKIPPED):
            continue
        if isinstance(child, ast.Compare) and type(child.ops[0]) in COMPARISONS:
            yield child, "ops", [COMPARISONS[type(child.ops[0])](), *child.ops[1:]]
        elif isinstance(child, (ast.BinOp, ast.AugAssign)) and type(child.op) in OPERATORS:
            yield child, "op", OPERATORS[type(child.op)]()
        elif isinstance(child, ast.BoolOp):
            yield child, "op", ast.Or() if isinstance(child.op, ast.And) else ast.And()
        elif isinstance(child, ast.UnaryOp) and isinstance(child.op, ast.Not):
            yield child, "operand", ast.UnaryOp(ast.Not(), child.operand)
        elif isinstance(child, ast.Constant) and isinstance(child.value, (int, float)):
            yield child, "value", (not child.value) if isinstance(child.value, bool) else child.value + 1
        elif isinstance(child, (ast.If, ast.IfExp)) and "TYPE_CHECKING" not in ast.unparse(child.test):
            yield child, "test", ast.Constant(False)
        yield from python_changes(child)


def python_faults(path: str, text: str, tests: str) -> Iterator[Fault]:
    """Each place with another comparison, operator or number, or without its branch."""
    tree, lines = ast.parse(text), text.splitlines()
    for node, attribute, wrong in list(python_changes(tree)):
        right, before = getattr(node, attribute), ast.unparse(node).splitlines()[0]
        setattr(node, attribute, wrong)
        ast.fix_missing_locations(tree)
        line: int = node.lineno  # type: ignore[attr-defined]  # all of them are expressions or statements
        what = f"{lines[line - 1].strip()}  |  {before}  ->  {ast.unparse(node).splitlines()[0]}"
        yield Fault(path, line, what, ast.unparse(tree), tests)
        setattr(node, attribute, right)


SHELL = (
    (r" == ", " != "), (r" != ", " == "), (r" && ", " || "), (r" \|\| ", " && "), (r" -n ", " -z "), (r" -z ", " -n "),
    (r" -f ", " ! -f "), (r" -d ", " ! -d "), (r" ! ", " "), (r"\b(exit|return) 1\b", r"\1 0"),
    (r":-(\d+)\}", r":-1\1}"), (r"^(\s*)[\w+]+=\(?[^()]*\)?$", r"\1:"), (r"^(\s*)(?:export|unset|trap) .*$", r"\1:"),
)  # fmt: skip


def shell_faults(path: str, text: str, tests: str) -> Iterator[Fault]:
    """Each line with another test or status, or without its assignment; those that bash can read."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        for pattern, wrong in SHELL if not line.lstrip().startswith("#") else ():
            changed = re.sub(pattern, wrong, line, count=1)
            whole = "\n".join([*lines[:number], changed, *lines[number + 1 :]]) + "\n"
            if changed != line and subprocess.run(["bash", "-n"], input=whole, text=True, stderr=-3).returncode == 0:
                yield Fault(path, number + 1, f"{line.strip()}  ->  {changed.strip()}", whole, tests)


def faults_of(area: str) -> Iterator[Fault]:
    """All faults of an area."""
    stems_there = {file.stem.removeprefix("test_") for file in (ROOT / "tests").rglob("test_*.py")}
    for pattern, stems in AREAS[area].items():
        for file in sorted(ROOT.glob(pattern)):
            tests = " ".join(stem for stem in stems.replace("*", file.stem).split() if stem in stems_there)
            make = python_faults if file.suffix == ".py" else shell_faults
            yield from make(str(file.relative_to(ROOT)), file.read_text(), tests) if tests else ()


def copy_repository(folder: str) -> None:
    """What git tracks, as it is now."""
    command = 'git ls-files -z | xargs -0 cp --parents --target-directory "$0"'
    subprocess.run(["bash", "-o", "pipefail", "-c", command, folder], cwd=ROOT, check=True)


def run_tests(stems: str) -> None:
    """In a forked process, which has loaded the tests' libraries. Exit status 0: nothing was noticed."""
    import pytest

    os.setsid()
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    files = [str(next(Path("tests").rglob(f"test_{stem}.py"))) for stem in stems.split()]
    marks = "not slow" if "plugin" in stems else "not slow and not verl"
    os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", marks, *files]))


def is_noticed(stems: str, most_seconds: float | None = None) -> bool:
    """Whether a test of the copy (the current folder) fails, or takes longer than that: it hangs."""
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(stems,))
    process.start()
    process.join(most_seconds)
    if process.pid and process.is_alive():
        os.killpg(process.pid, 9)
        process.join()
    return process.exitcode != 0


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("area", help=f"{', '.join(AREAS)}, or a file of one of them")
    parser.add_argument("--sample", type=int, help="so many faults, drawn by --seed; default: all")
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    areas = [words.area] if words.area in AREAS else list(AREAS)
    faults = [fault for area in areas for fault in faults_of(area) if words.area in (area, fault.path)]
    faults = faults or parser.error(f"{words.area}: no area and no file of one")
    random.Random(words.seed).shuffle(faults)
    with tempfile.TemporaryDirectory() as folder:
        copy_repository(folder)
        os.chdir(folder)
        sys.path.insert(0, folder)
        os.environ.update(PYTHONPATH=folder, PYTHONDONTWRITEBYTECODE="1")
        report(words.area, faults[: words.sample])


def report(area: str, faults: list[Fault]) -> None:
    """Try each fault and print the survivors; Ctrl+C ends it with what is known so far."""
    import hypothesis.strategies, numpy, scipy.optimize  # noqa: E401, F401, I001 - loaded once, for every fault

    sys.dont_write_bytecode = True  # a file's time has seconds: what was compiled could be another fault
    limits: dict[str, float] = {}
    for stems in sorted({fault.tests for fault in faults}):
        started = time.monotonic()
        if is_noticed(stems):
            sys.exit(f"error: tests of {stems} fail without a fault")
        limits[stems] = 30 + 4 * (time.monotonic() - started)
    started, n_tried, n_caught = time.monotonic(), 0, 0
    with contextlib.suppress(KeyboardInterrupt):
        for fault in faults:
            right = Path(fault.path).read_text()
            Path(fault.path).write_text(fault.text)
            caught = is_noticed(fault.tests, limits[fault.tests])
            Path(fault.path).write_text(right)
            n_tried, n_caught = n_tried + 1, n_caught + caught
            if not caught:
                print(f"{fault.path}:{fault.line}: {fault.what}", flush=True)
    seconds = (time.monotonic() - started) / max(n_tried, 1)
    print(f"{area}: {n_caught} of {n_tried} faults caught; {seconds:.1f} s each")


if __name__ == "__main__":
    main()
