"""`cnxman monitor` in pipes: the installed command, on a pseudo-terminal that is pulled out and put back."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import serial

from cnxman.testing import SimulatedDevice
from tests.kit.command import ANSI, COMMAND, Command, usage
from tests.kit.lines import pattern

ALL_BYTES = bytes(range(256))


@pytest.fixture
def device():
    with SimulatedDevice() as simulated:
        yield simulated


def monitor(device, *arguments, **named):
    return Command("monitor", device.port, *arguments, **named)


# -- data -------------------------------------------------------------------------------------------------


def test_shows_what_comes_byte_for_byte_and_nothing_else(device):
    sent = os.urandom(100_000) + ALL_BYTES
    with monitor(device) as command:
        device.wait_opened()
        device.send(sent, timeout=60)
        command.out.wait(lambda data: len(data) >= len(sent))
        command.signal(signal.SIGINT)
        assert command.end() == 0
        assert command.out.wait_end() == sent


def test_20_mb_pass_whole():
    sent = pattern(20_000_000)
    with SimulatedDevice() as device, monitor(device) as command:
        device.wait_opened()
        device.send(sent, timeout=100)
        command.out.wait(lambda data: len(data) >= len(sent), timeout=60)
        command.signal(signal.SIGINT)
        assert command.end() == 0
        assert command.out.wait_end() == sent


def test_shows_at_once_what_is_no_line_yet(device):
    with monitor(device) as command:
        device.wait_opened()
        device.send(b"=> ")
        assert command.out.wait(b"=> ") == b"=> "


def test_sends_what_is_piped_in_byte_for_byte_and_outlives_its_end(device):
    sent = ALL_BYTES * 200
    with monitor(device) as command:
        command.type(sent)
        command.process.stdin.close()
        assert device.receive(len(sent)) == sent
        device.send(b"still there")
        command.out.wait(b"still there")
        assert command.process.poll() is None


@pytest.mark.parametrize(
    ("eol", "expected"), [("lf", b"a\nb\nc\nd\n"), ("crlf", b"a\r\nb\r\nc\r\nd\r\n"), ("cr", b"a\rb\rc\rd\r")]
)
def test_gives_line_ends_the_form_asked_for(device, eol, expected):
    with monitor(device, "--eol", eol) as command:
        command.type(b"a\nb\r\nc\rd\n")
        device.wait_received(expected)
        assert device.received == expected


# -- outages ----------------------------------------------------------------------------------------------


def test_goes_on_after_an_outage_and_reports_what_happens(device):
    with monitor(device, "-b", 115200) as command:
        device.wait_opened()
        device.send(b"before\n")
        command.out.wait(b"before\n")
        device.unplug()
        command.wait_event("recovering")
        device.plug()
        device.wait_opened()
        device.send(b"after\n")
        command.out.wait(b"after\n")
        command.signal(signal.SIGINT)
        assert command.end() == 0
        assert command.out.wait_end() == b"before\nafter\n"
        command.err.wait_end()
        events = command.events()
    words = [what for what, _ in events]
    assert words[:3] == ["connecting", "connected", "recovering"]
    assert words[-2:] == ["connected", "ended"]
    assert events[1][1] == f"{device.port}, 115200 8N1"
    assert re.search(r"was lost: .*\(next attempt in \d+\.\d+ s\)$", events[2][1])
    assert re.search(r"8N1, after \d+\.\d+ s$", events[-2][1])
    assert events[-1][1] == "13 bytes received, 0 sent, 1 outage"


def test_waits_for_a_device_that_is_not_there_yet():
    with SimulatedDevice(plugged=False) as device, monitor(device) as command:
        command.wait_event("recovering")
        assert "no such port" in command.events()[1][1]
        command.err.wait(lambda said: said.count(b"next attempt in") >= 2)
        device.plug()
        device.wait_opened()
        device.send(b"here")
        command.out.wait(b"here")


def test_input_during_an_outage_is_kept_reported_and_sent_later(device):
    with monitor(device) as command:
        device.wait_opened()
        device.unplug()
        command.wait_event("recovering")
        command.type(b"later")
        command.err.wait(b"input is held back until there is a connection, up to 1 MiB")
        device.plug()
        assert device.receive(5) == b"later"
        command.err.wait(b"5 bytes that were held back are sent now")


def test_what_is_piped_in_before_the_device_is_there_is_sent_when_it_comes():
    with SimulatedDevice(plugged=False) as device, monitor(device) as command:
        command.type(b"hello")
        command.process.stdin.close()
        command.err.wait(b"held back")
        device.plug()
        assert device.receive(5) == b"hello"


def test_discard_drops_input_during_an_outage_and_reports_how_much(device):
    with monitor(device, "--discard") as command:
        device.wait_opened()
        device.unplug()
        command.wait_event("recovering")
        command.type(b"dropped")
        command.err.wait(b"input is dropped until there is a connection")
        device.plug()
        device.wait_opened()
        command.err.wait(b"7 bytes were dropped")
        command.type(b"sent")
        assert device.receive(until=b"sent") == b"sent"


def test_what_the_line_did_not_take_before_it_was_lost_is_sent_after_the_outage(device):
    sent = b"".join(b"%07d\n" % number for number in range(25_000))
    with monitor(device) as command:
        device.wait_opened()
        device.cut(at=50_000, of="received")
        writer = threading.Thread(target=command.type, args=[sent])
        writer.start()
        command.wait_event("recovering")
        device.plug()
        device.wait_received(sent[-8:], timeout=60)
        writer.join(60)
    # What the kernel had taken when the line was cut is lost. Nothing else is, and nothing goes out twice.
    rest = device.received[50_000:]
    assert device.received[:50_000] == sent[:50_000]
    assert sent.endswith(rest)
    assert len(rest) > 100_000


# -- no waiting -------------------------------------------------------------------------------------------


def test_no_wait_ends_with_status_1_and_one_line_when_the_port_is_absent():
    with SimulatedDevice(plugged=False) as device, monitor(device, "--no-wait") as command:
        assert command.process.wait(60) == 1
        command.err.wait_end()
        [(what, text)] = command.events()
    assert what == "error"
    assert text.startswith(f"cannot open {device.port}: there is no such port")


def test_no_wait_says_who_has_the_port(device):
    with serial.Serial(device.port, exclusive=True), monitor(device, "--no-wait", "--quiet") as command:
        assert command.process.wait(60) == 1
        command.err.wait_end()
        [(_, text)] = command.events()
    assert f"(pid {os.getpid()})" in text


def test_no_wait_outlives_an_outage_once_the_port_was_open(device):
    with monitor(device, "--no-wait") as command:
        device.wait_opened()
        command.wait_event("connected")
        device.unplug()
        command.wait_event("recovering")
        device.plug()
        device.wait_opened()
        device.send(b"back")
        command.out.wait(b"back")
        command.signal(signal.SIGTERM)
        assert command.end() == 0
        command.err.wait_end()
    assert command.events()[-1][0] == "ended"


# -- the end ----------------------------------------------------------------------------------------------


@pytest.fixture
def silent_host():
    """A host that takes connections and never answers, or doesn't even take them any more."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        yield server


