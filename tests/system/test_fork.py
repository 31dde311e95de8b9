"""After a fork, a line belongs to the parent."""

import errno
import os
import runpy
import subprocess
import sys

import pytest

from cnxman import _fork, ports
from cnxman.serial import SerialConnection
from tests.kit.forks import BELONGS, PREAMBLE
from tests.kit.lines import BOUND, Pty, run_script, wait_until
from tests.kit.ordinary import AS_ORDINARY

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

IN_USE = (
    PREAMBLE
    + """
assert connection.try_connect()
pty.send(b"before")
hearer.wait_for_data(b"before")
found, end = in_child(lambda: {
    "connected": connection.is_connected, "write": write(connection), "try": connection.try_connect(),
    "error": str(connection.last_error), "held": links().count(pty.device),
    "disconnect": connection.disconnect(), "teardown": connection.teardown(),
})
pty.send(b"after")
hearer.wait_for_data(b"beforeafter")
assert connection.write(b"parent") == 6
found["parent heard"] = pty.receive(6).decode()
connection.disconnect()
second = SerialConnection(pty.path)
found["free again"] = second.try_connect()
second.teardown()
found["alarms"] = len(hearer.alarms)
end()
pty.close()
print(json.dumps(found))
"""
)


def test_in_the_child_the_line_is_its_parents_and_its_copies_are_closed() -> None:
    found = run_script(IN_USE)
    assert found["connected"] is False
    assert BELONGS in found["write"]
    assert found["try"] is False
    assert BELONGS in found["error"]
    assert found["held"] == 0
    assert found["disconnect"] is found["teardown"] is None
    assert found["parent heard"] == "parent"
    assert found["free again"] is True, "though the child lives"
    assert found["alarms"] == 0


OF_ITS_OWN = (
    PREAMBLE
    + """
stalled, go_on = threading.Event(), threading.Event()
connection.subscribe(lambda data: (stalled.set(), go_on.wait(60)))
assert connection.try_connect()
pty.send(b"!")
assert stalled.wait(60)
line_kit.wait_until(lambda: any("overflow reader" in name for name in line_kit.library_threads()), "a stand-in reads")
second = line_kit.Pty()

def own_line():
    own = SerialConnection(second.path)
    heard = line_kit.Hearer(own)
    busy, free = threading.Event(), threading.Event()
    own.subscribe(lambda data: (busy.set(), free.wait(60)))
    opened = own.try_connect()
    second.send(b"!")
    assert busy.wait(60)
    second.send(b"x" * 100_000)  # which only goes out if a stand-in reads
    free.set()
    heard.wait_for_data(b"!" + b"x" * 100_000)
    own.teardown()
    return {"opened": opened, "left": line_kit.library_threads()}

found, end = in_child(own_line)
end()
go_on.set()
connection.teardown()
found["left in the parent"] = line_kit.library_threads()
pty.close()
second.close()
print(json.dumps(found))
"""
)


def test_the_child_may_have_lines_of_its_own_with_all_their_threads() -> None:
    assert run_script(OF_ITS_OWN) == {"opened": True, "left": [], "left in the parent": []}


NOT_IN_USE = (
    PREAMBLE
    + """
connection.try_connect()
connection.disconnect()
found, end = in_child(lambda: {"opened": connection.try_connect(), "write": write(connection)})
found["parent heard"] = pty.receive(14).decode()
end()
pty.close()
print(json.dumps(found))
"""
)


def test_a_connection_that_was_not_up_may_be_used_in_the_child() -> None:
    assert run_script(NOT_IN_USE) == {"opened": True, "write": 14, "parent heard": "from the child"}


CLOSED_OR_SOCKET = (
    PREAMBLE
    + """
import socket
server = socket.create_server(("127.0.0.1", 0))
far = SerialConnection("socket://127.0.0.1:%d" % server.getsockname()[1])
heard = line_kit.Hearer(far)
assert far.try_connect()
client, _ = server.accept()
line = connection.try_connect() and connection.current_opening
connection.disconnect()
number = os.open("/dev/null", os.O_RDONLY)  # which has the number of the closed line's descriptor now, or another's
found, end = in_child(lambda: {"write": write(far), "mine": os.fstat(number).st_rdev > 0})
client.sendall(b"parent")
heard.wait_for_data(b"parent")
end()
found["alarms"] = len(heard.alarms)
far.teardown()
client.close(); server.close(); pty.close(); os.close(number)
print(json.dumps(found))
"""
)


