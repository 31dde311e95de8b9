"""The hub of `cnxman share`, and what it serves, in the test's own process: what is rare, made to happen."""

import errno
import os
import queue
import select
import socket
import termios
import threading
import time
from pathlib import Path

import pytest

from cnxman import ConnectionException, SerialConnection
from cnxman.cli import share
from cnxman.cli.events import Events
from cnxman.cli.sharing import hub as hub_module
from cnxman.cli.sharing import names, teller, turns
from cnxman.cli.sharing import pty as pty_module
from cnxman.cli.sharing import sockets as sockets_module
from cnxman.cli.sharing.hub import Hub
from cnxman.cli.sharing.places import Access, LineSettings, Place
from cnxman.cli.sharing.pty import Pty
from cnxman.cli.sharing.sockets import Server, SocketClient, open_servers
from cnxman.cli.sharing.teller import Teller
from cnxman.testing import SimulatedDevice
from tests.kit.lines import pattern, run_script, wait_until

BOUND = 60.0
SETTINGS = LineSettings(9600, 1, rtscts=False, xonxoff=False)


class Door:
    """A place where clients come in when the test says so."""

    name = "door"

    def __init__(self):
        self._out, self._in = socket.socketpair()
        self._next = queue.Queue()

    def fileno(self):
        return self._out.fileno()

    def let_in(self, what):
        """What comes next: a client, None, or an error."""
        self._next.put(what)
        self._in.send(b"!")

    def accept(self):
        self._out.recv(1)
        what = self._next.get_nowait()
        if isinstance(what, OSError):
            raise what
        return what

    def close(self):
        self._out.close()
        self._in.close()


