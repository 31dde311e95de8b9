"""What clients said and isn't with the device yet: held back during an outage, up to a bound."""

import threading
from collections import deque
from collections.abc import Callable

from cnxman.cli.events import size_in_words

LIMIT = 2**20
"""How many bytes are held, about: when there are so many, no client is read until there is room."""


class Outbox:
    """Messages on their way to the device, in order. Every method may be called from any thread.

    Args:
        tell: called with a line of text when something is held back, dropped, or sent late.
        room: called when there is room again after `is_full` was True.
        discard: drop what comes during an outage instead of holding it back.
        limit: how many bytes to hold, about: it may be exceeded by one message.
    """

    def __init__(
        self, tell: Callable[[str], None], room: Callable[[], None], *, discard: bool = False, limit: int = LIMIT
    ) -> None:
        self._tell = tell
        self._room = room
        self._discard = discard
        self._limit = limit
        self._change = threading.Condition()
        self._messages: deque[bytes] = deque()
        self._is_up: bool | None = None  # None: the first attempt isn't over
        self._opening = 0  # counts the connections
        self._told: set[str] = set()  # during this outage
        self._dropped = 0
        self._waited_for_room = False
        self._is_closed = False
        self.held = 0
        """How many bytes wait."""

    def put(self, message: bytes) -> None:
        """Take a message, also if there is no room."""
        with self._change:
            if self._discards():
                self._dropped += len(message)
            else:
                self._messages.append(message)
                self.held += len(message)
                self._change.notify_all()
            news = self._news()
        self._tell_all(news)

    def is_full(self) -> bool:
        """Whether to put no more for now; `room` is called when this is over."""
        with self._change:
            self._waited_for_room = self.held >= self._limit
            full = self._waited_for_room
            news = self._news(full=full)
        self._tell_all(news)
        return full

    def line_up(self) -> None:
        """There is a connection: what was held back can go out."""
        with self._change:
            news = self._account() if self._is_up is False else []
            self._is_up = True
            self._opening += 1
            self._told.clear()
            self._dropped = 0
            self._change.notify_all()
        self._tell_all(news)

    def line_down(self) -> None:
        """There is no connection."""
        with self._change:
            self._is_up = False
            if self._discard:
                self._dropped += self.held
                self._messages.clear()
                self.held = 0
            self._change.notify_all()
            news = self._news()
        self._ask_room()
        self._tell_all(news)

    def close(self) -> None:
        """Nothing more is to be sent."""
        with self._change:
            self._is_closed = True
            self._change.notify_all()

    def take(self) -> tuple[bytes, int] | None:
        """Wait until there is a connection and a message; take it.

        Returns:
            The message, and which connection it is for; None once it is closed.
        """
        with self._change:
            self._change.wait_for(lambda: self._is_closed or (self._is_up and self._messages))
            return None if self._is_closed else (self._messages[0], self._opening)

    def taken(self, message: bytes, written: int, opening: int, patience: float) -> None:
        """What became of the message that `take` gave.

        A message of which nothing went out is kept for the next try. One that was cut short is gone: the device would
        take its rest for another message.

        Args:
            message: what `take` gave.
            written: how many of its bytes went out.
            opening: what `take` gave with it.
            patience: after a failure, how many seconds to wait for the manager to notice; then it may be tried again.
        """
        with self._change:
            whole = written == len(message)
            # With --discard an outage may have emptied the queue meanwhile.
            if written and self._messages and self._messages[0] is message:
                self._messages.popleft()
                self.held -= len(message)
            if written and not whole:
                self._dropped += len(message) - written
            if not whole:
                self._change.wait_for(lambda: self._is_closed or not self._is_up or self._opening != opening, patience)
        if written:
            self._ask_room()
            if not whole:
                self._tell(f"a message that was cut short: its last {len(message) - written} bytes are dropped")

    def _ask_room(self) -> None:
        with self._change:
            if not (self._waited_for_room and self.held < self._limit):
                return
            self._waited_for_room = False
        self._room()

    def _discards(self) -> bool:
        return self._discard and self._is_up is False

    def _news(self, *, full: bool = False) -> list[str]:
        """What there is to tell for the first time in this outage. The lock is held."""
        if self._is_up is not False:
            return []
        news = []
        if self._discard and self._dropped:
            news.append("what clients send is dropped until there is a connection (--discard)")
        if self.held:
            limit = size_in_words(self._limit)
            news.append(f"what clients send is held back until there is a connection, up to {limit}")
        if full:
            news.append(f"{size_in_words(self._limit)} are held back: clients aren't read until there is a connection")
        news = [line for line in news if line not in self._told]
        self._told.update(news)
        return news

    def _account(self) -> list[str]:
        """What became of what clients sent during the outage. The lock is held."""
        return [
            *([f"{self.held} bytes that were held back are sent now"] if self.held else []),
            *([f"{self._dropped} bytes were dropped"] if self._dropped else []),
        ]

    def _tell_all(self, news: list[str]) -> None:
        """Tell, with no lock held."""
        for line in news:
            self._tell(line)
