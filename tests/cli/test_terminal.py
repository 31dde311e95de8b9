"""`cnxman monitor` in a terminal of its own: keys as they are typed, commands, and all as before at the end."""

import os
import re
import signal
import sys
import termios

import pytest
import serial

from cnxman.testing import SimulatedDevice
from tests.kit.command import ANSI, Command
from tests.kit.lines import wait_until

CTRL_C, CTRL_T = b"\x03", b"\x14"

IN_BACKGROUND = """
import fcntl, os, sys, termios, time
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
child = os.fork()
if child == 0:
    os.setpgid(0, 0)
    os.execv(sys.argv[1], sys.argv[1:])
_, status = os.waitpid(child, os.WUNTRACED)
sys.exit(99 if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status))
"""


@pytest.fixture
def device():
    with SimulatedDevice() as simulated:
        yield simulated


def monitor(device, *arguments, **named):
    return Command("monitor", device.port, *arguments, terminal=True, **named)


def wait_up(device, command):
    """Wait until the port is open and that was said, so that no event comes between what a test types and sees."""
    device.wait_opened()
    command.out.wait(b"connected\x1b[0m")


def assert_as_before(command):
    assert termios.tcgetattr(command.slave) == command.attributes


def test_keys_go_out_as_they_are_typed_and_without_an_echo(device):
    with monitor(device) as command:
        device.wait_opened()
        for key in (b"a", b"\r", b"\x13", b"\x1a", b"\x1c", b"\x04", b"\x7f", b"\xc3"):
            command.type(key)
            assert device.receive() == key
        device.send(b"done")
        shown = command.out.wait(b"done")
        assert shown.split(b"N1")[-1] == b"\r\ndone"


def test_data_is_shown_byte_for_byte(device):
    with monitor(device) as command:
        device.wait_opened()
        command.out.wait(b"connected")
        device.send(b"\x00\n\r\n\x1b[2Jx\n\xff!")
        command.out.wait(b"\r\n\x00\n\r\n\x1b[2Jx\n\xff!")


@pytest.mark.parametrize("option", ["--onlcr", "--timestamps"])
def test_lines_begin_at_the_left_where_that_is_asked_for(device, option):
    with monitor(device, option) as command:
        device.wait_opened()
        device.send(b"one\ntwo\n")
        command.out.wait(lambda shown: re.search(rb"one\r\n.*two\r\n", shown))


def test_events_have_a_line_of_their_own_in_colour(device):
    with monitor(device) as command:
        device.wait_opened()
        command.out.wait(b"Ctrl-C quits")
        command.out.wait(b"\x1b[32mconnected\x1b[0m")
        device.send(b"in mid-line")
        command.out.wait(b"mid-line")
        device.unplug()
        command.out.wait(b"\x1b[33mrecovering\x1b[0m")
        command.out.wait(lambda shown: re.search(rb"in mid-line\r\n[\d:.]{12}  \x1b", shown))


def test_events_begin_at_the_left_after_a_line_feed_alone(device):
    with monitor(device) as command:
        command.out.wait(b"connected")
        device.send(b"line\n")
        command.out.wait(b"line\n")
        command.type(CTRL_T + b"s")
        command.out.wait(lambda shown: re.search(rb"line\n\r[\d:.]{12}  statistics", shown))


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_where_it_is_not_wanted(device, environment):
    with monitor(device, env=environment) as command:
        shown = command.out.wait(b"connected ")
        assert not ANSI.search(shown.decode())


def test_the_hint_comes_with_the_first_connection_without_waiting(device):
    with monitor(device, "--no-wait") as command:
        command.out.wait(lambda shown: re.search(rb"connected.*Ctrl-C quits", shown, re.DOTALL))


# -- commands ---------------------------------------------------------------------------------------------


def test_commands_stand_behind_the_prefix(device):
    with monitor(device) as command:
        device.wait_opened()
        command.type(CTRL_T)
        command.type(b"?")
        command.out.wait(b"Ctrl-T b       send a break")
        command.type(b"x" + CTRL_T + b"sy")
        assert device.receive(2) == b"xy"
        command.out.wait(b"statistics")
        command.out.wait(b"connected, 0 bytes received, ")
        command.type(CTRL_T + b"b")
        command.out.wait(b"sent")
        command.type(CTRL_T + b"c" + CTRL_T + CTRL_C + CTRL_T + CTRL_T)
        assert device.receive(3) == CTRL_C + CTRL_C + CTRL_T
        assert device.received == b"xy" + CTRL_C + CTRL_C + CTRL_T


