r"""Bytes in, frames out.

A device sends lines, packets or telegrams; a serial line delivers chunks of bytes: half a line, or two and a half.
A *framer* cuts the bytes into frames. It knows nothing of ports, threads or signals:

>>> framer = Lines()
>>> framer.feed(b"21.5 C\r\n21.")
[b'21.5 C']
>>> framer.feed(b"7 C\r\n")
[b'21.7 C']

A framer has two methods. `feed` takes bytes and returns the frames that they complete, in order. `reset` discards an
unfinished frame. Call `reset` whenever the line was opened again, so that half a frame from before an outage is never
joined to one from after.

`Lines` cuts after separators, `FixedLength` by count, `Markers` between a start and an end, `LengthPrefixed`
by the length that each frame contains. Any object with these two methods is a `Framer`.

**Frames that are too long.** A broken device, or a wrong baud rate, sends bytes without a boundary. So no
frame grows beyond `limit` bytes: a longer one is skipped, up to the next boundary. `feed` raises nothing for it, which
would lose the good frames beside it. The attribute `skipped` counts the frames that were skipped. The logger
``cnxman.framing`` has a line for each, with its first bytes: the first since the last `reset` is a warning, further
ones are at debug.

>>> framer = Lines(limit=8)
>>> framer.feed(b"short\nmuch too long\nshort\n")
[b'short', b'short']
>>> framer.skipped
1

Between two calls a framer holds `limit` bytes and a few more. Its work is in proportion to the number of bytes. Neither
work nor frames depend on how the bytes were cut into chunks. A framer serves one line, and one thread at a time.
"""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Generic, Literal, Protocol, TypeVar, overload, runtime_checkable

__all__ = ["DEFAULT_LIMIT", "FixedLength", "Framer", "LengthPrefixed", "Lines", "Markers"]

DEFAULT_LIMIT = 65536
"""The longest frame, in bytes, unless a framer has another `limit`."""

_CR, _LF = b"\r", b"\n"
_HEAD = 16  # so many bytes of a frame that was given up are in the log

_logger = logging.getLogger("cnxman.framing")


FrameT_co = TypeVar("FrameT_co", covariant=True)
"""What a framer gives: bytes mostly, str for `Lines` with an encoding."""


@runtime_checkable
class Framer(Protocol[FrameT_co]):
    """What cuts bytes into frames: anything with these two methods will do.

    >>> class Dots:
    ...     def __init__(self) -> None:
    ...         self.rest = b""
    ...
    ...     def feed(self, data: bytes) -> list[bytes]:
    ...         *frames, self.rest = (self.rest + data).split(b".")
    ...         return frames
    ...
    ...     def reset(self) -> None:
    ...         self.rest = b""
    >>> isinstance(Dots(), Framer)
    True
    """

    def feed(self, data: bytes, /) -> Sequence[FrameT_co]:
        """Take bytes; return the frames that they complete, oldest first."""
        ...

    def reset(self) -> None:
        """Discard an unfinished frame."""
        ...


def check_framer(framer: object) -> None:
    """Refuse what is no framer; a class of framers is none either."""
    if isinstance(framer, type) or not isinstance(framer, Framer):
        raise TypeError(f"a framer has the methods feed and reset, as those of cnxman.framing, unlike {framer!r}")


# -- two ways of cutting: at markers, and by count ---------------------------------------------------------


class _Bounded:
    """What the framers share: a buffer, a limit, and the count of what went beyond it."""

    def __init__(self, limit: int) -> None:
        self._limit = _checked_count("limit", limit, least=1)
        self._buffer = bytearray()
        self._warned = False
        self._skipped = 0

    @property
    def skipped(self) -> int:
        """How many frames were skipped since this framer was made; `reset` does not change it."""
        return self._skipped

    def reset(self) -> None:
        """Discard an unfinished frame. Called each time the port is opened."""
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


class _Marked(_Bounded):
    """Cuts wherever one of some markers stands; for framers that find the end of a frame by the bytes there.

    No marker stands in another one but at its end (`_check_cuts` sees to it). So the match that begins first
    is also the one that is complete first, and what is found does not depend on how the bytes were cut.
    """

    def __init__(self, pattern: re.Pattern[bytes], longest: int, limit: int) -> None:
        super().__init__(limit)
        self._pattern = pattern
        self._longest = longest  # marker, in bytes
        self._searched = 0  # up to here no marker begins: searching again would make long frames quadratic
        self._skipping = False

    def reset(self) -> None:
        """Discard an unfinished frame. Called each time the port is opened."""
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