def assert_ends(command, number=signal.SIGINT, within=20):
    command.signal(number)
    assert command.end(within) == 0
    assert b"Traceback" not in command.err.wait_end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ends_when_connected(device, number):
    with monitor(device) as command:
        device.wait_opened()
        assert_ends(command, number)


def test_ends_while_it_waits_for_the_device():
    with SimulatedDevice(plugged=False) as device, monitor(device) as command:
        command.wait_event("recovering")
        assert_ends(command)


def test_ends_during_an_outage(device):
    with monitor(device) as command:
        device.wait_opened()
        device.unplug()
        command.wait_event("recovering")
        assert_ends(command)


def test_ends_while_an_opening_hangs_in_a_negotiation(silent_host):
    with Command("monitor", f"rfc2217://127.0.0.1:{silent_host.getsockname()[1]}?timeout=60") as command:
        connection, _ = silent_host.accept()
        with connection:
            assert connection.recv(1)  # it asks, and waits for our answer, up to 60 s
            assert_ends(command)


def test_ends_while_an_opening_hangs_in_connecting(silent_host):
    address = silent_host.getsockname()
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:  # until the host's queue is full
        filler.setblocking(False)
        filler.connect_ex(address)
    with Command("monitor", f"socket://127.0.0.1:{address[1]}") as command:
        command.wait_event("connecting")
        assert_ends(command, within=4)  # pyserial waits for 5 s
    for filler in fillers:
        filler.close()


def test_ends_while_nobody_reads_its_output(device):
    with monitor(device, collect=False) as command:
        device.wait_opened()
        device.send(bytes(500_000), timeout=60)  # more than a pipe takes
        assert_ends(command)


