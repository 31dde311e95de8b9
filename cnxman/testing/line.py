"""The line of a simulated device: one thread that moves the bytes, and is the only one to hang up."""

import math
import time
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread

from cnxman._line.waiting import POLLHUP, POLLIN, POLLOUT, POLLPRI
from cnxman.testing.memory import MemoryLink, MemoryPort, MemoryWaker
from cnxman.testing.pty import PortLink, PseudoTerminal, Waker
from cnxman.testing.streams import Pace, Stream

LOOK = 0.01  # seconds between looks whether someone has opened the port: nothing tells
SETTLE = 0.1  # seconds that a host has, which opens the port, to discard old input: pyserial does it in 1 ms
DRAIN_LOOK = 0.002  # seconds between looks whether the host has read everything: nothing tells that either


class Message:
    """Some bytes on their way to the host."""

    def __init__(self, data: bytes, *, is_reply: bool = False) -> None:
        self.data = data
        self.is_reply = is_reply
        self.taken = 0
        self.wire = b""  # what has gone through the faults, and isn't on the line yet
        self.is_lost = False

    @property
    def is_sent(self) -> bool:
        """Whether all of it is on the line."""
        return self.taken == len(self.data) and not self.wire

    @property
    def count(self) -> int:
        """How many bytes have gone out."""
        return self.taken - len(self.wire)