def test_a_closed_lines_numbers_are_left_alone_and_a_socket_stays_the_parents() -> None:
    found = run_script(CLOSED_OR_SOCKET)
    assert BELONGS in found["write"]
    assert found["mine"] is True
    assert found["alarms"] == 0


CLOSED_BY_ITS_OWNER = (
    PREAMBLE
    + """
import serial
from cnxman._line.posix import PosixLine
port = serial.Serial(pty.path)
line = PosixLine(port, None)  # and nobody has noticed yet that its owner has closed it
port.close()
found, end = in_child(lambda: {"open": line.is_open, "held": links().count(pty.device)})
end()
line.close()
pty.close()
print(json.dumps(found))
"""
)


def test_a_port_that_its_owner_has_closed_is_left_alone() -> None:
    assert run_script(CLOSED_BY_ITS_OWNER) == {"open": False, "held": 0}


# -- the lock on the port -----------------------------------------------------------------------------------

EXCLUSIVE = (
    PREAMBLE
    + """
assert connection.try_connect()

def use():
    os.read(go_r, 1)
    own = SerialConnection(pty.path)
    taken = own.try_connect(), own.last_error.errno, own.last_error.message
    os.write(tell_w, b"!")
    os.read(go_r, 1)
    line_kit.wait_until(own.try_connect, "the parent has let go")
    wrote = own.write(b"own")
    os.write(tell_w, b"!")
    os.read(go_r, 1)
    own.teardown()
    return {"taken": taken, "wrote": wrote}

go_r, go_w = os.pipe()
tell_r, tell_w = os.pipe()

def direct():
    os.write(go_w, b"1")
    os.read(tell_r, 1)
    connection.disconnect()
    os.write(go_w, b"2")
    os.read(tell_r, 1)
    heard.append(pty.receive(3))
    os.write(go_w, b"3")

heard = []
thread = threading.Thread(target=direct)
thread.start()
found, end = in_child(use)
thread.join()
assert heard == [b"own"]
end()
assert connection.try_connect()
connection.disconnect()
pty.close()
print(json.dumps(found))
"""
)


def test_the_child_may_open_the_port_once_the_parent_has_released_it() -> None:
    found = run_script(EXCLUSIVE)
    assert found["taken"][0] is False
    assert found["taken"][1] in (errno.EAGAIN, errno.EBUSY)
    assert "in use" in found["taken"][2]
    assert found["wrote"] == 3


KEPT_OUT = (
    PREAMBLE
    + """
assert connection.try_connect()
os.chmod(pty.device, 0o666)
found, end = in_child(lambda: links().count(pty.device))

def open_it():
    line_kit.become_nobody()  # root may open it in spite of TIOCEXCL
    try:
        os.close(os.open(pty.device, os.O_RDWR | os.O_NOCTTY))
    except OSError as error:
        return error.errno

def lock_it():
    import fcntl
    try:
        number = os.open(pty.device, os.O_RDWR | os.O_NOCTTY)
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno

other, end_other = in_child(open_it)
third, end_third = in_child(lock_it)
end_third(); end_other(); end()  # who was forked later has copies of the earlier one's pipes
connection.disconnect()
free, end = in_child(lock_it)
end()
pty.close()
print(json.dumps([found, other, third, free]))
"""
)


def test_what_the_child_closes_neither_unlocks_the_port_nor_lets_others_in() -> None:
    locked = errno.EBUSY if AS_ORDINARY == [] else errno.EAGAIN  # only root gets as far as to the lock
    assert run_script(KEPT_OUT, as_nobody=True) == [0, errno.EBUSY, locked, None]


KILLED = """
import os, signal, sys, threading, warnings
from cnxman import SerialConnection
warnings.simplefilter("ignore", DeprecationWarning)
connection = SerialConnection(sys.argv[1])
assert connection.try_connect()
if os.fork() == 0:
    os.write(1, b"child\\n")
    os.read(0, 1)  # as long as whoever started this wants it to live
    os.write(1, b"end\\n")
    os._exit(0)
threading.Event().wait(60)
"""