def test_ends_while_the_device_takes_nothing(device):
    with monitor(device) as command:
        device.wait_opened()
        device.stall()
        command.type(bytes(100_000))  # more than a pseudo-terminal takes
        assert_ends(command)


@pytest.mark.parametrize("busy", [True, False])
def test_a_closed_pipe_ends_it_quietly(device, busy):
    with monitor(device, collect=False) as command:
        device.wait_opened()
        command.process.stdout.close()
        if busy:
            device.send(b"nobody reads this")
        assert command.end() == 0
        command.err.wait_end()
        assert [what for what, _ in command.events()] == ["connecting", "connected", "ended"]


def test_a_signal_that_was_ignored_stays_ignored(device):
    line = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", line, COMMAND, "monitor", device.port], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        device.wait_opened()
        process.send_signal(signal.SIGHUP)
        device.send(b"still there")
        assert process.stdout.read(11) == b"still there"
        process.send_signal(signal.SIGINT)


def test_output_that_cannot_be_written_is_status_1(device):
    with open("/dev/full", "wb") as full, monitor(device, stdout=full) as command:
        device.wait_opened()
        device.send(b"x")
        assert command.end() == 1
        assert b"standard output can't be written" in command.err.wait_end()


def test_closed_descriptors_are_no_place_for_a_port(device):
    line = "import os, sys; os.close(0); os.close(2); os.execv(sys.argv[1], sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", line, COMMAND, "monitor", device.port, "--no-wait"], stdout=subprocess.PIPE
    ) as process:
        device.wait_opened()
        device.send(b"data")
        assert process.stdout.read(4) == b"data"
        device.unplug()
        device.plug()
        device.wait_opened()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert device.received == b""  # no event went to the device in standard error's stead


# -- how it is shown --------------------------------------------------------------------------------------


def test_hex_shows_offset_and_bytes_at_once_and_the_text_after_a_pause(device):
    with monitor(device, "--hex") as command:
        device.wait_opened()
        device.send(b"\xde\xad\xbe\xef")
        assert command.out.wait(b"ef").startswith(b"00000000  de ad be ef")
        command.out.wait(b"de ad be ef" + b"   " * 12 + b"  ....\n")
        device.send(b"0123456789abcdef\nZ")
        shown = command.out.wait(b".Z\n")
    assert shown.splitlines()[1:] == [
        b"00000004  30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66  0123456789abcdef",
        b"00000014  0a 5a" + b"   " * 14 + b"  .Z",
    ]


def test_hex_rows_that_begin_after_a_pause_have_a_time_of_their_own(device):
    with monitor(device, "--hex", "--timestamps=delta") as command:
        device.wait_opened()
        device.send(b"ACME,1000.2\n")
        command.out.wait(b"  ACME,1000.2.\n")
        device.send(b"later")
        first, second = command.out.wait(b"  later\n").splitlines()
    assert first.split()[0] == b"+0.000"
    assert float(second.split()[0]) >= 0.1


def test_hex_ends_its_row_at_an_outage_and_at_the_end(device):
    with monitor(device, "--hex") as command:
        device.wait_opened()
        device.send(b"A")
        command.out.wait(b"41")
        device.unplug()
        command.out.wait(b"A\n")
        device.plug()
        device.wait_opened()
        device.send(b"BC")
        command.out.wait(b"43")
        command.signal(signal.SIGINT)
        assert command.end() == 0
        shown = command.out.wait_end()
    assert shown == (
        b"00000000  41" + b"   " * 15 + b"  A\n"
        b"00000001  42 43" + b"   " * 14 + b"  BC\n"
    )  # fmt: skip


def test_timestamps_begin_each_line(device):
    with monitor(device, "--timestamps") as command:
        device.wait_opened()
        device.send(b"one\ntw")
        device.send(b"o\n")
        shown = command.out.wait(b"two\n")
    stamp = rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  "
    assert re.fullmatch(stamp + rb"one\n" + stamp + rb"two\n", shown)


def test_timestamps_and_hex_together(device):
    with monitor(device, "--timestamps", "--hex") as command:
        device.wait_opened()
        device.send(b"x")
        shown = command.out.wait(b"x\n")
        assert re.fullmatch(rb"\d{4}-\d\d-\d\d [\d:.]{12}  00000000  78 {47}x\n", shown)