class Running:
    """A hub that runs on a thread, and what it told."""

    def __init__(self, **options):
        self._told = []
        self._news = threading.Condition()
        self.followed = queue.Queue()
        options = {"limit": 2**20, "follow": lambda *what: self.followed.put(what)} | options
        self.hub = Hub(self.tell, **options)
        self.door = Door()
        self.hub.add_server(self.door)
        self._ends = []
        self._thread = threading.Thread(target=self.hub.run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.hub.stop()
        self._thread.join(BOUND)
        assert not self._thread.is_alive()
        self.hub.close()
        for end in self._ends:
            end.close()

    def tell(self, what, text=""):
        with self._news:
            self._told.append((what, text if isinstance(text, str) else text()))
            self._news.notify_all()

    def wait(self, what, part="", times=1):
        """Wait for an event; returns its text."""

        def found():
            return [text for word, text in self._told if word == what and part in text]

        with self._news:
            assert self._news.wait_for(lambda: len(found()) >= times, BOUND), self._told
            return found()[-1]

    def count(self, what):
        with self._news:
            return sum(word == what for word, _ in self._told)

    def come(self, name, kind=SocketClient, *, read_only=False):
        """A client comes in; returns its end."""
        ours, theirs = socket.socketpair()
        ours.settimeout(BOUND)
        self._ends.append(ours)
        self.door.let_in(kind(theirs, name, read_only=read_only))
        return ours


def test_a_client_that_is_gone_when_it_is_given_something_has_left():
    class Gone(SocketClient):
        def write(self, data):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with Running() as running:
        running.come("gone", Gone)
        stays = running.come("stays")
        running.wait("came", "stays")
        running.hub.receive(b"data")
        assert stays.recv(10) == b"data"
        assert running.wait("left", "gone").endswith("0 bytes to it, 0 from it")


def test_when_descriptors_run_out_it_rests_and_accepts_again(monkeypatch):
    monkeypatch.setattr(hub_module, "REST", 0.05)
    with Running() as running:
        running.door.let_in(OSError(errno.EMFILE, "Too many open files"))
        running.wait("error", "door: nobody can come in now: Too many open files")
        running.come("later")
        running.wait("came", "later")


def test_one_that_vanished_before_it_was_accepted_is_nobody():
    with Running() as running:
        running.door.let_in(None)
        running.come("somebody")
        running.wait("came", "somebody")
        assert running.count("came") == 1


def test_more_clients_than_it_serves_are_refused_and_that_is_reported_once(monkeypatch):
    monkeypatch.setattr(hub_module, "MOST_CLIENTS", 2)
    with Running() as running:
        first, _ = running.come("first"), running.come("second")
        running.wait("came", "second")
        for name in ("third", "fourth"):
            assert running.come(name).recv(1) == b""
        assert running.wait("refused").startswith("third, and whoever comes now: 2 clients are served already")
        assert running.count("refused") == 1
        first.shutdown(socket.SHUT_WR)  # it is given answers for a while; but there is one who wants its place
        wait_until(lambda: running.hub._ending, "that was read")
        running.hub.receive(b"answer")
        assert first.recv(10) == b"answer"
        running.come("fifth")
        running.wait("came", "fifth")
        assert first.recv(1) == b""


def test_what_a_read_only_client_sends_is_ignored_and_reported_once():
    with Running() as running:
        client = running.come("quiet", read_only=True)
        client.sendall(b"x")
        running.wait("input", "quiet: what it sends is ignored (--read-only)")
        client.sendall(b"y")
        client.shutdown(socket.SHUT_WR)
        assert running.wait("left").endswith("0 bytes to it, 2 from it")
        assert running.count("input") == 1


def test_a_client_that_lags_is_given_all_once_it_reads():
    data = pattern(900_000)
    with Running() as running:
        slow = running.come("slow")
        running.wait("came")
        running.hub.receive(data[:800_000])
        wait_until(lambda: running.hub._lagging, "it lags")
        running.hub.receive(data[800_000:])
        got = b""
        while len(got) < len(data):
            got += slow.recv(65536)
        assert got == data
        wait_until(lambda: not running.hub._lagging, "it lags no more")


def test_a_client_waits_until_another_s_line_has_ended(monkeypatch):
    monkeypatch.setattr(turns, "GAP", 1e6)
    with Running() as running:
        one, two = running.come("one"), running.come("two")
        one.sendall(b"half ")
        wait_until(lambda: running.hub.outbox.held == 5, "that was read")
        two.sendall(b"two\n")
        wait_until(lambda: running.hub._turns.deadline is not None, "the other waits")
        one.sendall(b"done\n")
        wait_until(lambda: running.hub.outbox.held == 14, "all was read")
        running.hub.outbox.line_up()
        sent = []
        for _ in range(3):
            message, opening = running.hub.outbox.take()
            sent.append(message)
            running.hub.outbox.taken(message, len(message), opening, 0)
    assert sent == [b"half ", b"done\n", b"two\n"]


def test_the_listener_waits_for_a_hub_that_lags_by_megabytes(monkeypatch):
    monkeypatch.setattr(hub_module, "MOST_INBOX", 10)
    running = Running()
    running.hub.receive(bytes(20))
    waiting = threading.Thread(target=running.hub.receive, args=[b"x"])
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    with running:
        waiting.join(BOUND)
        assert not waiting.is_alive()


def test_wakes_beyond_what_a_socket_holds_are_one():
    with Running() as running:
        for _ in range(10_000):
            running.hub._is_awake = False
            running.hub.wake()
        client = running.come("still")
        running.wait("came")
        running.hub.receive(b"alive")
        assert client.recv(10) == b"alive"
    running.hub.wake()  # after its end: nothing


@pytest.fixture
def terminal(tmp_path):
    """Makes pseudo-terminals; those that no hub closes are closed in the end."""
    return lambda **access: Pty(Place("pty", str(tmp_path / "tty"), access=Access(**access)))


def slave_of(pty):
    return os.open(pty.place.path, os.O_RDWR | os.O_NOCTTY)


def test_a_pty_that_was_just_opened_misses_nothing_that_comes_then(terminal, monkeypatch):
    monkeypatch.setattr(hub_module, "LOOK_EVERY", 1e6)  # nobody looks but when data come
    running, pty = Running(), terminal()
    running.hub.add_pty(pty)
    with running:
        running.come("first")
        running.wait("came")
        slave = slave_of(pty)
        running.hub.receive(b"data")
        assert select.select([slave], [], [], BOUND)[0]
        assert os.read(slave, 10) == b"data"
        os.close(slave)
        running.wait("left", str(pty))


def test_a_pty_that_was_closed_is_not_taken_for_opened(terminal, monkeypatch):
    monkeypatch.setattr(hub_module, "LOOK_EVERY", 0.001)
    running, pty = Running(), terminal()
    running.hub.add_pty(pty)
    looks, was_opened = [], pty.was_opened
    pty.was_opened = lambda: (looks.append(1), was_opened())[1]
    with running:
        slave = slave_of(pty)
        running.wait("came")
        os.close(slave)
        running.wait("left")
        before = len(looks)
        wait_until(lambda: len(looks) > before + 20, "more looks")
        assert running.count("came") == 1


def test_a_pty_that_cannot_be_made_again_is_reported(terminal, monkeypatch):
    monkeypatch.setattr(hub_module, "LOOK_EVERY", 0.001)
    running, pty = Running(), terminal()
    running.hub.add_pty(pty)
    really_closed = pty.closed

    def fail():
        raise OSError(errno.ENOSPC, "no pseudo-terminal is left")

    pty.closed = fail
    with running:
        os.close(slave_of(pty))
        slave = slave_of(pty)
        running.wait("came")
        os.close(slave)
        running.wait("error", "is there no more: ")
    pty.closed = really_closed
    pty.close()


def test_a_pty_that_hangs_up_while_clients_are_not_read_is_no_busy_loop(terminal):
    running, pty = Running(), terminal()
    running.hub.add_pty(pty)
    running.hub.outbox.line_down()
    with running:
        slave = slave_of(pty)
        running.wait("came")
        sender = running.come("sender")
        filler = threading.Thread(target=sender.sendall, args=[bytes(3 * 2**20)])
        filler.start()
        running.wait("input", "clients aren't read until there is a connection")
        running.hub.receive(bytes(300_000))  # more than the pty takes: it is blocked
        os.close(slave)
        loops = []
        select_of = running.hub._selector.select
        running.hub._selector.select = lambda timeout: (loops.append(1), select_of(timeout))[1]
        running.come("another")
        running.wait("came", "another")
        time.sleep(0.2)  # in which a busy loop would go round thousands of times, and looks are 4
        assert len(loops) < 50
        running.hub.outbox.line_up()
        drain(running.hub.outbox, 3 * 2**20)
        filler.join(BOUND)
        running.wait("left", str(pty))


def drain(outbox, count):
    while count:
        message, opening = outbox.take()
        outbox.taken(message, len(message), opening, 0)
        count -= len(message)


def test_a_pty_nobody_else_can_open_any_more_is_replaced(terminal, monkeypatch):
    pty = terminal()
    before = os.path.realpath(pty.place.path)
    real = os.open

    def refuse(path, *rest):
        if path == before:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return real(path, *rest)

    keeper = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)  # so that the next one has another number
    monkeypatch.setattr(pty_module.os, "open", refuse)
    pty.closed()
    monkeypatch.undo()
    slave = slave_of(pty)
    os.write(slave, b"again")
    assert pty.read() == b"again"
    os.close(slave)
    os.close(keeper)
    pty.close()
    assert not os.path.lexists(pty.place.path)


