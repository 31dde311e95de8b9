"""What the framers are made of: two ways of cutting, at markers and by count; checks of arguments."""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import permutations

_HEAD = 16  # so many bytes of a frame that was given up stand in the log

_logger = logging.getLogger("cnxman.framing")


class Bounded:
    """What the framers share: a buffer, a limit, and the count of what went beyond it."""

    def __init__(self, limit: int) -> None:
        self._limit = checked_count("limit", limit, least=1)
        self._buffer = bytearray()
        self._warned = False
        self._skipped = 0

    @property
    def skipped(self) -> int:
        """How many frames were given up since this framer was made; `reset` does not change it."""
        return self._skipped

    def reset(self) -> None:
        """Begin anew: forget a frame that was begun. For each time the line is opened."""
        self._buffer.clear()
        self._warned = False

    def _give_up(self, reason: str, head: bytes | bytearray) -> None:
        self._skipped += 1
        level = logging.DEBUG if self._warned else logging.WARNING
        self._warned = True
        _logger.log(level, "%s: skipped a frame %s; it begins %r", type(self).__name__, reason, bytes(head[:_HEAD]))

    def _give_up_too_long(self, begin: int) -> None:
        head = self._buffer[begin : begin + self._limit + 1]  # no more: the rest may not have come yet
        self._give_up(f"of more than {self._limit} bytes", head)


class Marked(Bounded):
    """Cuts wherever one of some markers stands; for them that see where a frame ends by what stands there.

    No marker stands in another one but at its end (`check_cuts` sees to it). So the match that begins first
    is also the one that is complete first, and what is found does not depend on how the bytes were cut.
    """

    def __init__(self, pattern: re.Pattern[bytes], longest: int, limit: int) -> None:
        super().__init__(limit)
        self._pattern = pattern
        self._longest = longest  # marker, in bytes
        self._searched = 0  # up to here no marker begins: searching again would make long frames quadratic
        self._skipping = False

    def reset(self) -> None:
        """Begin anew: forget a frame that was begun. For each time the line is opened."""
        super().reset()
        self._searched = 0
        self._skipping = False

    def _pieces(self, data: bytes | bytearray | memoryview) -> Iterator[tuple[bytes | None, bytes]]:
        """Give each marker with what stood before it, or with None if that was skipped.

        Between two pieces the caller may change the pattern, and may set `_skipping`.
        """
        buffer = self._buffer
        buffer += data
        begin, search = 0, self._searched
        while match := self._pattern.search(buffer, search):
            found, end = match.span()
            marker = bytes(buffer[found:end])
            if not self._skipping and found - begin > self._limit:
                self._give_up_too_long(begin)
                self._skipping = True
            content = None if self._skipping else bytes(buffer[begin:found])
            self._skipping = False
            begin = search = end
            yield content, marker
        begun = self._longest - 1  # so many bytes at the end may be the beginning of a marker
        if not self._skipping and len(buffer) - begin > self._limit + begun:
            self._give_up_too_long(begin)
            self._skipping = True
        if self._skipping:
            begin = max(begin, len(buffer) - begun)
        del buffer[:begin]
        self._searched = max(0, len(buffer) - begun)


class Counted(Bounded, ABC):
    """Cuts by count; for them that know from a frame's beginning how long it is."""

    def __init__(self, start: bytes, without: int, limit: int) -> None:
        super().__init__(limit)
        self._start = start
        self._without = without  # so many bytes at the beginning of a frame are not given
        self._to_skip = 0  # bytes of a frame that was given up

    @abstractmethod
    def _size(self, at: int) -> int | None:
        """Say how many bytes the frame beginning at `at` has; None: not known yet; 0: it was given up."""

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Take the bytes that came; give the frames that they complete, oldest first."""
        buffer = self._buffer
        buffer += data
        frames = []
        at = 0
        while True:
            at += self._skip(len(buffer) - at)
            found = buffer.find(self._start, at)
            if found < 0:
                at = max(at, len(buffer) - len(self._start) + 1)  # the last bytes may begin a start
                break
            at = found
            size = self._size(at)
            if size is None or size > len(buffer) - at:
                break
            if size:
                frames.append(bytes(buffer[at + self._without : at + size]))
            at += size
        del buffer[:at]
        return frames

    def reset(self) -> None:
        """Begin anew: forget a frame that was begun. For each time the line is opened."""
        super().reset()
        self._to_skip = 0

    def _skip(self, there: int) -> int:
        skipped = min(self._to_skip, there)
        self._to_skip -= skipped
        return skipped


def checked_bytes(name: str, value: object) -> bytes:
    """Give `value` if it is bytes."""
    if not isinstance(value, bytes):
        raise TypeError(f"{name}: {value!r} is {type(value).__name__}, must be bytes")
    return value


def checked_marker(name: str, value: object) -> bytes:
    """Give what marks a border, if it is such: bytes, at least one."""
    marker = checked_bytes(name, value)
    if not marker:
        raise ValueError(f"{name}: {marker!r} is empty, at least one byte is needed")
    return marker


def checked_count(name: str, value: object, least: int | None = None) -> int:
    """Give `value` if it is a whole number, and not under `least`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: {value!r} is {type(value).__name__}, must be int")
    if least is not None and value < least:
        raise ValueError(f"{name}: {value}, must be at least {least}")
    return value


def check_cuts(name: str, markers: set[bytes]) -> None:
    """Refuse a marker that could never be found, since another one within it is complete first."""
    for first, other in permutations(sorted(markers), 2):
        if first in other[:-1]:
            raise ValueError(f"{name}: {other!r} would never be found, because {first!r} in it comes first")


def any_of(markers: set[bytes]) -> re.Pattern[bytes]:
    """Make a pattern that finds whichever of the markers comes first."""
    return re.compile(b"|".join(map(re.escape, sorted(markers))))