class _Counted(_Bounded, ABC):
    """Cuts by count; for framers that know from a frame's beginning how long it is."""

    def __init__(self, start: bytes, without: int, limit: int) -> None:
        super().__init__(limit)
        self._start = start
        self._without = without  # so many bytes at the beginning of a frame are not given
        self._to_skip = 0  # bytes of a frame that was given up

    @abstractmethod
    def _size(self, at: int) -> int | None:
        """Say how many bytes the frame beginning at `at` has; None: not known yet; 0: it was given up."""

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Take bytes; return the frames that they complete, oldest first."""
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
        """Discard an unfinished frame. Called each time the port is opened."""
        super().reset()
        self._to_skip = 0

    def _skip(self, there: int) -> int:
        skipped = min(self._to_skip, there)
        self._to_skip -= skipped
        return skipped


# -- the framers ------------------------------------------------------------------------------------------


LineT = TypeVar("LineT", bytes, str)


class Lines(_Marked, Generic[LineT]):
    r"""Lines: frames that end with a separator.

    An empty line is a frame, b"". A line is given as soon as the last byte of its separator has come.

    >>> Lines().feed(b"one\ntwo\r\n\nthree")
    [b'one', b'two', b'']
    >>> Lines(b"\r").feed(b"one\rtwo\r")
    [b'one', b'two']
    >>> Lines((b"OK\r\n", b"ERROR\r\n"), keep=True).feed(b"+CSQ: 17,0\r\nOK\r\nERROR\r\n")
    [b'+CSQ: 17,0\r\nOK\r\n', b'ERROR\r\n']
    >>> Lines(encoding="ascii").feed(b"one\n\xff\n")
    ['one', '\ufffd']

    Args:
        separator: what ends a line, or a tuple of all that may. With b"\n", a b"\r" just before it belongs to
            it. With both b"\r" and b"\n", each ends a line, and b"\r\n" counts as one end.
        keep: whether lines come with their separators. (With both b"\r" and b"\n", a line that ends with
            b"\r\n" comes with the b"\r" only: it is given before the b"\n" is there.)
        limit: the longest line, in bytes, its separator not counted.
        encoding: lines are given as str, decoded so, such as "utf-8" or "ascii"; what cannot be decoded, as U+FFFD.
            None gives bytes.

    Raises:
        TypeError: for a separator that isn't bytes, or a limit that isn't an int.
        ValueError: for an empty separator, one that could never be found because another one in it comes
            first, a limit under 1, or an encoding that Python doesn't know.
    """

    @overload
    def __init__(
        self: "Lines[bytes]",
        separator: bytes | tuple[bytes, ...] = ...,
        *,
        keep: bool = ...,
        limit: int = ...,
        encoding: None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: "Lines[str]",
        separator: bytes | tuple[bytes, ...] = ...,
        *,
        keep: bool = ...,
        limit: int = ...,
        encoding: str,
    ) -> None: ...
    def __init__(
        self,
        separator: bytes | tuple[bytes, ...] = b"\n",
        *,
        keep: bool = False,
        limit: int = DEFAULT_LIMIT,
        encoding: str | None = None,
    ) -> None:
        separators = separator if isinstance(separator, tuple) else (separator,)
        if not separators:
            raise ValueError("separator: () is empty, at least one is needed")
        ends = {_checked_marker("separator", each) for each in separators}
        if _LF in ends and _CR not in ends:
            ends.add(_CR + _LF)
        _check_cuts("separator", ends)
        super().__init__(_any_of(ends), max(map(len, ends)), limit)
        self._keep = keep
        self._encoding = _checked_encoding(encoding)
        self._after_cr = False

    def feed(self, data: bytes | bytearray | memoryview) -> list[LineT]:
        """Take bytes; return the lines that they complete, oldest first."""
        lines: list[LineT] = []
        for content, end in self._pieces(data):
            belongs = self._after_cr and content == b"" and end == _LF
            self._after_cr = end == _CR
            if content is not None and not belongs:
                line = content + end if self._keep else content
                lines.append(line if self._encoding is None else line.decode(self._encoding, "replace"))  # type: ignore[arg-type]  # as the overloads say
        return lines

    def reset(self) -> None:
        """Discard an unfinished line. Called each time the port is opened."""
        super().reset()
        self._after_cr = False


class Markers(_Marked):
    r"""Frames between a start and an end marker. Noise between an end and the next start is skipped, and not counted.

    >>> Markers(b"\x02", b"\x03").feed(b"noise\x02one\x03noise\x02\x03")
    [b'one', b'']

    A start within a frame begins a new frame, because the end of the one before must have been lost. The unfinished
    frame is skipped, counted and logged:

    >>> framer = Markers(b"$", b"\r\n")
    >>> framer.feed(b"$GPGGA,1$GPRMC,2\r\n")
    [b'GPRMC,2']
    >>> framer.skipped
    1

    Start and end may be the same, as in SLIP and HDLC: then each marker ends a frame and begins the next, and
    two with nothing between them hold no frame. Escapes within a frame are left as they are.

    >>> Markers(b"~", b"~").feed(b"noise~one~two~~three~")
    [b'one', b'two', b'three']

    Args:
        start: what begins a frame.
        end: what ends it.
        keep: whether frames come with their markers.
        restart: whether a start within a frame begins a new frame; False where a frame's content may contain the
            start.
        limit: the longest frame, in bytes, its markers not counted.

    Raises:
        TypeError: for a marker that isn't bytes, or a limit that isn't an int.
        ValueError: for an empty marker, one that (with `restart`) could never be found because the other one
            in it comes first, or a limit under 1.
    """

    def __init__(
        self,
        start: bytes,
        end: bytes,
        *,
        keep: bool = False,
        restart: bool = True,
        limit: int = DEFAULT_LIMIT,
    ) -> None:
        self._start, self._end = _checked_marker("start", start), _checked_marker("end", end)
        inside = {start, end} if restart else {end}
        _check_cuts("start and end", inside)
        self._outside, self._inside = _any_of({start}), _any_of(inside)
        super().__init__(self._outside, max(len(start), len(end)), limit)
        self._keep = keep
        self._skipping = True

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Take bytes; return the frames that they complete, oldest first."""
        frames = []
        for content, marker in self._pieces(data):
            if content is None or (not content and marker == self._start):
                pass  # noise, given up already, or nothing between two starts
            elif marker == self._end:
                frames.append(self._start + content + self._end if self._keep else content)
            else:
                self._give_up("whose end never came", content)
            self._expect(inside=marker == self._start)
        return frames

    def reset(self) -> None:
        """Discard an unfinished frame, and wait for a start. Called each time the port is opened."""
        super().reset()
        self._expect(inside=False)

    def _expect(self, *, inside: bool) -> None:
        self._pattern = self._inside if inside else self._outside
        self._skipping = not inside