def test_a_pty_that_is_full_takes_nothing(terminal):
    pty = terminal()
    assert pty.read() == b""
    slave = slave_of(pty)
    assert pty.read() is None
    while pty.write(memoryview(bytes(10_000))):
        pass
    os.close(slave)
    pty.close()


def test_a_speed_that_can_not_be_asked_for_is_given_as_it_is_coded(terminal, monkeypatch):
    pty = terminal()
    slave = slave_of(pty)
    flags = termios.tcgetattr(slave)
    flags[4] = flags[5] = termios.B9600
    termios.tcsetattr(slave, termios.TCSANOW, flags)

    def refuse(*_):
        raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")

    monkeypatch.setattr(pty_module.fcntl, "ioctl", refuse)
    monkeypatch.setattr(pty_module, "_SPEEDS", {})
    assert pty.new_settings().baudrate == termios.B9600
    monkeypatch.undo()
    os.close(slave)
    pty.close()


def test_a_pty_that_can_not_be_made_leaves_nothing(terminal, monkeypatch, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="there is no group 'nosuchgroup'"):
        terminal(group="nosuchgroup")
    with pytest.raises(OSError, match="there is no group '99999999999999999999'"):
        terminal(group="99999999999999999999")

    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(names.os, "chmod", refuse)
    with pytest.raises(OSError, match="can't be given to group None with mode 600: Operation not permitted"):
        terminal()
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == before


# -- names and addresses --------------------------------------------------------------------------------------


def test_where_names_can_not_be_locked_they_are_made_all_the_same(monkeypatch, tmp_path):
    monkeypatch.setattr(names.sys, "platform", "darwin")
    lock = names.Lock(str(tmp_path / "tty"))
    names.Lock(str(tmp_path / "tty")).release()
    lock.release()


def test_a_lock_that_fails_for_another_reason_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(names, "sha256", lambda _: type("Long", (), {"digest": lambda self: bytes(200)})())
    with pytest.raises(OSError, match="too long"):
        names.Lock(str(tmp_path / "tty"))


def test_a_name_that_may_not_be_made_is_reported(monkeypatch, tmp_path):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(names.os, "symlink", refuse)
    with pytest.raises(OSError, match="tty can't be made: Permission denied"):
        names.link_to("/dev/pts/1", str(tmp_path / "tty"))


