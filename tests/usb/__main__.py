"""The one command: builds what the guest boots from, runs the scenarios, prints checks and figures."""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict

from tests.kit.rigs import Checks, RigError, say

from .rig import CHECKOUT, HERE, Rig
from .scenarios import SCENARIOS

BOOT_LIMIT = 90.0
NAMES = {"loss": "loss noticed after", "return": "connected after the node's return"}


class Report(Checks):
    """What the scenarios told."""

    def __init__(self) -> None:
        super().__init__()
        self.figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def table(self) -> None:
        """Prints the figures, and beside the two that cnxman promises whether they held.

        That fails no run: an emulated guest on a busy machine is many times slower than what the promise is about.
        """
        say(f"\n{'figures, in seconds':58} times  median   worst")
        for name, by_scenario in self.figures.items():
            every = [seconds for some in by_scenario.values() for seconds in some]
            rows = {**(by_scenario if len(by_scenario) > 1 else {}), "": every}
            for scenario, some in rows.items():
                label = f"    {scenario}" if scenario else NAMES.get(name, name)
                say(f"{label:58} {len(some):5}  {statistics.median(some):6.3f}  {max(some):6.3f}")
        returns = [seconds for some in self.figures["return"].values() for seconds in some]
        if returns:
            median, worst = statistics.median(returns), max(returns)
            say(f"\nmedian of the returns {median:.3f} s (at most 0.1 s: {'held' if median <= 0.1 else 'NOT HELD'}),")
            say(f"worst of the returns {worst:.3f} s (at most 0.5 s: {'held' if worst <= 0.5 else 'NOT HELD'})")


def boot_and_run(cache: str, logs: str, names: list[str], report: Report) -> int:
    """Runs these scenarios in one boot; returns how many were begun: one that hangs is the last."""
    say(f"booting a guest for {len(names)} scenarios")
    begun, limit, current = 0, time.monotonic() + BOOT_LIMIT, "boot"
    rig = Rig(cache, logs, names)
    try:
        while True:
            told = rig.next(limit)
            if told["what"] == "begin":
                current, begun = told["name"], begun + 1
                limit = time.monotonic() + SCENARIOS[current].limit + 20
                say(f"{current}: {SCENARIOS[current].body.__doc__}")
            elif told["what"] == "check":
                report.check(told["name"], told["ok"], told["facts"])
            elif told["what"] == "figure":
                report.figures[told["name"]][current].append(told["seconds"])
            elif told["what"] == "end":
                limit = time.monotonic() + 20
            elif told["what"] == "exit":
                if begun < len(names) or told["status"]:
                    report.check(f"{current} runs to its end: the guest ended, status {told['status']}", False, {})
                return max(1, begun)
    except RigError as error:
        report.check(f"{current} runs to its end: {error}", False, {})
        return max(1, begun)
    finally:
        rig.close()


def main() -> int:
    """Runs the command; returns its exit status: 0 only when every check holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.usb", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="all of them, unless some are named")
    parser.add_argument("--long", action="store_true", help="those too that take long")
    parser.add_argument("--list", action="store_true", help="list the scenarios and end")
    parser.add_argument("--cache", default=os.path.join(CHECKOUT, ".cache", "usbrig"), help="default: %(default)s")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    if arguments.list:
        for name, scenario in SCENARIOS.items():
            say(f"{name:22} {'(long) ' if scenario.long else ''}{scenario.body.__doc__}")
        return 0
    names = arguments.scenarios or [n for n, one in SCENARIOS.items() if arguments.long or not one.long]
    build = [os.path.join(HERE, "build.sh"), arguments.cache]
    if subprocess.run(build, check=False, env={**os.environ, "PYTHON": sys.executable}).returncode:
        return 2
    logs = os.path.join(arguments.cache, "logs")
    shutil.rmtree(logs, ignore_errors=True)
    started, report = time.monotonic(), Report()
    while names:
        logs_of_boot = os.path.join(logs, names[0])
        os.makedirs(logs_of_boot)
        names = names[boot_and_run(arguments.cache, logs_of_boot, names, report) :]
    report.table()
    took = time.monotonic() - started
    say(f"\n{report.failures or 'no'} failures, {took:.0f} s; logs are in {logs}")
    return 1 if report.failures else 0


sys.exit(main())
