"""Everything that can go wrong with a line, by kind of failure and by operation.

A lost line raises one alarm, a failed opening none; each writes one line to the log and leaves nothing behind;
and once the fault is mended the line comes back.
"""

import errno
import fcntl
import gc
import logging
import os
import select
import termios
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import serial
from pydispatch import dispatcher

from cnxman._line import errors as _faults
from cnxman._line import posix as _descriptor_line
from cnxman._line import url as _call_line
from cnxman.basics import Connection, ConnectionException, ConnectionManager, find_errno
from cnxman.retry import RetryPolicy
from cnxman.serial import SerialConnection, SerialListener
from cnxman.testing import SimulatedDevice
from tests.kit import faulty_port
from tests.kit.lines import BOUND, Hearer, Pty, library_threads, no_leak, wait_until, warnings_of
from tests.kit.managers import Caller
from tests.kit.probe import port_of

NOTICED_WITHIN = 1.0


def in_context(outer: Exception, inner: Exception) -> Exception:
    """`outer`, raised while `inner` was handled: as pyserial does it."""
    try:
        try:
            raise inner
        except type(inner):
            raise outer  # noqa: B904
    except type(outer) as error:
        return error


EIO = OSError(errno.EIO, "Input/output error")

KINDS: dict[str, Callable[[], Exception]] = {
    "EIO": lambda: OSError(errno.EIO, "Input/output error"),
    "ENXIO": lambda: OSError(errno.ENXIO, "No such device or address"),
    "ENODEV": lambda: OSError(errno.ENODEV, "No such device"),
    "ENOENT": lambda: FileNotFoundError(errno.ENOENT, "No such file or directory"),
    "EBADF": lambda: OSError(errno.EBADF, "Bad file descriptor"),
    "EACCES": lambda: PermissionError(errno.EACCES, "Permission denied"),
    "EBUSY": lambda: OSError(errno.EBUSY, "Device or resource busy"),
    "EMFILE": lambda: OSError(errno.EMFILE, "Too many open files"),
    "termios": lambda: termios.error(errno.EIO, "Input/output error"),
    "errno None": lambda: serial.SerialException("device reports readiness to read but returned no data"),
    "errno in the context": lambda: in_context(
        serial.SerialException("write failed: [Errno 5] Input/output error"), OSError(errno.EIO, "Input/output error")
    ),
    "closed under it": lambda: TypeError("'NoneType' object cannot be interpreted as an integer"),
    "value": lambda: ValueError("filedescriptor out of range in select()"),
    "not open": serial.PortNotOpenError,
    "memory": MemoryError,
}

ERRNOS = {
    **{kind: getattr(errno, kind) for kind in ("EIO", "ENXIO", "ENODEV", "ENOENT", "EBADF", "EACCES", "EBUSY")},
    "EMFILE": errno.EMFILE,
    "termios": errno.EIO,
    "errno in the context": errno.EIO,
}

SYSTEM_KINDS = ["EIO", "ENXIO", "ENODEV", "ENOENT", "EBADF", "EACCES", "EBUSY", "EMFILE", "memory"]
"""What a call of the kernel's can raise."""

every_kind = pytest.mark.parametrize("kind", KINDS)
every_system_kind = pytest.mark.parametrize("kind", SYSTEM_KINDS)


@pytest.fixture
def pty() -> Iterator[Pty]:
    with Pty() as pty:
        yield pty


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> Iterator[faulty_port.Orders]:
    monkeypatch.setattr(_call_line, "READ_SLICE", 0.01)  # what is tested is the same, and there are many
    yield faulty_port.install()
    serial.protocol_handler_packages.remove(faulty_port.PACKAGE)


def check_error(error: ConnectionException | None, kind: str, inner: Exception) -> None:
    """It says what happened in words, keeps the original, and its number."""
    assert isinstance(error, ConnectionException)
    assert error.errno == ERRNOS.get(kind)
    assert error.__cause__ is error.inner
    chain: list[BaseException | None] = [error]
    while chain[-1] is not None and len(chain) < 10:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)
    assert inner in chain
    assert len(str(error)) > 10


