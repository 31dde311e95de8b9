"""``python -m benchmarks``: exit status 1 when one of ours failed, 0 whatever its figures are.

With ``--json docs/benchmarks.json`` the page "Speed" shows that run, with its table and picture, when it is built next.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.metrics import METRICS, Figures
from benchmarks.peers import PEERS, QUICK, missing
from benchmarks.report import bounds, table


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--peers", metavar="A,B", help="which readers; all, if not given")
    parser.add_argument("--metrics", metavar="A,B", help="which measurements; all, if not given")
    parser.add_argument("--quick", action="store_true", help="about a minute: fewer readers and rounds, no 1000 lines")
    parser.add_argument("--list", action="store_true", help="print the readers and the measurements")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    args = parser.parse_args()
    args.share = not (args.metrics or args.peers)
    args.peers = args.peers.split(",") if args.peers else QUICK if args.quick else list(PEERS)
    names = [name for name, each in METRICS.items() if not args.quick or each.params.get("lines", 0) < 1000]
    args.metrics = args.metrics.split(",") if args.metrics else names
    if unknown := set(args.peers) - set(PEERS) | set(args.metrics) - set(METRICS):
        parser.error(f"not in --list: {', '.join(sorted(unknown))}")
    return args


def measure(name: str, metric: str, params: dict[str, Any]) -> Figures | None:
    """Run one measurement in a process of its own; None if it failed, having said why."""
    program = [sys.executable, "-m", "benchmarks.metrics", name, metric, json.dumps(params)]
    try:
        done = subprocess.run(program, capture_output=True, text=True, timeout=180, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"FAILED: {metric}, {name}: {error}\n{str(error.stderr)[-500:]}", file=sys.stderr)
        return None
    return dict(json.loads(done.stdout))


def share(quick: bool) -> str | None:
    """Measure `cnxman share` beside socat: what that prints; None if it failed, having said why."""
    if not shutil.which("socat"):
        print("skipped share: socat is not installed", file=sys.stderr)
        return "not measured: socat is not installed"
    less = ["--rounds=1", "--seconds=0.5", "--pieces=1000"] if quick else []
    program = [sys.executable, "-m", "benchmarks.sharing", *less]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if "Traceback" in done.stderr:  # a status of 1 says that a figure is too large
        print(f"FAILED: share\n{done.stderr[-500:]}", file=sys.stderr)
        return None
    print("measured share: ten clients, beside socat with one", file=sys.stderr)
    return done.stdout.strip()


def main() -> int:
    args = arguments()
    if args.list:
        print("readers:", *(f"  {name}: {peer.about}" for name, peer in PEERS.items()), sep="\n")
        print("measurements:", *(f"  {name}: {each.about}" for name, each in METRICS.items()), sep="\n")
        return 0
    absent = {name: why for name in args.peers if (why := missing(name))}
    for name, why in absent.items():
        print(f"skipped {name}: {why}", file=sys.stderr)
    peers = [name for name in args.peers if name not in absent]
    samples: dict[str, dict[str, list[Figures | None]]] = {}
    for name in args.metrics:
        metric = METRICS[name].quick() if args.quick else METRICS[name]
        running = [peer for peer in peers if getattr(PEERS[peer], metric.needs)]
        samples[name] = {peer: [] for peer in running}
        for turn in range(metric.rounds):
            for peer in running if turn % 2 == 0 else reversed(running):
                samples[name][peer].append(measure(peer, name, metric.params))
        print(f"measured {name}: {metric.about}", file=sys.stderr)
    shared = share(args.quick) if args.share else "not measured: only some readers or measurements were"
    where = f"cnxman {version('cnxman')}, Python {platform.python_version()}, Linux {platform.release().split('-')[0]}"
    where += f", {os.cpu_count()} CPUs; medians, in brackets times the floor's"
    held = bounds(samples)
    print(where, "", table(samples, peers), "", "share:", shared, "", sep="\n")
    print("It must hold:", "", *(f"- {line}" for line in held), sep="\n")
    if args.json:
        found = {"where": where, "bounds": held, "share": shared, "samples": samples}
        args.json.write_text(json.dumps(found, indent=1))
    ours = [runs for each in samples.values() for peer, runs in each.items() if peer.startswith(("cnxman", "floor"))]
    return int(
        shared is None or any(None in runs for runs in ours)
    )  # what another reader can't do is said, and is no failure of ours


if __name__ == "__main__":
    sys.exit(main())