@pytest.mark.parametrize("key", [b"d", b"r"])
def test_a_command_that_fails_is_reported_and_ends_nothing(device, key):
    with monitor(device) as command:
        device.wait_opened()
        command.type(CTRL_T + key)  # a pseudo-terminal has no modem lines
        command.out.wait(b"the port has no such thing")
        command.type(b"on")
        assert device.receive(2) == b"on"


def test_commands_work_during_an_outage():
    with SimulatedDevice(plugged=False) as device, monitor(device) as command:
        command.out.wait(b"recovering")
        command.type(CTRL_T + b"s")
        command.out.wait(lambda shown: b"recovering, 0 bytes" in shown or b"connecting, 0 bytes" in shown)
        command.type(CTRL_T + b"b")
        command.out.wait(b"is not connected")
        command.type(CTRL_T + b"q")
        assert command.end() == 0


def test_an_unknown_key_is_named(device):
    with monitor(device) as command:
        device.wait_opened()
        command.type(CTRL_T + b"z")
        command.out.wait(b"Ctrl-T z does nothing; Ctrl-T ? shows the keys\r\n")
        command.type(CTRL_T + b"\x05on")
        command.out.wait(b"Ctrl-T Ctrl-E does nothing")
        assert device.receive(2) == b"on"


# -- local echo -------------------------------------------------------------------------------------------


def test_local_echo_shows_what_is_typed_and_enter_as_a_new_line(device):
    with monitor(device, "--echo", "--eol", "lf") as command:
        wait_up(device, command)
        command.type(b"*IDX\x7fN?\r")
        assert device.receive(until=b"\n") == b"*IDX\x7fN?\n"
        command.out.wait(b"*IDX\b \bN?\r\n")
        device.send(b"ACME\r\n")
        command.out.wait(b"*IDX\b \bN?\r\nACME\r\n")


def test_local_echo_is_switched_by_a_key(device):
    with monitor(device) as command:
        wait_up(device, command)
        command.type(CTRL_T + b"e")
        command.out.wait(b"echo          on")
        command.type(b"seen")
        command.out.wait(b"seen")
        command.type(CTRL_T + b"e")
        command.out.wait(b"echo          off")
        command.type(b"blind")
        assert device.receive(until=b"blind") == b"seenblind"
        device.send(b"end")
        assert b"blind" not in command.out.wait(b"end")


def test_local_echo_goes_to_the_terminal_when_output_goes_elsewhere(device, tmp_path):
    with open(tmp_path / "out", "wb") as out, monitor(device, "--echo", stdout=out) as command:
        wait_up(device, command)
        command.type(b"typed")
        command.out.wait(b"typed")
        device.send(b"data")
        wait_until(lambda: (tmp_path / "out").read_bytes() == b"data", "the data is written, and nothing else")
        command.type(CTRL_C)
        assert command.end() == 0


def test_local_echo_and_rows_of_hexadecimal_have_lines_of_their_own(device):
    with monitor(device, "--echo", "--hex") as command:
        wait_up(device, command)
        device.send(b"A")
        command.out.wait(b"00000000  41")
        command.type(b"typed")
        command.out.wait(lambda shown: re.search(rb"41 +A\r\ntyped", shown))
        device.send(b"B")
        command.out.wait(b"typed\r\n00000001  42")


def test_local_echo_leaves_ctrl_c_working_when_the_screen_stands_still(device):
    with monitor(device, "--echo") as command:
        wait_up(device, command)
        command.out.wait(b"connected")
        termios.tcflow(command.slave, termios.TCOOFF)  # as Ctrl-S would
        command.type(b"typed")
        assert device.receive(until=b"typed") == b"typed"
        command.type(CTRL_C)
        termios.tcflow(command.slave, termios.TCOON)
        assert command.end() == 0


# -- keys that change the view ----------------------------------------------------------------------------


