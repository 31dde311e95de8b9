"""`cnxman share`: the installed command, with real clients of every kind, before a simulated device."""

import contextlib
import os
import re
import resource
import select
import signal
import socket
import stat
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial

from cnxman.testing import SimulatedDevice
from tests.kit.command import COMMAND, Command, usage
from tests.kit.lines import pattern, wait_until

LINE = b"0123456789abcdef\n"


class Shared(Command):
    """A run of the command before a device, from its first connection on."""

    def __init__(self, device: SimulatedDevice, *arguments: object, connected: bool = True, **popen: object) -> None:
        super().__init__("share", device.port, *arguments, **popen)
        if connected:
            with contextlib.ExitStack() as undo:
                undo.push(self.__exit__)  # who isn't made has no end of its own
                self.wait_event("connected")
                undo.pop_all()

    @property
    def tcp(self) -> tuple[str, int]:
        """Where its first TCP clients come in."""
        self.err.wait(lambda data: re.search(rb"listening +tcp:", data))
        found = re.search(r"listening +tcp:([\d.]+):(\d+)", self.err.data.decode())
        assert found
        return found[1], int(found[2])

    def clients(self, count: int) -> None:
        """Wait until so many clients have come, since the beginning."""
        self.err.wait(lambda data: len(re.findall(rb"\d  came  ", data)) >= count)

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory(self) -> int:
        """Bytes that it holds in memory now."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found
        return int(found[1]) * 1024


def connect(command: Shared) -> socket.socket:
    client = socket.create_connection(command.tcp, timeout=60)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def read(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = client.recv(count - len(data))
        assert more, f"hung up after {data!r}"
        data += more
    return data


def open_port(path: object) -> serial.Serial:
    return serial.Serial(str(path), 115200, timeout=60)


@pytest.fixture
def device() -> Iterator[SimulatedDevice]:
    with SimulatedDevice() as device:
        yield device


TCP = ("--listen", "tcp:127.0.0.1:0")


# -- what goes to and fro -------------------------------------------------------------------------------------


def test_each_client_gets_the_device_s_data_and_the_device_gets_theirs(device, tmp_path):
    link, path = tmp_path / "tty", str(tmp_path / "sock")
    with (
        Shared(device, "--pty", link, "--listen", f"unix:{path}", *TCP) as command,
        open_port(link) as port,
        connect(command) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.connect(path)
        command.clients(3)
        device.send(LINE)
        assert port.read(len(LINE)) == read(tcp, len(LINE)) == read(unix, len(LINE)) == LINE
        port.write(b"from the pty\n")
        assert device.receive(until=b"\n") == b"from the pty\n"
        tcp.sendall(b"from tcp\n")
        assert device.receive(until=b"\n") == b"from tcp\n"
        unix.sendall(b"from unix\n")
        assert device.receive(until=b"\n") == b"from unix\n"


def test_no_client_notices_five_outages(device, tmp_path):
    link = tmp_path / "tty"
    with Shared(device, "--pty", link, *TCP) as command, open_port(link) as port, connect(command) as tcp:
        command.clients(2)
        for count in range(5):
            line = b"%d %s" % (count, LINE)
            device.send(line)
            assert port.read(len(line)) == read(tcp, len(line)) == line
            device.unplug()
            command.err.wait(lambda data, count=count: len(re.findall(rb"\d  recovering", data)) > count)
            device.plug()
            device.wait_opened()
        assert not re.search(r"\d  left  ", command.err.data.decode())


def test_what_clients_send_in_an_outage_is_held_back_and_sent_later(device, tmp_path):
    with Shared(device, *TCP) as command, connect(command) as client:
        device.unplug()
        command.wait_event("recovering")
        client.sendall(b"held 1\nheld 2\n")
        command.err.wait(b"is held back until there is a connection, up to 1 MiB")
        device.plug()
        assert device.receive(14) == b"held 1\nheld 2\n"
        command.err.wait(b"14 bytes that were held back are sent now")


def test_discard_drops_what_clients_send_in_an_outage(device):
    with Shared(device, "--discard", *TCP) as command, connect(command) as client:
        device.unplug()
        command.wait_event("recovering")
        client.sendall(b"dropped\n")
        command.err.wait(b"is dropped until there is a connection (--discard)")
        device.plug()
        command.err.wait(b"8 bytes were dropped")
        client.sendall(b"sent\n")
        assert device.receive(until=b"\n") == b"sent\n"


def test_more_than_is_held_back_waits_with_its_client(device):
    data = pattern(3 * 2**20)
    with Shared(device, *TCP) as command, connect(command) as client:
        device.unplug()
        command.wait_event("recovering")
        sender = threading.Thread(target=client.sendall, args=[data])
        sender.start()
        command.err.wait(b"1 MiB are held back: clients aren't read until there is a connection")
        assert command.memory() < 100 * 2**20
        device.plug()
        assert device.receive(len(data), timeout=60) == data
        sender.join()


def test_20_megabytes_each_way_come_whole(device):
    down, up = pattern(20_000_000, 1), pattern(20_000_000, 2)
    with Shared(device, *TCP) as command, connect(command) as client:
        command.clients(1)
        sender = threading.Thread(target=device.send, args=[down, 100])
        writer = threading.Thread(target=client.sendall, args=[up])
        client.settimeout(100)
        sender.start()
        writer.start()
        assert read_all(client, len(down)) == down
        assert device.receive(len(up), timeout=100) == up
        sender.join()
        writer.join()


def write_all(port, data):
    """Write it in parts: pyserial copies all that is left each time the kernel has taken some."""
    for start in range(0, len(data), 65536):
        port.write(data[start : start + 65536])


def read_all(client, count):
    parts = []
    while count:
        part = client.recv(min(count, 1 << 20))
        assert part
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def test_20_megabytes_through_a_pty_come_whole(device, tmp_path):
    data = pattern(20_000_000)
    with Shared(device, "--pty", tmp_path / "tty") as command, open_port(tmp_path / "tty") as port:
        command.clients(1)
        sender = threading.Thread(target=device.send, args=[data, 100])
        sender.start()
        got = bytearray()
        while len(got) < len(data):
            got += port.read(max(1, min(port.in_waiting, len(data) - len(got))))
        assert got == data
        sender.join()
        writer = threading.Thread(target=write_all, args=[port, data])
        writer.start()
        assert device.receive(len(data), timeout=60) == data
        writer.join()


def test_lines_of_several_clients_are_never_mixed(device):
    count, clients = 2000, 4
    with Shared(device, *TCP) as command, contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connect(command)) for _ in range(clients)]
        command.clients(clients)
        told = [b"".join(b"%d %05d %s\n" % (who, n, b"x" * (n % 90)) for n in range(count)) for who in range(clients)]
        threads = [
            threading.Thread(target=client.sendall, args=[text]) for client, text in zip(sockets, told, strict=True)
        ]
        for thread in threads:
            thread.start()
        came = device.receive(sum(map(len, told)), timeout=60)
        for thread in threads:
            thread.join()
    for who, text in enumerate(told):
        assert [line for line in came.splitlines() if line.startswith(b"%d " % who)] == text.splitlines()


def test_what_read_only_clients_send_is_ignored(device, tmp_path):
    link = tmp_path / "tty"
    with (
        Shared(device, *TCP, "--read-only", "--pty", link) as command,
        connect(command) as client,
        open_port(link) as port,
    ):
        command.clients(2)
        port.write(b"not this\n")
        command.err.wait(b"what it sends is ignored (--read-only)")
        client.sendall(b"but this\n")
        assert device.receive(until=b"\n") == b"but this\n"
        device.send(LINE)
        assert port.read(len(LINE)) == LINE


def test_a_client_that_ends_its_input_still_gets_the_answer():
    with SimulatedDevice({b"Q\n": b"answer\n"}) as device, Shared(device, *TCP) as command, connect(command) as client:
        client.sendall(b"Q\n")
        client.shutdown(socket.SHUT_WR)
        assert read(client, 7) == b"answer\n"
        assert client.recv(1) == b""


# -- clients that behave badly --------------------------------------------------------------------------------


def test_a_client_that_stops_reading_is_dropped_and_holds_up_nobody(device):
    data = pattern(12_000_000)
    with Shared(device, "--buffer-size", 2**20, *TCP) as command, connect(command) as deaf, connect(command) as client:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        command.clients(2)
        sender = threading.Thread(target=device.send, args=[data, 100])
        sender.start()
        assert read_all(client, len(data)) == data
        sender.join()
        command.err.wait(b"it didn't read: 1 MiB waited for it")
        assert command.memory() < 80 * 2**20


def test_a_pty_that_is_not_read_loses_its_oldest_bytes(device, tmp_path):
    data = pattern(3 * 2**20)
    with (
        Shared(device, "--buffer-size", 2**20, "--pty", tmp_path / "tty", *TCP) as command,
        open_port(tmp_path / "tty") as port,
        connect(command) as client,
    ):
        command.clients(2)
        sender = threading.Thread(target=device.send, args=[data, 100])
        sender.start()
        assert read_all(client, len(data)) == data
        sender.join()
        command.err.wait(b"isn't read: beyond 1 MiB its oldest are lost")
        device.send(b"THE END")
        got = b""
        while not got.endswith(b"THE END"):
            got += port.read(max(1, port.in_waiting))
        told = command.err.wait(lambda data: re.search(rb"is read again: it lost (\d+) bytes", data))
        [lost] = re.findall(rb"is read again: it lost (\d+) bytes", told)
        assert len(got) + int(lost) == len(data) + 7
        assert 2**20 <= len(got) < 2 * 2**20
        assert (data + b"THE END").endswith(got[-(2**20) :])  # the newest, without a gap


def test_a_pty_that_nobody_has_open_keeps_nothing(device, tmp_path):
    link = tmp_path / "tty"
    with Shared(device, "--pty", link, *TCP) as command, connect(command) as client:
        command.clients(1)
        device.send(b"nobody has it open\n")
        read(client, 19)
        fd = os.open(link, os.O_RDWR | os.O_NOCTTY)  # without discarding anything
        command.clients(2)
        device.send(b"unread\n")
        read(client, 7)
        select.select([fd], [], [], 10)
        os.close(fd)
        command.err.wait(lambda data: re.search(rb"left +/", data))
        fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
        command.clients(3)
        device.send(LINE)
        assert os.read(fd, 100) == LINE
        os.close(fd)


def test_what_a_client_discards_is_not_given_to_it(device, tmp_path):
    with (
        Shared(device, "--pty", tmp_path / "tty", *TCP) as command,
        open_port(tmp_path / "tty") as port,
        connect(command) as client,
    ):
        command.clients(2)
        device.send(pattern(500_000))
        read_all(client, 500_000)  # the pty has taken some of it, the rest waits
        port.reset_input_buffer()
        port.write(b"ask\n")
        assert device.receive(until=b"ask\n")
        port.reset_input_buffer()
        device.send(LINE)
        assert port.read_until(LINE).endswith(LINE)
        assert port.in_waiting == 0


def test_50_clients_each_get_all(device):
    data = pattern(200_000)
    with Shared(device, *TCP) as command, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(command)) for _ in range(50)]
        command.clients(50)
        sender = threading.Thread(target=device.send, args=[data, 30])
        sender.start()
        assert all(read_all(client, len(data)) == data for client in clients)
        sender.join()
        for number, client in enumerate(clients):
            client.sendall(b"%d\n" % number)
        came = device.receive(sum(len(b"%d\n" % number) for number in range(50)))
        assert sorted(map(int, came.split())) == list(range(50))


def test_10000_clients_that_vanish_leave_nothing(device):
    with Shared(device, *TCP) as command, connect(command) as client:
        command.clients(1)
        before = command.descriptors()
        reset = struct.pack("ii", 1, 0)
        for number in range(10_000):
            vanishing = socket.create_connection(command.tcp)
            if number % 2:
                vanishing.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            vanishing.close()
        wait_until(lambda: command.descriptors() == before, "descriptors as before")
        assert command.memory() < 100 * 2**20
        client.sendall(LINE)
        assert device.receive(until=b"\n") == LINE
        device.send(LINE)
        assert read(client, len(LINE)) == LINE


def test_where_descriptors_run_out_nobody_comes_in_but_who_is_there_stays(device):
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    with Shared(device, *TCP, preexec_fn=few) as command, connect(command) as client, contextlib.ExitStack() as stack:
        command.clients(1)
        for _ in range(40):
            stack.enter_context(connect(command))
        command.err.wait(b"nobody can come in now: Too many open files")
        device.send(LINE)
        assert read(client, len(LINE)) == LINE
        stack.close()
        with connect(command) as another:
            another.sendall(b"later\n")
            assert device.receive(until=b"\n") == b"later\n"


def test_a_standard_error_that_nobody_reads_holds_up_nobody(device, tmp_path):
    out, into = os.pipe()
    os.set_blocking(into, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(into, b"x" * 4096)
    os.set_blocking(into, True)
    with Shared(device, "--pty", tmp_path / "tty", connected=False, stderr=into) as command:
        device.wait_opened()
        with open_port(tmp_path / "tty") as port:
            port.write(LINE)
            assert device.receive(until=b"\n") == LINE
        command.signal(signal.SIGTERM)
        assert command.end() == 0
    os.close(out)
    os.close(into)


# -- names, and their end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_and_removes_its_names(device, tmp_path, number):
    with Shared(device, "--pty", tmp_path / "tty", "--listen", f"unix:{tmp_path}/sock", *TCP) as command:
        with open_port(tmp_path / "tty"), connect(command) as client:
            command.clients(2)
            command.signal(number)
            assert command.end() == 0
            assert client.recv(1) == b""
        assert os.listdir(tmp_path) == []


def test_it_ends_at_once_while_the_device_is_out(device, tmp_path):
    with Shared(device, "--pty", tmp_path / "tty") as command:
        device.unplug()
        command.wait_event("recovering")
        command.signal(signal.SIGTERM)
        assert command.end() == 0
        assert os.listdir(tmp_path) == []


def test_what_it_left_behind_when_killed_is_replaced(device, tmp_path):
    # A pseudo-terminal, unlike a port, stays shut to others when who kept them out is killed.
    arguments = ("--no-exclusive", "--pty", tmp_path / "tty", "--listen", f"unix:{tmp_path}/sock")
    with Shared(device, *arguments) as command:
        command.process.kill()
        command.process.wait()
        assert sorted(os.listdir(tmp_path)) == ["sock", "tty"]
    other = os.openpty()  # takes the number that has become free: the old link leads to it
    with Shared(device, *arguments) as command, open_port(tmp_path / "tty") as port:
        port.write(LINE)
        assert device.receive(until=b"\n") == LINE
        command.signal(signal.SIGTERM)
        assert command.end() == 0
    assert os.listdir(tmp_path) == []
    for fd in other:
        os.close(fd)


def refused(*arguments: object) -> str:
    """Run it where it can't do what it is told; returns the line that says so."""
    done = subprocess.run(
        [COMMAND, "share", "/dev/cnxman-nowhere", "--quiet", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("kind", ["--pty", "--listen"])
def test_what_is_another_s_is_left_alone(tmp_path, kind):
    path = tmp_path / "name"
    argument = f"unix:{path}" if kind == "--listen" else path
    path.write_text("mine")
    assert "it exists, and is somebody else's" in refused("--pty", tmp_path / "first", kind, argument)
    assert path.read_text() == "mine"
    assert os.listdir(tmp_path) == ["name"]
    path.unlink()
    path.mkdir()
    assert "it is a directory" in refused(kind, argument)
    path.rmdir()
    path.symlink_to("/dev/null")
    assert "is a link to /dev/null that somebody else made" in refused(kind, argument)
    path.unlink()
    master, slave = os.openpty()
    path.symlink_to(os.ttyname(slave))  # a living pseudo-terminal, such as socat's
    assert "that somebody else made" in refused(kind, argument)
    os.close(master)
    os.close(slave)
    assert f"there is no directory {tmp_path}/missing" in refused(
        kind, str(argument).replace(str(path), f"{tmp_path}/missing/name")
    )


def test_names_of_another_run_are_left_alone(device, tmp_path):
    with Shared(device, "--pty", tmp_path / "tty", "--listen", f"unix:{tmp_path}/sock", *TCP) as command:
        assert "belongs to another cnxman share that is running" in refused("--pty", tmp_path / "tty")
        assert "it exists, and is somebody else's" in refused("--listen", f"unix:{tmp_path}/sock")
        host, port = command.tcp
        assert f"can't listen on tcp:{host}:{port}: Address already in use" in refused("--listen", f"tcp:{host}:{port}")
        with open_port(tmp_path / "tty") as opened:
            opened.write(LINE)
            assert device.receive(until=b"\n") == LINE


def test_a_link_that_became_another_s_is_not_removed(device, tmp_path):
    link = tmp_path / "tty"
    with Shared(device, "--pty", link) as command:
        link.unlink()
        link.symlink_to("/dev/null")
        command.signal(signal.SIGTERM)
        assert command.end() == 0
    assert os.readlink(link) == "/dev/null"


def test_names_that_may_not_be_made_are_refused():
    if os.geteuid() == 0:
        assert "can't be made: " in refused("--pty", "/proc/tty-of-mine")
    else:
        assert "can't be made: Permission denied" in refused("--pty", "/tty-of-mine")


@pytest.mark.parametrize(
    "address",
    ["", "tcp", "tcp:", "tcp:host", "tcp:1:2:3", "tcp:::1:4001", "tcp:65536", "tcp:-1", "unix:", "udp:1", "4001"],
)
def test_addresses_that_make_no_sense_are_wrong_usage(address, capsys):
    status, _, told = usage(capsys, "share", "/dev/x", "--listen", address)
    assert status == 2
    assert "is no address: give unix:PATH, tcp:PORT" in told


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--pty", ""),
        ("--pty", "/tmp/"),
        ("--mode", "999", "--pty", "/tmp/x"),
        ("--baudrate", "-1", "--pty", "/tmp/x"),
    ],
)
def test_wrong_usage_is_status_2(arguments, capsys):
    status, _, told = usage(capsys, "share", "/dev/x", *arguments)
    assert status == 2
    assert "error: " in told


