"""Forks at any time: in every state, while locks are held, while ports are opened and closed, again and again."""

import os

import pytest

from tests.kit.forks import BELONGS, PREAMBLE
from tests.kit.lines import run_script

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


# -- states -------------------------------------------------------------------------------------------------

KEPT_UP = (
    PREAMBLE
    + """
state = sys.argv[1]
held, go_on = threading.Event(), threading.Event()

class Held(SerialConnection):
    def prepare(self):
        held.set()
        return go_on.wait(60)

connection = (Held if state == "connecting" else SerialConnection)(pty.path)
hearer = line_kit.Hearer(connection)
manager = ConnectionManager(connection, retry=RetryPolicy(60, 1, 60, 0))
if state == "recovering":
    pty.pull()
connecting = threading.Thread(target=manager.connect)
connecting.start()
assert held.wait(60) if state == "connecting" else connecting.join() is None
assert manager.state == state
reader = connection.reader()

def use():
    found = {
        "state": manager.state, "connected": manager.is_connected, "waits": manager.wait_until_connected(),
        "connect": said(manager.connect), "write": write(connection), "ask": said(lambda: connection.query(b"?")),
        "read": said(reader.read), "open": connection.is_connected, "presence": bool(connection.presence()),
        "up since": [manager.statistics.up_since, connection.statistics.up_since],
        "held": links().count(pty.device),
    }
    manager.disconnect()
    manager.teardown()
    connection.teardown()
    return found | {"then": manager.state, "threads": line_kit.library_threads()}

found, end = in_child(use)
go_on.set()
connecting.join()
if state == "recovering":
    pty.plug()
assert manager.wait_until_connected(10)
pty.send(b"to the parent")
hearer.wait_for_data(b"to the parent")
assert connection.write(b"parent") == 6
assert pty.receive(6) == b"parent"
manager.teardown()
end()
found["alarms"] = len(hearer.alarms)
pty.close()
print(json.dumps(found))
"""
)


@pytest.mark.parametrize("state", ["connecting", "connected", "recovering"])
def test_what_is_kept_up_is_the_parents(state: str) -> None:
    found = run_script(KEPT_UP, state)
    assert found["state"] == found["then"] == "torndown"
    assert [what for what in ("connect", "write", "ask", "read") if BELONGS not in found[what]] == []
    assert found["connected"] is found["waits"] is found["open"] is False
    assert found["up since"] == [None, None]
    assert found["presence"] is (state != "recovering")
    assert found["held"] == found["alarms"] == 0
    assert found["threads"] == []


IDLE = (
    PREAMBLE
    + """
state = sys.argv[1]
manager = ConnectionManager(connection)
if state != "ready":
    manager.connect()
    manager.disconnect()
reader = connection.reader()

def use():
    before = manager.state
    manager.connect()
    pty.send(b"hello")
    found = {"before": before, "read": reader.read(10).decode(), "write": write(connection)}
    manager.teardown()
    return found | {"then": manager.state, "threads": line_kit.library_threads()}

found, end = in_child(use)
end()
manager.connect()
found["the parent too"] = manager.is_connected
manager.teardown()
pty.close()
print(json.dumps(found))
"""
)


@pytest.mark.parametrize("state", ["ready", "disconnected"])
def test_what_is_not_kept_up_may_be_used_in_the_child(state: str) -> None:
    assert run_script(IDLE, state) == {
        "before": state,
        "read": "hello",
        "write": 14,
        "then": "torndown",
        "threads": [],
        "the parent too": True,
    }


# -- locks --------------------------------------------------------------------------------------------------

LOCKS = (
    PREAMBLE
    + """
from cnxman._line import receive_buffer as _backlog
assert connection.try_connect()
pty.send(b"!")
hearer.wait_for_data(b"!")
manager, idle = ConnectionManager(connection), SerialConnection(line_kit.Pty().path)
idle_manager = ConnectionManager(idle)
alone_port = line_kit.Pty()
import serial
alone = SerialListener(serial.Serial(alone_port.path))
alone.start()
assert alone._ready.wait(60)
manager.connect()
reader, listener = connection.reader(), connection.current_opening.listener
locks = {
    "connection": connection._lock, "query": connection._query_lock, "counters": connection._counters_lock,
    "listener": listener._thread._lock, "line": listener.line.lock, "write": listener.line._write_lock._lock,
    "inputs": manager._inputs.lock, "watchdog": _backlog._watchdog_lock, "idle inputs": idle_manager._inputs.lock,
    "alone, line": alone._line.lock,
}

def use():
    manager.wait_until_connected()
    manager.statistics, connection.statistics, manager.is_connected
    told = [said(manager.connect), write(connection), said(lambda: connection.query(b"?")), said(reader.read)]
    manager.teardown()
    connection.teardown()
    alone.terminate()
    alone.join()
    idle_manager.connect()
    idle_manager.wait_until_connected(10)
    idle.write(b"x")
    idle_manager.teardown()
    return [repr(connection) in text and "belongs to the process" in text for text in told]

found = {}
for name, lock in locks.items():
    taken, free = threading.Event(), threading.Event()
    def hold():
        with lock:
            taken.set()
            free.wait(60)
    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(60)
    result, end = in_child(use)
    found[name] = result
    end()
    free.set()
    holder.join()
manager.teardown()
alone.terminate()
alone.join()
alone_port.close()
pty.close()
print(json.dumps(found))
"""
)


