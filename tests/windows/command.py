"""What the command `cnxman` has to do on Windows. The functions run in the guest."""

import contextlib
import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from .data import numbered
from .guest import PORT, ask, check, figure, now, plugged, wait_for
from .registry import scenario

COMMANDS = (
    ("--version", 0, b"cnxman "),
    ("ports", 0, b""),
    ("demo", 0, b"temperature 21.5"),
    ("simulate", 1, b"this system has none"),  # of pseudo-terminals
)
"""Commands that end by themselves: their status, and what they print among other things."""


@contextlib.contextmanager
def cnxman(*arguments: str, stdin: int = subprocess.DEVNULL) -> Iterator["subprocess.Popen[bytes]"]:
    """The command, in pipes; standard input is NUL unless told otherwise."""
    command = [sys.executable, "-m", "cnxman", *arguments]
    with subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


class Events:
    """What the command tells on standard error."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stderr is not None
        self.text = b""
        self._stderr = process.stderr
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        with contextlib.suppress(ValueError):  # closed
            while data := self._stderr.readline():
                self.text += data

    def wait(self, what: bytes) -> None:
        """Waits until it told this."""
        wait_for(lambda: what in self.text, f"{what!r} in {self.text!r}", 60)


@scenario()
def monitor_of_nobody() -> None:
    """`cnxman monitor COM5 <NUL`, as a service has it: nothing goes to the device, all that it sends is shown."""
    with plugged(), cnxman("monitor", PORT) as process:
        Events(process).wait(b"connected")
        ask("send", PORT, 800)
        assert process.stdout is not None
        check("what the device sends is shown", process.stdout.read(800) == numbered(800))
        time.sleep(1)
        taken = ask("take", PORT)
        check("nothing goes to the device in a second", not taken, taken=taken[:100], size=len(taken))


@scenario()
def monitor_of_a_pipe() -> None:
    """What is piped into `cnxman monitor` goes to the device, and end of input does not end it."""
    with plugged(), cnxman("monitor", PORT, stdin=subprocess.PIPE) as process:
        Events(process).wait(b"connected")
        assert process.stdin is not None
        process.stdin.write(numbered(80_000))
        process.stdin.close()
        count = ask("expect", PORT, 80_000, 15)
        check("80 KB went to the device as they are", ask("take", PORT).encode() == numbered(80_000), count=count)
        ask("send", PORT, 8)
        assert process.stdout is not None
        check("it goes on after the end of input", process.stdout.read(8) == numbered(8))


@scenario(alone=True)
def monitor_into_head() -> None:
    """`cnxman monitor COM5 | head`: it ends with status 0 when nobody reads any more, with data and without."""
    for size in (0, 800_000):
        with plugged(), cnxman("monitor", PORT) as process:
            events = Events(process)
            events.wait(b"connected")
            assert process.stdout is not None
            ask("send", PORT, 80)
            process.stdout.read(80)
            process.stdout.close()
            closed = now()
            if size:
                ask("send", PORT, size)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            name = "with data" if size else "on an idle line"
            check(
                f"it ends with status 0, {name}", process.returncode == 0, status=process.returncode, told=events.text
            )
            figure(f"the end of a pipe's reader, {name}, is noticed within", now() - closed, 1)


@scenario(limit=120)
def twenty_megabytes() -> None:
    """20 MB through `cnxman monitor` without loss."""
    size = 20_000_000
    with plugged(), cnxman("monitor", PORT) as process:
        Events(process).wait(b"connected")
        assert process.stdout is not None
        began, digest, count = now(), hashlib.sha256(), 0
        ask("send", PORT, size)
        while count < size and (data := process.stdout.read(min(65536, size - count))):
            digest.update(data)
            count += len(data)
        figure("20 MB through the command", now() - began)
        check("all came as they were", digest.digest() == hashlib.sha256(numbered(size)).digest(), count=count)


@scenario()
def other_commands() -> None:
    """`cnxman --version`, `ports`, `demo` and `simulate` run to their end."""
    with contextlib.ExitStack() as stack:  # side by side: each is a story of some seconds
        running = [(*wanted, stack.enter_context(cnxman(wanted[0]))) for wanted in COMMANDS]
        for name, status, expected, process in running:
            out, err = process.communicate(timeout=60)
            check(f"cnxman {name}", process.returncode == status and expected in out, out=out, err=err)
