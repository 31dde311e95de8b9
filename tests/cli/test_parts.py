"""The parts of the command by themselves: keys, line ends, shapes, what is held back, and what other systems lack."""

import argparse
import ctypes
import errno
import importlib
import os
import re
import signal
import sys
import threading
from datetime import date
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnxman import (
    ConnectionException,
    ConnectionManager,
    RetryPolicy,
    SerialConnection,
    cli,
)
from cnxman.cli import ending as ending_module
from cnxman.cli import events as events_module
from cnxman.cli import line as line_module
from cnxman.cli import monitor as monitor_module
from cnxman.cli import output as output_module
from cnxman.cli import stdio as stdio_module
from cnxman.cli import terminal as terminal_module
from cnxman.cli import windows_console as console_module
from cnxman.cli.ending import Ending
from cnxman.cli.events import Events
from cnxman.cli.keys import Command, Keys, LineEnds, Unknown, echo_of
from cnxman.cli.line import Port
from cnxman.cli.lineevents import LineEvents
from cnxman.cli.mapping import FLAGS, flags, mappings
from cnxman.cli.outbox import Outbox
from cnxman.cli.shapes import STAMPS, AsItIs, Hexadecimal, Stamp, Timed, WholeLines, shape

CHUNKS = st.lists(st.binary(min_size=1, max_size=40), max_size=12)

# -- keys -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (b"abc", [b"abc"]),
        (b"a\x03b", [b"a", Command.QUIT, b"b"]),
        (b"\x14q", [Command.QUIT]),
        (b"\x14B\x14d\x14r", [Command.BREAK, Command.DTR, Command.RTS]),
        (b"a\x14sb", [b"a", Command.STATISTICS, b"b"]),
        (b"\x14\x14q", [b"\x14", b"q"]),
        (b"\x14c\x14\x03", [b"\x03", b"\x03"]),
        (b"\x14e\x14H\x14t", [Command.ECHO, Command.HEX, Command.TIMESTAMPS]),
        (b"\x14zz", [Unknown(b"z"), b"z"]),
    ],
)
def test_keys_mean_the_same_at_once_and_one_by_one(typed, meant):
    assert list(Keys().feed(typed)) == meant
    one_by_one = Keys()
    found = [each for key in typed for each in one_by_one.feed(bytes([key]))]
    assert pieces(found) == pieces(meant)


def pieces(meant):
    """What was meant, with all that is for the device in single bytes."""
    return [piece for each in meant for piece in (each if isinstance(each, bytes) else [each])]


@given(CHUNKS)
def test_line_ends_come_out_the_same_in_any_chunks(chunks):
    whole = b"".join(chunks)
    in_chunks = LineEnds(b"|")
    assert b"".join(map(in_chunks.feed, chunks)) == LineEnds(b"|").feed(whole)
    assert LineEnds(None).feed(whole) == whole


def test_a_line_end_in_two_pieces_is_one():
    line_ends = LineEnds(b"\r\n")
    assert [line_ends.feed(part) for part in (b"a\r", b"\nb\n", b"\n")] == [b"a\r\n", b"b\r\n", b"\r\n"]


# -- shapes -----------------------------------------------------------------------------------------------


@given(CHUNKS)
def test_shapes_show_the_same_in_any_chunks(chunks):
    whole = b"".join(chunks)
    stamp = Stamp(lambda: b"T ")
    for make in (AsItIs, Hexadecimal, lambda: Timed(stamp), lambda: Hexadecimal(stamp), lambda: WholeLines(AsItIs())):
        once, often = make(), make()
        shown = b"".join(map(often.feed, chunks)) + often.finish()
        assert shown == (once.feed(whole) if whole else b"") + once.finish()


def test_a_line_has_the_time_of_its_first_byte():
    times = iter([b"1 ", b"2 ", b"3 "])
    timed = Timed(Stamp(lambda: next(times)))
    assert [timed.feed(part) for part in (b"a", b"b\n", b"c\nd", b"\ne\n")] == [b"1 a", b"b\n", b"2 c\n2 d", b"\n3 e\n"]
    assert timed.finish() == b""


