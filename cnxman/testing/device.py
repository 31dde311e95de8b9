"""The simulated device: a test plugs it in, pulls it out, sends and receives with it."""

import time
from collections.abc import Callable, Mapping
from threading import Thread, current_thread
from types import TracebackType
from typing import Self

from cnxman.testing.answers import Answering, Requests, check
from cnxman.testing.faults import Faults, check_at_least_0
from cnxman.testing.line import DRAIN_LOOK, Message, SimulatedLine
from cnxman.testing.memory import MemoryPort
from cnxman.testing.pty import HAVE_PTYS, PseudoTerminal
from cnxman.testing.streams import Pace, Stream

PATIENCE = 20.0  # seconds: only a failure takes so long, and a busy machine may need some of it


class SimulatedDevice(Faults):
    r"""A device on a serial port, played by a pseudo-terminal, or in memory, and daemon threads of its own.

        >>> import serial
        >>> with SimulatedDevice({b"*IDN?\n": b"ACME,1000\n"}) as device:
        ...     with serial.Serial(device.port, timeout=5) as host:
        ...         host.write(b"*IDN?\n")
        ...         host.readline()
        6
        b'ACME,1000\n'

    Every method may be called from any thread, and, except `close`, from the answer function. Times are in
    seconds. A time-out raises a `TimeoutError` that says what came instead. The methods of a closed device
    raise a `RuntimeError`. A bad argument raises a `ValueError` or `TypeError`.

    Args:
        answers: the device's answers, given on a thread of its own. Either a table of requests and replies:
            a request is found anywhere in what the host writes, and everything else gets no answer. Or a
            function that takes a request and returns the reply, or None for no reply; if it raises, `close()`
            raises.
        terminator: the end of a request to a function; the function receives it, too.
        baudrate: the device sends no faster than this, at ten bits a byte; None: as fast as the host reads.
        seed: random faults are the same for the same seed.
        plugged: whether the device is plugged in from the beginning.
        by_url: the port is a URL, `simulated://N`, which this process alone can open by `serial.serial_for_url`, and
            so by a `SerialConnection`. None: so it is where the system has no pseudo-terminals, as Windows.

    Raises:
        NotImplementedError: by_url is False, and the system has no pseudo-terminals.

    """

    def __init__(
        self,
        answers: Mapping[bytes, bytes] | Callable[[bytes], bytes | None] | None = None,
        *,
        terminator: bytes = b"\n",
        baudrate: int | None = None,
        seed: int = 0,
        plugged: bool = True,
        by_url: bool | None = None,
    ) -> None:
        if by_url is False and not HAVE_PTYS:
            raise NotImplementedError("a device with a path needs POSIX pseudo-terminals, and this system has none")
        if baudrate is not None and baudrate <= 0:
            raise ValueError(f"baudrate must be above 0, or None for no limit, not {baudrate!r}")
        if answers is not None:
            check(answers, terminator)
        in_memory = not HAVE_PTYS if by_url is None else by_url
        streams = Stream(seed, "sent"), Stream(seed, "received")
        super().__init__(SimulatedLine(*streams, Pace(baudrate), in_memory=in_memory))
        self._given = 0  # how much of what the host wrote has been given by receive()
        self._threads: list[Thread] = [self._line.thread]
        self._answering: Answering | None = None
        if answers is not None:
            requests = Requests(answers, terminator)
            self._answering = Answering(requests, self._reply, f"cnxman answers {self.port}")
            self._line.hear = self._answering.hear
            self._threads.append(self._answering.thread)
        for thread in self._threads:
            thread.start()
        try:
            if plugged:
                self.plug()
        except OSError:  # no pty left
            self.close()
            raise

    def __repr__(self) -> str:
        state = "closed" if self._line.is_closed else "plugged in" if self.is_plugged else "unplugged"
        return f"<SimulatedDevice {self.port}, {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Pull the device out, and end its threads; may be called twice.

        Raises:
            RuntimeError: the answer function raised; the first exception is the cause. Or it didn't return
                within 20 seconds.

        """
        if current_thread() in self._threads:
            raise RuntimeError("the answer function can't close its own device")
        with self._line.changed:
            if self._line.is_closed:
                return
            self._line.close()
        if self._answering is not None:
            self._answering.close()
        for thread in self._threads:
            thread.join(PATIENCE)
        self._line.release()
        if self._answering is not None and self._answering.thread.is_alive():
            raise RuntimeError(f"the answer function hasn't returned after {PATIENCE} s")
        if self._answering is not None and self._answering.failure is not None:
            raise RuntimeError("the answer function raised an exception") from self._answering.failure

    @property
    def port(self) -> str:
        """The path, or URL, to open: always the same, and there while the device is plugged in."""
        return self._line.link.path

    @property
    def is_plugged(self) -> bool:
        """Whether the device is plugged in."""
        return self._line.is_plugged

    @property
    def is_open(self) -> bool:
        """Whether a host has the port open, and has discarded old input: see `wait_opened`."""
        with self._line.changed:
            return self._line.is_settled and self._line.is_there()

    def plug(self) -> None:
        """Plug the device in, unless it is: the port can be opened, under the same path."""
        with self._line.changed:
            self._line.check_not_closed()
            self._wait_out()  # another thread may be pulling it out
            if not self.is_plugged:
                self._line.plug()

    def unplug(self) -> None:
        """Pull the device out at once, unless it is out: the host loses the line.

        Bytes that the host hasn't read yet are lost, as with a real device; `drain` before it waits until it has
        read them. Bytes that wait to be sent are lost, too.
        """
        with self._line.changed:
            self._line.check_not_closed()
            if self.is_plugged:
                self._line.pull()
            self._wait_out()

    def wait_opened(self, timeout: float = PATIENCE) -> None:
        """Wait until a host has the port open, and has discarded old input.

        A host that uses pyserial discards old input while it opens the port, which the device notices; for any
        other host the device waits 0.1 s.

        Raises:
            TimeoutError: no host had opened it after `timeout` seconds.

        """
        with self._line.changed:
            self._wait(lambda: self.is_open, timeout, lambda: f"nobody has opened {self.port}")

    def wait_closed(self, timeout: float = PATIENCE) -> None:
        """Wait until no host has the port open.

        Raises:
            TimeoutError: a host still had it open after `timeout` seconds.

        """
        with self._line.changed:
            self._wait(lambda: not self._line.is_there(), timeout, lambda: f"{self.port} is still open")

    # Data

    def send(self, data: bytes, timeout: float = PATIENCE) -> None:
        """Send all of `data`, and return when the host's kernel has it.

        If no host has the port open, returns at once: the bytes are kept until a host has opened the port and
        discarded old input. They are kept, too, when the host closes the port meanwhile.

        Raises:
            TimeoutError: there was no room for all of it within `timeout` seconds, or the device was stalled.
                The rest is never sent.
            ConnectionError: the device isn't plugged in, or was pulled out meanwhile.

        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be bytes, not {data!r}")
        message = Message(bytes(data))
        with self._line.changed:
            self._plugged()
            if not message.data:
                return
            self._line.send(message)
            try:
                self._wait(
                    lambda: message.is_sent or message.is_lost or not self._line.is_there(),
                    timeout,
                    lambda: f"only {message.count} of {len(message.data)} bytes could be sent",
                )
            except TimeoutError:
                self._line.queue.remove(message)
                raise
            if message.is_lost:
                raise ConnectionError(f"pulled out when {message.count} of {len(message.data)} bytes had been sent")

    def drain(self, timeout: float = PATIENCE) -> None:
        """Wait until the host has read all that was sent, so that `unplug()` loses nothing.

        Raises:
            TimeoutError: it hadn't read all after `timeout` seconds.
            ConnectionError: the device isn't plugged in, or was pulled out meanwhile.
            OSError: the host is another process, which keeps all others from opening the port (TIOCEXCL), so that it
                can't be known. (Not if this process is root's.)

        """
        until = time.monotonic() + timeout
        with self._line.changed:
            while not self._plugged().is_drained() or self._line.queue:
                if time.monotonic() >= until:
                    raise TimeoutError(f"the host hasn't read all that was sent (waited {timeout} s)")
                self._line.changed.wait(DRAIN_LOOK)

    @property
    def received(self) -> bytes:
        """All that the host has written, since `clear()` if that was called."""
        with self._line.changed:
            return bytes(self._line.received)

    def clear(self) -> bytes:
        """Discard what the host has written so far.

        Returns:
            What of it `receive` hadn't given yet.

        """
        with self._line.changed:
            unseen = bytes(self._line.received[self._given :])
            self._line.received.clear()
            self._given = 0
        return unseen

    def receive(self, count: int | None = None, *, until: bytes | None = None, timeout: float = PATIENCE) -> bytes:
        r"""Return the next bytes that the host writes, each byte once.

        Args:
            count: so many bytes.
            until: all bytes up to and including these, such as b"\n". With neither: what there is, at least one
                byte.
            timeout: how many seconds to wait.

        Raises:
            TimeoutError: they didn't come. What did come is kept for the next call.

        """
        if count is not None and (until is not None or count < 1):
            raise ValueError(f"give until, or a count of at least 1, not count={count!r}, until={until!r}")
        if until == b"":
            raise ValueError("until must be at least one byte")
        with self._line.changed:
            self._wait(
                lambda: self._end(count, until) > 0,
                timeout,
                lambda: f"the host wrote only {_shown(self._line.received[self._given :])}",
            )
            start, self._given = self._given, self._end(count, until)
            return bytes(self._line.received[start : self._given])

    def wait_received(self, data: bytes, timeout: float = PATIENCE) -> None:
        """Wait until `data` stands somewhere in `received`.

        Raises:
            TimeoutError: it didn't after `timeout` seconds.

        """
        received = self._line.received
        with self._line.changed:
            self._wait(lambda: data in received, timeout, lambda: f"the host wrote only {_shown(received)}")

    # What the methods share; called with the line's lock held

    def _plugged(self) -> PseudoTerminal | MemoryPort:
        self._line.check_not_closed()
        if self._line.pty is None or not self.is_plugged:
            raise ConnectionError("the simulated device isn't plugged in")
        return self._line.pty

    def _wait_out(self) -> None:
        """Wait until a pull that is under way is done. Another thread may plug the device in again at once."""
        pulled = None if self.is_plugged else self._line.pty
        self._wait(
            lambda: pulled is None or self._line.pty is not pulled, PATIENCE, lambda: "the device's own thread is busy"
        )

    def _wait(self, ready: Callable[[], bool], timeout: float, problem: Callable[[], str]) -> None:
        check_at_least_0("timeout", timeout)
        if not self._line.changed.wait_for(lambda: ready() or self._line.is_closed, timeout):
            raise TimeoutError(f"{problem()} (waited {timeout} s)")
        if not ready():
            self._line.check_not_closed()

    def _end(self, count: int | None, until: bytes | None) -> int:
        """Return where what receive() wants ends in what was received, or 0 as long as it isn't all there."""
        received = self._line.received
        if until is not None:
            at = received.find(until, self._given)
            return at + len(until) if at >= 0 else 0
        end = max(len(received), self._given + 1) if count is None else self._given + count
        return end if end <= len(received) else 0

    def _reply(self, reply: bytes, session: int) -> None:
        """Send a reply, unless the port it was asked by has been closed since."""
        with self._line.changed:
            if session == self._line.session and self._line.is_there() and reply:
                self._line.send(Message(reply, is_reply=True))


def _shown(data: bytearray) -> str:
    """Return the end of `data` for a message, and how much there is of it."""
    return repr(bytes(data)) if len(data) <= 100 else f"{len(data)} bytes, last {bytes(data[-100:])!r}"