class SimulatedLine:
    """A pty, or what stands in for one, when plugged in, and what goes over it.

    All attributes are guarded by `changed`, which is notified whenever there may be news. Only the line's own
    thread reads, writes and closes the master: while one thread waits for a descriptor, closing it in another
    hangs nothing up.

    Args:
        outgoing: what happens to the bytes to the host.
        incoming: what happens to the bytes from the host.
        pace: how fast bytes go to the host.
        in_memory: it is no pty, and the port is a URL.

    """

    hear: Callable[[bytes, int], None] | None = None
    """Told what the host wrote, and in which session, with `changed` held."""

    def __init__(self, outgoing: Stream, incoming: Stream, pace: Pace, *, in_memory: bool = False) -> None:
        self.changed = Condition()
        self.outgoing = outgoing
        self.incoming = incoming
        self.link: PortLink | MemoryLink = MemoryLink() if in_memory else PortLink()
        self.pty: PseudoTerminal | MemoryPort | None = None
        self.received = bytearray()
        self.is_settled = False  # a host has the port open, and had its chance to discard old input
        self.session = 0  # counts the openings and closings of the port
        self.queue: deque[Message] = deque()
        self._pace = pace
        self._opened_at: float | None = None
        self._settled_at = 0.0
        self._stalled_until = 0.0
        self._is_pulled = False
        self.is_closed = False
        self._waker: Waker | MemoryWaker = MemoryWaker() if in_memory else Waker()
        self.thread = Thread(target=self._run, name=f"cnxman device {self.link.path}", daemon=True)

    # What other threads ask for; `changed` is held.

    @property
    def is_plugged(self) -> bool:
        """Whether the device is plugged in, and isn't being pulled out."""
        return self.pty is not None and not self._is_pulled

    def check_not_closed(self) -> None:
        """Raise a RuntimeError if the device has been closed: its descriptors may be somebody else's."""
        if self.is_closed:
            raise RuntimeError("the simulated device has been closed")

    def is_there(self) -> bool:
        """Tell whether a host has the port open at this moment."""
        return self.pty is not None and not self._look(self.pty) & POLLHUP

    def plug(self) -> None:
        """Plug the device in, which isn't."""
        if isinstance(self.link, MemoryLink):
            memory = MemoryPort(self.link.path, self._waker.wake)
            self.link.show(memory)
            self.pty = memory
        else:
            pty = PseudoTerminal()
            self.link.show(pty.path)
            self.pty = pty
        self._waker.wake()

    def pull(self) -> None:
        """Let the thread pull the device out: `pty` is None when that is done."""
        self.link.hide()
        self._is_pulled = True
        self._waker.wake()

    def close(self) -> None:
        """Let the thread pull the device out for good, and end."""
        self.link.hide()
        self.is_closed = True
        self._waker.wake()
        self.changed.notify_all()

    def release(self) -> None:
        """Give back what is left when the thread has ended."""
        self._waker.close()
        self.link.remove()

    def stall(self, until: float) -> None:
        """Neither read nor send until then, by the monotonic clock."""
        self._stalled_until = until
        self._waker.wake()

    def send(self, message: Message) -> None:
        """Put a message in line."""
        if not self.queue:
            self._pace.idle(time.monotonic())
        self.queue.append(message)
        self._waker.wake()

    def wake(self) -> None:
        """Let the thread see what was ordered of the streams."""
        self._waker.wake()

    # What the thread does

    def _run(self) -> None:
        try:
            while True:
                with self.changed:
                    if self._is_pulled:
                        self._hang_up()
                    if self.is_closed:
                        return
                    wait = self._step(time.monotonic())
                if self._waker.wait(*wait):
                    with self.changed:
                        self._note_presence(False, 0.0)
        finally:
            with self.changed:
                self._hang_up()

    def _hang_up(self) -> None:
        self._is_pulled = False
        if self.pty is None:
            return
        self.link.hide()
        self.pty.close()
        self.pty = None
        self._note_presence(False, 0.0)
        self._lose(list(self.queue))

    def _lose(self, messages: list[Message]) -> None:
        for message in messages:
            message.is_lost = True
            self.queue.remove(message)
        self.changed.notify_all()

    def _look(self, pty: PseudoTerminal | MemoryPort) -> int:
        """Return the state of the pty.

        Whoever sees a hang-up notes it, for the host may open the port again before the thread looks; and does away
        with what tells that the host of before discarded its input, which would be taken for the next one's.
        """
        state = pty.state()
        if state & POLLHUP:
            if state & POLLPRI:
                pty.read(0)
                state = pty.state()
            self._note_presence(False, 0.0)
        return state

    def _note_presence(self, is_there: bool, now: float) -> None:
        if not is_there:
            if self._opened_at is not None:
                self._opened_at = None
                self.is_settled = False
                self.session += 1
                self._lose([message for message in self.queue if message.is_reply])
        elif self._opened_at is None:
            self._opened_at = now
            self.session += 1
        elif now >= self._opened_at + SETTLE:
            self._settle()

    def _settle(self) -> None:
        if self._opened_at is not None and not self.is_settled:
            self.is_settled = True
            self._settled_at = time.monotonic()
            self.changed.notify_all()

    def _step(self, now: float) -> tuple[float | None, int | None, int]:
        """Move what can be moved; return for how long to wait at most, and for which events of which master."""
        pty = self.pty
        if pty is None:
            return None, None, 0
        state = self._look(pty)
        if not state & POLLHUP:
            self._note_presence(True, now)
        incoming, events_in = self._take_in(pty, state, now)
        outgoing, events_out = self._give_out(now)
        if self.pty is not pty:  # a cut was due
            return None, None, 0
        if now < self._stalled_until:
            incoming = outgoing = self._stalled_until - now
        wait = min(incoming, outgoing)
        if self._opened_at is None:
            # The hang-up stands until somebody opens the port, and would end a wait for the master at once.
            has_more = state & events_in & POLLIN
            return (0.0 if has_more else min(wait, LOOK)), None, 0
        if not self.is_settled:
            wait = min(wait, max(0.0, self._opened_at + SETTLE - now))
        return (None if wait == math.inf else wait), pty.master, events_in | events_out

    def _take_in(self, pty: PseudoTerminal | MemoryPort, state: int, now: float) -> tuple[float, int]:
        """Read what there is; return how long to wait at most, and for which events."""
        has_data = bool(state & POLLIN) and not state & POLLPRI
        self._meet_marks(self.incoming, has_data, now)
        if self.pty is None or now < self._stalled_until:
            return math.inf, 0
        if now < self.incoming.held_until:
            return self.incoming.held_until - now, 0
        if state & POLLIN:
            data, discarded = pty.read(self.incoming.room())
            if discarded:
                self._settle()
            self._receive(self.incoming.carry(data))
            self._meet_marks(self.incoming, False, now)  # a cut after these bytes is due with them
        return math.inf, POLLIN

    def _receive(self, data: bytes) -> None:
        if data:
            self.received += data
            self.changed.notify_all()
            if self.hear is not None:
                self.hear(data, self.session)

    def _give_out(self, now: float) -> tuple[float, int]:
        """Send what there is; return how long to wait at most, and for which events."""
        message = self.queue[0] if self.queue and self.is_settled else None
        if message is None or not message.wire:
            wait = self._meet_marks(self.outgoing, message is not None, now)
            if wait > 0:
                return wait, 0
        if message is None or self.pty is None or now < self._stalled_until:
            return math.inf, 0
        if message.wire:
            self._pace.idle(now)  # there was no room: that time isn't made good
        else:
            self._pace.idle(max(self._settled_at, self._stalled_until, self.outgoing.held_until))
            if now < self.outgoing.held_until:
                return self.outgoing.held_until - now, 0
            room = min(self.outgoing.room(), self._pace.allowance(now))
            if room <= 0:
                return self._pace.seconds_per_byte, 0
            chunk = message.data[message.taken : message.taken + room]
            message.taken += len(chunk)
            message.wire = self.outgoing.carry(chunk)
            self._pace.spend(len(chunk))
        message.wire = message.wire[self.pty.write(message.wire) :]
        if message.wire:
            return math.inf, POLLOUT
        if message.is_sent:
            self.queue.popleft()
            self.changed.notify_all()
        return 0.0, 0  # look again at once: for more to send, or for a mark after these bytes

    def _meet_marks(self, stream: Stream, has_data: bool, now: float) -> float:
        """Let happen what is due; return the seconds to wait for what has to wait, else 0."""
        while self.pty is not None and (mark := stream.due()) is not None:
            if mark.event == "delay":
                if not has_data:
                    break  # the delay begins when there is something to hold up
                stream.held_until = now + mark.seconds
            elif mark.event == "stall":
                self._stalled_until = now + mark.seconds
            elif stream is self.outgoing and self._opened_at is not None and not self.pty.is_drained():
                return DRAIN_LOOK  # a cut loses nothing of what was to come through before it
            else:
                self._hang_up()
            stream.pass_mark()
        return 0.0
