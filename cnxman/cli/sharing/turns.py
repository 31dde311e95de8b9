"""Whose bytes go to the device next, so that one client's line is never cut by another's.

Bytes of a single client are never held up. A client that has sent the beginning of a line has the turn until the line
ends, or until it has been silent for `GAP`: what it sent may be no text at all.
"""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

_Client = TypeVar("_Client")

GAP = 0.01
"""Seconds of silence in mid-line after which another client may send."""

LONGEST = 64 * 1024
"""Bytes without a line end that one client may send while others wait."""


class Turns(Generic[_Client]):
    """Lets one client send at a time. For one thread; times are those of any monotonic clock, in seconds.

    Args:
        send: takes what goes to the device, whole messages in order.
    """

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._owner: _Client | None = None
        self._last = 0.0  # when the owner last sent
        self._sent = 0  # by the owner, in this turn
        self._waiting: deque[_Client] = deque()
        self._held: dict[_Client, bytes] = {}  # was read from a client before its turn was over

    @property
    def deadline(self) -> float | None:
        """When the turn passes to somebody who waits, unless more comes before; None if nobody waits."""
        return self._last + GAP if self._owner is not None and self._waiting else None

    def may_send(self, client: _Client, now: float) -> bool:
        """Whether it is this client's turn. If not, it waits for it from now on."""
        self.expire(now)
        if self._owner == client:
            return True
        if self._owner is None and (not self._waiting or self._waiting[0] == client):
            self._leave_queue(client)
            return True
        if client not in self._waiting:
            self._waiting.append(client)
        return False

    def take(self, client: _Client, data: bytes, now: float) -> None:
        """Send what a client, whose turn it is, has said."""
        data = self._held.pop(client, b"") + data
        if self._waiting:
            data = self._cut(client, data)
        self._send(data)
        self._sent += len(data)
        if data.endswith((b"\n", b"\r")) or (self._waiting and self._sent >= LONGEST):
            self._owner, self._sent = None, 0
        else:
            self._owner, self._last = client, now

    def _cut(self, client: _Client, data: bytes) -> bytes:
        """Others wait: hold back what follows the last line end, until they had their turn."""
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if 0 < end < len(data):
            self._held[client] = data[end:]
            self._waiting.append(client)
            return data[:end]
        return data

    def expire(self, now: float) -> None:
        """End the turn of a client that has been silent for long enough."""
        if self._owner is not None and now >= self._last + GAP:
            self._owner, self._sent = None, 0

    def resume(self, now: float) -> None:
        """Nobody was read for a while: that was no silence of the client whose turn it is."""
        self._last = now

    def next(self) -> _Client | None:
        """The client that has waited longest, if the turn is free."""
        return self._waiting[0] if self._owner is None and self._waiting else None

    def waits(self, client: _Client) -> bool:
        """Whether a client waits for its turn."""
        return client in self._waiting

    def holds(self, client: _Client) -> bool:
        """Whether something that a client has said waits here."""
        return client in self._held

    def forget(self, client: _Client) -> None:
        """A client has said its last: its turn ends. What waits here is sent."""
        self._leave_queue(client)
        if rest := self._held.pop(client, b""):
            self._send(rest)
        if self._owner == client:
            self._owner, self._sent = None, 0

    def _leave_queue(self, client: _Client) -> None:
        if client in self._waiting:
            self._waiting.remove(client)