def test_an_unknown_host_is_reported():
    assert "can't listen on tcp:host.invalid:4001: " in refused("--listen", "tcp:host.invalid:4001")


def test_nothing_listens_beyond_this_machine_unless_asked_to(device):
    with Shared(device, "--listen", "tcp:0") as command:
        listening = re.findall(r"listening +tcp:(\S+):\d+(.*)", command.err.data.decode())
        assert {host for host, _ in listening} <= {"127.0.0.1", "[::1]"}
        assert {rest for _, rest in listening} == {""}
    with Shared(device, "--listen", "tcp:0.0.0.0:0") as command:
        command.err.wait(b"whoever reaches it can use the device, there is no password")


def test_mode_and_group_are_set_for_what_stands_after_them(device, tmp_path):
    arguments = ["--pty", tmp_path / "a", "--mode", "660", "--group", os.getegid(), "--pty", tmp_path / "b"]
    with Shared(device, *arguments, "--listen", f"unix:{tmp_path}/c"):
        modes = [stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in "abc"]
        assert modes == [0o600, 0o660, 0o660]
        assert os.stat(tmp_path / "b").st_gid == os.getegid()
    assert "there is no group 'nosuchgroup'" in refused("--group", "nosuchgroup", "--pty", tmp_path / "d")
    assert os.listdir(tmp_path) == []