@pytest.mark.parametrize("make", [Timed, Hexadecimal])
def test_lines_of_one_chunk_have_no_time_between_them(make):
    found = make(Stamp(lambda: b"<first>", b"<again>"))
    shown = found.feed(b"0123456789abcd\n\n0123456789abcd\n\n")
    assert shown.count(b"<first>") == 1
    assert shown.count(b"<again>") == shown.count(b"\n") - 1


@pytest.mark.parametrize(
    ("form", "looks_like"),
    [
        ("date", rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  "),
        ("time", rb"\d\d:\d\d:\d\d\.\d{3}  "),
        ("delta", rb" +\+0\.000  "),
        ("iso", rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d  "),
        ("epoch", rb"1\d{9}\.\d{3}  "),
    ],
)
def test_times_have_the_form_asked_for(form, looks_like):
    assert re.fullmatch(looks_like + b"x", shape(hexadecimal=False, timestamps=form).feed(b"x"))


def test_delta_counts_from_where_the_line_before_began(monkeypatch):
    times = iter([100.0, 100.25, 103.5])
    monkeypatch.setattr("cnxman.cli.shapes.time.monotonic", lambda: next(times))
    timed = Timed(STAMPS["delta"]())
    shown = [timed.feed(part) for part in (b"one\n", b"tw", b"o\n", b"three\nfour\n")]
    assert b"".join(shown).splitlines() == [
        b"    +0.000  one",
        b"    +0.250  two",
        b"    +3.250  three",
        b"    +0.000  four",
    ]


def test_whole_lines_keep_a_line_until_it_is_over_or_too_long():
    lines = WholeLines(AsItIs())
    assert lines.feed(b"on") == b""
    assert lines.begun
    assert lines.feed(b"e\ntw") == b"one\n"
    assert lines.finish() == b"tw\n"
    assert not lines.begun
    assert lines.finish() == b""
    assert lines.feed(b"x" * 5000) == b"x" * 5000 + b"\n"


# -- mappings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "received", "sent"),
    [
        ("ICRNL", b"a\nb\n\x7f\x08", b"a\rb\n\x7f\x08"),
        ("icrcrnl", b"a\r\nb\n\x7f\x08", b"a\rb\n\x7f\x08"),
        ("IGNCR,INLCRNL", b"ab\r\n\x7f\x08", b"a\rb\n\x7f\x08"),
        ("INLCR, ODELBS", b"a\rb\r\x7f\x08", b"a\rb\n\x08\x08"),
        ("OCRNL", b"a\rb\n\x7f\x08", b"a\nb\n\x7f\x08"),
        ("OIGNCR,ONLCRNL", b"a\rb\n\x7f\x08", b"ab\r\n\x7f\x08"),
    ],
)
def test_mappings_replace_what_tio_says(given, received, sent):
    from_device, to_device = mappings(flags(given))
    data = b"a\rb\n\x7f\x08"
    assert (from_device.feed(data), to_device.feed(data)) == (received, sent)


def test_a_mapping_that_there_is_not_is_refused_with_those_there_are():
    with pytest.raises(argparse.ArgumentTypeError, match=f"ICRLF is no mapping: allowed are {', '.join(FLAGS)}"):
        flags("ICRNL,icrlf")


def test_mappings_that_contradict_each_other_are_refused():
    assert mappings(["ICRNL", "ICRNL", "OCRNL"])
    with pytest.raises(ValueError, match="ICRNL and IGNCR contradict each other"):
        mappings(["ICRNL", "IGNCR"])


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b"abc\xc3\xa4", b"abc\xc3\xa4"),
        (b"a\rb\nc\r\nd", b"a\r\nb\r\nc\r\nd"),
        (b"\x03\x1b[A\t", b"^C^[[A\t"),
        (b"\x7f\x08", b"\x08 \x08" * 2),
    ],
)
def test_an_echo_shows_control_characters_and_obeys_none(sent, shown):
    assert echo_of(sent) == shown


@given(st.binary(min_size=1, max_size=200))
def test_hexadecimal_rows_hold_the_bytes_and_their_offset(data):
    rows = (Hexadecimal().feed(data) + b"").splitlines()
    found = b"".join(bytes.fromhex(row[10:57].decode()) for row in rows)
    assert found == data
    assert [int(row[:8], 16) for row in rows] == list(range(0, len(data), 16))


