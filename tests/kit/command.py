"""The installed command under test, in pipes or in a terminal of its own."""

import contextlib
import fcntl
import logging
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from typing import Self

from cnxman import cli

COMMAND = shutil.which("cnxman", path=f"{sys.prefix}/bin") or "cnxman"
EVENT = re.compile(r"\d\d:\d\d:\d\d\.\d{3}  (\w+) *(.*)")
ANSI = re.compile(r"\x1b\[[0-9;]*m")

# What a login does, and Popen doesn't: the terminal becomes the one that controls the new session.
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


def usage(capsys, *arguments):
    """Run it in this process, for what its parser refuses or explains.

    Returns:
        The exit status, and what it told on standard output and error.
    """
    logger = logging.getLogger("cnxman")
    handlers = logger.handlers.copy()
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as ended:
        status = ended.code
    finally:
        logger.handlers[:] = handlers
    told = capsys.readouterr()
    return status, told.out, told.err


class Collected:
    """What came from a descriptor so far, on a thread of its own."""

    def __init__(self, descriptor):
        self._descriptor = descriptor
        self._change = threading.Condition()
        self._parts = []  # joined when somebody looks: adding each to all that came takes long when that is much
        self.ended = False
        self._go = threading.Event()
        self._go.set()
        self.thread = threading.Thread(target=self._collect, daemon=True)
        self.thread.start()

    @property
    def data(self) -> bytes:
        """All that came so far."""
        with self._change:
            self._parts = [b"".join(self._parts)]
            return self._parts[0]

    def _collect(self):
        while True:
            self._go.wait()
            try:
                data = os.read(self._descriptor, 1 << 16)
            except OSError:
                data = b""
            with self._change:
                self._parts.append(data)
                self.ended = not data
                self._change.notify_all()
            if not data:
                return

    def wait(self, what, timeout=60):
        """Wait until `what`, bytes or a function of them, is in what came; return all of that."""
        found = what if callable(what) else lambda data: what in data
        with self._change:
            assert self._change.wait_for(lambda: found(self.data) or self.ended, timeout), self.data[-2000:]
            assert found(self.data), self.data[-2000:]
            return self.data

    def wait_end(self, timeout=60):
        """Wait until nothing more can come; return all that came."""
        with self._change:
            assert self._change.wait_for(lambda: self.ended, timeout), self.data[-2000:]
            return self.data


class Command:
    """A run of the command.

    Args:
        arguments: what stands behind its name.
        terminal: give it a terminal of its own for standard input, output and error, instead of pipes.
        collect: whether to read its output from the beginning; otherwise call `collect_output`.
        popen: further arguments for Popen.
    """

    def __init__(self, *arguments, terminal=False, collect=True, wrap=(sys.executable, "-c", TAKE_TERMINAL), **popen):
        self.master = None
        environment = os.environ | {"TERM": "xterm", "PYTHONUNBUFFERED": ""} | popen.pop("env", {})
        line = [COMMAND, *map(str, arguments)]
        if terminal:
            self.master, self.slave = os.openpty()
            fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("4H", 50, 200, 0, 0))
            self.attributes = termios.tcgetattr(self.slave)
            popen = dict.fromkeys(("stdin", "stdout", "stderr"), self.slave) | popen
            self.process = subprocess.Popen([*wrap, *line], start_new_session=True, env=environment, **popen)
            self.out = Collected(self.master)
        else:
            popen = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | popen
            self.process = subprocess.Popen(line, env=environment, **popen)
            if self.process.stdout and collect:
                self.collect_output()
            if self.process.stderr:
                self.err = Collected(self.process.stderr.fileno())

    def collect_output(self):
        self.out = Collected(self.process.stdout.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)  # does nothing to one that has ended
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
        if self.master is not None:
            os.close(self.slave)
            self.out.wait_end()
            os.close(self.master)
            return
        for stream, collected in ((self.process.stdout, "out"), (self.process.stderr, "err")):
            if stream and not stream.closed:
                if hasattr(self, collected):
                    getattr(self, collected).wait_end()
                stream.close()
        if self.process.stdin and not self.process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()

    def type(self, data):
        """Give it standard input."""
        if self.master is not None:
            os.write(self.master, data)
        else:
            self.process.stdin.write(data)
            self.process.stdin.flush()

    def signal(self, number):
        self.process.send_signal(number)

    def end(self, within=20):
        """Wait for its end; returns its status, having checked that it took no longer than `within` seconds.

        That is less than what it must not wait for takes; and what takes 0.1 can take seconds on a busy machine.
        """
        began = time.monotonic()
        status = self.process.wait(60)
        took = time.monotonic() - began
        assert took < within, f"it took {took:.2f} s to end"
        return status

    def events(self):
        """What it told on standard error so far: (what, text), line by line."""
        found = [EVENT.fullmatch(line) for line in self.err.data.decode().splitlines()]
        assert all(found), self.err.data.decode()
        return [match.groups() for match in found if match]

    def wait_event(self, what, timeout=60):
        self.err.wait(lambda data: re.search(rf"\d  {what}\b".encode(), data), timeout)
