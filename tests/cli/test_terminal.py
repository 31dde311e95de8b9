"""`cnxman monitor` in a terminal of its own: keys as they are typed, commands, and all as before at the end."""

import os
import re
import signal
import sys
import termios

import pytest

from cnxman.testing import SimulatedDevice
from tests.kit.command import ANSI, Command

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
        command.out.wait(b"Ctrl-T b  send a break")
        command.type(b"x" + CTRL_T + b"sy")
        assert device.receive(2) == b"xy"
        command.out.wait(b"statistics")
        command.out.wait(b"connected, 0 bytes received, ")
        command.type(CTRL_T + b"b")
        command.out.wait(b"sent")
        command.type(CTRL_T + b"c" + CTRL_T + b"t" + CTRL_T + CTRL_T)
        assert device.receive(3) == CTRL_C + CTRL_T + CTRL_T
        assert device.received == b"xy" + CTRL_C + CTRL_T + CTRL_T


@pytest.mark.parametrize("key", [b"d", b"r"])
def test_a_command_that_fails_is_told_and_ends_nothing(device, key):
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
        assert command.process.wait(10) == 1
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
        assert command.process.wait(10) == 0
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