def test_when_the_parent_is_killed_its_child_does_not_keep_the_port() -> None:
    second = None
    with Pty() as pty:
        command = [sys.executable, "-c", KILLED, pty.path]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
            assert parent.stdin is not None
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"child\n"
            second = SerialConnection(pty.path)
            assert not second.try_connect()
            parent.kill()
            parent.wait(BOUND)
            # A pseudo-terminal stays exclusive, for all but root, for as long as its far end lives.
            is_free = second.try_connect if AS_ORDINARY else lambda: not ports.holders(pty.device)
            wait_until(is_free, "the port is free, though the child lives")
            second.teardown()
            parent.stdin.write(b"!")
            parent.stdin.close()
            assert parent.stdout.readline() == b"end\n"


EXECUTED = (
    PREAMBLE
    + """
import subprocess
assert connection.try_connect()
listing = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True).stdout
connection.teardown()
pty.close()
print(json.dumps({"held": pty.device in listing, "listed": "0 ->" in listing}))
"""
)


def test_a_program_that_is_executed_inherits_no_port() -> None:
    assert run_script(EXECUTED) == {"held": False, "listed": True}


ALONE = (
    PREAMBLE
    + """
import serial
port, other = serial.serial_for_url(sys.argv[1] + pty.path), serial.Serial(line_kit.Pty().path)
listener, never = SerialListener(port), SerialListener(other)
listener.start()
assert listener._ready.wait(60)

def use():
    listening = [listener.is_listening, listener._line.is_open]
    found = {"held": links().count(pty.device), "open": port.is_open, "listening": listening}
    listener.terminate()
    listener.join()
    never.terminate()
    return found | {"other": other.is_open and other.write(b"x")}

found, end = in_child(use)
found["the parent"] = listener.is_listening and port.is_open
end()
listener.terminate()
listener.join()
other.close()
pty.close()
print(json.dumps(found))
"""
)


@pytest.mark.parametrize("scheme", ["", "spy://"])
def test_a_listener_by_itself_leaves_its_port_too_but_not_one_that_it_never_took_up(scheme: str) -> None:
    found = run_script(ALONE, scheme)
    assert found == {"held": 0, "open": False, "listening": [False, False], "other": 1, "the parent": True}


# -- who forks ----------------------------------------------------------------------------------------------

IN_A_RECEIVER = (
    PREAMBLE
    + """
result_r, result_w = os.pipe()
children = []

def forks(data):
    if data != b"fork":
        return
    pid = os.fork()
    if pid:
        children.append(pid)
        return
    signal.alarm(20)
    found = {"write": write(connection), "held": links().count(pty.device), "open": connection.is_connected}
    connection.disconnect()
    os.write(result_w, json.dumps(found).encode())
    if sys.argv[1] == "returns":
        return  # into the library, on what was the listener's thread
    os._exit(0)

def tells(**named):
    if os.getpid() != parent:
        os.write(result_w, b"!")

parent = os.getpid()
connection.subscribe(forks)
for signal_ in SerialConnection.Signals:
    connection.subscribe(tells, signal_)
connection.subscribe(tells, Connection.Signals.RAISE_ALARM)
assert connection.try_connect()
pty.send(b"fork")
hearer.wait_for_data(b"fork")
line_kit.wait_until(lambda: children, "it has forked")
status = os.waitpid(children[0], 0)[1]
pty.send(b"on")
hearer.wait_for_data(b"forkon")
connection.teardown()
os.close(result_w)
found = json.loads(os.read(result_r, 65536))
pty.close()
print(json.dumps(found | {"status": status, "alarms": len(hearer.alarms)}))
"""
)


@pytest.mark.parametrize("how", ["ends", "returns"])
def test_a_receiver_may_fork_on_the_listeners_thread(how: str) -> None:
    """And nobody is told anything more in the child, even if it goes on in there."""
    found = run_script(IN_A_RECEIVER, how)
    assert BELONGS in found.pop("write")
    assert found == {"held": 0, "open": False, "status": 0, "alarms": 0}


ON_THE_WORKER = (
    PREAMBLE
    + """
result_r, result_w = os.pipe()
manager = ConnectionManager(connection, retry=RetryPolicy(0.01, 1, 0.01, 0))
children, once = [], []

def forks(state):
    if state != "recovering" or once:
        return
    once.append(True)
    pid = os.fork()
    if pid:
        children.append(pid)
        return
    signal.alarm(20)
    manager.disconnect()
    manager.teardown()
    found = {"connect": said(manager.connect), "state": manager.state, "waits": manager.wait_until_connected()}
    os.write(result_w, json.dumps(found).encode())
    if sys.argv[1] == "ends":
        os._exit(0)

manager.subscribe(forks)
manager.connect()
pty.pull()
line_kit.wait_until(lambda: children, "it has forked")
status = os.waitpid(children[0], 0)[1]
pty.plug()
assert manager.wait_until_connected(10)
manager.teardown()
os.close(result_w)
found = json.loads(os.read(result_r, 65536))
pty.close()
print(json.dumps(found | {"status": status, "children": len(children)}))
"""
)