def check_back(connection: SerialConnection, pty: Pty, hearer: Hearer) -> None:
    """It connects, and data flows both ways."""
    hearer.data.clear()
    assert connection.try_connect()
    assert connection.last_error is None
    pty.send(b"there")
    hearer.wait_for_data(b"there")
    assert connection.write(b"and back") == 8
    assert pty.receive(8) == b"and back"
    connection.teardown()


# -- open -------------------------------------------------------------------------------------------------


def fail_to_open_the_file(monkeypatch: pytest.MonkeyPatch, error: Exception, path: str) -> None:
    original = os.open

    def fail(name: Any, *rest: Any, **more: Any) -> int:
        if name == path:
            raise error
        return original(name, *rest, **more)

    monkeypatch.setattr(os, "open", fail)


def fail_to_configure(monkeypatch: pytest.MonkeyPatch, error: Exception, path: str) -> None:
    monkeypatch.setattr(serial.Serial, "_reconfigure_port", raising(error))


def fail_to_discard(monkeypatch: pytest.MonkeyPatch, error: Exception, path: str) -> None:
    monkeypatch.setattr(serial.Serial, "_reset_input_buffer", raising(error))


def fail_to_lock(monkeypatch: pytest.MonkeyPatch, error: Exception, path: str) -> None:
    original = fcntl.ioctl

    def fail(fd: Any, request: int, *rest: Any) -> Any:
        if request == termios.TIOCEXCL:
            raise error
        return original(fd, request, *rest)

    monkeypatch.setattr(fcntl, "ioctl", fail)


def fail_to_listen(monkeypatch: pytest.MonkeyPatch, error: Exception, path: str) -> None:
    monkeypatch.setattr(_descriptor_line.WakeUp, "__init__", raising(error))


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


OPENINGS = [fail_to_open_the_file, fail_to_configure, fail_to_discard, fail_to_lock, fail_to_listen]


