"""What was typed or piped in and isn't with the device yet: held back during an outage, up to a bound."""

import threading
from collections.abc import Callable

from cnxman.cli.events import size_in_words

LIMIT = 2**20
"""How many bytes are held back, at most, unless told otherwise."""

CHUNK = 4096
"""The most bytes given to the line at once."""


class Outbox:
    """Bytes on their way to the device. Every method may be called from any thread.

    Args:
        tell: called with a line of text when something is held back, dropped, or sent late.
        discard: drop what comes during an outage instead of holding it back.
        limit: how many bytes to hold, at most.
    """

    def __init__(self, tell: Callable[[str], None], *, discard: bool = False, limit: int = LIMIT) -> None:
        self._tell = tell
        self._discard = discard
        self._limit = limit
        self._change = threading.Condition()
        self._held = bytearray()
        self._is_up = False
        self._is_down = False  # neither: the first attempt isn't over
        self._told: set[str] = set()  # during this outage
        self._dropped = 0

    @property
    def held(self) -> int:
        """How many bytes wait."""
        return len(self._held)

    def put(self, data: bytes, *, wait: bool) -> None:
        """Take bytes to be sent.

        Args:
            data: the bytes.
            wait: whether to return only when there is room for more, as for a pipe, whose writer then waits in turn.
                Otherwise what is too much is dropped, which is told.
        """
        while data:
            with self._change:
                data = self._accept(data)
                if not wait:
                    self._dropped += len(data)
                news = self._news(full=bool(data), waiting=wait)
            self._tell_all(news)
            if not wait:
                return
            with self._change:
                self._change.wait_for(lambda: self._discards() or len(self._held) < self._limit)

    def line_up(self) -> None:
        """There is a connection: what was held back can go out."""
        with self._change:
            news = self._account() if self._is_down else []
            self._is_up, self._is_down = True, False
            self._told.clear()
            self._dropped = 0
            self._change.notify_all()
        self._tell_all(news)

    def line_down(self) -> None:
        """There is no connection."""
        with self._change:
            self._is_up, self._is_down = False, True
            if self._discard:
                self._dropped += len(self._held)
                self._held.clear()
            self._change.notify_all()
            news = self._news(full=False, waiting=False)
        self._tell_all(news)

    def take(self) -> bytes:
        """Wait until there is a connection and something to send, and take some of it."""
        with self._change:
            self._change.wait_for(lambda: self._is_up and self._held)
            chunk = bytes(self._held[:CHUNK])
            del self._held[:CHUNK]
            self._change.notify_all()
            return chunk

    def put_back(self, data: bytes) -> None:
        """Take what `take` gave but the line did not take."""
        with self._change:
            if self._discards():
                self._dropped += len(data)
            else:
                self._held[:0] = data
            self._change.notify_all()
            news = self._news(full=False, waiting=False)
        self._tell_all(news)

    def _accept(self, data: bytes) -> bytes:
        """Take what there is room for, and return the rest. The lock is held."""
        if self._discards():
            self._dropped += len(data)
            return b""
        room = self._limit - len(self._held)
        self._held += data[:room]
        self._change.notify_all()
        return data[room:]

    def _discards(self) -> bool:
        return self._discard and self._is_down

    def _news(self, *, full: bool, waiting: bool) -> list[str]:
        """What there is to tell for the first time in this outage. The lock is held."""
        news = []
        if self._is_down and self._held:
            news.append(f"input is held back until there is a connection, up to {size_in_words(self._limit)}")
        if self._is_down and self._discard and self._dropped:
            news.append("input is dropped until there is a connection (--discard)")
        elif full and not waiting:
            news.append(f"{size_in_words(self._limit)} wait to be sent: input is dropped")
        elif full and self._is_down:
            news.append(
                f"{size_in_words(self._limit)} are held back: no more input is read until there is a connection"
            )
        news = [line for line in news if line not in self._told]
        self._told.update(news)
        return news

    def _account(self) -> list[str]:
        """What became of the input that came during the outage. The lock is held."""
        held, dropped = len(self._held), self._dropped
        return [
            *([f"{held} bytes that were held back are sent now"] if held else []),
            *([f"{dropped} bytes were dropped"] if dropped else []),
        ]

    def _tell_all(self, news: list[str]) -> None:
        """Tell, with no lock held: standard error may be slow."""
        for line in news:
            self._tell(line)
