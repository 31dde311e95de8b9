"""`cnxman ports`: the installed command, where pyserial finds the adapters that a file tells of."""

import json
import os
import re
import signal
import subprocess

import pytest

from cnxman import ports
from cnxman.testing import SimulatedDevice
from tests.kit.command import COMMAND, Command

# A site of its own, in which pyserial lists what the file says. A listing marked "gone" fails as a real one does when
# an adapter is pulled out meanwhile.
SITE = """
import json, os
from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

def comports(include_links=False):
    with open(os.environ["TEST_PORTS"]) as file:
        listed = json.load(file)
    if "gone" in listed:
        with open(os.environ["TEST_PORTS"], "w") as file:
            json.dump(listed["gone"], file)
        raise TypeError("a file of sysfs has vanished")
    found = []
    for each in listed["ports"]:
        info = ListPortInfo(each.pop("device"))
        vars(info).update(each)
        found.append(info)
    return found

list_ports.comports = comports

# When a node comes or goes, /dev's time changes. An ordinary user can't bring that about: the file's stands for it.
real_stat = os.stat
os.stat = lambda path, *args, **more: real_stat(os.environ["TEST_PORTS"] if path == "/dev" else path, *args, **more)
"""

FTDI = {
    "vid": 0x0403,
    "pid": 0x6001,
    "serial_number": "A50285BI",
    "location": "1-1.2",
    "manufacturer": "FTDI",
    "product": "FT232R USB UART",
    "description": "FT232R USB UART - FT232R USB UART",
}


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """Sets which ports there are: a function that takes what pyserial is to list."""
    path = tmp_path / "ports.json"
    (tmp_path / "sitecustomize.py").write_text(SITE)

    def set_ports(*found, gone=False):
        new = path.with_suffix(".new")
        content = {"ports": [{"description": "n/a"} | each for each in found]}
        new.write_text(json.dumps({"gone": content} if gone else content))
        new.replace(path)

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("TEST_PORTS", str(path))
    return set_ports


def run(*arguments):
    return subprocess.run([COMMAND, "ports", *arguments], capture_output=True, text=True, timeout=60, check=True)


def test_lists_path_what_it_is_the_name_that_survives_and_who_holds_it(listed):
    with SimulatedDevice() as device, Command("monitor", device.port):
        device.wait_opened()
        node = os.path.realpath(device.port)
        listed(FTDI | {"device": node}, {"device": "/dev/ttyS0", "description": "ttyS0"}, {"device": "/dev/ttyS1"})
        shown = run().stdout
    lines = shown.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith(node))
    assert lines[at] == f"{node:14}  FT232R USB UART (FTDI)"
    assert lines[at + 1] == "    usb://0403:6001/A50285BI"
    assert re.fullmatch(r"    in use by .*cnxman monitor .* \(pid \d+\)", lines[at + 2])
    assert "/dev/ttyS0      ttyS0" in lines
    assert "/dev/ttyS1" in lines


def test_equal_adapters_differ_by_their_location(listed):
    listed(FTDI | {"device": "/dev/ttyUSB0"}, FTDI | {"device": "/dev/ttyUSB1", "location": "1-1.3"})
    shown = run().stdout
    assert "usb://0403:6001/A50285BI?location=1-1.2" in shown
    assert "usb://0403:6001/A50285BI?location=1-1.3" in shown


def test_json(listed):
    with SimulatedDevice() as device, Command("monitor", device.port) as command:
        device.wait_opened()
        listed(FTDI | {"device": os.path.realpath(device.port)})
        [port] = json.loads(run("--json").stdout)
    assert port["device"] == os.path.realpath(device.port.replace("tty", "tty")) or port["device"].startswith(
        "/dev/pts"
    )
    assert port["url"] == "usb://0403:6001/A50285BI"
    assert (port["vid"], port["pid"], port["location"], port["by_id"]) == (0x0403, 0x6001, "1-1.2", None)
    assert [holder["pid"] for holder in port["holders"]] == [command.process.pid]


def test_no_port_at_all(listed):
    listed()
    done = run()
    assert (done.stdout, done.stderr) == ("", "there is no serial port\n")
    assert json.loads(run("--json").stdout) == []


def test_a_port_that_vanishes_in_mid_listing_is_no_error(listed):
    listed({"device": "/dev/ttyS0"}, gone=True)
    assert run().stdout == "/dev/ttyS0\n"


def test_watch_prints_arrivals_and_departures_until_ctrl_c(listed):
    listed({"device": "/dev/ttyS0"})
    with Command("ports", "--watch") as command:
        command.out.wait(b"present   /dev/ttyS0\n")
        listed({"device": "/dev/ttyS0"}, FTDI | {"device": "/dev/ttyUSB0"})
        command.out.wait(b"arrived   /dev/ttyUSB0    FT232R USB UART (FTDI)\n")
        listed({"device": "/dev/ttyS0"}, FTDI | {"device": "/dev/ttyUSB0", "serial_number": "OTHER"})
        command.out.wait(lambda shown: re.search(rb"departed.*\n.*A50285BI\n.*arrived.*\n.*OTHER\n", shown))
        listed({"device": "/dev/ttyS0"})
        command.out.wait(lambda shown: shown.count(b"departed") == 2)
        command.signal(signal.SIGINT)
        assert command.end() == 0
        assert command.err.wait_end() == b""


def test_watch_as_json_has_an_object_a_line(listed):
    listed({"device": "/dev/ttyS0"})
    with Command("ports", "--watch", "--json") as command:
        command.out.wait(b"\n")
        listed()
        command.out.wait(lambda shown: shown.count(b"\n") == 2)
        events = [json.loads(line) for line in command.out.data.splitlines()]
    assert [(event["event"], event["device"]) for event in events] == [
        ("present", "/dev/ttyS0"),
        ("departed", "/dev/ttyS0"),
    ]


def test_watch_ends_quietly_when_nobody_reads_it(listed):
    listed({"device": "/dev/ttyS0"})
    with Command("ports", "--watch", collect=False) as command:
        command.process.stdout.readline()
        command.process.stdout.close()
        assert command.end() == 0
        assert command.err.wait_end() == b""


def test_output_that_cannot_be_written_is_status_1(listed):
    listed({"device": "/dev/ttyS0"})
    with open("/dev/full", "wb") as full, Command("ports", stdout=full) as command:
        assert command.process.wait(60) == 1
        assert b"standard output can't be written" in command.err.wait_end()


def test_by_id_is_the_link_that_leads_to_the_device(tmp_path, monkeypatch):
    monkeypatch.setattr(ports, "BY_ID", str(tmp_path / "by-id"))
    assert ports.by_id("/dev/null") is None
    (tmp_path / "by-id").mkdir()
    (tmp_path / "by-id" / "usb-Other").symlink_to("/dev/zero")
    (tmp_path / "by-id" / "usb-FTDI-port0").symlink_to("/dev/null")
    assert ports.by_id("/dev/null") == str(tmp_path / "by-id" / "usb-FTDI-port0")
    assert ports.by_id("/dev/full") is None