@every_kind
@pytest.mark.parametrize("step", OPENINGS)
def test_open(
    kind: str,
    step: Callable[[pytest.MonkeyPatch, Exception, str], None],
    pty: Pty,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = KINDS[kind]()
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    with no_leak():
        with monkeypatch.context() as patch:
            step(patch, error, pty.path)
            assert connection.try_connect() is False
            assert count_descriptors_of(pty.device) == 0, "though the error is kept"
        check_error(connection.last_error, kind, error)
        assert str(connection.last_error).startswith(f"cannot open {pty.path}: ")
        assert warnings_of(caplog) == [str(connection.last_error)]
        assert hearer.alarms == []
        check_back(connection, pty, hearer)
    assert hearer.names == ["opened", "data", "closed"]


def count_descriptors_of(device: str) -> int:
    return sum(link_of(number) == device for number in os.listdir("/proc/self/fd"))


def link_of(number: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""


# -- read -------------------------------------------------------------------------------------------------


def fail_on(monkeypatch: pytest.MonkeyPatch, name: str, number: int, error: Exception) -> None:
    """Let a call of the kernel's fail on one descriptor."""
    original = getattr(os, name)

    def fail(fd: int, *rest: Any) -> Any:
        if fd == number:
            raise error
        return original(fd, *rest)

    monkeypatch.setattr(os, name, fail)


@every_system_kind
def test_read(kind: str, pty: Pty, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    error = KINDS[kind]()
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect()
        hearer.wait_for_event("opened")
        with monkeypatch.context() as patch:
            fail_on(patch, "read", port_of(connection).fileno(), error)
            pty.send(b"x")
            hearer.wait_for_event("alarm")
        check_lost(connection, hearer, kind, error, caplog)
        check_back(connection, pty, hearer)
    assert hearer.names == ["opened", "closed", "alarm", "opened", "data", "closed"]


def check_lost(
    connection: SerialConnection, hearer: Hearer, kind: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    wait_until(lambda: library_threads() == [], "the thread has ended")
    assert len(hearer.alarms) == 1
    assert hearer.events[-2:] == [("closed", hearer.alarms[0]), ("alarm", hearer.alarms[0])]
    assert connection.last_error is hearer.alarms[0]
    check_error(connection.last_error, kind, error)
    assert warnings_of(caplog) == [str(connection.last_error)]
    assert not connection.is_connected
    with pytest.raises(ConnectionException, match="is not connected"):
        connection.write(b"x")


@every_kind
@pytest.mark.parametrize("operation", ["read", "in_waiting"])
def test_read_of_another_kind_of_port(
    kind: str, operation: str, orders: faulty_port.Orders, caplog: pytest.LogCaptureFixture
) -> None:
    error = KINDS[kind]()
    connection = SerialConnection("faulty://1")
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect()
        orders.input.put(b"hello")
        hearer.wait_for_data(b"hello")
        orders.faults[operation] = error
        orders.input.put(b"x")
        hearer.wait_for_event("alarm")
        check_lost(connection, hearer, kind, error, caplog)
        assert orders.open_ports == set()
        orders.faults.clear()
        orders.input.queue.clear()
        hearer.data.clear()
        assert connection.try_connect()
        orders.input.put(b"back")
        hearer.wait_for_data(b"back")
        connection.teardown()
    assert hearer.count("alarm") == 1


# -- write ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in SYSTEM_KINDS if kind != "memory"])
def test_write(kind: str, pty: Pty, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It fails and says so to its caller; whether the line is lost, the listener finds out."""
    error = KINDS[kind]()
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect()
        with monkeypatch.context() as patch:
            fail_on(patch, "write", port_of(connection).fileno(), error)
            with pytest.raises(ConnectionException, match="0 of 5 bytes were written") as failed:
                connection.write(b"hello")
        check_error(failed.value, kind, error)
        assert warnings_of(caplog) == []
        assert connection.is_connected
        assert connection.write(b"again") == 5
        assert pty.receive(5) == b"again"
        connection.teardown()
    assert hearer.names == ["opened", "closed"]


@every_kind
def test_write_to_another_kind_of_port(kind: str, orders: faulty_port.Orders) -> None:
    error = KINDS[kind]()
    connection = SerialConnection("faulty://1")
    with no_leak():
        assert connection.try_connect()
        orders.faults["write"] = error
        with pytest.raises(ConnectionException, match="0 of 250 bytes were written") as failed:
            connection.write(bytes(250))
        check_error(failed.value, kind, error)
        orders.faults.clear()
        assert connection.write(bytes(250)) == 250
        assert orders.output == bytes(250)
        connection.teardown()


def test_a_write_to_another_kind_of_port_stops_when_the_line_does(orders: faulty_port.Orders) -> None:
    connection = SerialConnection("faulty://1")
    writing, go_on = threading.Event(), threading.Event()

    def block() -> None:
        writing.set()
        assert go_on.wait(BOUND)

    orders.blocked = block
    with no_leak():
        assert connection.try_connect()
        writer = Caller(lambda: connection.write(bytes(250)))
        assert writing.wait(BOUND)
        connection.disconnect()
        go_on.set()
        with pytest.raises(ConnectionException, match=r"100 of 250 bytes were written.*closed meanwhile"):
            writer.join()


@every_kind
def test_control_of_another_kind_of_port(kind: str, orders: faulty_port.Orders) -> None:
    error = KINDS[kind]()
    connection = SerialConnection("faulty://1")
    with no_leak():
        assert connection.try_connect()
        orders.faults |= {"cts": error, "break": error, "configure": error}
        calls: list[Callable[[], object]] = [
            lambda: connection.cts,
            lambda: connection.send_break(0),
            lambda: connection.configure(baudrate=300),
        ]
        for call in calls:
            with pytest.raises(ConnectionException) as failed:
                call()
            check_error(failed.value, kind, error)
        orders.faults.clear()
        assert connection.cts
        connection.teardown()


# -- close ------------------------------------------------------------------------------------------------


@every_kind
def test_close(kind: str, orders: faulty_port.Orders, caplog: pytest.LogCaptureFixture) -> None:
    """What closing raises is nobody's concern: not at a disconnect, nor at a loss."""
    caplog.set_level(logging.DEBUG, logger="cnxman")
    connection = SerialConnection("faulty://1")
    hearer = Hearer(connection)
    orders.faults["close"] = KINDS[kind]()
    with no_leak():
        assert connection.try_connect()
        connection.disconnect()
        assert not connection.is_connected
        assert hearer.events == [("opened", None), ("closed", None)]
        assert warnings_of(caplog) == []
        assert connection.try_connect()
        orders.faults["read"] = KINDS["EIO"]()
        hearer.wait_for_event("alarm")
        wait_until(lambda: library_threads() == [], "the thread has ended")
        assert len(warnings_of(caplog)) == 1
        orders.faults.clear()
        assert connection.try_connect()
        connection.teardown()
    assert hearer.names == ["opened", "closed"] * 2 + ["alarm", "opened", "closed"]


def test_port_whose_close_failed_is_not_closed_again(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be somebody else's by the time that its destructor runs."""
    real_close, failed = os.close, []

    def close(number: int) -> None:
        is_port = os.isatty(number) and not failed
        real_close(number)
        if is_port:
            failed.append(number)
            raise OSError(errno.EIO, "Input/output error")

    connection = SerialConnection(pty.path)
    with no_leak():
        assert connection.try_connect()
        monkeypatch.setattr(os, "close", close)
        connection.disconnect()
        monkeypatch.undo()
        somebody_elses = os.open(os.devnull, os.O_RDONLY)
        os.dup2(somebody_elses, failed[0])
        del connection
        gc.collect()
        os.fstat(failed[0])
        os.close(failed[0])
        if somebody_elses != failed[0]:
            os.close(somebody_elses)


# -- wait -------------------------------------------------------------------------------------------------


@every_system_kind
def test_wait(kind: str, pty: Pty, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    error = KINDS[kind]()
    real = select.poll

    class FailingPoll:
        def __init__(self) -> None:
            self._poll = real()
            self.register, self.unregister = self._poll.register, self._poll.unregister

        def poll(self, *timeout: Any) -> list[tuple[int, int]]:
            found = self._poll.poll(*timeout)
            if failing.is_set():
                raise error
            return found

    failing = threading.Event()
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    with no_leak():
        with monkeypatch.context() as patch:
            patch.setattr(select, "poll", FailingPoll)
            assert connection.try_connect()
            hearer.wait_for_event("opened")
            failing.set()
            pty.send(b"x")
            hearer.wait_for_event("alarm")
        check_lost(connection, hearer, kind, error, caplog)
        check_back(connection, pty, hearer)


# -- the words --------------------------------------------------------------------------------------------


def lost(port: str, error: Exception) -> str:
    return _faults.loss_message(port, error, find_errno(error))


def not_opened(port: str, error: Exception) -> str:
    return _faults.open_message(port, error, find_errno(error))


@pytest.mark.parametrize("kind", ["EIO", "ENXIO", "ENODEV", "ENOENT", "termios", "errno in the context"])
def test_a_line_that_is_gone_has_its_own_message(kind: str) -> None:
    assert str(lost("/dev/x", KINDS[kind]())) == "/dev/x was lost: the device is gone; was it unplugged?"


def test_other_losses_have_words_of_their_own() -> None:
    for kind in ("closed under it", "value"):
        assert "closed by another part of this program" in str(lost("p", KINDS[kind]()))
    assert "(device reports readiness" in str(lost("p", KINDS["errno None"]()))
    assert "(MemoryError)" in str(lost("p", MemoryError()))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOENT, "is it plugged in?"),
        (errno.EACCES, "permission denied"),
        (errno.EPERM, "permission denied, and not by its mode"),
        (errno.EBUSY, "in use by another program"),
        (errno.EAGAIN, "in use by another program"),
        (errno.ECONNREFUSED, "nobody listens there"),
        (errno.EISDIR, "folder"),
        (errno.ENOTTY, "no serial port"),
        (errno.EMFILE, "too many files open"),
        (errno.EPROTO, "Protocol error"),
    ],
)
def test_failed_openings_say_what_to_do(number: int, words: str) -> None:
    assert words in not_opened("/dev/nowhere", OSError(number, os.strerror(number)))


def test_the_hint_for_a_port_server_that_acknowledges_no_modem_lines() -> None:
    error = serial.SerialException("Remote does not accept parameters")
    assert "add ign_set_control to the URL" in str(not_opened("rfc2217://host:1", error))
    assert "ign_set_control to" not in str(not_opened("rfc2217://host:1?ign_set_control", error))
    assert "ign_set_control" not in str(not_opened("rfc2217://host:1", OSError(errno.ECONNREFUSED, "no")))
    assert "ign_set_control" not in str(not_opened("socket://host:1", error))


def test_a_receiver_may_disconnect_though_the_line_never_opened(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hears the read errors of all listeners, on the listener's own thread."""
    connection = SerialConnection(pty.path)
    heard: list[ConnectionException] = []

    def hang_up(error: ConnectionException) -> None:
        connection.disconnect()
        heard.append(error)

    dispatcher.connect(hang_up, signal=SerialListener.Signals.READ_ERROR, sender=dispatcher.Any)
    with no_leak():
        fail_to_listen(monkeypatch, KINDS["EMFILE"](), pty.path)
        assert connection.try_connect() is False
    dispatcher.disconnect(hang_up, signal=SerialListener.Signals.READ_ERROR, sender=dispatcher.Any)
    assert len(heard) == 1


def test_the_hint_for_a_port_of_the_group_root_is_a_udev_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda *_, **__: SimpleNamespace(st_mode=0o20660, st_gid=0))
        hint = not_opened("/dev/cnxman-none", PermissionError(errno.EACCES, "Permission denied"))
    assert "usermod" not in hint
    assert "only root may open it; a udev rule can give it to the group" in hint


def test_the_hint_for_a_forbidden_port_names_its_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = tmp_path / "port"
    port.touch(mode=0o660)
    os.chmod(port, 0o660)
    os.chown(port, -1, 20 if os.getuid() == 0 else os.getgid())
    refusal = PermissionError(errno.EACCES, "Permission denied")
    import grp

    assert f"belongs to the group {grp.getgrgid(os.stat(port).st_gid).gr_name}" in str(not_opened(str(port), refusal))
    monkeypatch.setattr(grp, "getgrgid", raising(KeyError("no such group")))
    assert f"belongs to the group {os.stat(port).st_gid};" in str(not_opened(str(port), refusal))


# -- pulls ------------------------------------------------------------------------------------------------


def test_a_pull_raises_one_alarm_within_a_second_and_frees_descriptor_and_thread(
    pty: Pty, caplog: pytest.LogCaptureFixture
) -> None:
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect()
        pty.send(b"last words")
        hearer.wait_for_data(b"last words")
        began = time.monotonic()
        pty.pull()
        hearer.wait_for_event("alarm", timeout=NOTICED_WITHIN)
        assert time.monotonic() - began < NOTICED_WITHIN
        check_lost(connection, hearer, "EIO", hearer.alarms[0].inner, caplog)
        assert "was it unplugged" in str(hearer.alarms[0])
        pty.plug()
        check_back(connection, pty, hearer)
    assert hearer.names == ["opened", "data", "closed", "alarm", "opened", "data", "closed"]


def test_the_port_is_closed_before_any_receiver_is_called(pty: Pty) -> None:
    """A held descriptor would make the kernel give the adapter another name."""
    connection = SerialConnection(pty.path)
    device = pty.device
    held: list[int] = []
    connection.subscribe(lambda: held.append(count_descriptors_of(device)), SerialConnection.Signals.CLOSED)
    connection.subscribe(lambda: held.append(count_descriptors_of(device)), Connection.Signals.RAISE_ALARM)
    hearer = Hearer(connection)
    assert connection.try_connect()
    pty.pull()
    hearer.wait_for_event("alarm")
    wait_until(lambda: held == [0, 0], "both were told of a closed port")


def test_200_pulls_leak_nothing(pty: Pty, caplog: pytest.LogCaptureFixture) -> None:
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    with no_leak():
        for number in range(200):
            assert connection.try_connect()
            pty.pull()
            hearer.wait_for_event("alarm", number + 1)
            pty.plug()
        connection.teardown()
    assert len(hearer.alarms) == 200
    assert len(warnings_of(caplog)) == 200, "each after a success, so each is news"


def test_a_pull_under_a_flood_and_a_storm_of_writes_is_one_alarm(pty: Pty) -> None:
    for _ in range(10):
        connection = SerialConnection(pty.path)
        hearer = Hearer(connection)
        with no_leak():
            assert connection.try_connect()
            failures: list[ConnectionException] = []
            writers = [Caller(partial(write_until_it_fails, connection, failures)) for _ in range(3)]
            until = time.monotonic() + 0.03
            while time.monotonic() < until:
                pty.offer(b"x" * 3000)
                if select.select([pty.master], [], [], 0)[0]:
                    os.read(pty.master or 0, 65536)
            pty.pull()
            for writer in writers:
                writer.join()
            hearer.wait_for_event("alarm")
        assert len(failures) == 3
        assert len(hearer.alarms) == 1
        assert [name for name in hearer.names if name != "data"] == ["opened", "closed", "alarm"]
        pty.plug()


def write_until_it_fails(connection: SerialConnection, failures: list[ConnectionException]) -> None:
    try:
        while True:
            connection.write(b"y" * 1000)
    except ConnectionException as error:
        failures.append(error)


def test_a_pull_during_an_opening_is_a_success_or_a_failure_and_never_leaks(pty: Pty) -> None:
    """The pull comes at every possible moment: 100 times, each a little later."""
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    outcomes = []
    with no_leak():
        for number in range(100):
            puller = threading.Timer(number * 0.00002, pty.pull)
            puller.start()
            alarms = len(hearer.alarms)
            outcome = connection.try_connect()
            outcomes.append(outcome)
            puller.join()
            if outcome:
                hearer.wait_for_event("alarm", alarms + 1)
            else:
                assert connection.last_error is not None
                assert not connection.is_connected
            wait_until(lambda: library_threads() == [], "the thread has ended")
            assert len(hearer.alarms) == alarms + outcome
            pty.plug()
        connection.teardown()


def test_a_receiver_of_the_loss_may_connect_again(pty: Pty) -> None:
    """Without a manager: whoever hears CLOSED or the alarm connects again; the new line tells after the old one."""
    connection = SerialConnection(pty.path)

    def redial(error: ConnectionException | None) -> None:
        if error is not None:
            pty.plug()
            assert connection.try_connect()

    connection.subscribe(redial, SerialConnection.Signals.CLOSED)
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect()
        pty.pull()
        hearer.wait_for_event("opened", 2)
        pty.send(b"x")
        hearer.wait_for_data(b"x")
        connection.teardown()
    assert hearer.names == ["opened", "closed", "opened", "data", "closed"], "who replaced it needs no alarm"


def test_a_disconnect_while_the_loss_is_sent_waits_and_no_alarm_follows(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go_on.wait(BOUND)

    connection.subscribe(slow, SerialConnection.Signals.CLOSED)
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect()
        pty.pull()
        assert begun.wait(BOUND)
        stop = Caller(connection.disconnect)
        assert not stop.done.wait(0.05)
        go_on.set()
        stop.join()
        assert library_threads() == []
    assert hearer.names == ["opened", "closed"]


def test_a_disconnect_while_the_lost_port_is_closed_was_asked_for(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    original = serial.Serial.close
    stops: list[Caller] = []

    def close(port: serial.Serial) -> None:
        original(port)
        if not stops:
            before = connection._generation
            stops.append(Caller(connection.disconnect))
            wait_until(lambda: connection._generation > before, "somebody hangs up")

    with no_leak():
        assert connection.try_connect()
        hearer.wait_for_event("opened")
        monkeypatch.setattr(serial.Serial, "close", close)
        pty.pull()
        hearer.wait_for_event("closed")
        stops[0].join()
    assert hearer.events == [("opened", None), ("closed", None)]
    assert connection.last_error is None


def test_a_teardown_while_the_alarm_is_sent_waits_for_its_receivers(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go_on.wait(BOUND)

    connection.subscribe(slow, Connection.Signals.RAISE_ALARM)
    with no_leak():
        assert connection.try_connect()
        pty.pull()
        assert begun.wait(BOUND)
        stop = Caller(connection.teardown)
        assert not stop.done.wait(0.05)
        go_on.set()
        stop.join()
        assert library_threads() == []


# -- under a manager --------------------------------------------------------------------------------------


def test_100_pulls_under_a_manager_it_is_back_each_time_and_data_flows(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    with no_leak():
        with ConnectionManager(connection) as manager:
            for number in range(100):
                hearer.wait_for_event("opened", number + 1)
                assert manager.wait_until_connected(BOUND)
                message = b"round %d\n" % number
                pty.send(message)
                hearer.wait_for(lambda message=message: hearer.data.endswith(message))
                connection.write(message)
                assert pty.receive(len(message)) == message
                pty.pull()
                hearer.wait_for_event("alarm", number + 1)
                pty.plug()
        assert manager.state == "torndown"
    assert len(hearer.alarms) == 100
    assert hearer.data == b"".join(b"round %d\n" % number for number in range(100))


def test_out_and_in_at_once_is_noticed_though_it_is_back_before_its_loss_is_dealt_with(pty: Pty) -> None:
    connection = SerialConnection(pty.path)
    connection.subscribe(pty.plug, Connection.Signals.RAISE_ALARM)  # heard before the manager does
    hearer = Hearer(connection)
    manager = ConnectionManager(connection, retry=RetryPolicy(1000, 1, 1000, 0))
    with no_leak(), manager:
        pty.pull()
        hearer.wait_for_event("opened", 2)
        assert manager.wait_until_connected(BOUND)


def test_an_outage_of_many_failures_is_one_warning(pty: Pty, caplog: pytest.LogCaptureFixture) -> None:
    connection = SerialConnection(pty.path)
    failures = threading.Event()
    manager = ConnectionManager(connection, retry=RetryPolicy(0.001, 1, 0.001, 0))
    manager.subscribe(
        lambda attempt: failures.set() if attempt > 50 else None, ConnectionManager.Signals.RETRY_SCHEDULED
    )
    with no_leak(), manager:
        pty.pull()
        assert failures.wait(BOUND)
        pty.plug()
        assert manager.wait_until_connected(BOUND)
    lines = warnings_of(caplog)
    assert len(lines) == 2, lines
    assert "was lost" in lines[0]
    assert "cannot open" in lines[1]


def test_a_manager_and_a_connection_that_nobody_holds_keep_the_line_up(serial_device: SimulatedDevice) -> None:
    heard = threading.Event()
    connection = SerialConnection(serial_device.port)
    connection.subscribe(lambda data: heard.set())
    manager = ConnectionManager(connection)
    manager.connect()
    held = weakref.ref(manager)
    del connection, manager
    for _ in range(3):
        gc.collect()
        serial_device.wait_opened()
        heard.clear()
        serial_device.send(b"x")
        assert heard.wait(BOUND)
        serial_device.unplug()
        serial_device.plug()
    found = held()
    assert found is not None
    found.teardown()


class Beacon(Connection):
    """Stays where it is until it is told otherwise."""

    def __init__(self) -> None:
        self.there: object = "here"
        self.attempts = self.looks = 0
        self.moves_to: object = None

    def try_connect(self) -> bool:
        self.attempts += 1
        self.there = self.moves_to or self.there
        return True

    def disconnect(self) -> None:
        pass

    teardown = disconnect

    def presence(self) -> object:  # type: ignore[override]
        self.looks += 1
        return self.there


def test_what_stays_where_it_is_after_a_loss_is_not_taken_for_one_that_has_come_back() -> None:
    beacon = Beacon()
    with ConnectionManager(beacon, retry=RetryPolicy(1000, 1, 1000, 0)) as manager:
        assert manager.is_connected
        looks = beacon.looks
        beacon.raise_alarm()
        wait_until(lambda: beacon.looks >= looks + 4, "it was looked for")
        assert beacon.attempts == 1
        beacon.there = "there"
        wait_until(lambda: beacon.attempts == 2, "it is tried at once")


def test_what_is_lost_and_back_before_its_connecting_is_over_is_tried_at_once() -> None:
    beacon = Beacon()
    beacon.moves_to = "there"
    with ConnectionManager(beacon, retry=RetryPolicy(1000, 1, 1000, 0)) as manager:
        assert manager.is_connected
        beacon.raise_alarm()
        wait_until(lambda: beacon.attempts == 2, "it is tried at once")


def test_what_is_forbidden_or_busy_at_first_is_tried_again(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    """Just after its return, a node may be root's, and then a modem manager may hold it."""
    refusals = [KINDS["EACCES"](), KINDS["EACCES"](), KINDS["EBUSY"](), KINDS["termios"](), KINDS["ENXIO"]()]
    original = serial.Serial.open

    def open_at_last(port: serial.Serial) -> None:
        if refusals:
            raise refusals.pop(0)
        original(port)

    connection = SerialConnection(pty.path)
    manager = ConnectionManager(connection, retry=RetryPolicy(0.001, 1, 0.001, 0))
    with no_leak(), manager:
        assert manager.is_connected
        monkeypatch.setattr(serial.Serial, "open", open_at_last)
        pty.pull()
        pty.plug()
        wait_until(lambda: not refusals, "it was tried so often")
        assert manager.wait_until_connected(BOUND)


def test_the_clock_may_be_set_back(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of day is asked by nothing that matters."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    connection = SerialConnection(pty.path, idle_timeout=5, write_timeout=1)
    hearer = Hearer(connection)
    with no_leak(), ConnectionManager(connection) as manager:
        pty.send(b"x")
        hearer.wait_for_data(b"x")
        pty.pull()
        pty.plug()
        hearer.wait_for_event("opened", 2)
        assert manager.wait_until_connected(BOUND)


# -- additions --


def test_a_line_that_was_lost_is_released_once_all_was_sent(pty: Pty) -> None:
    """Though nobody has hung up."""
    connection = SerialConnection(pty.path)
    hearer = Hearer(connection)
    with no_leak():
        assert connection.try_connect()
        pty.pull()
        hearer.wait_for_event("alarm")
        wait_until(lambda: connection.current_opening is None, "no listener is kept")
    assert hearer.names == ["opened", "closed", "alarm"]


def test_query_of_a_manager_waits_as_soon_as_the_port_is_found_lost() -> None:
    found, proceed = threading.Event(), threading.Event()

    def hold() -> None:  # by now the port is closed; the connection learns of that next
        found.set()
        proceed.wait(BOUND)

    with SimulatedDevice({b"?\n": b"!\n"}) as device:
        connection = SerialConnection(device.port)
        with ConnectionManager(connection) as manager:
            dispatcher.connect(hold, signal=SerialListener.Signals.READ_ERROR)
            try:
                device.unplug()
                assert found.wait(BOUND)
                assert manager.state == "recovering"
                with pytest.raises(ConnectionException, match=r"is not connected: .* was lost"):
                    connection.write(b"?\n")
                asking = Caller(lambda: manager.query(b"?\n", timeout=BOUND))
            finally:
                dispatcher.disconnect(hold, signal=SerialListener.Signals.READ_ERROR)
                proceed.set()
            device.plug()
            assert asking.join() == b"!\n"