# -- what is held back ------------------------------------------------------------------------------------


class Told(list):
    def __call__(self, text):
        self.append(text)


def test_nothing_is_reported_while_the_line_is_up():
    told = Told()
    outbox = Outbox(told)
    outbox.line_up()
    outbox.put(b"abc", wait=True)
    assert outbox.take() == b"abc"
    assert told == []


def test_typed_input_beyond_the_bound_is_dropped_and_reported_once():
    told = Told()
    outbox = Outbox(told, limit=4)
    outbox.line_down()
    for part in (b"abc", b"def", b"ghi"):
        outbox.put(part, wait=False)
    assert outbox.held == 4
    outbox.line_up()
    assert outbox.take() == b"abcd"
    assert told == [
        "input is held back until there is a connection, up to 4 bytes",
        "4 bytes wait to be sent: input is dropped",
        "4 bytes that were held back are sent now",
        "5 bytes were dropped",
    ]


def test_piped_input_beyond_the_bound_waits_and_loses_nothing():
    told = Told()
    outbox = Outbox(told, limit=4)
    outbox.line_down()
    writer = threading.Thread(target=outbox.put, args=[b"abcdefghij"], kwargs={"wait": True})
    writer.start()
    writer.join(0.2)
    assert writer.is_alive()
    assert outbox.held == 4
    outbox.line_up()
    taken = b""
    while len(taken) < 10:
        taken += outbox.take()
        assert outbox.held <= 4
    writer.join(60)
    assert taken == b"abcdefghij"
    assert told[:2] == [
        "input is held back until there is a connection, up to 4 bytes",
        "4 bytes are held back: no more input is read until there is a connection",
    ]


def test_a_line_that_takes_nothing_holds_piped_input_off_quietly():
    told = Told()
    outbox = Outbox(told, limit=4)
    outbox.line_up()
    writer = threading.Thread(target=outbox.put, args=[b"abcdef"], kwargs={"wait": True})
    writer.start()
    assert outbox.take() + outbox.take() == b"abcdef"
    writer.join(60)
    assert told == []


def test_discarding_drops_what_waits_when_the_line_goes_down_and_what_it_gives_back():
    told = Told()
    outbox = Outbox(told, discard=True)
    outbox.put(b"before the first attempt", wait=True)
    outbox.line_up()
    assert outbox.take() == b"before the first attempt"
    outbox.put(b"abc", wait=True)
    outbox.line_down()
    outbox.put_back(b"de")
    outbox.put(b"f", wait=True)
    outbox.line_up()
    assert outbox.held == 0
    assert told == ["input is dropped until there is a connection (--discard)", "6 bytes were dropped"]


def test_what_is_given_back_goes_out_first():
    outbox = Outbox(Told())
    outbox.put(b"ab" * 4096, wait=True)
    outbox.line_up()
    taken = outbox.take()
    outbox.put_back(taken[5:])
    assert taken[:5] + outbox.take() + outbox.take() == b"ab" * 4096


# -- events -----------------------------------------------------------------------------------------------


def test_events_that_cannot_be_written_are_no_error():
    out, in_ = os.pipe()
    os.close(out)
    events = Events(in_)
    events.tell("one")
    assert events.closed
    events.tell("two")
    os.close(in_)


def test_an_event_on_another_day_begins_with_the_date(monkeypatch):
    out, in_ = os.pipe()
    noon = 1_764_331_200.0
    now = iter([noon, noon + 1, noon + 86_400, noon + 86_401])
    events = Events(in_, now=lambda: next(now))
    for what in ("today", "tomorrow", "later"):
        events.tell(what)
    os.close(in_)
    with open(out) as lines:
        heads = [line.split("  ")[0] for line in lines]
    assert [len(head) for head in heads] == [12, 23, 12]
    assert heads[1] == f"{date.fromtimestamp(noon + 86_400)} {heads[0][:6]}00.000"