@pytest.mark.parametrize("how", ["ends", "returns"])
def test_a_receiver_of_the_managers_may_fork(how: str) -> None:
    found = run_script(ON_THE_WORKER, how)
    assert BELONGS in found.pop("connect")
    assert found == {"state": "torndown", "waits": False, "status": 0, "children": 1}


MULTIPROCESSING = (
    PREAMBLE
    + """
import multiprocessing
context = multiprocessing.get_context("fork")
manager = ConnectionManager(connection)

def work(number):
    own = SerialConnection(others[number].path)
    opened = own.try_connect()
    wrote = own.write(b"%d" % number)
    kept.append(own)  # open until the process ends
    return [BELONGS in write(connection), manager.state, links().count(pty.device), opened, wrote]

BELONGS = "belongs to the process that this one was forked from"
kept = []
others = [line_kit.Pty() for _ in range(4)]
manager.connect()
with context.Pool(2) as pool:
    found = pool.map(work, range(4))
    assert [other.receive(1) for other in others] == [b"0", b"1", b"2", b"3"]
    pool.close()
    pool.join()
process = context.Process(target=manager.teardown)  # and an orderly end
process.start()
process.join(60)
pty.send(b"parent")
hearer.wait_for_data(b"parent")
manager.teardown()
for each in [pty, *others]:
    each.close()
print(json.dumps({"found": found, "status": process.exitcode, "alarms": len(hearer.alarms)}))
"""
)


def test_multiprocessing_with_its_start_method_fork() -> None:
    assert run_script(MULTIPROCESSING) == {"found": [[True, "torndown", 0, True, 1]] * 4, "status": 0, "alarms": 0}


GRANDCHILD = (
    PREAMBLE
    + """
own_pty = line_kit.Pty()

def use():
    own = SerialConnection(own_pty.path)
    assert own.try_connect()
    def grandchild():
        return [write(own), write(connection), links().count(pty.device), links().count(own_pty.device)]
    found, end = in_child(grandchild)
    wrote = own.write(b"child")
    end()
    return [*found, wrote]  # and ends without tearing down

assert connection.try_connect()
found, end = in_child(use)
assert own_pty.receive(5) == b"child"
end()
connection.teardown()
pty.close()
own_pty.close()
print(json.dumps(found))
"""
)


def test_a_childs_own_line_is_not_its_own_childs() -> None:
    own, parents, *rest = run_script(GRANDCHILD)
    assert BELONGS in own
    assert BELONGS in parents
    assert rest == [0, 0, 5]


# -- ports that have something to say at their end ------------------------------------------------------------

ORDERLY_END = (
    PREAMBLE
    + """
import serial.rfc2217, socket
warnings.simplefilter("ignore", ResourceWarning)  # what the child leaves to its end is the test's own
from cnxman._line.port import abandon_port
from cnxman import _fork, ports
server = socket.create_server(("127.0.0.1", 0))
far = SerialConnection("socket://127.0.0.1:%d" % server.getsockname()[1])
spy = SerialConnection("spy://%s?file=/dev/null" % pty.path)
heard, spied = line_kit.Hearer(far), line_kit.Hearer(spy)
assert far.try_connect() and spy.try_connect()
client, _ = server.accept()
telnet = serial.rfc2217.Serial()  # as it is when it is open
mine, telnet._socket = socket.socketpair()
telnet.is_open = True
_fork.after_in_child(telnet, abandon_port)
told_r, told_w = os.pipe()
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    sockets = sum(link.startswith("socket:") for link in links())
    seen = [links().count(pty.device), sockets, write(far), write(spy), spy.is_connected]
    os.write(told_w, json.dumps(seen).encode())
    sys.exit(0)  # an orderly end: everything is finalized, and pyserial's ports close themselves
status = os.waitpid(pid, 0)[1]
client.sendall(b"parent")
heard.wait_for_data(b"parent")
pty.send(b"parent")
spied.wait_for_data(b"parent")
far.write(b"answer")
mine.setblocking(False)
try:
    silence = mine.recv(1) == b"hung up"
except BlockingIOError:
    silence = True
found = {"answer": client.recv(6).decode(), "telnet": silence, "alarms": len(heard.alarms) + len(spied.alarms)}
far.teardown()
spy.teardown()
held, sockets, *writes, is_open = json.loads(os.read(told_r, 65536))
telnet._socket = None
mine.close(); client.close(); server.close(); pty.close()
print(json.dumps(found | {"status": status, "held": held, "sockets": sockets, "writes": writes, "open": is_open}))
"""
)


