"""What others do when a device is pulled out, tried with the versions that are installed.

    .venv/bin/python -m benchmarks.comparison [--write docs/comparison.inc] [--only NAME,NAME] [--list]

Each program reads lines from a simulated device, is asked to write one, and tells what it notices. The device is pulled
out after half a line, put back, and, for a second run, absent at the start. What came of it is printed as the table of
the page "What else there is". It needs the extras `bench` and `test`; tio, socat and ser2net are on PATH, or left out.
"""

import argparse
import contextlib
import datetime
import fcntl
import os
import queue
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, Self

from cnxman.testing import SimulatedDevice
from tests.kit.tcp_ports import free_port

NOTICE = 5.0  # seconds within which a loss is noticed, if at all
RETURN = 10.0  # and within which a line comes again
START = 30.0  # an interpreter on a busy machine
TIOCGEXCL = 0x80045440  # Linux: whether TIOCEXCL is set
QUESTION, ANSWER = bytes.fromhex("010300000001840a"), bytes.fromhex("010302092a3fcb")  # Modbus: a register, 0x092a


class Subject(NamedTuple):
    """What is tried: one of `programs`, of this name or that of `program`; or a command, in a terminal if `typed`."""

    name: str
    version: Callable[[], str]
    program: str | None = None
    command: Callable[[str], list[str]] | None = None
    typed: bool = False
    server: Callable[[str, Path], tuple[list[str], str]] | None = None
    asks: bool = False


class Outcome(NamedTuple):
    """A row of the table."""

    absent: str
    pulled: str
    write: str
    back: str
    half: str
    exclusive: str


def output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def package(name: str) -> Callable[[], str]:
    return lambda: version(name)


def tool(*command: str) -> Callable[[], str]:
    def found() -> str:
        number = re.search(r"\d+(\.\d+)+", output(*command))
        return number[0] if number is not None else "of an unknown version"

    return found


def cnxman_command(*words: str) -> list[str]:
    return [str(Path(sys.executable).with_name("cnxman")), *words]


def ser2net(port: str, folder: Path) -> tuple[list[str], str]:
    number = free_port()
    config = folder / "ser2net.yaml"
    config.write_text(
        f"connection: &device\n  accepter: tcp,127.0.0.1,{number}\n  connector: serialdev,{port},115200n81,local\n"
    )
    return ["ser2net", "-d", "-c", str(config)], str(number)


def miniterm(port: str) -> list[str]:
    return [sys.executable, "-m", "serial.tools.miniterm", "--raw", port]


def share(port: str, folder: Path) -> tuple[list[str], str]:
    return cnxman_command("share", port, "--pty", str(folder / "shared")), str(folder / "shared")


CNXMAN = package("cnxman")
SOCAT = tool("socat", "-V")
SUBJECTS = [
    Subject("cnxman's signals", CNXMAN),
    Subject("cnxman.aio", CNXMAN),
    Subject("cnxman.compat", CNXMAN),
    Subject("pyserial through cnxman share", CNXMAN, program="pyserial", server=share),
    Subject("pyserial", package("pyserial")),
    Subject("pyserial's ReaderThread", package("pyserial")),
    Subject("aioserial", package("aioserial")),
    Subject("pyserial-asyncio-fast", package("pyserial-asyncio-fast")),
    Subject("serialx", package("serialx")),
    Subject("serialx in asyncio", package("serialx")),
    Subject("pymodbus's asynchronous client", package("pymodbus"), asks=True),
    Subject("cnxman monitor", CNXMAN, command=lambda port: cnxman_command("monitor", port), typed=True),
    Subject("tio", tool("tio", "--version"), command=lambda port: ["tio", port], typed=True),
    Subject("miniterm", package("pyserial"), command=miniterm, typed=True),
    Subject("socat", SOCAT, command=lambda port: ["socat", f"{port},rawer,b115200", "STDIO"]),
    Subject("a client of ser2net's", tool("ser2net", "-v"), server=ser2net),
]