@pytest.mark.parametrize(("delay", "said"), [(0.0, "0.00 s"), (0.05, "0.05 s"), (0.1, "0.1 s"), (12.34, "12.3 s")])
def test_delays_for_people(delay, said):
    assert events_module.seconds(delay) == said


def monitor_of(connection, told, **options):
    with Ending(1) as ending:
        watched = [Port(connection, "port")]
        monitor = monitor_module.Monitor(watched, monitor_module.Options(**options), ending, typed=False)

    def tell(what, text=""):
        told.append((what, text))

    monitor._events = monitor._line._events = SimpleNamespace(tell=tell, answer=tell)
    return monitor, ending


def test_a_long_outage_does_not_fill_the_screen():
    told = []
    policy = RetryPolicy(jitter=0)
    events = LineEvents(policy, "the line", lambda what, text: told.append((what, text)))
    for failures in range(1, 1000):
        events.retry(policy.delay(failures), ConnectionException("gone", OSError()))
    assert [text for _, text in told] == [
        "gone (next attempt in 0.1 s)",
        "next attempt in 0.2 s",
        "next attempt in 0.4 s",
        "next attempt in 0.8 s",
        "next attempt in 1.6 s",
        "next attempt in 3.2 s",
        "next attempt in 5.0 s, and so on until it is back",
    ]
    events.retry(5.0, ConnectionException("another reason", OSError()))
    assert told[-1][1] == "another reason (next attempt in 5.0 s)"
    events.connected()
    assert (told[-1][0], told[-1][1][:16]) == ("connected", "the line, after ")
    events.connected()
    assert told[-1] == ("connected", "the line")


def test_commands_that_work_are_reported(serial_device):
    told = []
    connection = SimpleNamespace(dtr=None, rts=None, send_break=lambda: None)
    monitor, _ = monitor_of(SerialConnection(serial_device.port), told)
    monitor._line.connection = connection
    for command in (Command.DTR, Command.DTR, Command.RTS, Command.RTS, Command.BREAK):
        monitor._obey(command)
    assert told == [("dtr", "off"), ("dtr", "on"), ("rts", "off"), ("rts", "on"), ("break", "sent")]


def test_the_drivers_counters_are_shown_where_there_are_any():
    monitor, _ = monitor_of(SerialConnection("loop://"), [])
    driver = SimpleNamespace(framing=1, parity=2, overrun=3, buffer_overrun=4)
    monitor._line.connection = SimpleNamespace(statistics=SimpleNamespace(bytes_in=5, bytes_out=6, driver=driver))
    monitor._outbox.put(b"1234567", wait=True)
    assert monitor._line.statistics() == (
        "5 bytes received, 6 sent, 0 outages, 7 bytes wait to be sent, 1 framing errors, 2 parity errors, 7 overruns"
    )


def test_what_a_thread_raises_ends_the_command_with_status_1(monkeypatch):
    told = []
    monitor, ending = monitor_of(SerialConnection("loop://"), told)

    def refuse():
        raise RuntimeError("no more threads")

    monkeypatch.setattr(ConnectionManager, "connect", lambda self: refuse())
    monitor._start("opener", monitor._line.manager.connect).join(60)
    assert told == [("error", "RuntimeError: no more threads")]
    assert ending.wait() == 1


def test_a_closed_pipe_that_a_write_finds_ends_the_command_with_status_0():
    monitor, ending = monitor_of(SerialConnection("loop://"), [])
    monitor._on_output_closed(BrokenPipeError())
    assert ending.wait() == 0


def test_a_terminal_that_is_gone_ends_the_reading_of_keys_and_nothing_else(monkeypatch):
    monitor, ending = monitor_of(SerialConnection("loop://"), [])
    typed = iter([b"ab", b""])
    monkeypatch.setattr(monitor_module, "read_keys", lambda: next(typed))
    monitor._read_keys()
    assert monitor._outbox.held == 2
    assert ending._status is None


