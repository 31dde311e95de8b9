"""The one command: builds the guest, runs the scenarios, prints checks and figures."""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict

from tests.kit.rigs import Checks, RigError, say

from .rig import CHECKOUT, HERE, Guest, Windows
from .scenarios import SCENARIOS
from .suite import Suite

VERSIONS = ("3.11", "3.12", "3.13")


class Report(Checks):
    """What the scenarios told."""

    def __init__(self) -> None:
        super().__init__()
        self._figures: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._most: dict[tuple[str, str], float | None] = {}

    def figure(self, name: str, unit: str, value: float, most: float | None) -> None:
        """Keeps a figure for the table; one that is above its bound is a failure."""
        self._figures[name, unit].append(value)
        self._most[name, unit] = most
        if most is not None and value > most:
            self.check(f"{name} {value:.3f} {unit}, at most {most} {unit}", False, {})

    def table(self) -> None:
        """Prints the figures."""
        say(f"\n{'figures':58} times   median    worst  allowed")
        for (name, unit), values in self._figures.items():
            most = self._most[name, unit]
            bound = "" if most is None else f"{most:8g}"
            median = sorted(values)[len(values) // 2]
            say(f"{f'{name}, {unit}':58} {len(values):5} {median:8.3f} {max(values):8.3f} {bound}")


def run_scenarios(windows: Windows, log: str, names: list[str], report: Report) -> int:
    """Runs these scenarios in one guest; returns how many were begun: one that hangs is the last."""
    begun, current = 0, "the guest"
    try:
        guest = Guest(windows, names, log)
    except RigError as error:
        report.check(str(error), False, {})
        return len(names)
    try:
        limit = time.monotonic() + 30
        while True:
            told = guest.next(limit)
            if told["what"] == "boot":
                say(f"Python {told['python']} for Windows")
            elif told["what"] == "begin":
                current, begun = told["name"], begun + 1
                limit = time.monotonic() + SCENARIOS[current].limit + 10
                say(f"{current}: {SCENARIOS[current].body.__doc__}")
            elif told["what"] == "check":
                report.check(told["name"], told["ok"], told["facts"])
            elif told["what"] == "figure":
                report.figure(told["name"], told["unit"], told["value"], told["most"])
            elif told["what"] == "exit":
                return begun
    except RigError as error:
        report.check(f"{current} runs to its end: {error}", False, {})
        return max(1, begun)
    finally:
        guest.close()


def run_all(cache: str, version: str, logs: str, names: list[str], report: Report) -> None:
    """Runs these scenarios, after one that hangs on a new machine."""
    while names:
        with Windows(cache, version, "scenarios") as windows:
            log = os.path.join(logs, f"{version}-{names[0]}.log")
            names = names[run_scenarios(windows, log, names, report) :]


def main() -> int:
    """Runs the command; returns its exit status: 0 only when every check holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.windows", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="all of them, unless some are named")
    parser.add_argument("--list", action="store_true", help="list the scenarios and end")
    parser.add_argument(
        "--python", action="append", choices=VERSIONS, help="default: 3.11; may be given more than once"
    )
    parser.add_argument("--cache", default=os.path.join(CHECKOUT, ".cache", "windows"), help="default: %(default)s")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - set(SCENARIOS) - {"suite"}:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    if arguments.list:
        for name, scenario in SCENARIOS.items():
            say(f"{name:22} {scenario.body.__doc__}")
        say(f"{'suite':22} The ordinary tests, as far as they can run there.")
        return 0
    versions = arguments.python or ["3.11"]
    build = [os.path.join(HERE, "build.sh"), arguments.cache, *versions]
    if subprocess.run(build, check=False, env={**os.environ, "PYTHON": sys.executable}).returncode:
        return 2
    logs = os.path.join(arguments.cache, "logs")
    shutil.rmtree(logs, ignore_errors=True)
    os.makedirs(logs)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing in the guest is left running
    with contextlib.suppress(PermissionError):
        os.nice(-10)  # before others that are busy on this machine: what is measured is not their doing
    started, report = time.monotonic(), Report()
    for version in versions:
        names = [name for name in arguments.scenarios or SCENARIOS if name != "suite"]
        run_all(arguments.cache, version, logs, [name for name in names if SCENARIOS[name].alone], report)
        with_suite = not arguments.scenarios or "suite" in arguments.scenarios
        suite = Suite(arguments.cache, version, logs) if with_suite else None
        run_all(arguments.cache, version, logs, [name for name in names if not SCENARIOS[name].alone], report)
        if suite is not None:
            say("suite: the ordinary tests, on ports that the host lends, which ran beside the scenarios above")
            for passed, said, log in suite.results():
                report.check(said.splitlines()[-1], passed, {} if passed else {"see": log, "failed": said})
    report.table()
    say(f"\n{report.failures or 'no'} failures, {time.monotonic() - started:.0f} s; logs are in {logs}")
    return 1 if report.failures else 0


sys.exit(main())
