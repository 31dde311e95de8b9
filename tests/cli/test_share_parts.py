"""The parts of `cnxman share` by themselves, with a clock in the test's hand."""

import argparse
import threading

import pytest

from cnxman.cli.asking import answers_end, parse_seconds, parse_text, question
from cnxman.cli.sharing.outbox import Outbox
from cnxman.cli.sharing.places import Access, Place, is_loopback, parse_listen, parse_mode, places_of
from cnxman.cli.sharing.stream import BLOCK, DeviceStream
from cnxman.cli.sharing.turns import GAP, LONGEST, Turns
from tests.kit.lines import pattern

# -- whose turn it is -----------------------------------------------------------------------------------------


@pytest.fixture
def sent():
    return []


@pytest.fixture
def turns(sent):
    return Turns[str](sent.append)


def test_one_client_alone_is_never_held_up(turns, sent):
    for piece in (b"half", b" a line\n", b"\x01\x02", b"more"):
        assert turns.may_send("a", 0.0)
        turns.take("a", piece, 0.0)
    assert sent == [b"half", b" a line\n", b"\x01\x02", b"more"]
    assert turns.deadline is None


def test_a_client_in_mid_line_keeps_others_waiting_until_its_line_ends(turns, sent):
    assert turns.may_send("a", 0.0)
    turns.take("a", b"half", 0.0)
    assert not turns.may_send("b", 0.001)
    assert turns.waits("b")
    assert turns.deadline == GAP
    assert turns.next() is None
    assert turns.may_send("a", 0.002)
    turns.take("a", b" done\n", 0.002)
    assert turns.next() == "b"
    assert turns.may_send("b", 0.002)
    turns.take("b", b"b's\n", 0.002)
    assert sent == [b"half", b" done\n", b"b's\n"]


def test_silence_in_mid_line_ends_the_turn(turns):
    assert turns.may_send("a", 0.0)
    turns.take("a", b"\x01\x02", 0.0)
    assert not turns.may_send("b", GAP / 2)
    turns.expire(GAP)
    assert turns.next() == "b"
    assert turns.may_send("b", GAP)


def test_a_pause_in_which_nobody_is_read_is_no_silence(turns):
    assert turns.may_send("a", 0.0)
    turns.take("a", b"half", 0.0)
    turns.resume(5.0)
    assert not turns.may_send("b", 5.0 + GAP / 2)


def test_a_flood_is_cut_at_a_line_end_for_those_who_wait(turns, sent):
    assert turns.may_send("a", 0.0)
    turns.take("a", b"one\ntw", 0.0)
    assert not turns.may_send("b", 0.0)
    assert turns.may_send("a", 0.0)
    turns.take("a", b"o\nthree\nfo", 0.0)
    assert turns.next() == "b"
    assert turns.may_send("b", 0.0)
    turns.take("b", b"b's\n", 0.0)
    assert turns.next() == "a"
    assert turns.holds("a")
    assert turns.may_send("a", 0.0)
    turns.take("a", b"ur\n", 0.0)
    assert sent == [b"one\ntw", b"o\nthree\n", b"b's\n", b"four\n"]


def test_a_flood_without_line_ends_gives_way_after_64_kib(turns, sent):
    assert turns.may_send("a", 0.0)
    turns.take("a", b"x", 0.0)
    assert not turns.may_send("b", 0.0)
    turns.take("a", bytes(LONGEST), 0.0)
    assert turns.next() == "b"


def test_a_client_that_leaves_ends_its_turn_and_what_waits_of_it_is_sent(turns, sent):
    assert turns.may_send("a", 0.0)
    turns.take("a", b"half", 0.0)
    assert not turns.may_send("b", 0.0)
    turns.take("a", b"\nrest", 0.0)
    turns.forget("a")
    assert sent == [b"half", b"\n", b"rest"]
    assert turns.next() == "b"
    turns.forget("b")
    assert turns.next() is None


def test_a_client_that_leaves_in_mid_line_ends_its_turn(turns, sent):
    assert turns.may_send("a", 0.0)
    turns.take("a", b"half", 0.0)
    for _ in range(2):
        assert not turns.may_send("b", 0.0)
    turns.forget("a")
    assert turns.may_send("b", 0.0)
    assert sent == [b"half"]


# -- what waits for clients -----------------------------------------------------------------------------------


def test_the_stream_keeps_what_one_client_has_yet_to_be_given():
    stream, data = DeviceStream(), pattern(5 * BLOCK)
    for at in range(0, len(data), 1000):
        stream.append(data[at : at + 1000])
    got = b""
    while len(got) < len(data):
        with stream.view(len(got)) as view:
            got += bytes(view[:777])
        stream.trim(len(got))
        assert stream.start <= len(got) < stream.start + BLOCK or len(got) == stream.end
    assert got == data
    assert stream.start == stream.end == len(data)