# -- what clients set -----------------------------------------------------------------------------------------


def test_settings_of_a_client_are_ignored_and_reported_once(device, tmp_path):
    with Shared(device, "-b", 115200, "--pty", tmp_path / "tty") as command:
        for count in range(2):
            with serial.Serial(str(tmp_path / "tty"), 57600, timeout=60) as port:
                command.clients(count + 1)
                port.write(LINE)
                assert device.receive(until=b"\n") == LINE
            command.err.wait(lambda data, count=count: len(re.findall(rb"\d  left  ", data)) > count)
        told = [text for what, text in command.events() if what == "settings"]
        assert told == [f"{tmp_path}/tty wants 57600 baud, 1 stop bit: ignored, the port has 115200 baud, 1 stop bit"]


def speed_of(path: str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        return termios.tcgetattr(fd)[5]
    finally:
        os.close(fd)


def test_follow_sets_the_port_as_its_clients_do(device, tmp_path):
    with (
        Shared(device, "--no-exclusive", "--follow", "--pty", tmp_path / "tty") as command,
        serial.Serial(str(tmp_path / "tty"), 57600, timeout=60) as port,
    ):
        command.err.wait(b"has set 57600 baud, 1 stop bit")
        port.baudrate = 250000  # has no constant of its own
        command.err.wait(b"has set 250000 baud, 1 stop bit")
        port.baudrate = 19200
        command.err.wait(b"has set 19200 baud, 1 stop bit")
        wait_until(lambda: speed_of(device.port) == termios.B19200, "the port's own speed is set")
        device.unplug()
        device.plug()
        device.wait_opened()
        assert speed_of(device.port) == termios.B19200


@pytest.mark.parametrize("settings", [{"bytesize": 7, "parity": "E"}, {"parity": "O"}, {"stopbits": 2}])
def test_a_pty_can_be_opened_again_and_again_with_any_settings(device, tmp_path, settings):
    with Shared(device, "--pty", tmp_path / "tty") as command:
        for count in range(3):
            with serial.Serial(str(tmp_path / "tty"), 9600, timeout=60, **settings) as port:
                port.write(LINE)
                assert device.receive(until=b"\n") == LINE
            command.err.wait(lambda data, count=count: len(re.findall(rb"\d  left  ", data)) > count)


def test_a_client_that_kept_others_out_keeps_out_nobody_once_it_is_gone(device, tmp_path):
    # Root may open it in any case: so the child becomes somebody else, where it is root.
    script = f"""
import fcntl, os, termios
if os.geteuid() == 0:
    os.setgid(65534); os.setuid(65534)
fd = os.open({str(tmp_path / "tty")!r}, os.O_RDWR | os.O_NOCTTY)
fcntl.ioctl(fd, termios.TIOCEXCL)
os.write(fd, b"mine\\n")
"""
    for folder in (tmp_path, *tmp_path.parents):
        with contextlib.suppress(OSError):
            folder.chmod(folder.stat().st_mode | 0o011)
    with Shared(device, "--mode", "666", "--pty", tmp_path / "tty") as command:
        for count in range(2):
            subprocess.run(["/usr/bin/env", "python3", "-c", script], check=True, timeout=60)
            assert device.receive(until=b"\n") == b"mine\n"
            command.err.wait(lambda data, count=count: len(re.findall(rb"\d  left  ", data)) > count)


def test_a_shell_writes_to_a_pty_as_to_a_port(device, tmp_path):
    with Shared(device, "--pty", tmp_path / "tty"):
        for count in range(5):
            subprocess.run(["/bin/sh", "-c", f"echo hello {count} > {tmp_path}/tty"], check=True, timeout=60)
            assert device.receive(until=b"\n") == b"hello %d\n" % count


def test_quiet_reports_nothing(device, tmp_path):
    with Shared(device, "--quiet", "--pty", tmp_path / "tty", connected=False) as command:
        device.wait_opened()
        command.signal(signal.SIGTERM)
        assert command.end() == 0
        assert command.err.wait_end() == b""


def test_it_waits_for_a_device_that_is_not_there_yet(tmp_path):
    with SimulatedDevice(plugged=False) as device, Shared(device, *TCP, connected=False) as command:
        command.wait_event("recovering")
        with connect(command) as client:
            client.sendall(LINE)
            device.plug()
            assert device.receive(until=b"\n") == LINE


def test_idle_it_rests(device, tmp_path):
    """A shared line on which nobody says anything costs next to nothing, once all that begins has begun."""
    with Shared(device, "--pty", tmp_path / "tty", *TCP) as command, open_port(tmp_path / "tty"):
        command.clients(1)

        def rests():
            before = ticks(command.process.pid)
            time.sleep(1)
            return ticks(command.process.pid) - before <= 3  # hundredths of a second

        wait_until(rests, "it rests")


def ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
