"""The framers: what they cut, that it doesn't matter how the bytes came, and what hostile bytes can't do."""

import doctest
import logging
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from time import process_time
from typing import Literal, Protocol

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cnxman import framing
from cnxman.framing import DEFAULT_LIMIT, FixedLength, Framer, LengthPrefixed, Lines, Markers

Telling = tuple[int, str]


class Ours(Framer, Protocol):
    """What the framers of the library have besides."""

    def feed(self, data: bytes | bytearray | memoryview, /) -> list[bytes]: ...

    @property
    def skipped(self) -> int: ...


class Tellings(logging.Handler):
    """Collects what the framers log, as (level, message)."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.heard: list[Telling] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append((record.levelno, record.getMessage()))


@pytest.fixture(autouse=True)
def tellings() -> Iterator[Tellings]:
    logger = logging.getLogger("cnxman.framing")
    handler, level = Tellings(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)


def fed(framer: Framer, *chunks: bytes) -> list[bytes]:
    return [frame for chunk in chunks for frame in framer.feed(chunk)]


def one_by_one(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def test_the_examples_in_the_docstrings_run() -> None:
    results = doctest.testmod(framing)
    assert results.attempted > 15
    assert results.failed == 0


# --- any cutting gives the same ---


def separators() -> st.SearchStrategy[bytes | tuple[bytes, ...]]:
    marker = st.text("ab\r\n", min_size=1, max_size=3).map(str.encode)
    return marker | st.lists(marker, min_size=1, max_size=3).map(tuple)


@st.composite
def makers(draw: st.DrawFn) -> Callable[[], Ours]:
    """Give what makes a framer, with any arguments that are allowed."""
    limit, keep = draw(st.integers(1, 6)), draw(st.booleans())
    marker = st.text("ab\r\n", min_size=1, max_size=3).map(str.encode)
    start = draw(st.just(b"") | marker)
    offset = len(start) + draw(st.integers(0, 2))
    size, itself = draw(st.sampled_from([1, 2, 4])), draw(st.booleans())
    byteorder: Literal["big", "little"] = draw(st.sampled_from(["big", "little"]))
    extra, restart = draw(st.integers(-4, 4)), draw(st.booleans())
    separator, first, second = draw(separators()), draw(marker), draw(marker)

    def counted() -> LengthPrefixed:
        return LengthPrefixed(
            size,
            byteorder=byteorder,
            counts_itself=itself,
            start=start,
            offset=offset,
            extra=extra,
            keep=keep,
            limit=limit,
        )

    kinds: list[Callable[[], Ours]] = [
        lambda: Lines(separator, keep=keep, limit=limit),
        lambda: Markers(first, second, keep=keep, restart=restart, limit=limit),
        lambda: FixedLength(max(1, len(start)) + limit, start=start),
        counted,
    ]
    make = draw(st.sampled_from(kinds))
    try:
        make()
    except ValueError:
        assume(False)
    return make


streams = st.lists(
    st.sampled_from([b"a", b"b", b"\r", b"\n", b"\r\n", b"ab", b"\0", b"\1", b"\3", b"\0\4", b"\5\0", b"\xff"])
    | st.binary(max_size=3),
    max_size=40,
).map(b"".join)


@st.composite
def cut_streams(draw: st.DrawFn) -> list[bytes]:
    data = draw(streams)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[begin:end] for begin, end in pairwise([0, *cuts, len(data)])]


@settings(max_examples=300)
@given(make=makers(), chunks=cut_streams())
def test_any_cutting_gives_the_same_frames_and_errors(make: Callable[[], Ours], chunks: list[bytes]) -> None:
    cut, bytewise = make(), make()
    for chunk in chunks:  # after each of them, not only in the end: nothing comes later than it could
        assert cut.feed(chunk) == fed(bytewise, *one_by_one(chunk))
        assert cut.skipped == bytewise.skipped


@given(make=makers(), chunks=cut_streams())
def test_any_cutting_logs_the_same(make: Callable[[], Ours], chunks: list[bytes]) -> None:
    logger = logging.getLogger("cnxman.framing")
    heard = []
    for each in (chunks, one_by_one(b"".join(chunks)), [b"".join(chunks)]):
        handler = Tellings()
        logger.addHandler(handler)
        try:
            framer = make()
            fed(framer, *each)
        finally:
            logger.removeHandler(handler)
        heard.append(handler.heard)
        assert len(handler.heard) == framer.skipped
        assert [level for level, _ in handler.heard] == [logging.WARNING, *[logging.DEBUG] * framer.skipped][
            : framer.skipped
        ]
    assert heard[0] == heard[1] == heard[2]


@settings(max_examples=150)
@given(make=makers(), before=cut_streams(), after=cut_streams())
def test_after_a_reset_nothing_of_before_is_left(
    make: Callable[[], Ours], before: list[bytes], after: list[bytes]
) -> None:
    used, new = make(), make()
    fed(used, *before)
    used.reset()
    skipped = used.skipped
    for chunk in after:
        assert used.feed(chunk) == new.feed(chunk)
        assert used.skipped - skipped == new.skipped


# --- the same as a plain model says, one byte after the other ---


def lines_of(data: bytes, ends: tuple[bytes, ...], limit: int) -> tuple[list[bytes], int]:
    lines, skipped, line, after_cr = [], 0, b"", False
    pair = b"\r" in ends and b"\n" in ends
    if b"\n" in ends and not pair:
        ends += (b"\r\n",)
    for byte in one_by_one(data):
        line += byte
        found = max((end for end in ends if line.endswith(end)), key=len, default=None)
        if found is None:
            continue
        content = line.removesuffix(found)
        if len(content) > limit:
            skipped += 1
        elif not (after_cr and line == b"\n"):
            lines.append(content)
        after_cr, line = pair and found == b"\r", b""
    return lines, skipped + (len(line) >= limit + max(map(len, ends)))


@given(data=streams, separator=separators(), limit=st.integers(1, 6))
def test_lines_are_as_the_model_says(data: bytes, separator: bytes | tuple[bytes, ...], limit: int) -> None:
    try:
        framer = Lines(separator, limit=limit)
    except ValueError:
        assume(False)
    ends = separator if isinstance(separator, tuple) else (separator,)
    assert (framer.feed(data), framer.skipped) == lines_of(data, ends, limit)


def between(data: bytes, start: bytes, end: bytes, restart: bool, limit: int) -> tuple[list[bytes], int]:
    frames, skipped, seen, inside = [], 0, b"", False
    for byte in one_by_one(data):
        seen += byte
        if not inside:
            inside = seen.endswith(start)
            seen = b"" if inside else seen
            continue
        ends, starts = seen.endswith(end), restart and seen.endswith(start)
        if ends and starts and start != end:  # the longer one began first
            ends, starts = len(end) > len(start), len(start) > len(end)
        content = seen.removesuffix(end if ends else start)
        if ends or starts:
            seen, inside = b"", starts or start == end
            if not content and inside:
                continue
            if len(content) > limit or not ends:
                skipped += 1
            else:
                frames.append(content)
    return frames, skipped + (inside and len(seen) >= limit + max(len(start), len(end)))


@given(
    data=streams,
    start=st.sampled_from([b"a", b"ab", b"\r", b"\n", b"a\r\n"]),
    end=st.sampled_from([b"b", b"ba", b"\r", b"\n", b"\r\n"]),
    restart=st.booleans(),
    limit=st.integers(1, 6),
)
def test_frames_between_markers_are_as_the_model_says(
    data: bytes, start: bytes, end: bytes, restart: bool, limit: int
) -> None:
    try:
        framer = Markers(start, end, restart=restart, limit=limit)
    except ValueError:
        assume(False)
    assert (framer.feed(data), framer.skipped) == between(data, start, end, restart, limit)


@given(
    contents=st.lists(st.binary(max_size=20), max_size=10),
    size=st.sampled_from([1, 2, 4]),
    byteorder=st.sampled_from(["big", "little"]),
    itself=st.booleans(),
    header=st.binary(max_size=3),
    trailer=st.integers(0, 2),
    limit=st.integers(2, 20),
    anchored=st.booleans(),
)
def test_what_was_packed_with_its_length_comes_out_again(
    contents: list[bytes],
    size: int,
    byteorder: Literal["big", "little"],
    itself: bool,
    header: bytes,
    trailer: int,
    limit: int,
    anchored: bool,
) -> None:
    def packed(content: bytes) -> bytes:
        length = len(content) + (size if itself else 0)
        return header + length.to_bytes(size, byteorder) + content + b"#" * trailer

    def framer(keep: bool) -> LengthPrefixed:
        return LengthPrefixed(
            size,
            byteorder=byteorder,
            counts_itself=itself,
            offset=len(header),
            extra=trailer,
            keep=keep,
            limit=limit,
        )

    stream = b"".join(map(packed, contents))
    short = [content for content in contents if len(content) + trailer <= limit]
    bare, whole = framer(keep=False), framer(keep=True)
    assert bare.feed(stream) == [content + b"#" * trailer for content in short]
    assert whole.feed(stream) == list(map(packed, short))
    assert bare.skipped == whole.skipped == len(contents) - len(short)


@given(
    contents=st.lists(st.binary(max_size=9).map(lambda data: data.replace(b"$", b"")), max_size=10),
    noise=st.binary(),
)
def test_with_a_start_no_noise_between_frames_is_taken_for_one(contents: list[bytes], noise: bytes) -> None:
    noise = noise.replace(b"$", b"")
    fixed, prefixed = FixedLength(10, start=b"$"), LengthPrefixed(1, start=b"$", offset=1)
    padded = [b"$" + content.ljust(9) for content in contents]
    assert fixed.feed(noise + noise.join(padded)) == padded
    packed = [b"$%c%b" % (len(content), content) for content in contents]
    assert prefixed.feed(noise + noise.join(packed)) == contents


# --- each of them, plainly ---


@pytest.mark.parametrize(
    ("framer", "data", "frames"),
    [
        (Lines(), b"a\nb\r\n\n\r\nc\rd\n\r", [b"a", b"b", b"", b"", b"c\rd"]),
        (Lines(keep=True), b"a\nb\r\n\nc", [b"a\n", b"b\r\n", b"\n"]),
        (Lines(b"\r\n"), b"a\nb\r\nc\r", [b"a\nb"]),
        (Lines((b"\n", b";")), b"a\r\nb;c\r;", [b"a", b"b", b"c\r"]),
        (Lines((b"\r", b"\n")), b"a\rb\nc\r\nd\r\r\n\ne\n\r", [b"a", b"b", b"c", b"d", b"", b"", b"e", b""]),
        (Lines((b"\r", b"\n"), keep=True), b"a\r\nb\n", [b"a\r", b"b\n"]),
        (Lines(b"> "), b"help\r\n> > >>", [b"help\r\n", b""]),
        (Lines(b"."), b"a.*b|c.", [b"a", b"*b|c"]),
        (Markers(b"<", b">"), b"a>b<c>d<>e<f", [b"c", b""]),
        (Markers(b"<", b">", keep=True), b"a>b<c>d<>e<f", [b"<c>", b"<>"]),
        (Markers(b"<", b">"), b"<a<b><<c>", [b"b", b"c"]),
        (Markers(b"{", b"}\n", restart=False), b'{"a": {"b": 1}}\n{}\n', [b'"a": {"b": 1}', b""]),
        (Markers(b"--b--", b"--", restart=False), b"--b--a--b--b--b--c--", [b"a", b"b"]),
        (Markers(b"~", b"~", keep=True), b"a~b~~~c~d", [b"~b~", b"~c~"]),
        (FixedLength(2), b"aabbc", [b"aa", b"bb"]),
        (FixedLength(3, start=b"YY"), b"YYYYaYYbYY", [b"YYY", b"YYb"]),
        (FixedLength(1, start=b"Y"), b"aYY", [b"Y", b"Y"]),
        (LengthPrefixed(1), b"\0\1a\2b", [b"", b"a"]),
        (LengthPrefixed(2, offset=1, extra=-1), b"T\0\3abT\0\1", [b"ab", b""]),
        (LengthPrefixed(4, byteorder="little", counts_itself=True, keep=True), b"\5\0\0\0a", [b"\5\0\0\0a"]),
    ],
)
def test_frames(framer: Ours, data: bytes, frames: list[bytes]) -> None:
    assert fed(framer, *one_by_one(data)) == frames
    framer.reset()
    assert framer.feed(bytearray(data)) == frames
    framer.reset()
    assert framer.feed(memoryview(data)) == frames
    assert all(type(frame) is bytes for frame in framer.feed(data))


def test_frames_are_the_users_to_keep() -> None:
    framer, chunk = Lines(), bytearray(b"one\ntw")
    (frame,) = framer.feed(chunk)
    chunk[:] = b"!" * len(chunk)
    assert framer.feed(b"o\n") == [b"two"]
    assert frame == b"one"


def test_feeding_nothing_gives_nothing() -> None:
    for framer in (
        Lines(),
        Markers(b"a", b"b"),
        FixedLength(1),
        LengthPrefixed(1),
        LengthPrefixed(1, start=b"a", offset=1),
    ):
        assert framer.feed(b"") == []
        assert isinstance(framer, Framer)
    with pytest.raises(TypeError):
        Lines().feed("text")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("framer", "half", "rest", "frames"),
    [
        (Lines(), b"ha", b"lf\n", [b"lf"]),
        (Lines(), b"half", b"\n", [b""]),
        (Lines((b"\r", b"\n")), b"a\r", b"\n", [b""]),
        (Lines(limit=2), b"much too long", b"a\n", [b"a"]),
        (Markers(b"<", b">"), b"<ha", b"lf><a>", [b"a"]),
        (Markers(b"<", b">", limit=2), b"<much too long", b"<a>", [b"a"]),
        (FixedLength(4), b"ha", b"lfha", [b"lfha"]),
        (LengthPrefixed(1), b"\4ha", b"\2lf", [b"lf"]),
        (LengthPrefixed(1, limit=2), b"\x80", b"\2lf", [b"lf"]),
    ],
)
def test_a_half_from_before_is_not_glued_to_one_from_after(
    framer: Ours, half: bytes, rest: bytes, frames: list[bytes]
) -> None:
    framer.feed(half)
    framer.reset()
    assert framer.feed(rest) == frames


# --- too long ---


@pytest.mark.parametrize(
    ("framer", "data", "frames", "skipped"),
    [
        (Lines(limit=3), b"abc\nabcd\nabc\r\nabcd\r\nx\n", [b"abc", b"abc", b"x"], 2),
        (Lines(limit=3), b"abc\r", [], 0),
        (Lines(limit=3), b"abcd", [], 0),  # could be b"abc", had the last one been b"\r"
        (Lines(limit=3), b"abcde", [], 1),
        (Lines((b"\r", b"\n"), limit=1), b"abcd\r\nx\r\n", [b"x"], 1),
        (Lines((b"\r", b"\n"), limit=1), b"a\rbcd\n\nx\n", [b"a", b"", b"x"], 1),
        (Markers(b"<", b">", limit=2), b"<ab><abc><abcdef<a>", [b"ab", b"a"], 2),
        (Markers(b"<", b">", limit=2, restart=False), b"<abc<d><a>", [b"a"], 1),
        (Markers(b"~", b"~", limit=2), b"~ab~abc~abcdef~a~", [b"ab", b"a"], 2),
        (Markers(b"<", b">", limit=2), b"noise longer than that", [], 0),
        (LengthPrefixed(1, limit=2), b"\2ab\3abc\1a\xff" + bytes(255) + b"\1b", [b"ab", b"a", b"b"], 2),
        (LengthPrefixed(1, counts_itself=True), b"\0\2a\0\1", [b"a", b""], 2),
        (LengthPrefixed(1, limit=2, start=b"$$", offset=2), b"$$\x09$$$\1a$$\2ab", [b"a", b"ab"], 2),
        (LengthPrefixed(1, limit=9, start=b"$", offset=1), b"$\xff$\1a", [b"a"], 1),
    ],
)
def test_what_is_too_long_is_counted_and_skipped_to_the_next_boundary(
    framer: Ours, data: bytes, frames: list[bytes], skipped: int
) -> None:
    assert fed(framer, *one_by_one(data)) == frames
    assert framer.skipped == skipped
    framer.reset()
    assert framer.skipped == skipped


def test_the_default_limit() -> None:
    longest = b"x" * DEFAULT_LIMIT
    for framer, frame in (
        (Lines(), b"%b\n"),
        (Markers(b"<", b">"), b"<%b>"),
        (LengthPrefixed(4), DEFAULT_LIMIT.to_bytes(4) + b"%b"),
    ):
        assert framer.feed(frame % longest) == [longest]
        assert framer.skipped == 0
    assert Lines().feed(b"%bx\n" % longest) == []
    assert Markers(b"<", b">").feed(b"<%bx>" % longest) == []
    assert LengthPrefixed(4).feed((DEFAULT_LIMIT + 1).to_bytes(4) + longest + b"x") == []


def test_it_is_logged_once_as_a_warning_until_the_line_is_opened_anew(tellings: Tellings) -> None:
    framer = Lines(limit=20)
    framer.feed(b"0123456789abcdefghijklmnopq")
    framer.feed(b"rstuvwxyz\n" + b"x" * 50)
    assert tellings.heard == [
        (logging.WARNING, "Lines: skipped a frame of more than 20 bytes; it begins b'0123456789abcdef'"),
        (logging.DEBUG, "Lines: skipped a frame of more than 20 bytes; it begins b'xxxxxxxxxxxxxxxx'"),
    ]
    framer.reset()
    framer.feed(b"y" * 50)
    assert [level for level, _ in tellings.heard] == [logging.WARNING, logging.DEBUG, logging.WARNING]


def test_the_log_says_what_was_wrong(tellings: Tellings) -> None:
    Markers(b"<", b">").feed(b"<abc<")
    LengthPrefixed(2, limit=2).feed(b"\0\3")
    LengthPrefixed(2, counts_itself=True).feed(b"\0\1")
    assert [message for _, message in tellings.heard] == [
        "Markers: skipped a frame whose end never came; it begins b'abc'",
        "LengthPrefixed: skipped a frame of more than 2 bytes; it begins b'\\x00\\x03'",
        "LengthPrefixed: skipped a frame shorter than what its length counts; it begins b'\\x00\\x01'",
    ]


# --- hostile bytes ---


@given(make=makers(), chunks=st.lists(st.binary(max_size=200), max_size=10))
def test_hostile_bytes_raise_nothing_and_no_frame_is_longer_than_the_limit(
    make: Callable[[], Ours], chunks: list[bytes]
) -> None:
    framer = make()
    most = 6 + 3 + 3 + 4 + 3  # the limit and what may stand around it: markers, or start, offset and size
    assert all(len(frame) <= most for frame in fed(framer, *chunks))


HUGE = 8 * 1024 * 1024
HOSTILE = [
    pytest.param(lambda: Lines(limit=1000), b"x", id="a line without end"),
    pytest.param(lambda: Lines(limit=1000), b"\r", id="a line of half separators"),
    pytest.param(lambda: Lines(b"abcd", limit=1000), b"abc", id="a line of longer half separators"),
    pytest.param(lambda: Markers(b"<", b">", limit=1000), b"x", id="noise without end"),
    pytest.param(lambda: Markers(b"<", b">", limit=1000), b"<x", id="starts without end"),
    pytest.param(lambda: Markers(b"<", b">", limit=1000, restart=False), b"<", id="a frame without end"),
    pytest.param(lambda: FixedLength(1000), b"x", id="fixed length"),
    pytest.param(lambda: FixedLength(1000, start=b"$$"), b"$x", id="half starts"),
    pytest.param(lambda: LengthPrefixed(4, limit=1000), b"\xff", id="a length of 4 GB"),
    pytest.param(lambda: LengthPrefixed(4, limit=1000, start=b"$", offset=1), b"$", id="false starts"),
    pytest.param(lambda: LengthPrefixed(1, counts_itself=True), b"\0", id="lengths too short"),
]


@pytest.mark.parametrize(("make", "junk"), HOSTILE)
def test_memory_is_bounded(make: Callable[[], Ours], junk: bytes) -> None:
    logging.getLogger("cnxman.framing").setLevel(logging.ERROR)  # what a handler keeps is none of the framer's
    framer, chunk = make(), junk * (1024 // len(junk))
    framer.feed(chunk)
    tracemalloc.start()
    try:
        for _ in range(60):
            framer.feed(chunk)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 4 * 1024
    assert peak < 48 * 1024  # other threads' objects count, too


def seconds(work: Callable[[], object]) -> float:
    """Give the processor time that it took, in seconds; the better of two."""
    times = []
    for _ in range(2):
        begin = process_time()
        work()
        times.append(process_time() - begin)
    return min(times)


@pytest.mark.parametrize(
    ("make", "data", "size"),
    [
        pytest.param(lambda: Lines(limit=HUGE), b"x", 1, id="a long line, byte by byte"),
        pytest.param(lambda: Lines(limit=HUGE), b"x", HUGE, id="a long line"),
        pytest.param(lambda: Lines(limit=HUGE), b"\r", 1, id="half separators, byte by byte"),
        pytest.param(lambda: Lines(limit=1), b"x", HUGE, id="a line too long"),
        pytest.param(Lines, b"x\n", HUGE, id="short lines"),
        pytest.param(lambda: Markers(b"<", b">", limit=HUGE), b"<", 1, id="starts, byte by byte"),
        pytest.param(lambda: Markers(b"<", b">", restart=False, limit=HUGE), b"<", 1, id="a long frame, byte by byte"),
        pytest.param(lambda: Markers(b"x<", b">"), b"x", HUGE, id="half starts"),
        pytest.param(lambda: Markers(b"<", b">"), b"<x>", HUGE, id="short frames"),
        pytest.param(lambda: FixedLength(HUGE, start=b"x"), b"x", 1, id="a long fixed length, byte by byte"),
        pytest.param(lambda: FixedLength(3), b"xyz", HUGE, id="short fixed lengths"),
        pytest.param(lambda: FixedLength(3, start=b"x"), b"y", HUGE, id="noise before a start"),
        pytest.param(lambda: LengthPrefixed(4, limit=HUGE), b"\0\x7f\0\0", 1, id="a long content, byte by byte"),
        pytest.param(lambda: LengthPrefixed(1), b"\1x", HUGE, id="short contents"),
        pytest.param(lambda: LengthPrefixed(1, start=b"x", offset=1, limit=1), b"x", HUGE, id="false starts"),
    ],
)
def test_the_time_it_takes_grows_with_the_bytes_not_with_their_square(
    make: Callable[[], Ours], data: bytes, size: int
) -> None:
    logging.getLogger("cnxman.framing").setLevel(logging.ERROR)

    def work(length: int) -> Callable[[], object]:
        stream = data * (length // len(data))
        chunks = one_by_one(stream) if size == 1 else [stream]
        return lambda: fed(make(), *chunks)

    # 8 times the bytes take some 8 times the time; were it quadratic, up to 64. The 5 ms are the clock's due.
    few = 10_000 if size == 1 else 20_000
    assert seconds(work(8 * few)) < 24 * seconds(work(few)) + 0.005


# --- arguments ---


def call(kind: Callable[..., object], *args: object, **named: object) -> Callable[[], object]:
    return lambda: kind(*args, **named)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (call(Lines, b""), ValueError, r"separator: b'' is empty"),
        (call(Lines, ()), ValueError, r"separator: \(\) is empty"),
        (call(Lines, (b"\n", b"")), ValueError, r"separator: b'' is empty"),
        (call(Lines, "\n"), TypeError, r"separator: '\\n' is str, must be bytes"),
        (
            lambda: Lines((b"\r", b"\r\n")),
            ValueError,
            r"separator: b'\\r\\n' would never be found, because b'\\r'",
        ),
        (call(Lines, (b"abc", b"b")), ValueError, r"separator: b'abc' would never be found, because b'b'"),
        (call(Lines, limit=0), ValueError, r"limit: 0, must be at least 1"),
        (call(Lines, limit=1.5), TypeError, r"limit: 1.5 is float, must be int"),
        (call(Lines, limit=True), TypeError, r"limit: True is bool, must be int"),
        (call(Markers, b"", b"a"), ValueError, r"start: b'' is empty"),
        (call(Markers, b"a", b""), ValueError, r"end: b'' is empty"),
        (call(Markers, "a", b"a"), TypeError, r"start: 'a' is str"),
        (call(Markers, b"a", "a"), TypeError, r"end: 'a' is str"),
        (
            lambda: Markers(b"a", b"ab"),
            ValueError,
            r"start and end: b'ab' would never be found, because b'a'",
        ),
        (call(Markers, b"a", b"b", limit=-1), ValueError, r"limit: -1, must be at least 1"),
        (call(FixedLength, 0), ValueError, r"length: 0, must be at least 1"),
        (call(FixedLength, "1"), TypeError, r"length: '1' is str, must be int"),
        (call(FixedLength, 1, start=b"ab"), ValueError, r"length: 1, must be at least 2"),
        (call(FixedLength, 1, start="a"), TypeError, r"start: 'a' is str, must be bytes"),
        (call(LengthPrefixed, 3), ValueError, r"size: 3 bytes, allowed are 1, 2 and 4"),
        (call(LengthPrefixed, 2.0), TypeError, r"size: 2.0 is float, must be int"),
        (
            call(LengthPrefixed, 1, byteorder="native"),
            ValueError,
            r"byteorder: 'native', allowed are 'big'",
        ),
        (call(LengthPrefixed, 1, offset=-1), ValueError, r"offset: -1, must be at least 0"),
        (call(LengthPrefixed, 1, start=b"ab"), ValueError, r"offset: 0, must be at least 2"),
        (call(LengthPrefixed, 1, start="a"), TypeError, r"start: 'a' is str, must be bytes"),
        (call(LengthPrefixed, 1, extra=0.5), TypeError, r"extra: 0.5 is float, must be int"),
        (call(LengthPrefixed, 1, extra=-256), ValueError, r"extra: -256, whatever the length, no frame"),
        (call(LengthPrefixed, 1, extra=-255, counts_itself=True), ValueError, r"extra: -255, whatever"),
        (call(LengthPrefixed, 1, extra=11, limit=10), ValueError, r"extra: 11, whatever the length"),
        (call(LengthPrefixed, 1, limit=0), ValueError, r"limit: 0, must be at least 1"),
    ],
)
def test_senseless_arguments_are_refused_at_once(make: Callable[[], object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make()


def test_the_outermost_arguments_that_make_sense() -> None:
    assert LengthPrefixed(1, extra=-255).feed(b"\xff") == [b""]
    assert LengthPrefixed(1, extra=10, limit=10).feed(b"\0" + bytes(10)) == [bytes(10)]
    assert FixedLength(2, start=b"ab").feed(b"ab") == [b"ab"]
    assert Lines(limit=1).feed(b"a\n") == [b"a"]