class FixedLength(_Counted):
    r"""Frames that all have the same length.

    >>> FixedLength(3).feed(b"onetwoth")
    [b'one', b'two']

    With `start`, the bytes that every frame begins with, it finds the next frame after noise, or when it
    started in the middle of a frame. Without `start`, one byte too many shifts all frames that follow, until `reset`.

    >>> FixedLength(4, start=b"YY").feed(b"\x17\x2aYY\x01\x02YY\x03\x04")
    [b'YY\x01\x02', b'YY\x03\x04']

    No frame is ever too long, so `skipped` stays 0.

    Args:
        length: the length of a frame, in bytes, its start counted.
        start: what each frame begins with; b"" for nothing. Other bytes before it are skipped, and
            not counted.

    Raises:
        TypeError: for a length that isn't an int, or a start that isn't bytes.
        ValueError: for a length under 1, or under that of the start.
    """

    def __init__(self, length: int, *, start: bytes = b"") -> None:
        self._length = _checked_count("length", length, least=max(1, len(_checked_bytes("start", start))))
        super().__init__(start, without=0, limit=length)

    def _size(self, at: int) -> int:  # noqa: ARG002 - the same everywhere
        return self._length


class LengthPrefixed(_Counted):
    r"""Frames that contain their length, before their content.

    >>> LengthPrefixed(1).feed(b"\x03one\x05three\x02t")
    [b'one', b'three']
    >>> LengthPrefixed(2, byteorder="little", counts_itself=True).feed(b"\x05\x00one")
    [b'one']

    With `start`, the bytes that every frame begins with, it finds the next frame after noise. This is a packet
    as u-blox receivers send it: two bytes of start, class and number, the length, the content, a checksum of
    two bytes:

    >>> ubx = LengthPrefixed(2, byteorder="little", start=b"\xb5\x62", offset=4, extra=2, keep=True)
    >>> ubx.feed(b"noise\xb5\x62\x05\x01\x02\x00\x06\x01\x0f\x38")
    [b'\xb5b\x05\x01\x02\x00\x06\x01\x0f8']

    A frame is skipped if it is too long, or if its length is shorter than what it counts. Without `start`, as many
    bytes are skipped as the length says; a wrong length shifts all frames that follow, until `reset`. With `start`, the
    length may be noise, so the next start is searched for.

    Args:
        size: the size of the length, in bytes: 1, 2 or 4. It is unsigned.
        byteorder: "big" (the network's) or "little".
        counts_itself: whether the length counts its own bytes too.
        start: what each frame begins with; b"" for nothing. Other bytes before it are skipped, and
            not counted.
        offset: where the length stands, in bytes from the beginning of the frame, its start counted.
        extra: how many bytes follow besides those that the length counts: 2 for a checksum of two bytes that is
            not counted. Negative where it counts more: ``-offset`` if it counts what stands before it.
        keep: whether frames come whole; else with that which follows the length only.
        limit: the longest frame, in bytes, counted from after the length.

    Raises:
        TypeError: for a number that isn't an int, or a start that isn't bytes.
        ValueError: for another size or byteorder, an offset within the start or under 0, an extra with which
            no frame could ever pass, or a limit under 1.
    """

    def __init__(
        self,
        size: int,
        *,
        byteorder: Literal["big", "little"] = "big",
        counts_itself: bool = False,
        start: bytes = b"",
        offset: int = 0,
        extra: int = 0,
        keep: bool = False,
        limit: int = DEFAULT_LIMIT,
    ) -> None:
        if _checked_count("size", size) not in (1, 2, 4):
            raise ValueError(f"size: {size} bytes, allowed are 1, 2 and 4")
        if byteorder not in ("big", "little"):
            raise ValueError(f"byteorder: {byteorder!r}, allowed are 'big' and 'little'")
        self._offset = _checked_count("offset", offset, least=len(_checked_bytes("start", start)))
        self._extra = _checked_count("extra", extra) - (size if counts_itself else 0)
        self._header = offset + size
        self._byteorder = byteorder
        super().__init__(start, 0 if keep else self._header, limit)
        if not 1 - 256**size <= self._extra <= limit:
            raise ValueError(f"extra: {extra}, whatever the length, no frame would be one")

    def _size(self, at: int) -> int | None:
        end = at + self._header
        if end > len(self._buffer):
            return None
        length = int.from_bytes(self._buffer[at + self._offset : end], self._byteorder) + self._extra
        if 0 <= length <= self._limit:
            return self._header + length
        reason = f"of more than {self._limit} bytes" if length > 0 else "shorter than what its length counts"
        self._give_up(reason, self._buffer[at:end])
        self._to_skip = 1 if self._start else self._header + max(0, length)
        return 0