@pytest.mark.parametrize(
    ("form", "looks_like"),
    [("time", rb"[\d:.]{12}"), ("iso", rb"\d{4}-\d\d-\d\dT[\d:.]{12}[+-]\d\d:\d\d"), ("epoch", rb"\d+\.\d{3}")],
)
def test_timestamps_have_the_form_asked_for(device, form, looks_like):
    with monitor(device, f"--timestamps={form}") as command:
        device.wait_opened()
        device.send(b"x\n")
        assert re.fullmatch(looks_like + b"  x\n", command.out.wait(b"x\n"))


def test_characters_are_mapped_both_ways(device):
    with monitor(device, "--map", "ICRCRNL,ODELBS", "--map", "ocrnl") as command:
        device.wait_opened()
        device.send(b"one\rtwo\r")
        assert command.out.wait(b"two\r\n") == b"one\r\ntwo\r\n"
        command.type(b"a\x7fb\r")
        assert device.receive(until=b"b\n") == b"a\x08b\n"


@pytest.mark.parametrize("shape", [[], ["--hex"]])
def test_the_log_is_appended_and_flushed_and_gets_what_standard_output_gets(device, tmp_path, shape):
    log = tmp_path / "log"
    log.write_bytes(b"from before\n")
    with monitor(device, "--log", log, *shape) as command:
        device.wait_opened()
        device.send(b"data\n" * 5)
        command.out.wait(b"\n")
        device.send(b"!")
        command.out.wait(lambda shown: shown.endswith((b"!", b"!\n")))
        end = time.monotonic() + 5
        while len(log.read_bytes()) < len(command.out.data) + 12 and time.monotonic() < end:
            time.sleep(0.01)
        assert log.read_bytes() == b"from before\n" + command.out.data


def assert_log(path, *lines):
    """The log has these lines; dates and times are D, paths of ports P, seconds S, reasons R."""
    found = re.sub(r"(was lost|cannot open .*tty): .*", r"\1: R", path.read_text())
    for form, letter in ((r"\d{4}-\d\d-\d\d [\d:.]{12}", "D"), (r"/tmp/\S+/tty", "P"), (r"\d+\.\d+ s", "S")):
        found = re.sub(form, letter, found)
    assert found.splitlines() == list(lines)


def test_the_log_marks_outages_with_their_time_reason_and_length(device, tmp_path):
    with monitor(device, "--log", tmp_path / "log") as command:
        device.wait_opened()
        device.send(b"before, in mid-line")
        command.out.wait(b"mid-line")
        for data in (b"after\n", b"in the end\n"):
            device.unplug()
            device.wait_closed()
            device.plug()
            device.wait_opened()
            device.send(data)
            command.out.wait(data)
        assert command.out.data == b"before, in mid-lineafter\nin the end\n"  # in the log alone
    assert_log(
        tmp_path / "log",
        "before, in mid-line",
        *("--- D  P was lost: R", "--- D  P is back, after S", "after"),
        *("--- D  P was lost: R", "--- D  P is back, after S", "in the end"),
    )


def test_the_log_marks_a_device_that_was_absent_from_the_beginning(tmp_path):
    with SimulatedDevice(plugged=False) as device, monitor(device, "--log", tmp_path / "log") as command:
        command.wait_event("recovering")
        device.plug()
        device.wait_opened()
        device.send(b"here\n")
        command.out.wait(b"here\n")
    assert_log(
        tmp_path / "log",
        "--- D  cannot open P: R",
        "--- D  P is back, after S",
        "here",
    )


def test_a_quiet_log_has_the_data_alone(device, tmp_path):
    with monitor(device, "--quiet", "--log", tmp_path / "log") as command:
        device.wait_opened()
        device.send(b"before ")
        command.out.wait(b"before ")
        device.unplug()
        device.plug()
        device.wait_opened()
        device.send(b"after\n")
        command.out.wait(b"after\n")
    assert (tmp_path / "log").read_bytes() == b"before after\n"


def test_a_log_that_is_full_is_reported_once_and_stops_nothing_else(device):
    with monitor(device, "--log", "/dev/full") as command:
        device.wait_opened()
        device.send(b"one")
        command.err.wait(b"the log ends here")
        device.send(b"two")
        assert command.out.wait(b"two") == b"onetwo"
        assert command.err.data.count(b"the log") == 1


def test_quiet_reports_nothing(device):
    with monitor(device, "--quiet") as command:
        device.wait_opened()
        device.unplug()
        device.plug()
        device.wait_opened()
        command.signal(signal.SIGINT)
        assert command.end() == 0
        assert command.err.wait_end() == b""


