"""After a fork, a line belongs to the parent."""

import os

import pytest
from line_kit import run_script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

PREAMBLE = """
import fcntl, json, os, sys, threading, time, warnings, line_kit
from cnxman import ConnectionException, SerialConnection
warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads: that is what is tested

def in_child(function):
    "Fork; the child's result, and the child left running until it is told to end."
    result_r, result_w = os.pipe()
    end_r, end_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            found = function()
        except BaseException as error:
            found = {"raised": repr(error)}
        os.write(result_w, json.dumps(found).encode())
        os.close(end_w)
        os.read(end_r, 1)
        os._exit(0)
    os.close(result_w)
    found = json.loads(os.read(result_r, 65536))
    def end():
        os.close(end_w)
        os.waitpid(pid, 0)
    return found, end

def links():
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink("/proc/self/fd/" + number))
        except OSError:
            pass
    return found

def write(connection):
    try:
        return connection.write(b"from the child")
    except ConnectionException as error:
        return str(error)

pty = line_kit.Pty()
connection = SerialConnection(pty.path)
hearer = line_kit.Hearer(connection)
"""

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
    assert "belongs to the process that this one was forked from" in found["write"]
    assert found["try"] is False
    assert "belongs to the process that this one was forked from" in found["error"]
    assert found["held"] == 0
    assert found["disconnect"] is found["teardown"] is None
    assert found["parent heard"] == "parent"
    assert found["free again"] is True, "though the child lives"
    assert found["alarms"] == 0


OF_ITS_OWN = (
    PREAMBLE
    + """
stalled, go_on = threading.Event(), threading.Event()
connection.subscribe(lambda data: (stalled.set(), go_on.wait(10)))
assert connection.try_connect()
pty.send(b"!")
assert stalled.wait(10)
line_kit.wait_until(lambda: any("stand-in" in name for name in line_kit.library_threads()), "a stand-in reads")
second = line_kit.Pty()

def own_line():
    own = SerialConnection(second.path)
    heard = line_kit.Hearer(own)
    busy, free = threading.Event(), threading.Event()
    own.subscribe(lambda data: (busy.set(), free.wait(10)))
    opened = own.try_connect()
    second.send(b"!")
    assert busy.wait(10)
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
line = connection.try_connect() and connection._listener
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
    assert "belongs to the process" in found["write"]
    assert found["mine"] is True
    assert found["alarms"] == 0


CLOSED_BY_ITS_OWNER = (
    PREAMBLE
    + """
import serial
from cnxman._descriptor_line import DescriptorLine
port = serial.Serial(pty.path)
line = DescriptorLine(port, None)  # and nobody has noticed yet that its owner has closed it
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
