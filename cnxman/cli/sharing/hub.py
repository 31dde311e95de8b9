"""One loop, on one thread, that serves all clients: what the device says goes to each, what they say to the device.

The connection's listener hands data to the loop by `receive` and goes on at once. Nothing here waits for a client: what
it doesn't take stays in the device's stream, where it has a position, and one that falls behind by more than the limit
is dropped (a pseudo-terminal, which nobody can connect anew, loses its oldest bytes instead).
"""

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from cnxman import ports
from cnxman.cli.events import seconds, size_in_words
from cnxman.cli.sharing.outbox import Outbox
from cnxman.cli.sharing.pace import Pace
from cnxman.cli.sharing.places import LineSettings
from cnxman.cli.sharing.pty import Pty
from cnxman.cli.sharing.sockets import Server, SocketClient
from cnxman.cli.sharing.stream import DeviceStream
from cnxman.cli.sharing.teller import Text
from cnxman.cli.sharing.turns import Turns

LOOK_EVERY = 0.05
"""Seconds between two looks whether a pseudo-terminal was opened, or set otherwise. They cost 0.3 % of a core for ten.

Nothing portable tells it. On Linux, packet mode wakes the owner when a client changes flow control, but not when one
only opens it; and while nobody has it open, `poll` reports the hang-up without end.
"""

GATHER, LONGEST_GATHER = 0.004, 0.04
"""Seconds to gather for at the beginning of a flood, and at most, while no client says anything."""

LINGER = 1.0
"""Seconds that a client which has said its last is still given answers."""

REST = 0.5
"""Seconds without accepting anybody, after the system gave no descriptor."""

MOST_INBOX = 4 * 2**20
"""Bytes that the loop may lag behind the listener, which waits then: the loop hasn't had the processor for long."""

MOST_CLIENTS = 256
"""Clients by socket at once."""

