"""A simulated device, for tests of one's own: a serial port without hardware, with faults on order.

    with SimulatedDevice({b"*IDN?\\n": b"ACME,1000\\n"}) as device:
        connection = SerialConnection(device.port)
        ...
        device.unplug()  # the line is lost, as when someone pulls the cable
        device.plug()  # back, under the same path

With pytest, the fixture `serial_device` gives a test such a device, plugged in, and closes it afterwards.

The port is a pseudo-terminal, so this works on Linux and the like, not on Windows; the module imports everywhere. A
pseudo-terminal has no modem lines, carries no break, and takes every baud rate for the same.
"""

import math
import select
import time
from collections import deque
from collections.abc import Callable, Mapping
from threading import Condition, Thread, current_thread
from types import TracebackType
from typing import Literal, Self

from cnxman._simulated import (
    HAVE_PTYS,
    Direction,
    Mark,
    Outgoing,
    Pace,
    PseudoTerminal,
    Requests,
    Socket,
    Stream,
    Waker,
)

__all__ = ["SimulatedDevice"]

_LOOK = 0.005  # seconds between looks whether someone has opened the port: nothing wakes the device for that
_SETTLE = 0.1  # seconds in which a host that opens the port discards the input from before, if it does
_DRAIN_LOOK = 0.002  # seconds between looks whether the host has read everything
_JOIN = 5.0  # seconds that close() waits for a thread