def test_no_colour_in_pipes(device):
    with monitor(device) as command:
        command.wait_event("connected")
        assert not ANSI.search(command.err.data.decode())


# -- a slow reader ----------------------------------------------------------------------------------------


def test_a_slow_reader_holds_the_device_off_and_loses_nothing(device):
    sent = os.urandom(1_000_000)
    with monitor(device, "--buffer-size", 65536, collect=False) as command:
        device.wait_opened()
        sender = threading.Thread(target=device.send, args=[sent, 30])
        sender.start()
        sender.join(1)
        assert sender.is_alive()  # pipe, buffer and pseudo-terminal take a fifth of it
        command.collect_output()
        assert command.out.wait(lambda data: len(data) >= len(sent), timeout=60) == sent
        sender.join(60)


def test_a_pipe_that_does_not_block_loses_nothing(device):
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    sent = os.urandom(500_000)
    with monitor(device, stdout=theirs), open(ours, "rb") as reader:
        os.close(theirs)
        device.wait_opened()
        device.send(sent, timeout=60)
        assert reader.read(len(sent)) == sent


def test_input_that_does_not_block_is_waited_for(device):
    theirs, ours = os.pipe()
    os.set_blocking(theirs, False)
    with monitor(device, stdin=theirs), open(ours, "wb", buffering=0) as writer:
        os.close(theirs)
        device.wait_opened()
        writer.write(b"late")
        assert device.receive(4) == b"late"


# -- settings and usage -----------------------------------------------------------------------------------


def test_settings_reach_the_port(device):
    arguments = ["-b", 57600, "--bytesize", 7, "--parity", "e", "--stopbits", 2, "--xonxoff", "--no-exclusive"]
    with monitor(device, *arguments) as command:
        command.err.wait(b"57600 7E2")
        device.wait_opened()
        settings = subprocess.run(["stty", "-F", device.port, "-a"], capture_output=True, text=True, check=True)
    # (A pseudo-terminal has no parity, and always 8 bits.)
    assert "speed 57600" in settings.stdout
    assert {"cstopb", "ixon"} <= set(settings.stdout.split())


def test_no_exclusive_lets_others_in(device):
    with monitor(device, "--no-exclusive"):
        device.wait_opened()
        with serial.Serial(device.port) as other:
            assert other.is_open


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "COMMAND"),
        (["monitor"], "PORT"),
        (["monitor", "x", "--parity", "X"], "--parity"),
        (["monitor", "x", "-b", "fast"], "--baudrate"),
        (["monitor", "x", "-b", "-1"], "baudrate must be a whole number above 0, not -1"),
        (["monitor", "nonsense://x"], "pyserial knows no scheme nonsense://"),
        (["monitor", "usb://zz"], "expected usb://VID:PID"),
        (["monitor", "x", "--eol", "lfcr"], "--eol"),
        (["monitor", "x", "--dtr", "up"], "--dtr"),
        (["monitor", "x", "--log", "/nowhere/log"], "No such file or directory: '/nowhere/log'"),
        (["monitor", "x", "--idle-timeout", "0"], "idle_timeout must be above 0"),
        (["monitor", "x", "--map", "crlf"], "CRLF is no mapping: allowed are ICRNL, "),
        (["monitor", "x", "--map", "ICRNL,IGNCR"], "ICRNL and IGNCR contradict each other"),
        (["monitor", "--timestamps=utc", "x"], "--timestamps"),
        (["simulate", "--answer", "x"], "must be REQUEST=ANSWER, not 'x'"),
        (["simulate", "--every", "-1"], "must be seconds, at least 0, not -1"),
        (["completion", "tcsh"], "tcsh"),
        (["ports", "x"], "unrecognized arguments: x"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_wrong_usage_is_status_2_and_prints_the_usage(arguments, said, capsys):
    status, output, told = usage(capsys, *arguments)
    assert (status, output) == (2, "")
    assert told.startswith("usage: cnxman")
    assert said in told


def test_a_process_with_wrong_usage_ends_with_status_2():
    done = subprocess.run([COMMAND, "monitor"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: cnxman")


@pytest.mark.parametrize("command", [[], ["monitor"], ["ports"], ["simulate"], ["completion"]])
def test_help_teaches_with_examples_first(command, capsys):
    status, output, _ = usage(capsys, *command, "--help")
    assert status == 0
    assert output.startswith("examples:\n  cnxman ")