Client = SocketClient | Pty

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Hub:
    """The loop. Made on one thread, run on another; `receive`, `wake` and `stop` may be called from any.

    Args:
        tell: takes an event, in a word, and the rest of the line; returns at once.
        limit: how far, in bytes, a client may lag behind the device.
        follow: told what a client has set on its pseudo-terminal.
        discard: passed to the `Outbox`.
    """

    def __init__(
        self,
        tell: Callable[[str, Text], None],
        *,
        limit: int,
        follow: Callable[[str, LineSettings], None],
        discard: bool = False,
    ) -> None:
        self._tell = tell
        self._limit = limit
        self._follow = follow
        self.outbox = Outbox(partial(tell, "input"), self.wake, discard=discard)
        self._selector = selectors.DefaultSelector()
        self._stream = DeviceStream()
        self._turns = Turns[Client](self.outbox.put)
        self._paused = False
        """Whether clients aren't read, as the outbox is full."""
        self._ptys: list[Pty] = []
        self._servers: list[Server] = []
        self._clients: dict[Client, None] = {}  # in the order in which they came
        self._lagging: set[Client] = set()
        self._ending: deque[SocketClient] = deque()  # have said their last
        self._gaps: dict[Pty, int] = {}  # bytes that one has lost since it fell behind
        self._refused = 0
        self._resting_until = 0.0
        self._next_look = 0.0
        self._not_before = 0.0
        """When data may be given on again: see `GATHER`."""
        self._pace = Pace()
        self._gather = 0.0
        """For how long it was gathered last; 0 when there is no flood."""
        self._inbox: deque[bytes] = deque()
        self._inbox_size = 0
        self._inbox_change = threading.Condition()
        self._is_awake = False
        self._stopped = False
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._selector.register(self._wake_out, _READ, self._on_wake)

    # -- from any thread ----------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Give it what the device said. Returns at once, unless there is a flood, or the loop lags by megabytes."""
        with self._inbox_change:
            while self._inbox_size >= MOST_INBOX and not self._stopped:
                self._inbox_change.wait()
            self._inbox.append(data)
            self._inbox_size += len(data)
        self.wake()
        self._pace.rest(len(data))

    def wake(self) -> None:
        """Have the loop look again at what changed."""
        if not self._is_awake:
            self._is_awake = True
            with contextlib.suppress(OSError):  # full: it wakes in any case; closed: it is all over
                self._wake_in.send(b"!")

    def stop(self) -> None:
        """End the loop soon."""
        with self._inbox_change:
            self._stopped = True
            self._inbox_change.notify_all()
        self.wake()

    # -- before it runs -----------------------------------------------------------------------------------

    def add_pty(self, pty: Pty) -> None:
        """Serve whoever opens a pseudo-terminal."""
        self._ptys.append(pty)

    def add_server(self, server: Server) -> None:
        """Serve whoever comes in there."""
        self._servers.append(server)
        self._selector.register(server, _READ, partial(self._accept, server))

    def run(self) -> None:
        """Serve until `stop`."""
        while not self._stopped:
            for key, events in self._selector.select(self._patience()):
                key.data(events)
            now = time.monotonic()
            self._deliver(now)
            if self._paused and not self.outbox.is_full():
                self._paused = False
                self._turns.resume(now)
                self._update_all()
            self._serve_waiting(now)
            if now >= self._next_look:
                self._look(now)

    def close(self) -> None:
        """After the loop has ended: close everything, remove links and sockets' files."""
        for client in list(self._clients):
            if isinstance(client, SocketClient):
                client.close()
        for pty in self._ptys:
            pty.close()
        for server in self._servers:
            server.close()
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    # -- the loop -----------------------------------------------------------------------------------------

    def _patience(self) -> float | None:
        """How long to wait, in seconds, when nothing happens."""
        now = time.monotonic()
        times = [self._next_look] if self._looks() else []
        if self._inbox:
            times.append(self._not_before)
        if self._turns.deadline is not None and not self._paused:
            times.append(self._turns.deadline)
        return max(0.0, min(times) - now) if times else None

    def _looks(self) -> bool:
        """Whether there is something to look at now and then."""
        return bool(self._ptys or self._ending or self._resting_until)

    def _on_wake(self, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_out.recv(64)
        self._is_awake = False  # what changes from now on wakes anew

    # -- from the device to clients -----------------------------------------------------------------------

    def _deliver(self, now: float) -> None:
        if not self._inbox:
            return
        if now < self._not_before:
            self._is_awake = True  # the loop knows when to go on: the listener need not wake it
            return
        self._is_awake = False
        data = self._take_inbox()
        if now > self._not_before + GATHER:
            self._gather = 0.0  # there was a pause: if it is a flood, it is a new one
        self._gather = min(max(2 * self._gather, GATHER), LONGEST_GATHER) if self._pace.is_flood else 0.0
        self._not_before = now + self._gather
        for pty in self._ptys:
            if not pty.is_open and pty.was_opened():
                self._pty_opened(pty, now)
        self._stream.append(data)
        for client in list(self._clients):
            if not client.is_blocked:
                self._pump(client)
            if client in self._clients and self._stream.end - client.position > self._limit:
                self._too_far_behind(client, now)
        self._trim()

    def _take_inbox(self) -> bytes:
        with self._inbox_change:
            data = b"".join(self._inbox)
            self._inbox.clear()
            self._inbox_size = 0
            self._inbox_change.notify_all()
        return data

    def _pump(self, client: Client) -> None:
        """Give a client what it takes of what it wasn't given yet."""
        stream = self._stream
        while client.position < stream.end:
            with stream.view(client.position) as data:
                size = len(data)
                try:
                    taken = client.write(data)
                except OSError:  # it has hung up
                    self._remove(client, "")
                    return
            client.position += taken
            client.bytes_to += taken
            if taken < size:
                client.is_blocked = True
                self._lagging.add(client)
                self._update(client)
                return
        if client in self._lagging:
            self._lagging.discard(client)
            self._update(client)
            if isinstance(client, Pty):
                self._tell_gap(client)

    def _trim(self) -> None:
        """Forget what every client was given."""
        stream = self._stream
        stream.trim(min((client.position for client in self._lagging), default=stream.end))

    def _too_far_behind(self, client: Client, now: float) -> None:
        if isinstance(client, Pty):
            behind = self._stream.end - client.position - self._limit
            if client not in self._gaps:
                self._gaps[client] = 0
                self._tell("dropped", f"{client} isn't read: beyond {size_in_words(self._limit)} its oldest are lost")
            self._gaps[client] += behind
            client.position += behind
        else:
            self._remove(client, f"it didn't read: {size_in_words(self._limit)} waited for it", what="dropped", now=now)

    def _tell_gap(self, pty: Pty) -> None:
        lost = self._gaps.pop(pty, 0)
        if lost:
            self._tell("dropped", f"{pty} is read again: it lost {lost} bytes")

    # -- from clients to the device -----------------------------------------------------------------------

    def _on_client(self, client: Client, events: int) -> None:
        # A hang-up is an event of each kind that is waited for: only where it is no event to be read, it is none.
        alive = client.interest & _READ and not events & _READ
        if not alive and isinstance(client, Pty) and client.is_hung_up():
            client.position = self._stream.end  # nobody is there to be given anything
        if events & _WRITE and client.is_blocked:
            client.is_blocked = False
            self._pump(client)
            self._trim()
        if events & _READ and client in self._clients:
            self._read(client)

    def _read(self, client: Client) -> None:
        """A client has something to say: to the device, if it is its turn."""
        now = time.monotonic()
        if client.read_only:
            self._ignore(client, now)
        elif not self._is_full() and self._turns.may_send(client, now):
            self._take_from(client, now)
        self._update(client)  # if it isn't its turn, it is read when that has come

    def _take_from(self, client: Client, now: float) -> None:
        data = client.read()
        if isinstance(client, Pty):
            self._look_at_settings(client)
        if data:
            client.bytes_from += len(data)
            self._gather = self._not_before = 0.0  # it may wait for an answer
        if data or self._turns.holds(client):
            self._turns.take(client, data or b"", now)
        if data == b"":
            self._ended(client, now)

    def _ignore(self, client: Client, now: float) -> None:
        data = client.read()
        if isinstance(client, Pty):
            self._look_at_settings(client)
        if data == b"":
            self._ended(client, now)
        elif data:
            if not client.bytes_from:
                self._tell("input", f"{client}: what it sends is ignored (--read-only)")
            client.bytes_from += len(data)

    def _serve_waiting(self, now: float) -> None:
        """Read those who waited for their turn, one after another, as far as there are turns and room."""
        self._turns.expire(now)
        while (client := self._turns.next()) is not None and not self._is_full():
            self._turns.may_send(client, now)
            self._take_from(client, now)
            self._update(client)

    def _is_full(self) -> bool:
        if not self._paused and self.outbox.is_full():
            self._paused = True
            self._update_all()
        return self._paused

    # -- who comes and goes -------------------------------------------------------------------------------

    def _accept(self, server: Server, _events: int) -> None:
        now = time.monotonic()
        try:
            client = server.accept()
        except OSError as error:
            self._tell("error", f"{server.name}: nobody can come in now: {error.strerror}")
            self._rest(now)
            return
        if client is None:
            return
        if len(self._clients) >= MOST_CLIENTS and not self._make_room(now):
            client.close()
            if not self._refused:
                self._tell("refused", f"{client}, and whoever comes now: {MOST_CLIENTS} clients are served already")
            self._refused += 1
            return
        self._add(client, now)

    def _make_room(self, now: float) -> bool:
        """End a client that has said its last."""
        if self._ending:
            self._remove(self._ending[0], "", now=now)
            return True
        return False

    def _add(self, client: Client, now: float) -> None:
        client.position = self._stream.end
        client.came_at = now
        client.bytes_to = client.bytes_from = 0
        self._clients[client] = None
        self._update(client)
        self._tell("came", partial(_who, client))

    def _ended(self, client: Client, now: float) -> None:
        """A client has said its last; by a socket it may still wait for an answer."""
        self._turns.forget(client)
        if isinstance(client, SocketClient):
            client.ended_at = now
            self._ending.append(client)
            self._update(client)
        else:
            self._remove(client, "", now=now)

    def _remove(self, client: Client, why: str, *, what: str = "left", now: float | None = None) -> None:
        self._turns.forget(client)
        self._clients.pop(client, None)
        self._lagging.discard(client)
        client.is_blocked = False
        self._update(client)
        stayed = (time.monotonic() if now is None else now) - client.came_at
        account = f"after {seconds(stayed)}, {client.bytes_to} bytes to it, {client.bytes_from} from it"
        if isinstance(client, SocketClient):
            if client in self._ending:
                self._ending.remove(client)
            client.close()
            self._refused = 0
        else:
            self._pty_closed(client)
        # At last: whoever reads it may open the pseudo-terminal again at once.
        self._tell(what, f"{client} {why + ', ' if why else ''}{account}")

    def _pty_opened(self, pty: Pty, now: float) -> None:
        pty.is_open = True
        self._add(pty, now)
        self._look_at_settings(pty)

    def _pty_closed(self, pty: Pty) -> None:
        pty.is_open = False
        self._gaps.pop(pty, None)
        try:
            pty.closed()
        except OSError as error:
            self._tell("error", f"{pty} is there no more: {error}")
            self._ptys.remove(pty)

    # -- what is looked at now and then -------------------------------------------------------------------

    def _look(self, now: float) -> None:
        self._next_look = now + LOOK_EVERY
        for pty in self._ptys:
            if not pty.is_open and pty.was_opened():
                self._pty_opened(pty, now)
            elif pty.is_open:
                self._look_at_settings(pty)
        while self._ending and now - (self._ending[0].ended_at or 0.0) >= LINGER:
            self._remove(self._ending[0], "", now=now)
        if self._resting_until and now >= self._resting_until:
            self._resting_until = 0.0
            for server in self._servers:
                self._selector.register(server, _READ, partial(self._accept, server))

    def _rest(self, now: float) -> None:
        """Accept nobody for a while."""
        self._resting_until = now + REST
        self._next_look = min(self._next_look, self._resting_until)
        for server in self._servers:
            self._selector.unregister(server)

    def _look_at_settings(self, pty: Pty) -> None:
        if pty.discarded:
            pty.discarded = False
            pty.position = self._stream.end
        settings = pty.new_settings()
        if settings is not None:
            self._follow(str(pty), settings)

    # -- what the selector waits for ----------------------------------------------------------------------

    def _update_all(self) -> None:
        for client in self._clients:
            self._update(client)

    def _update(self, client: Client) -> None:
        """Wait for what there is to wait for with a client."""
        wanted = 0
        if client in self._clients:
            wanted = (_READ if self._may_be_read(client) else 0) | (_WRITE if client.is_blocked else 0)
        if wanted == client.interest:
            return
        if not client.interest:
            self._selector.register(client, wanted, partial(self._on_client, client))
        elif wanted:
            self._selector.modify(client, wanted, partial(self._on_client, client))
        else:
            self._selector.unregister(client)
        client.interest = wanted

    def _may_be_read(self, client: Client) -> bool:
        if isinstance(client, SocketClient) and client.ended_at is not None:
            return False
        return client.read_only or not (self._paused or self._turns.waits(client))


def _who(client: Client) -> str:
    """A client, in words; of a pseudo-terminal also who opened it, where the system tells."""
    if not isinstance(client, Pty):
        return str(client)
    holders = ", ".join(map(str, ports.holders(client.device)))
    return f"{client}{f', opened by {holders}' if holders else ''}"
