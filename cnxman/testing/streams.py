"""What becomes of the bytes of a simulated line on their way: faults, counted or by chance, and the pace."""

import random
from dataclasses import dataclass
from typing import Literal

from cnxman.testing.pty import CHUNK

Direction = Literal["sent", "received"]
Event = Literal["stall", "delay", "cut"]

BITS_PER_BYTE = 10  # a start bit, eight data bits, a stop bit


@dataclass(frozen=True)
class Mark:
    """Something to happen when byte number `at` is the next to go through."""

    at: int
    event: Event
    seconds: float


class Stream:
    """The bytes of one direction: counted, and hurt where a fault was ordered.

    The same seed, faults and bytes come out the same, in whatever chunks the bytes go through.
    """

    def __init__(self, seed: int, direction: Direction) -> None:
        self.position = 0  # how many bytes have gone through
        self.held_until = 0.0  # by the monotonic clock
        self._chance = random.Random(f"{seed} {direction}")  # noqa: S311 (one that can be repeated is wanted)
        self._marks: list[Mark] = []
        self._dropped: list[range] = []
        self._corrupted: list[range] = []
        self._drop_share = 0.0
        self._corrupt_share = 0.0

    def mark(self, event: Event, at: int, seconds: float) -> None:
        """Order an event for when `at` more bytes have gone through."""
        self._marks.append(Mark(self.position + at, event, seconds))
        self._marks.sort(key=lambda mark: mark.at)

    def drop(self, at: int, count: int) -> None:
        """Order the loss of `count` bytes."""
        self._dropped.append(range(self.position + at, self.position + at + count))

    def corrupt(self, at: int, count: int) -> None:
        """Order one wrong bit in each of `count` bytes."""
        self._corrupted.append(range(self.position + at, self.position + at + count))

    def noise(self, drop: float, corrupt: float) -> None:
        """Order the loss of a share of the bytes, and one wrong bit in another."""
        self._drop_share, self._corrupt_share = drop, corrupt

    def due(self) -> Mark | None:
        """Return the mark that the bytes have come to, if any; `pass_mark` takes it away."""
        return self._marks[0] if self._marks and self._marks[0].at <= self.position else None

    def pass_mark(self) -> None:
        """Forget the mark that was due."""
        del self._marks[0]

    def room(self) -> int:
        """Return how many bytes may go through before the next mark is due."""
        return min(CHUNK, self._marks[0].at - self.position) if self._marks else CHUNK

    def carry(self, data: bytes) -> bytes:
        """Let `data` go through, and return what becomes of it."""
        here = range(self.position, self.position + len(data))
        self.position = here.stop
        self._dropped = [fault for fault in self._dropped if fault.stop > here.start]
        self._corrupted = [fault for fault in self._corrupted if fault.stop > here.start]
        begun = any(fault.start < here.stop for fault in self._dropped + self._corrupted)
        if not (begun or self._drop_share or self._corrupt_share):
            return data
        return bytes(self._hurt(at, byte) for at, byte in zip(here, data, strict=True) if not self._loses(at))

    def _loses(self, at: int) -> bool:
        by_chance = self._drop_share > 0 and self._chance.random() < self._drop_share
        return by_chance or any(at in fault for fault in self._dropped)

    def _hurt(self, at: int, byte: int) -> int:
        by_chance = self._corrupt_share > 0 and self._chance.random() < self._corrupt_share
        if by_chance or any(at in fault for fault in self._corrupted):
            return byte ^ (1 << self._chance.randrange(8))
        return byte


class Pace:
    """A baud rate: a byte may leave only when its ten bits would have been sent."""

    def __init__(self, baudrate: int | None) -> None:
        self.seconds_per_byte = BITS_PER_BYTE / baudrate if baudrate else 0.0
        self._busy_until = 0.0

    def idle(self, now: float) -> None:
        """Note that nothing was being sent until now: that time isn't made good later."""
        self._busy_until = max(self._busy_until, now)

    def allowance(self, now: float) -> int:
        """Return how many bytes may leave now."""
        return int((now - self._busy_until) / self.seconds_per_byte) if self.seconds_per_byte else CHUNK

    def spend(self, count: int) -> None:
        """Note that `count` bytes leave."""
        self._busy_until += count * self.seconds_per_byte
