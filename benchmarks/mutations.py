"""How much the tests are worth: change the core a little, again and again, and see whether they notice.

    .venv/bin/python -m benchmarks.mutations [MODULE ...] [--sample N] [--seed S] [--jobs J]

Cosmic Ray (the extra `bench`) makes the changes, in copies of the checkout; each is tried against the tests that
concern its module, named below. It prints what nobody noticed, as patches, and keeps them in .cache/mutations. The
whole core takes many hours; a sample is drawn by a seed, so that it can be repeated.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parent.parent

TESTS = {
    "cnxman/retry.py": ["tests/test_retry.py"],
    "cnxman/signals.py": ["tests/test_signals.py", "tests/basics"],
    "cnxman/basics.py": ["tests/basics", "tests/manager", "tests/testing/test_manual_clock.py"],
    "cnxman/serial.py": ["tests/serial", "tests/line/test_loss.py", "tests/line/test_slow_receivers.py"],
    "cnxman/reading.py": ["tests/serial/test_reader.py", "tests/serial/test_frames.py"],
    "cnxman/_manager/": [
        "tests/manager",
        "tests/basics",
        "tests/testing/test_manual_clock.py",
        "tests/system/test_fork.py",
    ],
    "cnxman/_line/": ["tests/line", "tests/serial", "tests/system/test_ser2net.py"],
}
"""The tests that are to notice a change of a module, the quickest first."""

UNTRIED = ("BitOr", "Variable")
"""Parts of names of operators: `X | None` in an annotation means nothing at run time; some have to be given names."""

ONE = """
import json, sys
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_item import MutationSpec
module, operator, occurrence, command, timeout = json.load(sys.stdin)
spec = MutationSpec(module, operator, occurrence, (0, 0), (0, 1))
result = mutate_and_test([spec], command, timeout)
print(json.dumps([str(result.test_outcome), result.diff]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutations", description=__doc__)
    parser.add_argument("modules", nargs="*", help="by default the whole core")
    parser.add_argument("--sample", type=int, help="so many changes in all, drawn by the seed; by default every one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="so many copies at once")
    args = parser.parse_args()
    for module in args.modules:
        if not (ROOT / module).is_file() or not tests_of(module):
            parser.error(f"{module}: name a module from the project's root, of one of {', '.join(TESTS)}")
    modules = args.modules or [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("cnxman/**/*.py"))]
    work = [(module, *change) for module in modules if tests_of(module) for change in changes(ROOT / module)]
    if args.sample is not None:
        work = random.Random(args.seed).sample(work, min(args.sample, len(work)))
    print(f"{len(work)} changes", flush=True)
    found: Counter[tuple[str, str]] = Counter()
    copies: Queue[Path] = Queue()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        for number in range(args.jobs):
            copies.put(copy_to(Path(folder) / str(number)))
        survivors = ROOT / ".cache" / "mutations"
        shutil.rmtree(survivors, ignore_errors=True)
        survivors.mkdir(parents=True)
        for number, (module, outcome, patch) in enumerate(pool.map(lambda each: attempt(copies, *each), work)):
            found[module, outcome] += 1
            if outcome != "killed":
                print(f"-- {outcome}:\n{patch}", flush=True)
                (survivors / f"{number}.patch").write_text(patch)
    for module in sorted({module for module, _ in found}):
        print(f"{module:40} {found[module, 'killed']:5} noticed {found[module, 'survived']:5} not")
    return 0


def tests_of(module: str) -> list[str]:
    """The tests that concern a module; none for one that isn't the core's."""
    return next((tests for name, tests in TESTS.items() if module.startswith(name)), [])


def changes(module: Path) -> list[tuple[str, int]]:
    """Every change that can be made to a module: the operator, and which of the places where it applies."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    nodes = list(ast_nodes(get_ast(module.read_text())))
    return [
        (name, occurrence)
        for name in operator_names()
        if not any(part in name for part in UNTRIED)
        for occurrence in range(sum(len(list(get_operator(name)().mutation_positions(node))) for node in nodes))
    ]


def copy_to(folder: Path) -> Path:
    """A copy of what is in git, as it is now."""
    names = subprocess.check_output(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, text=True)
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def attempt(copies: "Queue[Path]", module: str, operator: str, occurrence: int) -> tuple[str, str, str]:
    """Make one change in a copy and run the tests there: the module, what came of it, and the change as a patch."""
    copy = copies.get()
    try:
        pytest = f"{sys.executable} -m pytest -n0 -x -q -p no:cacheprovider --timeout=60"
        command = f"{pytest} {' '.join(name for name in tests_of(module) if (copy / name).exists())}"
        done = subprocess.run(
            [sys.executable, "-c", ONE],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
            input=json.dumps([module, operator, occurrence, command, 600]),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        outcome, patch = json.loads(done.stdout)
        return module, outcome.rpartition(".")[2].lower(), patch or ""
    finally:
        copies.put(copy)


if __name__ == "__main__":
    began = time.monotonic()
    status = main()
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(status)
