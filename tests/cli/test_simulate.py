"""`cnxman simulate`: the device that the command plays, as any program sees it."""

import os
import re
import shutil
import signal
import threading

import pytest
import serial

from cnxman.cli import simulate
from cnxman.cli.ending import Ending
from cnxman.cli.events import Events
from cnxman.testing import SimulatedDevice
from tests.kit.command import Command
from tests.kit.managers import wait_until


@pytest.fixture
def link(tmp_path):
    return tmp_path / "ttyUSB0"


def play(link, *arguments, **named):
    command = Command("simulate", "--link", link, *arguments, **named)
    command.out.wait(b"device ")
    return command


def ask(port, *questions, end=b"\n"):
    """What it answers to these, line by line."""
    with serial.Serial(str(port), timeout=60) as host:
        for question in questions:
            host.write(question + end)
        return [host.readline().strip() for _ in questions]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_answers_requests_whatever_their_line_end(link, end):
    with play(link, "--every", 0):
        assert ask(link, b"*IDN?", b"PING", b"MEASURE?", end=end) == [b"ACME,1000", b"PONG", b"21.5"]


def test_counts(link):
    with play(link, "--every", 0):
        assert ask(link, b"COUNT?", b"COUNT?") == [b"1", b"2"]
        assert ask(link, b"COUNT?") == [b"3"]


def test_answers_as_configured_and_prints_what_it_was_asked(link):
    with play(link, "--every", 0, "--answer", "VOLT?=5.02", "--answer", "*IDN?=OURS") as command:
        assert ask(link, b"VOLT?", b"*IDN?") == [b"5.02", b"OURS"]
        with serial.Serial(str(link)) as host:
            host.write(b"\xff?\n")
            command.out.wait(rb"'\\xff?'  no answer")
        command.out.wait(b"'VOLT?'  answered '5.02'")


def test_talks_while_somebody_listens(link):
    with play(link, "--every", 0.01), serial.Serial(str(link), timeout=60) as host:
        assert all(re.fullmatch(rb"temperature 2\d\.\d\n", host.readline()) for _ in range(20))


def test_enter_pulls_it_out_and_puts_it_back(link):
    with play(link) as command:
        command.type(b"\n")
        command.out.wait(b"pulled out")
        assert not link.exists()
        command.type(b"\n")
        command.out.wait(b"put back")
        assert ask(link, b"PING")


def test_a_monitor_goes_through_its_outage(link):
    with play(link) as command, Command("monitor", link) as monitor:
        monitor.out.wait(b"temperature")
        command.type(b"\n")
        monitor.wait_event("recovering")
        command.type(b"\n")
        monitor.err.wait(b", after ")


def test_plays_on_when_its_input_ends(link):
    with play(link) as command:
        command.process.stdin.close()
        assert ask(link, b"PING")


def test_leaves_the_terminal_alone_in_the_background(monkeypatch):
    monkeypatch.setattr(simulate.os, "isatty", lambda _descriptor: True)
    monkeypatch.setattr(simulate, "is_ours", lambda _descriptor: False)
    monkeypatch.setattr(simulate, "read_some", lambda _descriptor: pytest.fail("it reads"))
    with SimulatedDevice() as device, Ending(1) as ending:
        ending.end()
        assert simulate.Simulation(device, simulate.Options(), Events(1, quiet=True)).run("port", ending) == 0
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("cnxman simulate")]


def test_what_a_host_wrote_is_not_kept_for_ever(link, monkeypatch):
    monkeypatch.setattr(simulate, "_MOST_KEPT", 9)
    monkeypatch.setattr(simulate, "_LOOK_EVERY", 0.01)
    with SimulatedDevice() as device:
        simulation = simulate.Simulation(device, simulate.Options(every=0), Events(1, quiet=True))
        thread = threading.Thread(target=simulation._answer_requests)
        thread.start()
        try:
            assert ask(device.port, b"PING", b"PING") == [b"PONG", b"PONG"]
            wait_until(lambda: not device.received, "what was answered is still kept")
        finally:
            simulation._over.set()
            thread.join(60)