def test_a_socket_s_path_that_is_too_long_is_reported(tmp_path):
    path = str(tmp_path / ("x" * 200))
    with pytest.raises(OSError, match="can't be made: AF_UNIX path too long"):
        open_servers(Place("unix", path))


def test_a_socket_that_can_not_be_given_away_is_removed(tmp_path):
    with pytest.raises(OSError, match="there is no group"):
        open_servers(Place("unix", str(tmp_path / "sock"), access=Access(group="nosuchgroup")))
    assert os.listdir(tmp_path) == []


def test_a_socket_s_file_that_became_another_s_is_not_removed(tmp_path):
    path = tmp_path / "sock"
    [server] = open_servers(Place("unix", str(path)))
    path.unlink()
    path.write_text("mine")
    server.close()
    assert path.read_text() == "mine"


def test_nobody_to_accept_is_no_error(tmp_path):
    [server] = open_servers(Place("tcp", host="127.0.0.1"))
    assert server.accept() is None
    server.close()


def test_no_descriptor_for_a_client_is_an_error():
    [server] = open_servers(Place("tcp", host="127.0.0.1"))
    server._sock.close()

    class Full:
        def accept(self):
            raise OSError(errno.EMFILE, "Too many open files")

        def close(self):
            pass

    server._sock = Full()
    with pytest.raises(OSError, match="Too many"):
        server.accept()
    server.close()


ADDRESSES = {
    "::1": (int(socket.AF_INET6), ("::1", 0, 0, 0)),
    "nowhere": (int(socket.AF_INET), ("192.0.2.1", 0)),
    "here": (int(socket.AF_INET), ("127.0.0.1", 0)),
}


def test_addresses_that_this_machine_has_not_are_left_out(monkeypatch):
    monkeypatch.setattr(sockets_module, "check_host", lambda *_: [ADDRESSES["nowhere"], ADDRESSES["here"]])
    [server] = open_servers(Place("tcp", host="localhost"))
    assert server.name.startswith("tcp:127.0.0.1:")
    server.close()
    monkeypatch.setattr(sockets_module, "check_host", lambda *_: [ADDRESSES["nowhere"]])
    with pytest.raises(OSError, match="can't listen on tcp:localhost:0: Cannot assign"):
        open_servers(Place("tcp", host="localhost"))


def test_one_address_that_is_taken_makes_the_whole_place_fail(monkeypatch):
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        both = [(int(socket.AF_INET), ("127.0.0.1", port)), (int(socket.AF_INET), ("127.0.0.2", port))]
        monkeypatch.setattr(sockets_module, "check_host", lambda *_: both)
        with pytest.raises(OSError, match="Address already in use"):
            open_servers(Place("tcp", host="localhost", port=port))
        with socket.create_server(("127.0.0.1", port)):
            pass  # nothing listens there any more


@pytest.mark.skipif(not socket.has_ipv6, reason="Python was built without IPv6")
def test_ipv6_addresses_have_brackets(monkeypatch):
    class Bound:
        def __init__(self, *_):
            self.options = []

        def setsockopt(self, *option):
            self.options.append(option)

        def bind(self, address):
            pass

        def setblocking(self, flag):
            pass

        listen = setblocking

        def getsockname(self):
            return ("::1", 4001, 0, 0)

        def close(self):
            pass

    monkeypatch.setattr(sockets_module.socket, "socket", Bound)
    sock = sockets_module._bind(socket.AF_INET6, ("::1", 4001, 0, 0))
    assert (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1) in sock.options
    server = Server(Place("tcp", host="::1", port=4001), sock)
    assert (server.name, server.is_open_to_others) == ("tcp:[::1]:4001", False)
    monkeypatch.setattr(sockets_module.os, "name", "nt")
    assert len(sockets_module._bind(socket.AF_INET, ("127.0.0.1", 0)).options) == 1


def test_elsewhere_nobody_asks_for_a_client_s_process(monkeypatch):
    monkeypatch.setattr(sockets_module.sys, "platform", "darwin")
    assert sockets_module._pid(None) == ""
    monkeypatch.delattr(sockets_module.socket, "AF_UNIX")
    with pytest.raises(OSError, match="this system has no such sockets"):
        open_servers(Place("unix", "/tmp/x"))


def test_a_client_that_takes_nothing_is_given_nothing():
    ours, theirs = socket.socketpair()
    client = SocketClient(theirs, "full", read_only=False)
    assert client.read() is None
    while client.write(memoryview(bytes(65536))):
        pass
    assert str(client) == "full"
    client.close()
    ours.close()