def test_what_the_line_did_not_take_goes_out_next_and_nothing_twice():
    class Done(Exception):
        pass

    monitor, _ = monitor_of(SerialConnection("loop://"), [])
    written = []

    def write(data):
        written.append(data)
        if len(written) == 3:
            raise Done
        error = ConnectionException("lost", OSError())
        error.written = 2
        if len(written) == 1:
            raise error

    monitor._line.connection = SimpleNamespace(write=write)
    monitor._outbox.put(b"abcdef", wait=True)
    monitor._outbox.line_up()
    threading.Timer(0.2, monitor._outbox.put, [b"gh"], {"wait": True}).start()
    with pytest.raises(Done):
        monitor._send()
    assert written == [b"abcdef", b"cdef", b"gh"]


# -- the screen -------------------------------------------------------------------------------------------


def test_a_screen_that_is_closed_is_reported_once_and_takes_nothing_more(monkeypatch):
    told, written = [], []

    def write(_descriptor, data):
        written.append(data)
        raise BrokenPipeError

    monkeypatch.setattr(output_module, "write_all", write)
    screen = output_module.Screen(told.append)
    screen.write(b"one")
    screen.write(b"two")
    assert (len(told), written) == (1, [b"one"])
    screen.echo(b"typed")
    assert len(told) == 2


def test_what_is_no_terminal_is_not_cleared_and_what_is_mapped_to_nothing_not_written(monkeypatch):
    written = []
    monkeypatch.setattr(output_module, "write_all", lambda _descriptor, data: written.append(data))
    screen = output_module.Screen(written.append)
    screen.clear()
    output = output_module.Output(
        AsItIs(), screen, output_module.Log(None, written.append), mapping=mappings(["IGNCR"])[0]
    )
    output.receive(b"\r")
    assert written == []
    output.receive(b"a\r")
    assert written == [b"a"]


def test_the_holder_of_a_port_that_was_given_away_is_reported_when_it_changes(monkeypatch):
    told = []
    monitor, _ = monitor_of(SerialConnection("loop://"), told)
    seen = [[], [], ["esptool (pid 7)"], ["esptool (pid 7)"], []]
    taken_back = SimpleNamespace(wait=lambda _seconds: not seen, is_set=lambda: False)
    monkeypatch.setattr(line_module.ports, "holders", lambda _path: seen.pop(0))
    monitor._line._watch_holders(taken_back)
    assert told == [("closed", "in use by esptool (pid 7)"), ("closed", "nobody uses it any more")]


# -- the command line -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "form", "ports"),
    [
        ("monitor P", None, ["P"]),
        ("monitor --timestamps P Q", "date", ["P", "Q"]),
        ("monitor --time P", "date", ["P"]),
        ("monitor P --timestamps", "date", ["P"]),
        ("monitor --timestamps=iso P", "iso", ["P"]),
        ("monitor --timestamps delta P", "delta", ["P"]),
        ("monitor --timestamps -- delta", "date", ["delta"]),
    ],
)
def test_timestamps_take_a_form_and_never_the_port(monkeypatch, line, form, ports):
    found = []
    monkeypatch.setattr(monitor_module, "run", lambda watched, options: found.append((watched, options)) or 0)
    cli.main(line.split())
    [(watched, options)] = found
    assert options.timestamps == form
    assert [port.name for port in watched] == ports


def test_every_setting_reaches_the_connection(monkeypatch):
    made, run = {}, []
    monkeypatch.setattr(cli, "SerialConnection", lambda *args, **named: made.update(named, args=args))
    monkeypatch.setattr(monitor_module, "run", lambda watched, options: run.extend(watched) or 7)
    line = "monitor P -b 1200 --bytesize 5 --parity o --stopbits 1.5 --rtscts --xonxoff --dsrdtr --dtr on --rts off"
    assert cli.main([*line.split(), "--no-exclusive", "--idle-timeout", "3", "--buffer-size", "9"]) == 7
    assert made == {
        "args": ("P", 1200, 5, "O", 1.5),
        "rtscts": True,
        "xonxoff": True,
        "dsrdtr": True,
        "dtr": True,
        "rts": False,
        "exclusive": False,
        "idle_timeout": 3.0,
        "buffer_size": 9,
        "write_timeout": None,
    }
    assert run[0].title == "P, 1200 5O1.5"


# -- what other systems lack, and what rarely happens -----------------------------------------------------