# -- checks of arguments -------------------------------------------------------------------------------


def _checked_bytes(name: str, value: object) -> bytes:
    """Give `value` if it is bytes."""
    if not isinstance(value, bytes):
        raise TypeError(f"{name}: {value!r} is {type(value).__name__}, must be bytes")
    return value


def _checked_marker(name: str, value: object) -> bytes:
    """Give what marks a border, if it is such: bytes, at least one."""
    marker = _checked_bytes(name, value)
    if not marker:
        raise ValueError(f"{name}: {marker!r} is empty, at least one byte is needed")
    return marker


def _checked_count(name: str, value: object, least: int | None = None) -> int:
    """Give `value` if it is a whole number, and not under `least`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: {value!r} is {type(value).__name__}, must be int")
    if least is not None and value < least:
        raise ValueError(f"{name}: {value}, must be at least {least}")
    return value


def _checked_encoding(encoding: object) -> str | None:
    """Give the name of an encoding of text, if it is one, or None."""
    if encoding is None:
        return None
    if not isinstance(encoding, str):
        raise TypeError(f"encoding: {encoding!r} is {type(encoding).__name__}, must be str or None")
    try:
        b" ".decode(encoding, "replace")
    except LookupError as unknown:
        raise ValueError(f"encoding: Python knows no encoding of text {encoding!r}, but such as 'utf-8'") from unknown
    return encoding


def _check_cuts(name: str, markers: set[bytes]) -> None:
    """Refuse a marker that could never be found, since another one within it is complete first."""
    for first, other in permutations(sorted(markers), 2):
        if first in other[:-1]:
            raise ValueError(f"{name}: {other!r} would never be found, because {first!r} in it comes first")


def _any_of(markers: set[bytes]) -> re.Pattern[bytes]:
    """Make a pattern that finds whichever of the markers comes first."""
    return re.compile(b"|".join(map(re.escape, sorted(markers))))