def test_hexadecimal_is_switched_by_a_key(device):
    with monitor(device) as command:
        wait_up(device, command)
        device.send(b"ab")
        command.out.wait(b"ab")
        command.type(CTRL_T + b"h")
        command.out.wait(b"hex           on")
        device.send(b"\x01c")
        command.out.wait(lambda shown: re.search(rb"\n00000000  01 63 +\.c\r\n", shown))
        command.type(CTRL_T + b"h")
        command.out.wait(b"hex           off")
        device.send(b"as it is\n!")
        command.out.wait(b"as it is\n!")


def test_timestamps_go_through_their_forms_by_a_key(device):
    with monitor(device) as command:
        wait_up(device, command)
        for form in (b"date", b"time", b"delta", b"iso", b"epoch", b"off"):
            command.type(CTRL_T + b"t")
            command.out.wait(b"timestamps    " + form)
        command.type(CTRL_T + b"t")
        command.out.wait(lambda shown: shown.count(b"timestamps    date") == 2)
        device.send(b"line\n")
        command.out.wait(lambda shown: re.search(rb"\n\d{4}-\d\d-\d\d [\d:.]{12}  line\r\n", shown))


def test_lines_begin_at_the_left_by_a_key(device):
    with monitor(device) as command:
        wait_up(device, command)
        command.type(CTRL_T + b"n")
        command.out.wait(b"onlcr         on")
        device.send(b"one\ntwo\n")
        command.out.wait(b"one\r\ntwo\r\n")
        command.type(CTRL_T + b"n")
        command.out.wait(b"onlcr         off")
        device.send(b"three\nfour\n")
        command.out.wait(b"three\nfour\n")


def test_the_screen_is_cleared_by_a_key(device):
    with monitor(device) as command:
        wait_up(device, command)
        command.type(CTRL_T + b"l")
        command.out.wait(b"\x1b[2J\x1b[H")


def test_the_log_is_paused_by_a_key(device, tmp_path):
    with monitor(device, "--log", tmp_path / "log") as command:
        wait_up(device, command)
        for data, said in ((b"in\n", b"paused"), (b"not\n", b"goes on")):
            device.send(data)
            command.out.wait(data)
            command.type(CTRL_T + b"f")
            command.out.wait(b"log           " + said)
        device.send(b"again\n")
        command.out.wait(b"again")
        command.type(CTRL_C)
        assert command.end() == 0
    kept = [line.split("  ")[-1] for line in (tmp_path / "log").read_text().splitlines()]
    assert kept == ["in", "the log is paused", "the log goes on", "again"]


def test_a_log_that_there_is_not_cannot_be_paused(device):
    with monitor(device) as command:
        wait_up(device, command)
        command.type(CTRL_T + b"f")
        command.out.wait(b"there is none: begin with --log FILE")


# -- giving the port away ---------------------------------------------------------------------------------


def test_the_port_is_given_away_and_taken_back_by_a_key(device):
    with monitor(device) as command:
        wait_up(device, command)
        command.type(CTRL_T + b"p")
        command.out.wait(b"is free for others; Ctrl-T p takes it back")
        device.wait_closed()
        command.type(b"later")
        command.out.wait(b"input is held back")
        command.type(CTRL_T + b"p")
        assert device.receive(until=b"later") == b"later"
        device.send(b"here again")
        command.out.wait(b"here again")


def test_a_port_that_is_given_away_is_left_alone_and_its_holder_named(device):
    with monitor(device) as command:
        wait_up(device, command)
        command.type(CTRL_T + b"p")
        command.out.wait(b"is free for others")
        device.wait_closed()
        with serial.Serial(device.port, exclusive=True) as other:
            command.out.wait(lambda shown: re.search(rb"in use by .*pid %d" % os.getpid(), shown))
            other.write(b"firmware")
            assert device.receive(8) == b"firmware"
        command.out.wait(b"nobody uses it any more")
        assert b"recovering" not in command.out.data
        command.type(CTRL_T + b"s")
        command.out.wait(b"disconnected, 0 bytes received, 0 sent, 0 outages")
        command.type(CTRL_T + b"p")
        device.wait_opened()