def test_without_poll_the_end_is_looked_for(monkeypatch):
    monkeypatch.delattr(ending_module.select, "poll")
    monkeypatch.delattr(ending_module.signal, "SIGHUP")
    with Ending(1) as ending:
        assert not ending.comes_within(0.01)
        threading.Timer(0.05, ending.end, [3]).start()
        assert ending.wait() == 3
        assert ending.comes_within(0)
    out, in_ = os.pipe()
    os.close(out)
    assert not stdio_module.is_abandoned(in_), "it can't be told"
    os.close(in_)


def test_an_end_is_final_and_may_be_asked_for_any_number_of_times():
    with Ending(1) as ending:
        for status in range(20_000):  # more than the pipe that wakes the main thread takes
            ending.end(status)
        assert ending.wait() == 0


def test_a_signal_that_hits_another_thread_wakes_the_main_thread():
    with Ending(1) as ending:
        threading.Timer(0.1, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM)).start()
        assert ending.wait() == 0


def test_signals_are_given_back_and_who_comes_late_does_no_harm():
    before = signal.getsignal(signal.SIGTERM)
    with Ending(1) as ending:
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    ending.end()


class Kernel32:
    """Windows' calls about a console, for a console that is at some descriptors."""

    def __init__(self, *consoles, colours=True):
        self.modes = dict.fromkeys(consoles, 3)
        self.code_page = 850
        self.colours = colours
        self.is_abandoned = False

    def GetConsoleMode(self, handle, mode):
        if handle.value - 100 not in self.modes:
            return 0
        mode._obj.value = self.modes[handle.value - 100]
        return 1

    def SetConsoleMode(self, handle, mode):
        if not self.colours:
            return 0
        self.modes[handle.value - 100] = mode.value
        return 1

    def GetConsoleOutputCP(self):
        return self.code_page

    def SetConsoleOutputCP(self, number):
        self.code_page = number

    def WriteFile(self, handle, data, size, written, overlapped):
        assert (data, size) == (b"", 0)
        return not self.is_abandoned


class Msvcrt:
    """What Python's module of that name has of a console, with keys typed ahead."""

    def __init__(self, keys=""):
        self.keys = list(keys)
        self.binary = []

    def get_osfhandle(self, descriptor):
        if descriptor > 2:
            raise OSError(errno.EBADF, "Bad file descriptor")
        return descriptor + 100

    def setmode(self, descriptor, mode):
        self.binary.append(descriptor)

    def getwch(self):
        return self.keys.pop(0)

    def kbhit(self):
        return bool(self.keys)


@pytest.fixture
def windows(monkeypatch):
    """A console of Windows' at standard output and error, while standard input is NUL."""
    kernel32, msvcrt = Kernel32(1, 2), Msvcrt()
    monkeypatch.setattr(terminal_module, "HAVE_TERMIOS", False)
    monkeypatch.setattr(console_module, "console", console_module.WindowsConsole(kernel32, msvcrt))
    monkeypatch.setattr(os, "isatty", lambda descriptor: descriptor in (0, 1, 2))
    return SimpleNamespace(kernel32=kernel32, msvcrt=msvcrt)


def test_windows_console_is_raw_while_entered_and_as_before_at_the_end(windows):
    with terminal_module.RawTerminal(keys=True, as_it_is=True):
        assert windows.msvcrt.binary == [0, 1]
        assert windows.kernel32.modes == {1: 3 | 4 | 8, 2: 3}
        assert windows.kernel32.code_page == 65001
    assert windows.kernel32.modes == {1: 3, 2: 3}
    assert windows.kernel32.code_page == 850


def test_windows_console_that_shows_lines_keeps_its_mode(windows):
    with terminal_module.RawTerminal(keys=True, as_it_is=False):
        assert windows.kernel32.modes == {1: 3, 2: 3}
    assert windows.kernel32.code_page == 850


def test_windows_pipe_at_standard_output_has_no_mode(windows):
    windows.kernel32.modes.clear()
    with terminal_module.RawTerminal(keys=True, as_it_is=True):
        assert windows.kernel32.code_page == 850