class SimulatedDevice:
    """A device on a serial port, played by a pseudo-terminal and daemon threads of its own.

    Every method may be called from any thread, from the answer function too. Times are in seconds. A wait that is not
    met raises a `TimeoutError` that says what did happen; what needs the device plugged in raises a `ConnectionError`
    when it isn't, or when it is pulled out meanwhile.

        >>> import serial
        >>> with SimulatedDevice({b"*IDN?\\n": b"ACME,1000\\n"}) as device, serial.Serial(device.port) as host:
        ...     _ = host.write(b"*IDN?\\n")
        ...     host.read_until(b"\\n")
        b'ACME,1000\\n'

    Args:
        answers: what the device answers when asked: a table of requests and replies, or a function that is given a
            request and returns the reply (None: no reply). A table's requests are found wherever they stand in what the
            host writes. A function is called on a thread of the device's own, with all up to and with `terminator`; what
            it raises, `close()` tells.
        terminator: what ends a request to a function.
        baudrate: the device sends no faster than this, at ten bits a byte. None: as fast as it goes.
        seed: governs what the faults leave to chance: with the same seed they are the same.
        plugged: whether the device begins plugged in.

    Raises:
        NotImplementedError: where there are no pseudo-terminals, as on Windows.

    """

    def __init__(
        self,
        answers: Mapping[bytes, bytes] | Callable[[bytes], bytes | None] | None = None,
        *,
        terminator: bytes = b"\n",
        baudrate: int | None = None,
        seed: int = 0,
        plugged: bool = True,
    ) -> None:
        if not HAVE_PTYS:
            raise NotImplementedError(
                "SimulatedDevice needs POSIX pseudo-terminals, which this system doesn't have"
            )
        if baudrate is not None and baudrate <= 0:
            raise ValueError(f"baudrate must be above 0, or None for no limit, not {baudrate!r}")
        if not terminator:
            raise ValueError("terminator must be at least one byte")
        self._requests = None if answers is None else Requests(answers, terminator)
        self._changed = (
            Condition()
        )  # guards all below; notified whenever something happened that one can wait for
        self._pty: PseudoTerminal | None = None
        self._plugging = 0  # which time the device is plugged in
        self._opened_at: float | None = None
        self._is_open = False
        self._out: deque[Outgoing] = deque()
        self._outgoing = Stream(f"{seed} sent")
        self._incoming = Stream(f"{seed} received")
        self._pace = Pace(baudrate)
        self._stalled_until = 0.0
        self._received = bytearray()
        self._given = 0  # how much of it receive() has given
        self._asked = bytearray()  # what the answering thread has yet to see
        self._failure: Exception | None = None
        self._pulling = False
        self._closed = False
        self._socket = Socket()
        self._waker = Waker()
        self._threads = [Thread(target=self._work, name=f"cnxman device {self.port}", daemon=True)]
        if self._requests is not None:
            self._threads.append(
                Thread(
                    target=self._answer,
                    args=(self._requests,),
                    name=f"cnxman answers {self.port}",
                    daemon=True,
                )
            )
        if plugged:
            self.plug()
        for thread in self._threads:
            thread.start()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "plugged" if self._pty else "unplugged"
        return f"<SimulatedDevice {self.port} {state}{' open' if self._is_open else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unplug the device for good, and end its threads; may be called twice.

        Raises:
            RuntimeError: what the answer function raised, the first time, is its cause.

        """
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._socket.hide()
            self._waker.wake()
            self._changed.notify_all()
        for thread in self._threads:
            if thread is not current_thread():
                thread.join(_JOIN)
        self._waker.close()
        self._socket.remove()
        if self._failure is not None:
            raise RuntimeError("the answer function raised an exception") from self._failure

    # Plugging

    @property
    def port(self) -> str:
        """The path to open: the same for as long as the device lives, and there only while it is plugged in."""
        return self._socket.path

    @property
    def is_plugged(self) -> bool:
        """Whether the device is plugged in."""
        return self._pty is not None

    @property
    def is_open(self) -> bool:
        """Whether a host has the port open, and has had its chance to discard the input from before."""
        return self._is_open

    def plug(self) -> None:
        """Plug the device in, if it isn't: the port is there again, under the same path."""
        with self._changed:
            self._check_not_closed()
            if self._pty is None:
                pty = PseudoTerminal()
                self._socket.show(pty.path)
                self._pty = pty
                self._plugging += 1
                self._waker.wake()

    def unplug(self) -> None:
        """Pull the device out at once, if it is in: whoever has the port open loses the line.

        What the host hasn't read yet is lost, as with a real one; see `drain`. So is what still was to be sent.
        """
        with self._changed:
            self._check_not_closed()
            self._socket.hide()
            self._pulling = self._pty is not None
            self._waker.wake()
            self._wait(lambda: self._pty is None, _JOIN, lambda: "the device's thread doesn't answer")

    def wait_opened(self, timeout: float = 5.0) -> None:
        """Wait until a host has opened the port, and has had its chance to discard the input from before.

        Raises:
            TimeoutError: nobody opened it within `timeout` seconds.

        """
        with self._changed:
            self._wait(lambda: self._is_open, timeout, lambda: f"nobody opened {self.port}")

    def wait_closed(self, timeout: float = 5.0) -> None:
        """Wait until nobody has the port open.

        Raises:
            TimeoutError: somebody still had it open after `timeout` seconds.

        """
        with self._changed:
            self._wait(lambda: not self._is_there(), timeout, lambda: f"somebody still has {self.port} open")

    # Data

    def send(self, data: bytes, timeout: float = 5.0) -> None:
        """Send `data`, all of it, and return when it is on the line: in the kernel, for the host to read.

        While nobody has the port open, returns at once, and the device sends when somebody has opened it: after the
        host discarded its old input, as pyserial does in opening. What is never sent before `unplug()` is lost.

        Raises:
            TimeoutError: the host made no room within `timeout` seconds; what didn't go out by then never will.
            ConnectionError: the device isn't plugged in, or was pulled out meanwhile.

        """
        message = Outgoing(bytes(data))
        with self._changed:
            self._plugged()
            self._enqueue(message)
            try:
                self._wait(
                    lambda: message.is_sent or message.lost or not self._is_there(),
                    timeout,
                    lambda: f"sent {message.count} of {len(data)} bytes: the host made no room for more",
                )
            except TimeoutError:
                self._out.remove(message)
                raise
            if message.lost:
                raise ConnectionError(f"pulled out after {message.count} of {len(data)} bytes were sent")

    def drain(self, timeout: float = 5.0) -> None:
        """Wait until all that was sent has been read by the host; `unplug()` after that loses nothing.

        Raises:
            TimeoutError: the host hadn't read all within `timeout` seconds.
            ConnectionError: the device isn't plugged in, or was pulled out meanwhile.

        """
        until = time.monotonic() + timeout
        with self._changed:
            while self._out or not self._plugged().is_drained():
                self._plugged()
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"the host hasn't read all that was sent, after {timeout} s")
                self._changed.wait(min(left, _DRAIN_LOOK))

    @property
    def received(self) -> bytes:
        """All that the host wrote so far, or since `clear()`."""
        with self._changed:
            return bytes(self._received)

    def clear(self) -> None:
        """Forget what the host wrote so far."""
        with self._changed:
            self._received.clear()
            self._given = 0

    def receive(self, count: int | None = None, *, until: bytes | None = None, timeout: float = 5.0) -> bytes:
        r"""Return the next bytes the host wrote, which no other `receive` has returned.

        Args:
            count: so many bytes.
            until: the bytes up to and with these, b"\n" for a line. With neither: what there is, at least one byte.
            timeout: seconds to wait for them.

        Raises:
            TimeoutError: they didn't come; what did come waits for the next call.

        """
        if count is not None and until is not None:
            raise ValueError("give count or until, not both")
        if count is not None and count < 0:
            raise ValueError(f"count must be at least 0, not {count!r}")
        if until == b"":
            raise ValueError("until must be at least one byte")
        with self._changed:
            self._wait(
                lambda: self._stop(count, until) is not None,
                timeout,
                lambda: (
                    f"the host wrote {bytes(self._received[self._given :])!r}, not {until or count or 'anything'!r}"
                ),
            )
            start, self._given = self._given, self._stop(count, until) or 0
            return bytes(self._received[start : self._given])

    def wait_received(self, data: bytes, timeout: float = 5.0) -> None:
        """Wait until `data` stands somewhere in `received`.

        Raises:
            TimeoutError: it didn't come within `timeout` seconds.

        """
        with self._changed:
            self._wait(
                lambda: data in self._received,
                timeout,
                lambda: f"the host wrote {bytes(self._received)!r}, not {data!r}",
            )

    # Faults

    def stall(self, seconds: float | None = None, *, at: int | None = None, of: Direction = "sent") -> None:
        """Let the device hang: it neither reads nor sends, for `seconds`, or until `resume()`.

        Args:
            seconds: how long; None: until `resume()`.
            at: when so many more bytes have gone through; None: now.
            of: which bytes are counted, those the device has "sent" or "received".

        """
        if at is not None:
            self._mark("stall", math.inf if seconds is None else seconds, at, of)
            return
        with self._changed:
            self._stalled_until = math.inf if seconds is None else time.monotonic() + seconds
            self._waker.wake()

    def resume(self) -> None:
        """End a stall."""
        with self._changed:
            self._stalled_until = 0.0
            self._waker.wake()

    def delay(self, seconds: float, *, at: int = 0, of: Direction = "sent") -> None:
        """Hold up the byte number `at`, counted from 0 from now on, and all after it, for `seconds`."""
        self._mark("delay", seconds, at, of)

    def cut(self, *, at: int = 0, of: Direction = "sent") -> None:
        """Pull the device out when `at` more bytes have gone through, no more and no less.

        Of bytes sent: when the host has read that many. `plug()` puts the device back.
        """
        self._mark("cut", 0.0, at, of)

    def drop(self, count: int = 1, *, at: int = 0, of: Direction = "sent") -> None:
        """Lose `count` bytes on the way, beginning with number `at`, counted from 0 from now on."""
        self._stream(of, at).drop(at, count)

    def corrupt(self, count: int = 1, *, at: int = 0, of: Direction = "sent") -> None:
        """Turn over one bit, chosen by the seed, in each of `count` bytes, beginning with number `at`, from now on."""
        self._stream(of, at).corrupt(at, count)

    def noise(self, *, drop: float = 0.0, corrupt: float = 0.0, of: Direction = "sent") -> None:
        """Lose a share of the bytes, and corrupt a share of them, chosen by the seed; shares from 0 to 1."""
        for share in (drop, corrupt):
            if not 0 <= share <= 1:
                raise ValueError(f"a share must be from 0 to 1, not {share!r}")
        self._stream(of, 0).noise(drop, corrupt)

    def _mark(self, kind: Literal["stall", "delay", "cut"], seconds: float, at: int, of: Direction) -> None:
        stream = self._stream(of, at)
        with self._changed:
            stream.mark(Mark(stream.position + at, kind, seconds))
            self._waker.wake()

    def _stream(self, of: Direction, at: int) -> Stream:
        if at < 0:
            raise ValueError(f"at must be at least 0, not {at!r}")
        if of not in ("sent", "received"):
            raise ValueError(f"of must be 'sent' or 'received', not {of!r}")
        return self._outgoing if of == "sent" else self._incoming

    # What the methods above share; the lock is held.

    def _check_not_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the simulated device has been closed")

    def _plugged(self) -> PseudoTerminal:
        self._check_not_closed()
        if self._pty is None or self._pulling:
            raise ConnectionError("the simulated device isn't plugged in")
        return self._pty

    def _is_there(self) -> bool:
        return self._pty is not None and not self._pty.state() & select.POLLHUP

    def _wait(self, ready: Callable[[], bool], timeout: float, what: Callable[[], str]) -> None:
        if not self._changed.wait_for(lambda: ready() or self._closed, timeout):
            raise TimeoutError(f"{what()} (waited {timeout} s)")
        if not ready():
            self._check_not_closed()

    def _enqueue(self, message: Outgoing) -> None:
        if not self._out:
            self._pace.restart(time.monotonic())
        self._out.append(message)
        self._waker.wake()

    def _stop(self, count: int | None, until: bytes | None) -> int | None:
        if until is not None:
            at = self._received.find(until, self._given)
            return None if at < 0 else at + len(until)
        stop = len(self._received) if count is None else self._given + count
        wanted = self._given + 1 if count is None else stop
        return stop if len(self._received) >= wanted else None

    # The device's thread: it alone reads, writes and hangs up, for a descriptor that another thread waits on
    # wouldn't be closed by closing it.

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    if self._pulling:
                        self._hang_up()
                    if self._closed:
                        return
                    wait, master, events = self._step(time.monotonic())
                self._waker.wait(wait, master, events)
        finally:
            with self._changed:
                self._hang_up()

    def _hang_up(self) -> None:
        self._pulling = False
        if self._pty is None:
            return
        self._socket.hide()
        self._pty.close()
        self._pty = None
        self._note_open(False, 0.0)
        for message in self._out:
            message.lost = True
        self._out.clear()
        self._asked.clear()
        self._changed.notify_all()

    def _step(self, now: float) -> tuple[float | None, int | None, int]:
        """Move what can be moved; return what to wait for: seconds, and events of which descriptor."""
        pty = self._pty
        if pty is None:
            return None, None, 0
        state = pty.state()
        self._note_open(not state & select.POLLHUP, now)
        waits = [math.inf]
        events = 0
        for move in (self._take_in, self._give_out):
            if now >= self._stalled_until and self._pty is not None:
                events |= move(pty, state, now, waits)
        if self._pty is None:
            return None, None, 0
        if now < self._stalled_until:
            waits, events = [self._stalled_until - now], 0
        if self._opened_at is None:
            # A hang-up stands until somebody opens the port, and would end any wait for the master at once.
            waits.append(0.0 if state & events & select.POLLIN else _LOOK)
            return min(waits), None, 0
        if not self._is_open:
            waits.append(self._opened_at + _SETTLE - now)
        wait = min(waits)
        return (None if wait == math.inf else wait), pty.master, events

    def _note_open(self, there: bool, now: float) -> None:
        if not there:
            self._opened_at = None
            self._is_open = False
            self._changed.notify_all()
        elif self._opened_at is None:
            self._opened_at = now
        elif not self._is_open and now >= self._opened_at + _SETTLE:
            self._settle()

    def _settle(self) -> None:
        self._is_open = self._opened_at is not None
        self._changed.notify_all()

    def _take_in(self, pty: PseudoTerminal, state: int, now: float, waits: list[float]) -> int:
        self._meet_marks(
            self._incoming, bool(state & select.POLLIN and not state & select.POLLPRI), now, waits
        )
        if self._pty is None or now < self._stalled_until:
            return 0
        if now < self._incoming.held_until:
            waits.append(self._incoming.held_until - now)
            return 0
        if not state & select.POLLIN:
            return select.POLLIN
        data, discarded = pty.read(self._incoming.room(now))
        if data or discarded:
            self._settle()
        data = self._incoming.carry(data)
        self._received += data
        self._asked += data if self._requests is not None else b""
        self._changed.notify_all()
        # A cut or a stall after the last of these bytes is due now, not with the next.
        self._meet_marks(self._incoming, False, now, waits)
        return select.POLLIN

    def _give_out(self, pty: PseudoTerminal, state: int, now: float, waits: list[float]) -> int:
        message = self._out[0] if self._out and self._is_open else None
        if message is None or not message.wire:
            self._meet_marks(self._outgoing, message is not None, now, waits)
        if message is None or self._pty is None or now < self._stalled_until:
            self._pace.restart(now)
            return 0
        if not message.wire:
            room = min(self._outgoing.room(now), self._pace.allowance(now))
            if room <= 0:
                self._wait_for_room(now, waits)
                return 0
            chunk = message.data[message.taken : message.taken + room]
            message.taken += len(chunk)
            message.wire = self._outgoing.carry(chunk)
            self._pace.spend(len(chunk))
        written = pty.write(message.wire)
        message.wire = message.wire[written:]
        if message.wire:
            self._pace.restart(now)
        elif message.is_sent:
            self._out.popleft()
            self._changed.notify_all()
            waits.append(0.0)
        return select.POLLOUT

    def _wait_for_room(self, now: float, waits: list[float]) -> None:
        if now < self._outgoing.held_until:
            waits.append(self._outgoing.held_until - now)
            self._pace.restart(now)
        else:
            waits.append(max(self._pace.seconds_per_byte, 0.001))

    def _meet_marks(self, stream: Stream, pending: bool, now: float, waits: list[float]) -> None:
        while self._pty is not None and (mark := stream.due()) is not None:
            if mark.kind == "delay":
                if not pending:
                    return
                stream.held_until = now + mark.seconds
            elif mark.kind == "stall":
                self._stalled_until = now + mark.seconds
            elif stream is self._outgoing and self._opened_at is not None and not self._pty.is_drained():
                waits.append(_DRAIN_LOOK)
                return
            else:
                self._hang_up()
            stream.done()

    # The answering thread

    def _answer(self, requests: Requests) -> None:
        plugging = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._asked)
                if self._closed:
                    return
                if plugging != self._plugging:
                    plugging = self._plugging
                    requests.forget()
                data = bytes(self._asked)
                self._asked.clear()
            for request in requests.feed(data):
                try:
                    reply = requests.answer(request)
                except Exception as error:  # noqa: BLE001 (told by close)
                    self._failure = self._failure or error
                    continue
                with self._changed:
                    if reply and plugging == self._plugging and self._pty is not None:
                        self._enqueue(Outgoing(reply))
