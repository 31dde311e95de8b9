"""The command `cnxman simulate`: plays a device, for whoever has none at hand.

The port is a pseudo-terminal. It is pulled out and put back by Enter, or by a line on standard input.
"""

import contextlib
import itertools
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from cnxman.cli.ending import Ending
from cnxman.cli.events import Events
from cnxman.cli.stdio import STDIN, STDOUT, read_some
from cnxman.cli.terminal import is_ours
from cnxman.testing import SimulatedDevice

with contextlib.suppress(ImportError):  # Windows, where no device can be played for other programs
    import fcntl

ANSWERS = {
    "*IDN?": "ACME,1000",
    "MEASURE?": "21.5",
    "RESET": "OK",
    "PING": "PONG",
}
"""What it answers, besides COUNT?."""

_LOOK_EVERY = 0.2
"""Seconds for which one look for what the host writes waits."""

_LONGEST_FAREWELL = 1.0
"""Seconds that a thread may take to end."""

_MOST_KEPT = 2**20
"""So many bytes of what the host wrote are kept, at most."""

_OURS = re.compile(r"/cnxman-[^/]+/tty$")
"""What a link to a simulated device says."""

_LINE_END = re.compile(rb"\r\n|\r|\n")


@dataclass(frozen=True)
class Options:
    """What to play; see the command's help."""

    link: str | None = None
    answers: Mapping[str, str] = field(default_factory=dict)
    every: float = 1.0
    quiet: bool = False


class Link:
    """A name of its own for the device.

    The folder of the device's port is locked meanwhile: so the next run knows what a run that was killed left behind.

    Args:
        path: the name.
        target: the device's port.

    Raises:
        OSError: if there is something under that name, other than what such a run left behind; or it can't be made.
    """

    def __init__(self, path: str, target: str) -> None:
        self._path = path
        self._target = target
        if _is_left_behind(path):
            os.unlink(path)
        self._folder = _locked(os.path.dirname(target))
        try:
            os.symlink(target, path)
        except OSError:
            os.close(self._folder)
            raise

    def remove(self) -> None:
        """Take it away, if it is still this one."""
        with contextlib.suppress(OSError):
            if os.readlink(self._path) == self._target:
                os.unlink(self._path)
        os.close(self._folder)


def _is_left_behind(path: str) -> bool:
    """Whether it is a link to a simulated device that is no more."""
    if not (os.path.islink(path) and _OURS.search(os.readlink(path))):
        return False
    try:
        os.close(_locked(os.path.dirname(os.readlink(path))))
    except BlockingIOError:  # that device is still played
        return False
    except FileNotFoundError:
        return True
    return True


def _locked(folder: str) -> int:
    """A descriptor that locks a folder until it is closed.

    Raises:
        BlockingIOError: another process has locked it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def run(options: Options) -> int:
    """Play the device until Ctrl-C.

    Returns:
        The exit status: 0, or 1 if it can't be played.
    """
    events = Events(STDOUT)
    try:
        device = SimulatedDevice(by_url=False)  # by URL, no other program could open it
    except (NotImplementedError, OSError) as error:
        events.answer("error", str(error))
        return 1
    with device:
        try:
            link = Link(options.link, device.port) if options.link is not None else None
        except OSError as error:
            events.answer("error", f"{options.link}: {error.strerror}")
            return 1
        try:
            with Ending(STDOUT) as ending:
                return Simulation(device, options, events).run(options.link or device.port, ending)
        finally:
            if link is not None:
                link.remove()


class Simulation:
    """One run of the command.

    Args:
        device: the device that is played.
        options: what it says.
        events: where to tell what happens.
    """

    def __init__(self, device: SimulatedDevice, options: Options, events: Events) -> None:
        self._device = device
        self._options = options
        self._events = events
        self._answers = {**ANSWERS, **options.answers}
        self._count = itertools.count(1)
        self._over = threading.Event()

    def run(self, port: str, ending: Ending) -> int:
        """Play until the end; returns the exit status."""
        self._events.answer("device", f"{port}  answers {', '.join((*self._answers, 'COUNT?'))}")
        if is_ours(STDIN):
            self._events.answer("keys", "Enter pulls it out and puts it back, Ctrl-C ends it")
        work = [self._answer_requests, *([self._talk] if self._options.every else [])]
        threads = [threading.Thread(target=each, name="cnxman simulate: device", daemon=True) for each in work]
        for thread in threads:
            thread.start()
        if is_ours(STDIN) or not os.isatty(STDIN):
            threading.Thread(target=self._read_input, name="cnxman simulate: input", daemon=True).start()
        status = ending.wait()
        self._over.set()
        for thread in threads:
            thread.join(_LONGEST_FAREWELL)
        return status

    def _tell(self, what: str, text: str) -> None:
        if not self._options.quiet:
            self._events.tell(what, text)

    # -- what it says -------------------------------------------------------------------------------------

    def _answer_requests(self) -> None:
        rest = b""
        while not self._over.is_set():
            try:
                rest += self._device.receive(timeout=_LOOK_EVERY)
            except TimeoutError:
                if len(self._device.received) > _MOST_KEPT:
                    rest += self._device.clear()  # something may have come since the last look
            *requests, rest = _LINE_END.split(rest)
            for request in filter(None, requests):
                self._answer(request.decode("ascii", "backslashreplace"))

    def _answer(self, request: str) -> None:
        reply = str(next(self._count)) if request == "COUNT?" else self._answers.get(request)
        self._tell("asked", f"{request!r}" + (f"  answered {reply!r}" if reply is not None else "  no answer"))
        if reply is not None:
            self._send(reply)

    def _talk(self) -> None:
        tenths = itertools.cycle(range(10))
        while not self._over.wait(self._options.every):
            if self._device.is_open:
                self._send(f"temperature 21.{next(tenths)}")

    def _send(self, line: str) -> None:
        # The host doesn't read, or it is pulled out just now: what it says is lost, as a device's is.
        with contextlib.suppress(TimeoutError, ConnectionError, RuntimeError):
            self._device.send(f"{line}\n".encode(), timeout=_LOOK_EVERY)

    # -- the cable ----------------------------------------------------------------------------------------

    def _read_input(self) -> None:
        while data := read_some(STDIN):
            for _ in range(data.count(b"\n")):
                self._pull_or_put_back()

    def _pull_or_put_back(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is over
            if self._device.is_plugged:
                self._device.unplug()
                self._tell("cable", "pulled out")
            else:
                self._device.plug()
                self._tell("cable", "put back")
