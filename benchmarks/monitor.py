# mypy: disable-error-code="no-untyped-call"
"""``python -m benchmarks.monitor``: the processor time of `cnxman monitor` for what a device says, beside miniterm's.

The device says it in packets of 64 bytes, as a USB adapter hands it over, as fast as it goes.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

from benchmarks.lines import Writer
from benchmarks.sharing import processor_time
from tests.kit.command import COMMAND

OURS = (COMMAND, "monitor", "{}")
THEIRS = (sys.executable, "-m", "serial.tools.miniterm", "--raw", "{}", "115200")


def cost(command: tuple[str, ...], ready: bytes, size: int) -> float:
    """Processor time that a command uses to show so many bytes."""
    line = Writer("stream", total=size, chunk=64)
    keyboard, terminal = os.openpty()
    words = [word.format(line.path) for word in command]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=terminal, stdout=pipe, stderr=pipe, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            while ready not in process.stderr.readline():
                assert process.poll() is None
            time.sleep(0.2)  # until what it does besides at its beginning is done
            before = processor_time(process.pid)
            line.tell("go")
            left = size
            while left:
                left -= len(os.read(process.stdout.fileno(), min(left, 65536)))
            return processor_time(process.pid) - before
        finally:
            process.kill()
            line.process.kill()
            line.process.wait()
            os.close(keyboard)
            os.close(terminal)


def main() -> None:
    """Measure, in turns, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--quick", action="store_true", help="one round of 1 MB")
    args = parser.parse_args()
    size, count = (1_000_000, 1) if args.quick else (int(args.megabytes * 1e6), args.rounds)
    rounds = [(cost(OURS, b"connected", size), cost(THEIRS, b"Quit", size)) for _ in range(count)]
    ours, theirs = (statistics.median(each[n] for each in rounds) for n in (0, 1))
    ratio = statistics.median(our / their for our, their in rounds)
    print(f"{size / 1e6:g} MB: cnxman monitor {ours:.2f} s, miniterm {theirs:.2f} s; ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