def test_locks_that_other_threads_held_at_the_fork_hold_up_nobody_in_the_child() -> None:
    found = run_script(LOCKS)
    assert len(found) == 10
    assert {name: told for name, told in found.items() if told != [True] * 4} == {}


# -- ports that are just being opened or closed ---------------------------------------------------------------

OPENING = (
    PREAMBLE
    + """
from cnxman import _fork
_fork.LONGEST_WAIT = 60  # the step may take its time
how = sys.argv[1]
original, step, on = getattr(os, how), threading.Event(), []

def slow(*arguments, **named):
    result = original(*arguments, **named)
    if threading.current_thread() in on:
        step.set()
        time.sleep(0.3)  # the port is open (or closed), and nobody has noted it
    return result

thread = threading.Thread(target=connection.try_connect if how == "open" else connection.disconnect)
if how == "close":
    assert connection.try_connect()
    on.append(connection.current_opening.listener._thread)
else:
    on.append(thread)
setattr(os, how, slow)
began = time.monotonic()  # before the step: this thread may be held up after it
thread.start()
assert step.wait(60)
number = os.open("/dev/null", os.O_RDONLY)  # which may have the number of what was closed
found, end = in_child(lambda: {"held": links().count(pty.device), "mine": os.fstat(number).st_rdev > 0})
found["waited"] = time.monotonic() - began >= 0.3
thread.join()
connection.disconnect()
end()
pty.close()
print(json.dumps(found))
"""
)


@pytest.mark.parametrize("how", ["open", "close"])
def test_a_fork_waits_for_a_port_that_is_being_opened_or_closed(how: str) -> None:
    assert run_script(OPENING, how) == {"held": 0, "mine": True, "waited": True}


DRAINING = (
    PREAMBLE
    + """
assert connection.try_connect()
writer = threading.Thread(target=lambda: said(lambda: connection.write(bytes(1_000_000))))
writer.start()
line = connection.current_opening.listener.line
line_kit.wait_until(lambda: line._writers > 0, "the line is full")
closing = threading.Thread(target=connection.disconnect)
closing.start()
line_kit.wait_until(lambda: line.closed, "it waits for the output to go out")
found, end = in_child(lambda: {"held": links().count(pty.device)})
closing.join()
writer.join()
end()
pty.close()
print(json.dumps(found))
"""
)


def test_a_port_that_waits_for_its_output_is_not_held_by_the_child() -> None:
    assert run_script(DRAINING) == {"held": 0}


STUCK = (
    PREAMBLE
    + """
from cnxman import _fork
stuck, free = threading.Event(), threading.Event()

def never():
    with _fork.no_fork():
        stuck.set()
        free.wait(60)

thread = threading.Thread(target=never)
thread.start()
assert stuck.wait(60)
began = time.monotonic()
found, end = in_child(lambda: {"there": len(_fork._guarded)})
found["other"] = _fork.LONGEST_WAIT <= time.monotonic() - began < _fork.LONGEST_WAIT + 4
free.set()
thread.join()
end()
began = time.monotonic()
with _fork.no_fork():
    inside, end = in_child(lambda: {"there": len(_fork._guarded)})
    end()
found |= {"itself": inside, "at once": time.monotonic() - began < _fork.LONGEST_WAIT, "left": _fork._guarded}
pty.close()
print(json.dumps(found))
"""
)


def test_a_fork_does_not_wait_for_a_driver_for_ever_nor_for_its_own_thread() -> None:
    assert run_script(STUCK) == {"there": 0, "other": True, "itself": {"there": 1}, "at once": True, "left": []}


# -- again and again ----------------------------------------------------------------------------------------

STORM = (
    PREAMBLE
    + """
import random
from cnxman.testing import SimulatedDevice
chance = random.Random(7)
device = SimulatedDevice()
connection = SerialConnection(device.port)
manager = ConnectionManager(connection, retry=RetryPolicy(0.001, 1, 0.001, 0))
over = threading.Event()

def keep(call):
    while not over.wait(0.0005):
        said(call)

manager.connect()

def send():
    if device.is_plugged:
        device.send(b"y" * 500, timeout=60)

def quietly(load):
    def call():
        try:
            load()
        except OSError:  # no such device now, or too late
            pass
    return call

loads = [
    send, lambda: connection.write(b"x" * 500), lambda: connection.query(b"?", timeout=0.001),
    lambda: connection.statistics, lambda: manager.wait_until_connected(0.01),
]
threads = [threading.Thread(target=keep, args=(quietly(load),)) for load in loads]
for thread in threads:
    thread.start()

def use():
    nodes = [link for link in links() if link.startswith("/dev/pts/") and link != "/dev/pts/ptmx"]
    told = [manager.state, nodes, manager.wait_until_connected(), "belongs to" in write(connection)]
    said(manager.connect)
    connection.statistics
    manager.teardown()
    connection.teardown()
    return told

found = []
for number in range(int(sys.argv[1])):
    if chance.random() < 0.5:
        device.unplug() if device.is_plugged else device.plug()
    time.sleep(chance.random() * 0.01)
    told, end = in_child(use)
    end()
    if told != ["torndown", [], False, True]:
        found.append(told)
device.plug()
assert manager.wait_until_connected(10)
over.set()
for thread in threads:
    thread.join()
manager.teardown()
device.close()
pty.close()
print(json.dumps({"different": found, "threads": line_kit.library_threads()}))
"""
)


def test_a_storm_of_forks_hurts_neither_side() -> None:
    times = os.environ.get("CNXMAN_FORKS", "40")
    assert run_script(STORM, times, timeout=600) == {"different": [], "threads": []}