def test_nul_is_no_terminal_of_windows(windows):
    assert not terminal_module.is_ours(0)
    assert terminal_module.is_ours(1)
    assert not console_module.console.is_console(7)


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("k", b"k"),
        ("\u00e4", b"\xc3\xa4"),
        ("\xe0H", b"\x1b[A"),
        ("\0S", b"\x1b[3~"),
        ("\xe0", b"\xc3\xa0"),  # the letter
        ("\0;x", b"x"),  # F1 means nothing
        ("\ud83d\ude00", "\U0001f600".encode()),
        ("\ud83dx", b"\xef\xbf\xbdx"),
        ("\uffff", b""),
        ("\x03", b"\x03"),
    ],
)
def test_key_of_windows_is_sent_as_a_terminal_sends_it(windows, typed, sent):
    windows.msvcrt.keys = list(typed)
    assert terminal_module.read_keys() == sent


def test_colours_of_windows_where_the_console_takes_them(windows, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert events_module.wants_colour(2)
    assert windows.kernel32.modes[2] == 3 | 4
    assert not events_module.wants_colour(0)
    windows.kernel32.colours = False
    assert not events_module.wants_colour(1)


def test_windows_pipe_that_nobody_reads_ends_the_command(windows, monkeypatch):
    monkeypatch.delattr(ending_module.select, "poll")
    monkeypatch.setattr(stdio_module, "is_pipe", lambda descriptor: True)
    with Ending(1) as ending:
        assert not ending.comes_within(0.01)
        windows.kernel32.is_abandoned = True
        assert ending.wait() == 0


def test_console_of_windows_is_found_by_ctypes(monkeypatch):
    assert console_module.find_console() is None
    monkeypatch.setitem(sys.modules, "msvcrt", Msvcrt())
    monkeypatch.setattr(ctypes, "WinDLL", lambda name: Kernel32(1), raising=False)
    monkeypatch.setattr(console_module, "os", SimpleNamespace(name="nt"))
    assert console_module.find_console().is_console(1)


def test_closed_pipe_of_windows_is_a_broken_pipe(monkeypatch):
    def refuse(descriptor, data):
        raise OSError(errno.EINVAL, "Invalid argument")

    out, in_ = os.pipe()
    monkeypatch.setattr(stdio_module.os, "write", refuse)
    with pytest.raises(BrokenPipeError):
        stdio_module.write_all(in_, b"x")
    monkeypatch.setattr(stdio_module, "is_pipe", lambda descriptor: False)
    with pytest.raises(OSError, match="Invalid argument"):
        stdio_module.write_all(in_, b"x")
    os.close(out)
    os.close(in_)


def test_a_terminal_where_there_is_neither(monkeypatch):
    monkeypatch.setattr(terminal_module, "HAVE_TERMIOS", False)
    with terminal_module.RawTerminal(keys=True, as_it_is=True):
        pass


def test_the_terminal_imports_where_there_is_no_termios(monkeypatch):
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "termios", None)
        assert not importlib.reload(terminal_module).HAVE_TERMIOS
    assert importlib.reload(terminal_module).HAVE_TERMIOS


def test_the_module_that_python_dash_m_runs_does_nothing_when_it_is_imported():
    importlib.import_module("cnxman.__main__")


def test_a_system_without_jobs_has_its_terminal_to_itself(monkeypatch):
    monkeypatch.setattr(terminal_module.os, "isatty", lambda descriptor: True)
    monkeypatch.delattr(terminal_module.os, "tcgetpgrp")
    assert terminal_module.is_ours(0)


def test_all_is_written_to_a_pipe_that_takes_it_in_pieces():
    out, in_ = os.pipe()
    os.set_blocking(in_, False)
    data = os.urandom(1_000_000)
    writer = threading.Thread(target=stdio_module.write_all, args=[in_, data])
    writer.start()
    with open(out, "rb") as reader:
        assert reader.read(len(data)) == data
    writer.join(60)
    os.close(in_)


def test_a_terminal_that_is_gone_reads_as_the_end_of_input():
    master, slave = os.openpty()
    os.close(slave)
    assert stdio_module.read_some(master) == b""
    os.close(master)


def test_help_is_printed_by_python_dash_m(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("examples:")
