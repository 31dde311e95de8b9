"""`cnxman monitor` with several ports: only read, each line with its port's name."""

import os
import re

import pytest

from cnxman import SerialConnection
from cnxman.cli.line import Port
from cnxman.cli.monitor import _labels
from cnxman.testing import SimulatedDevice
from tests.kit.command import Command


@pytest.fixture
def ports(tmp_path):
    """Two devices, and names for them of different lengths."""
    with SimulatedDevice() as one, SimulatedDevice() as two:
        os.symlink(one.port, tmp_path / "a")
        os.symlink(two.port, tmp_path / "long")
        yield (one, two), (tmp_path / "a", tmp_path / "long")


def watch(ports, *arguments, **named):
    devices, names = ports
    command = Command("monitor", *names, *arguments, **named)
    for device in devices:
        device.wait_opened()
    return command


def test_each_line_begins_with_the_name_of_its_port(ports):
    (one, two), _ = ports
    with watch(ports) as command:
        one.send(b"first\n")
        command.out.wait(b"first\n")
        two.send(b"second\nthird\n")
        assert command.out.wait(b"third\n") == b"a    | first\nlong | second\nlong | third\n"


def test_lines_of_several_ports_do_not_get_into_each_other(ports):
    (one, two), _ = ports
    with watch(ports) as command:
        one.send(b"half a ")
        two.send(b"another\n")
        one.send(b"line\n")
        command.out.wait(b"line\n")
        lines = command.out.wait(b"another\n").splitlines()
    assert b"long | another" in lines
    assert b"a    | half a line" in lines or lines.index(b"a    | half a ") < lines.index(b"a    | line")


def test_a_prompt_is_shown_though_its_line_has_no_end(ports):
    (one, _), _ = ports
    with watch(ports) as command:
        one.send(b"=> ")
        assert command.out.wait(b"=>") == b"a    | => \n"


def test_names_have_colours_of_their_own_in_a_terminal_and_none_in_the_log(ports, tmp_path):
    (one, two), _ = ports
    with watch(ports, "--log", tmp_path / "log", terminal=True) as command:
        one.send(b"1\n")
        command.out.wait(b"\x1b[36ma    |\x1b[0m 1\r\n")
        two.send(b"2\n")
        command.out.wait(b"\x1b[33mlong |\x1b[0m 2\r\n")
    assert (tmp_path / "log").read_bytes() == b"a    | 1\nlong | 2\n"


def test_nothing_is_sent_and_keys_for_one_port_are_refused(ports):
    (one, two), _ = ports
    with watch(ports, terminal=True) as command:
        command.type(b"x")
        command.out.wait(b"several ports are only read")
        command.type(b"y")
        command.type(b"\x14p")
        command.out.wait(b"give the port away for a while, and take it back: only with one port")
        command.type(b"\x14s")
        command.out.wait(lambda shown: shown.count(b"connected, 0 bytes received") == 2)
        assert (one.received, two.received) == (b"", b"")
        assert command.out.data.count(b"several ports are only read") == 1
        command.type(b"\x03")
        assert command.end() == 0


def test_timestamps_and_hexadecimal_come_after_the_name(ports):
    (one, _), _ = ports
    with watch(ports, "--timestamps=time", "--hex") as command:
        one.send(b"\x01")
        shown = command.out.wait(b"\n")
    assert re.fullmatch(rb"a    \| [\d:.]{12}  00000000  01 {47}\.\n", shown)


def test_events_name_their_port_and_one_outage_leaves_the_others_alone(ports):
    (one, two), _ = ports
    with watch(ports) as command:
        for name in (b"a: ", b"long: "):
            command.err.wait(b"connected     " + name)
        one.unplug()
        command.err.wait(b"recovering    a: ")
        two.send(b"goes on\n")
        command.out.wait(b"long | goes on\n")
        one.plug()
        one.wait_opened()
        one.send(b"back\n")
        command.out.wait(b"a    | back\n")
        command.signal(2)
        assert command.end() == 0
        command.err.wait_end()
        ended = [text for what, text in command.events() if what == "ended"]
    assert ended == ["a: 5 bytes received, 0 sent, 1 outage", "long: 8 bytes received, 0 sent, 0 outages"]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["/dev/ttyUSB0"], [""]),
        (["/dev/ttyUSB0", "/dev/ttyACM10"], ["ttyUSB0 ", "ttyACM10"]),
        (["/dev/ttyUSB0", "usb://0403:6001"], ["ttyUSB0        ", "usb://0403:6001"]),
        (["/tmp/a/tty", "/tmp/b/tty"], ["/tmp/a/tty", "/tmp/b/tty"]),
    ],
)
def test_labels_are_as_short_as_they_can_be(names, labels):
    assert _labels([Port(SerialConnection(name), name) for name in names]) == labels