NO_TERMINALS = """
import json, sys
import serial
sys.modules.update(fcntl=None, termios=None, tty=None)
from cnxman import SerialConnection
from cnxman.cli import share
from cnxman.cli.sharing.places import LineSettings, Place

class Nobody:
    def tell(self, what, text=""):
        pass

connection = SerialConnection("loop://", low_latency=True)
assert connection.try_connect()
connection.teardown()
options = share.Options("loop://", [Place("pty", "/tmp/x")], LineSettings(9600, 1, False, False), 2**20)
try:
    share.Share(connection, options, Nobody(), Nobody())
except OSError as error:
    print(json.dumps({"told": str(error)}))
"""


def test_a_system_without_pseudo_terminals_is_reported():
    assert run_script(NO_TERMINALS) == {"told": "/tmp/x: this system has no pseudo-terminals; use --listen"}


# -- what is told ---------------------------------------------------------------------------------------------


def test_events_that_can_not_be_written_in_time_are_counted(monkeypatch):
    monkeypatch.setattr(teller, "MOST", 2)
    out, into = os.pipe()
    writing, go_on = threading.Event(), threading.Event()

    class Slow(Events):
        def tell(self, what, text=""):
            writing.set()
            go_on.wait(BOUND)
            super().tell(what, text)

    told = Teller(Slow(into))
    told.tell("first")
    assert writing.wait(BOUND)
    for number in range(5):
        told.tell("next", lambda number=number: f"number {number}")
    told.finish(0.01)  # it can't, and gives up
    go_on.set()
    text = b""
    while b"number 1" not in text:
        text += os.read(out, 1000)
    told.finish(BOUND)
    assert b"missed        3 events, which could not be written in time" in text
    os.close(into)
    os.close(out)


# -- the command in one process -------------------------------------------------------------------------------


class End:
    """Comes when something ends it."""

    def __init__(self):
        self._ended = threading.Event()
        self.status = 0

    def end(self, status=0):
        self.status = status
        self._ended.set()

    def wait(self):
        assert self._ended.wait(BOUND)
        return self.status


class Told:
    def __init__(self):
        self.lines = queue.Queue()

    def tell(self, what, text=""):
        self.lines.put((what, text))

    def wait(self, what):
        while (found := self.lines.get(timeout=BOUND))[0] != what:
            pass
        return found[1]


def options(path: Path, **more):
    return share.Options("the line", [Place("pty", str(path))], SETTINGS, 2**20, **more)


def test_what_breaks_a_thread_ends_the_command_and_removes_its_names(tmp_path, monkeypatch):
    def fail(self):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Hub, "run", fail)
    told, end = Told(), End()
    with SimulatedDevice() as device:
        command = share.Share(SerialConnection(device.port), options(tmp_path / "tty"), end, told)
        assert command.run() == 1
    assert told.wait("error") == "ZeroDivisionError: a bug"
    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_is_tried_again_at_the_next_connection(tmp_path):
    class Failing(SerialConnection):
        failed = threading.Event()

        def write(self, data):
            if not self.failed.is_set():
                self.failed.set()
                raise ConnectionException("it failed", OSError(errno.EIO, "it failed"))
            return super().write(data)

    told, end = Told(), End()
    with SimulatedDevice() as device:
        command = share.Share(Failing(device.port), options(tmp_path / "tty"), end, told)
        running = threading.Thread(target=command.run)
        running.start()
        told.wait("connected")
        slave = os.open(tmp_path / "tty", os.O_RDWR | os.O_NOCTTY)
        os.write(slave, b"twice\n")
        assert device.receive(until=b"\n") == b"twice\n"
        os.close(slave)
        end.end()
        running.join(BOUND)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ConnectionException("it is out", OSError(errno.EIO, "out")), "kept for the next opening"),
        (ValueError("baudrate must be"), "ignored (baudrate must be"),
    ],
)
def test_settings_that_cannot_be_followed_are_reported(tmp_path, error, says):
    class Refusing(SerialConnection):
        def configure(self, **changes):
            raise error

    told, end = Told(), End()
    with SimulatedDevice() as device:
        command = share.Share(Refusing(device.port), options(tmp_path / "tty", follow=True), end, told)
        command._on_settings("a client", LineSettings(57600, 2, rtscts=True, xonxoff=True))
        text = told.wait("settings")
        assert text.startswith("a client wants 57600 baud, 2 stop bits rtscts xonxoff: ")
        assert says in text
        command._hub.close()