def test_a_request_that_comes_as_the_old_ones_are_forgotten_is_answered(monkeypatch):
    monkeypatch.setattr(simulate, "_MOST_KEPT", 0)
    monkeypatch.setattr(simulate, "_LOOK_EVERY", 0.2)
    with SimulatedDevice() as device, serial.Serial(device.port, timeout=60) as host:
        clear = device.clear

        def clear_as_something_comes():
            monkeypatch.setattr(device, "clear", clear)
            host.write(b"PING\n")
            device.wait_received(b"PING\n", timeout=60)
            return clear()

        monkeypatch.setattr(device, "clear", clear_as_something_comes)
        simulation = simulate.Simulation(device, simulate.Options(every=0), Events(1, quiet=True))
        thread = threading.Thread(target=simulation._answer_requests)
        thread.start()
        try:
            host.write(b"\n")
            assert host.readline() == b"PONG\n"
        finally:
            simulation._over.set()
            thread.join(60)


def test_says_in_a_terminal_what_enter_does(link):
    with play(link, terminal=True) as command:
        command.out.wait(b"Enter pulls it out and puts it back, Ctrl-C ends it")
        command.type(b"\r")
        command.out.wait(b"pulled out")
        command.type(b"\x03")
        assert command.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_link_is_removed_in_the_end(link, number):
    with play(link) as command:
        assert link.is_symlink()
        command.signal(number)
        assert command.end() == 0
        assert not link.is_symlink()


def test_a_link_of_a_run_that_was_killed_is_replaced(link):
    with play(link) as command:
        command.process.kill()
        command.process.wait(60)
    left_behind = link.readlink().parent
    with play(link):
        assert link.readlink().parent != left_behind
        assert ask(link, b"PING")
    shutil.rmtree(left_behind)


def test_a_link_of_a_run_that_goes_on_is_left_alone(link):
    with play(link) as command:
        command.type(b"\n")
        command.out.wait(b"pulled out")  # so that it leads nowhere
        with Command("simulate", "--link", link) as second:
            assert second.process.wait(60) == 1
            assert b"File exists" in second.out.wait_end()
        command.type(b"\n")
        command.out.wait(b"put back")
        assert ask(link, b"PING")


def test_a_link_to_a_device_whose_folder_is_gone_is_replaced(link):
    os.symlink("/tmp/cnxman-gone/tty", link)
    with play(link):
        assert ask(link, b"PING")


def test_a_link_of_somebody_elses_is_not_replaced(link):
    os.symlink("/dev/unplugged", link)
    with Command("simulate", "--link", link) as command:
        assert command.process.wait(60) == 1
    assert os.readlink(link) == "/dev/unplugged"


def test_what_is_there_already_is_left_alone(link):
    link.write_text("mine")
    with Command("simulate", "--link", link) as command:
        assert command.process.wait(60) == 1
        assert b"File exists" in command.out.wait_end()
    assert link.read_text() == "mine"


def test_a_link_of_somebody_elses_is_not_removed(link):
    with play(link) as command:
        link.unlink()
        os.symlink("/elsewhere", link)
        command.signal(signal.SIGINT)
        assert command.end() == 0
    assert link.readlink().name == "elsewhere"


def test_quiet_prints_the_port_alone(link):
    with play(link, "--quiet") as command:
        assert ask(link, b"PING")
        command.signal(signal.SIGINT)
        assert command.end() == 0
        assert command.out.wait_end().count(b"\n") == 1


def test_without_a_link_it_says_where_it_is():
    with Command("simulate", "--every", 0) as command:
        said = command.out.wait(b"COUNT?\n")
        port = re.search(rb"device +(\S+)  answers", said)[1]
        assert ask(port.decode(), b"PING") == [b"PONG"]


def test_a_host_that_does_not_read_stops_nothing(link):
    with play(link, "--every", 0, "--answer", f"BIG={'x' * 4000}") as command:
        with serial.Serial(str(link)) as host:
            host.write(b"BIG\n" * 5)
            command.out.wait(lambda said: said.count(b"'BIG'") == 5)
        with serial.Serial(str(link), timeout=60) as host:
            host.write(b"PING\n")
            assert b"PONG\n" in (host.readline() for _ in range(6))


def test_a_system_without_pseudo_terminals_is_an_error(monkeypatch, capfd):
    """As on Windows: a device that is reached by URL is no use to another program."""
    monkeypatch.setattr("cnxman.testing.device.HAVE_PTYS", False)
    assert simulate.run(simulate.Options()) == 1
    assert "needs POSIX pseudo-terminals" in capfd.readouterr().out