def test_the_orderly_end_of_a_child_says_nothing_to_the_parents_far_end() -> None:
    found = run_script(ORDERLY_END)
    assert [text for text in found.pop("writes") if BELONGS not in text] == []
    assert found.pop("sockets") == 3, "the test's own: the server, and the near ends of two pairs"
    assert found == {"answer": "answer", "telnet": True, "alarms": 0, "status": 0, "held": 0, "open": False}


# -- whatever users inherit -----------------------------------------------------------------------------------

ALIKE = (
    PREAMBLE
    + """
from dataclasses import dataclass

@dataclass
class Named(SerialConnection):  # not hashable, and equal to others
    name: str
    node: str
    def __post_init__(self):
        super().__init__(self.node)

other = line_kit.Pty()
first, second = Named("a", pty.path), Named("a", pty.path)
second._port = other.path
assert first == second
assert first.try_connect() and second.try_connect()
found, end = in_child(lambda: [write(first), write(second), links().count(pty.device), links().count(other.device)])
end()
first.teardown()
second.teardown()
pty.close()
other.close()
print(json.dumps(found))
"""
)


def test_connections_that_compare_equal_are_both_left() -> None:
    first, second, *held = run_script(ALIKE)
    assert BELONGS in first
    assert BELONGS in second
    assert held == [0, 0]


RAISES = (
    PREAMBLE
    + """
import gc, logging
from cnxman import _fork, ports

class Bad:
    def leave(self):
        raise RuntimeError("cannot")

class Gone:
    def leave(self):
        raise SystemExit("it was gone")

lines = []
class Handler(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage() + str(record.exc_info[1]))
logging.getLogger("cnxman").addHandler(Handler())

class Lets:
    "It lets go of something in the child."
    def __init__(self):
        self.other = Gone()
        _fork.after_in_child(self, Lets.leave)
        _fork.after_in_child(self.other, Gone.leave)
    def leave(self):
        del self.other

bad, gone, lets = Bad(), Gone(), Lets()
known = len(_fork._registered)
_fork.after_in_child(bad, Bad.leave)
_fork.after_in_child(gone, Gone.leave)
del gone
gc.collect()
assert len(_fork._registered) == known + 1
assert connection.try_connect()
found, end = in_child(lambda: [write(connection), links().count(pty.device), lines])
end()
connection.teardown()
pty.close()
print(json.dumps(found))
"""
)


def test_one_that_cannot_be_left_does_not_keep_the_rest_from_it() -> None:
    text, held, lines = run_script(RAISES)
    assert BELONGS in text
    assert held == 0
    assert len(lines) == 1
    assert "could not be left to the parent" in lines[0]
    assert lines[0].endswith("cannot")


def test_where_nothing_forks_nothing_is_asked_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    monkeypatch.delattr(os, "register_at_fork")
    there = runpy.run_path(_fork.__file__)
    there["after_in_child"](monkeypatch, lambda _: None)
    with there["no_fork"]():
        pass


SIMULATED = (
    PREAMBLE
    + """
from cnxman.testing import SimulatedDevice
device = SimulatedDevice()
connection = SerialConnection(device.port)
hearer = line_kit.Hearer(connection)
assert connection.try_connect()
found, end = in_child(lambda: [link for link in links() if "ptmx" in link].__len__())
device.unplug()  # which hangs up, though the child lives
hearer.wait_for_event("alarm")
end()
connection.teardown()
device.close()
pty.close()
print(json.dumps({"masters": found}))
"""
)


def test_a_simulated_device_can_be_pulled_out_though_a_child_lives() -> None:
    assert run_script(SIMULATED) == {"masters": 1}, "that of the test's own pseudo-terminal"