def test_the_log_marks_that_the_port_was_given_away(device, tmp_path):
    with monitor(device, "--log", tmp_path / "log") as command:
        wait_up(device, command)
        command.type(CTRL_T + b"p")
        command.out.wait(b"is free for others")
        command.type(CTRL_T + b"p")
        device.wait_opened()
        device.send(b"again\n")
        command.out.wait(b"again")
    closed, back, data = (tmp_path / "log").read_text().splitlines()
    assert closed.endswith(f"{device.port} is closed, for others to use")
    assert f"{device.port} is back, after " in back
    assert data == "again"


def test_a_port_that_is_still_in_use_is_taken_back_when_it_is_free(device):
    with monitor(device) as command:
        wait_up(device, command)
        command.type(CTRL_T + b"p")
        command.out.wait(b"is free for others")
        device.wait_closed()
        with serial.Serial(device.port, exclusive=True):
            command.type(CTRL_T + b"p")
            command.out.wait(b"recovering")
            assert f"(pid {os.getpid()})".encode() in command.out.data
        command.out.wait(lambda shown: shown.count(b"connected\x1b[0m") == 2)


def test_a_port_is_given_away_during_an_outage(device):
    with monitor(device) as command:
        wait_up(device, command)
        device.unplug()
        command.out.wait(b"recovering")
        command.type(CTRL_T + b"p")
        command.out.wait(b"is free for others")
        device.plug()
        with serial.Serial(device.port, exclusive=True) as other:
            assert other.is_open
        command.type(CTRL_C)
        assert command.end() == 0


# -- the end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [CTRL_C, CTRL_T + b"q"])
def test_keys_end_it_and_the_terminal_is_as_before(device, keys):
    with monitor(device) as command:
        device.wait_opened()
        assert termios.tcgetattr(command.slave) != command.attributes
        command.type(keys)
        assert command.end() == 0
        assert_as_before(command)
        assert command.out.wait(b"ended").endswith(b"outages\r\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_and_the_terminal_is_as_before(device, number):
    with monitor(device) as command:
        device.wait_opened()
        command.signal(number)
        assert command.end() == 0
        assert_as_before(command)


def test_a_failure_leaves_the_terminal_as_before():
    with SimulatedDevice(plugged=False) as device, monitor(device, "--no-wait") as command:
        assert command.process.wait(60) == 1
        assert_as_before(command)


def test_a_line_that_takes_nothing_does_not_keep_ctrl_c_from_ending_it(device):
    with monitor(device) as command:
        device.wait_opened()
        device.stall()
        for _ in range(5):
            command.type(bytes([ord("x")]) * 4000)
        command.type(CTRL_C)
        assert command.end() == 0
        assert_as_before(command)


def test_what_is_typed_in_an_outage_is_sent_later(device):
    with monitor(device, "--eol", "crlf") as command:
        device.wait_opened()
        device.unplug()
        command.out.wait(b"recovering")
        command.type(b"AT\r")
        command.out.wait(b"held back")
        device.plug()
        assert device.receive(4) == b"AT\r\n"


def test_in_the_background_it_leaves_the_terminal_alone_and_is_not_stopped(device):
    with monitor(device, wrap=(sys.executable, "-c", IN_BACKGROUND)) as command:
        device.wait_opened()
        device.send(b"shown\n")
        command.out.wait(b"shown\r\n")
        assert_as_before(command)
        command.type(b"not for the device\n")
        os.killpg(group_of_job(command), signal.SIGINT)
        assert command.process.wait(60) == 0
        assert device.received == b""


def group_of_job(command):
    """The process group of the job in the background."""
    with open(f"/proc/{command.process.pid}/task/{command.process.pid}/children") as children:
        return int(children.read().split()[0])


def test_input_from_a_pipe_with_output_on_a_terminal(device):
    ours, theirs = os.pipe()
    with monitor(device, stdin=ours, wrap=()) as command, open(theirs, "wb", buffering=0) as writer:
        os.close(ours)
        writer.write(b"from the pipe\n")
        assert device.receive(14) == b"from the pipe\n"
        device.send(b"a\nb")
        command.out.wait(b"a\nb")
        command.signal(signal.SIGINT)
        assert command.end() == 0
        assert_as_before(command)