class Running:
    """A program under trial; `wait` waits for the next thing that it says."""

    def __init__(self, subject: Subject, port: str, folder: Path) -> None:
        self._typed = subject.typed
        self._server = None
        if subject.server is not None:
            command, port = subject.server(port, folder)
            self._server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if subject.server is share:
                wait_until(lambda: os.path.exists(port), START)
        self.is_python = subject.command is None
        child = [sys.executable, "-m", "benchmarks.programs", subject.program or subject.name, port]
        command = subject.command(port) if subject.command is not None else child
        if subject.typed:
            self._ours, theirs = os.openpty()
            self._process = subprocess.Popen(
                command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=os.environ | TERMINAL
            )
            os.close(theirs)
            lines = os.fdopen(os.dup(self._ours), "rb")
        else:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._ours = self._process.stdin.fileno()
            lines = self._process.stdout  # type: ignore[assignment]
        self._lines = lines
        self._said: queue.Queue[tuple[float, str, str]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # a terminal whose program has ended
            for line in self._lines:
                text = line.decode(errors="replace").strip()
                kind, _, rest = text.partition(" ") if self.is_python else ("got", "", text)
                self._said.put((time.monotonic(), kind, rest))
        self._said.put((time.monotonic(), "ended", ""))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for process in filter(None, (self._process, self._server)):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2)
            process.kill()
            process.wait()
        self._reader.join()
        self._lines.close()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        else:
            os.close(self._ours)

    def wait(self, timeout: float, *kinds: str, text: str = "") -> tuple[float, str, str] | None:
        """The next of these kinds with that text in it, or None when the time is over."""
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            try:
                said = self._said.get(timeout=left)
            except queue.Empty:
                return None
            if said[1] in kinds and (text in said[2] or said[1] == "ended"):
                return said
        return None

    def write(self) -> str:
        """Have it write; what came of it."""
        if not self.is_python:
            if self.status is not None:
                return NONE
            os.write(self._ours, b"hello\r" if self._typed else b"hello\n")
            return "accepted"
        os.write(self._ours, b"\n")
        said = self.wait(NOTICE, "write", "ended")
        return "waits" if said is None else NONE if said[1] == "ended" else said[2]

    @property
    def status(self) -> int | None:
        """With which status it has ended; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        return self._process.poll()


NONE = "n/a"
TERMINAL = {"TERM": "dumb", "PYTHONUNBUFFERED": "1"}


def wait_until(true: Callable[[], object], timeout: float) -> bool:
    until = time.monotonic() + timeout
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def duration(seconds: float) -> str:
    """In words that are the same on the next run."""
    return "at once" if seconds < 1 else f"after {max(1, round(seconds))} s"


def exclusive(port: str) -> str:
    """What keeps a second program away. (Root, who may be running this, isn't kept away by the first.)"""
    found = []
    descriptor = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        if struct.unpack("i", fcntl.ioctl(descriptor, TIOCGEXCL, struct.pack("i", 0)))[0]:
            found.append("``TIOCEXCL``")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found.append("``flock``")
    finally:
        os.close(descriptor)
    if os.path.exists("/var/lock/LCK.." + port.replace("/", "_")):
        found.append("a file in ``/var/lock``")
    return ", ".join(found) or "no"


def lines_again(
    device: SimulatedDevice, program: Running, subject: Subject, text: str, within: float = RETURN
) -> str | None:
    """What the program receives when the device is there and sends this; None if it receives nothing."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        if device.is_open and not subject.asks:
            device.send(text.encode() + b"\n")
        if said := program.wait(0.1, "got", "ended", text="" if subject.asks else text):
            return said[2] if said[1] == "got" else None
    return None


def outage(subject: Subject, device: SimulatedDevice, program: Running) -> dict[str, str]:
    first = lines_again(device, program, subject, "one", START)
    if first is None:
        raise RuntimeError(f"{subject.name} received nothing")
    locks = exclusive(device.port)
    if not subject.asks:
        device.send(b"half ")
        device.drain()
        time.sleep(0.2)  # so that the program has read it
    began = time.monotonic()
    device.unplug()
    kinds = ("noticed", "ended") if program.is_python else ("got", "ended")
    noticed = program.wait(NOTICE, *kinds)
    while noticed and noticed[1] == "got" and noticed[2] in ("half", "one", ""):
        noticed = program.wait(NOTICE, *kinds)
    if noticed is None:
        pulled = "notices nothing"
    elif noticed[1] == "ended":
        pulled = f"the program ends, with status {program.status}"
    elif noticed[1] == "got":
        ended = program.status
        pulled = "prints a message" if ended is None else f"prints a traceback; the program ends, with status {ended}"
    else:
        pulled = noticed[2]
    late = f", {duration(noticed[0] - began)}" if noticed and noticed[0] - began >= 0.5 else ""
    time.sleep(1)
    device.clear()
    write = program.write()
    plugged = time.monotonic()
    device.plug()
    again = lines_again(device, program, subject, "two")
    back = f"by itself, {duration(time.monotonic() - plugged)}" if again is not None else "no"
    half = (
        NONE
        if again is None or subject.asks or subject.typed
        else "joined to the next line"
        if "half" in again
        else "dropped"
    )
    if write in ("accepted", "waits", "returns") and again is not None and not subject.asks:
        arrived = wait_until(lambda: b"hello" in device.received, 1)
        write = ("held back, sent on return" if arrived else "lost") + (
            ", without a word" if write != "waits" and not arrived else ""
        )
    elif write == "returns":
        write = "lost, without a word"
    return {"pulled": pulled + late, "write": write, "back": back, "half": half, "exclusive": locks}


def absent(subject: Subject, device: SimulatedDevice, program: Running) -> str:
    if program.is_python:
        program.wait(START, "starts")
    said = program.wait(NOTICE, "raises", "ended", "noticed")
    if said is not None and said[1] == "raises":
        return f"raises ``{said[2]}``"
    if said is not None and said[1] == "ended":
        return f"ends, with status {program.status}"
    device.plug()
    text = lines_again(device, program, subject, "one")
    what = f"{said[2]}; " if said is not None and said[1] == "noticed" and text is None else ""
    return f"{what}{'waits' if text is not None else 'no recovery'}"


@contextlib.contextmanager
def trial(subject: Subject, *, plugged: bool) -> Iterator[tuple[SimulatedDevice, Running]]:
    answers = {QUESTION: ANSWER} if subject.asks else {}
    with tempfile.TemporaryDirectory() as folder, SimulatedDevice(answers) as device:
        if not plugged:
            device.unplug()
        with Running(subject, device.port, Path(folder)) as program:
            yield device, program


def compare(subject: Subject) -> Outcome:
    with trial(subject, plugged=False) as (device, program):
        missing = absent(subject, device, program)
    with trial(subject, plugged=True) as (device, program):
        found = outage(subject, device, program)
    return Outcome(absent=missing, **found)


HEADINGS = Outcome(
    "Device absent at the start",
    "Device pulled out",
    "A write meanwhile",
    "Device back",
    "Half a line from before",
    "Keeps others away",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.comparison", description=__doc__.partition("\n")[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there, in reStructuredText")
    parser.add_argument("--only", metavar="A,B", help="which programs; all, if not given")
    parser.add_argument("--list", action="store_true", help="print the programs")
    args = parser.parse_args()
    if args.list:
        print(*(subject.name for subject in SUBJECTS), sep="\n")
        return 0
    subjects = [each for each in SUBJECTS if not args.only or each.name in args.only.split(",")]
    rows = []
    for subject in subjects:
        command = subject.command("")[0] if subject.command else "ser2net" if subject.server is ser2net else None
        if command and not shutil.which(command):
            print(f"skipped {subject.name}: {command} is not installed", file=sys.stderr)
            continue
        outcome = compare(subject)
        rows.append((f"{subject.name} {subject.version()}", *outcome))
        print(f"tried {subject.name}", *outcome, sep="\n    ", file=sys.stderr)
    text = table(rows)
    if args.write:
        args.write.write_text(text, encoding="utf-8")
    else:
        print(text)
    return 0


def table(rows: Sequence[tuple[str, ...]]) -> str:
    lines = [
        f"Tried on {datetime.date.today():%d %B %Y}, with Python {sys.version.split()[0]}:",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "   :class: outages",
        "",
    ]
    for row in [("", *HEADINGS), *rows]:
        lines += [f"   {'* -' if index == 0 else '  -'} {cell}".rstrip() for index, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