# -- what waits for the device --------------------------------------------------------------------------------


class Told(list):
    def __call__(self, *what):
        self.append(*what)


@pytest.fixture
def told():
    return Told()


def outbox(told, **options):
    return Outbox(told, lambda: told.append("room"), **options)


def test_what_was_not_written_is_written_at_the_next_connection(told):
    box = outbox(told)
    box.line_up()
    box.put(b"message")
    message, opening = box.take()
    box.line_down()
    box.taken(message, 0, opening, 0)
    box.line_up()
    assert box.take()[0] == b"message"
    assert told == [
        "what clients send is held back until there is a connection, up to 1 MiB",
        "7 bytes that were held back are sent now",
    ]


def test_the_rest_of_a_message_that_was_cut_short_is_never_sent(told):
    box = outbox(told)
    box.line_up()
    box.put(b"cut short")
    box.put(b"next")
    message, opening = box.take()
    box.taken(message, 3, opening, 0)
    assert box.take()[0] == b"next"
    assert told == ["a message that was cut short: its last 6 bytes are dropped"]


def test_after_a_failed_write_the_sender_waits_for_the_manager_to_notice(told):
    box = outbox(told)
    box.line_up()
    box.put(b"message")
    message, opening = box.take()
    noticing = threading.Timer(0.01, box.line_down)
    noticing.start()
    box.taken(message, 0, opening, 10)  # returns as soon as it is noticed
    noticing.join()
    assert box.held == 7


def test_room_is_reported_once_after_the_outbox_was_full(told):
    box = outbox(told, limit=10)
    box.line_up()
    box.put(bytes(6))
    box.put(bytes(6))
    assert box.is_full()
    for _ in range(2):
        message, opening = box.take()
        box.taken(message, 6, opening, 0)
    assert told == ["room"]
    assert not box.is_full()


def test_discarding_makes_room(told):
    box = outbox(told, limit=10, discard=True)
    box.put(bytes(20))
    assert box.is_full()
    box.line_down()
    assert told == ["room", "what clients send is dropped until there is a connection (--discard)"]
    box.put(bytes(5))
    box.line_up()
    assert told[-1] == "25 bytes were dropped"


# -- what the command line says -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("unix:/run/a:b", Place("unix", path="/run/a:b")),
        ("tcp:4001", Place("tcp", host="localhost", port=4001)),
        ("tcp::4001", Place("tcp", host="localhost", port=4001)),
        ("tcp:0.0.0.0:4001", Place("tcp", host="0.0.0.0", port=4001)),
        ("tcp:[::1]:0", Place("tcp", host="::1", port=0)),
        ("tcp:box.example:65535", Place("tcp", host="box.example", port=65535)),
    ],
)
def test_addresses(text, place):
    assert parse_listen(text) == place


def test_what_is_said_of_places_holds_for_those_after_it():
    places = places_of([Place("pty", "a"), ("read_only", True), Place("pty", "b"), ("mode", 0o660), Place("pty", "c")])
    assert [place.access for place in places] == [Access(), Access(True), Access(True, 0o660)]


def test_modes():
    assert parse_mode("660") == parse_mode("0660") == 0o660
    with pytest.raises(argparse.ArgumentTypeError):
        parse_mode("1660")


def test_loopback():
    assert is_loopback("127.0.0.2")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("fe80::1%eth0")
    assert not is_loopback("somewhere")


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("AT", b"AT"),
        (r"a\r\n\t\\", b"a\r\n\t\\"),
        (r"\x02R1\x3", b"\x02R1\x03"),
        (r"\033[\0\7\377", b"\x1b[\0\x07\xff"),
        (r"\a\b\e\f\v", b"\x07\x08\x1b\x0c\x0b"),
        ("µ", "µ".encode()),
        ("\udcff", b"\xff"),
    ],
)
def test_escapes_are_those_of_printf(text, data):
    assert parse_text(text) == data


@pytest.mark.parametrize("text", ["", "\\", r"\q", r"\x", r"\xg", r"\8"])
def test_escapes_that_mean_nothing_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        parse_text(text)


def test_a_line_end_is_added_to_what_does_not_end_with_a_control_character():
    assert question(b"AT", "lf") == b"AT\n"
    assert question(b"AT", "crlf") == b"AT\r\n"
    assert question(b"AT", "none") == b"AT"
    assert question(b"AT\r", "lf") == b"AT\r"
    assert question(b"\x02R\x03", "lf") == b"\x02R\x03"
    assert answers_end(None, "lf") == answers_end(None, "crlf") == b"\n"
    assert answers_end(None, "cr") == b"\r"
    assert answers_end(b"OK", "cr") == b"OK"


@pytest.mark.parametrize("text", ["x", "0", "-1", "inf", "nan"])
def test_times_that_make_no_sense_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        parse_seconds(text)
