"""The thread that listens to one opening of one port, used by itself."""

import errno
import fcntl
import os
import termios
import threading
import time
from collections.abc import Iterator

import pytest
import serial
from pydispatch import dispatcher

from cnxman.basics import ConnectionException
from cnxman.serial import SerialListener
from tests.kit.lines import BOUND, Pty, count_descriptors, library_threads, no_leak, pattern, wait_until
from tests.kit.managers import Caller

Signals = SerialListener.Signals


@pytest.fixture
def pty() -> Iterator[Pty]:
    with Pty() as pty:
        yield pty


class Ear:
    """Hears a listener's own signals, as PyDispatcher gives them."""

    def __init__(self, listener: SerialListener) -> None:
        self.data = bytearray()
        self.errors: list[ConnectionException] = []
        self.order: list[str] = []
        self.news = threading.Condition()
        dispatcher.connect(self.on_data, signal=Signals.DATA_RECEIVED, sender=listener)
        dispatcher.connect(self.on_error, signal=Signals.READ_ERROR, sender=listener)

    def on_data(self, data: bytes) -> None:
        with self.news:
            self.data += data
            self.order.append("data")
            self.news.notify_all()

    def on_error(self, error: ConnectionException) -> None:
        with self.news:
            self.errors.append(error)
            self.order.append("error")
            self.news.notify_all()

    def wait_for_data(self, data: bytes) -> None:
        with self.news:
            assert self.news.wait_for(lambda: len(self.data) >= len(data), BOUND)
            assert self.data == data

    def wait_for_error(self) -> ConnectionException:
        with self.news:
            assert self.news.wait_for(lambda: bool(self.errors), BOUND)
            return self.errors[0]


def ended(listener: SerialListener) -> bool:
    listener.join(BOUND)
    return not listener.is_alive()


def test_the_names_and_values_of_the_page(pty: Pty) -> None:
    port = serial.Serial(pty.path)
    listener = SerialListener(port)
    assert (Signals.DATA_RECEIVED.value, Signals.READ_ERROR.value) == ("data-received", "read-error")
    assert isinstance(listener, threading.Thread)
    assert listener.serial is port
    assert listener.daemon
    assert listener.isDaemon is not None
    assert listener.name == f"cnxman listener on {pty.path}"
    assert listener.ident is None
    with pytest.warns(DeprecationWarning, match="isAlive"):
        assert listener.isAlive() is False
    listener.name = "another"
    assert listener.name == "another"
    port.close()


def test_it_listens_to_an_open_port_and_closes_it_in_the_end(pty: Pty) -> None:
    with no_leak():
        port = serial.Serial(pty.path)
        listener = SerialListener(port)
        ear = Ear(listener)
        listener.start()
        assert listener.is_alive()
        data = pattern(100_000)
        pty.send(data)
        ear.wait_for_data(data)
        began = time.monotonic()
        listener.terminate()
        assert time.monotonic() - began < 5
        assert ended(listener)
        assert not port.is_open
    assert ear.errors == []


def test_error_ready_and_finished_say_where_it_is(pty: Pty) -> None:
    listener = SerialListener(serial.Serial(pty.path))
    assert not listener.ready.is_set()
    assert not listener.finished.is_set()
    listener.start()
    assert listener.ready.wait(BOUND)
    assert listener.error is None
    assert not listener.finished.is_set()
    pty.pull()
    assert listener.finished.wait(BOUND)
    assert listener.error is not None
    assert not listener.serial.is_open


def test_it_opens_a_port_that_is_not_open(pty: Pty) -> None:
    port = serial.serial_for_url(pty.path, do_not_open=True)
    with no_leak():
        listener = SerialListener(port)
        ear = Ear(listener)
        listener.start()
        assert listener._ready.wait(BOUND)
        assert port.is_open
        pty.send(b"x")
        ear.wait_for_data(b"x")
        listener.terminate()
        assert ended(listener)
        assert not port.is_open


def test_a_port_that_cannot_be_opened_is_a_read_error(tmp_path: object) -> None:
    port = serial.serial_for_url(f"{tmp_path}/nothing", do_not_open=True)
    with no_leak():
        listener = SerialListener(port)
        ear = Ear(listener)
        listener.start()
        assert ended(listener)
    assert len(ear.errors) == 1
    assert ear.errors[0].errno == errno.ENOENT
    assert "there is no such port" in str(ear.errors[0])
    assert listener._error is ear.errors[0]


@pytest.mark.parametrize("is_open", [True, False])
def test_one_that_never_starts_costs_no_descriptor_and_leaves_the_port_as_it_was(pty: Pty, is_open: bool) -> None:
    port = serial.Serial(pty.path) if is_open else serial.serial_for_url(pty.path, do_not_open=True)
    before = count_descriptors()
    with no_leak():
        listener = SerialListener(port)
        assert count_descriptors() == before
        listener.terminate()
        assert port.is_open is is_open
        del listener
        assert port.is_open is is_open
    port.close()


def test_terminated_before_the_start_it_says_nothing_and_closes_the_port(pty: Pty) -> None:
    with no_leak():
        port = serial.Serial(pty.path)
        listener = SerialListener(port)
        ear = Ear(listener)
        pty.send(b"unheard")
        listener.terminate()
        listener.start()
        assert ended(listener)
        assert not port.is_open
        unopened = serial.serial_for_url(pty.path, do_not_open=True)
        listener = SerialListener(unopened)
        listener.terminate()
        listener.run()  # on this very thread
        assert not unopened.is_open
    assert ear.order == []


def test_terminated_while_it_opens_its_port_it_says_nothing(pty: Pty) -> None:
    opening, go_on = threading.Event(), threading.Event()

    class Slow(serial.Serial):
        def open(self) -> None:
            opening.set()
            assert go_on.wait(BOUND)
            super().open()

    port = Slow()
    port.port = pty.path
    with no_leak():
        listener = SerialListener(port)
        ear = Ear(listener)
        listener.start()
        assert opening.wait(BOUND)
        listener.terminate()
        pty.send(b"unheard")
        go_on.set()
        assert ended(listener)
        assert not port.is_open
    assert ear.order == []


def test_terminate_from_a_receiver_and_twice(pty: Pty) -> None:
    with no_leak():
        listener = SerialListener(serial.Serial(pty.path))
        ear = Ear(listener)

        def stop() -> None:
            listener.terminate()
            listener.terminate()

        dispatcher.connect(stop, signal=Signals.DATA_RECEIVED, sender=listener)
        listener.start()
        pty.send(b"x")
        assert ended(listener)
        listener.terminate()
    assert ear.order == ["data"]


def test_once_terminated_nothing_is_reported(pty: Pty) -> None:
    """A receiver is busy while more data comes, the listener is told to stop, and the line is lost."""
    with no_leak():
        listener = SerialListener(serial.Serial(pty.path))
        busy, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            busy.set()
            assert go_on.wait(BOUND)

        dispatcher.connect(hold, signal=Signals.DATA_RECEIVED, sender=listener)
        ear = Ear(listener)
        listener.start()
        pty.send(b"first")
        assert busy.wait(BOUND)
        pty.send(b"second")
        listener.terminate()
        pty.pull()
        go_on.set()
        assert ended(listener)
    assert bytes(ear.data) in (b"first", b"")
    assert ear.errors == []


def test_a_pull_is_one_read_error_and_the_port_is_closed_before_it_is_sent(pty: Pty) -> None:
    was_open: list[bool] = []
    with no_leak():
        port = serial.Serial(pty.path)
        listener = SerialListener(port)
        ear = Ear(listener)

        def look() -> None:
            was_open.append(port.is_open)

        dispatcher.connect(look, signal=Signals.READ_ERROR, sender=listener)
        listener.start()
        pty.send(b"last words")
        ear.wait_for_data(b"last words")
        began = time.monotonic()
        pty.pull()
        error = ear.wait_for_error()
        assert time.monotonic() - began < 5
        assert ended(listener)
        listener.terminate()
    assert was_open == [False]
    assert ear.order == ["data", "error"]
    assert isinstance(error, ConnectionException)
    assert error.errno in (errno.EIO, errno.ENXIO)  # the latter on Windows
    assert "was lost" in str(error)


def test_a_port_that_its_owner_closes_is_a_read_error_that_says_so(pty: Pty) -> None:
    with no_leak():
        port = serial.Serial(pty.path)
        listener = SerialListener(port)
        ear = Ear(listener)
        listener.start()
        pty.send(b"x")
        ear.wait_for_data(b"x")
        port.close()
        error = ear.wait_for_error()
        assert ended(listener)
    assert "closed by another part of this program" in str(error)
    assert error.errno == errno.EBADF


def test_a_port_that_is_closed_under_a_busy_receiver_is_noticed_after_it(pty: Pty) -> None:
    with no_leak():
        port = serial.Serial(pty.path)
        listener = SerialListener(port)
        ear = Ear(listener)
        closed = threading.Event()

        def close() -> None:
            port.close()
            closed.set()

        dispatcher.connect(close, signal=Signals.DATA_RECEIVED, sender=listener)
        listener.start()
        pty.send(b"x")
        assert closed.wait(BOUND)
        assert "closed by another part" in str(ear.wait_for_error())
        assert ended(listener)


def test_a_descriptor_that_became_somebody_elses_is_left_alone(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner closes the port and opens another file, which gets the number: nobody may read it, or let go of it."""
    flushed: list[tuple[int, int]] = []
    for _ in range(20):
        with no_leak(), Pty() as second:
            port = serial.Serial(pty.path)
            number = port.fileno()
            listener = SerialListener(port)
            ear = Ear(listener)
            listener.start()
            assert listener._ready.wait(BOUND)
            port.close()
            reused = os.open(second.device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            assert reused == number
            fcntl.flock(reused, fcntl.LOCK_EX)
            monkeypatch.setattr(termios, "tcflush", lambda fd, queue: flushed.append((fd, queue)))
            second.send(b"for somebody else")
            ear.wait_for_error()
            assert ended(listener)
            monkeypatch.undo()
            assert flushed == []
            assert ear.order == ["error"]
            assert os.read(reused, 100) == b"for somebody else"
            other = os.open(second.device, os.O_RDWR | os.O_NOCTTY)
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(other)
            os.close(reused)


def test_nor_does_it_read_a_port_that_was_opened_in_place_of_its_own_while_a_receiver_was_busy(pty: Pty) -> None:
    with no_leak(), Pty() as second:
        port = serial.Serial(pty.path)
        listener = SerialListener(port)
        ear = Ear(listener)
        opened: list[serial.Serial] = []

        def swap() -> None:
            number = port.fileno()
            port.close()
            opened.append(serial.Serial(second.path, timeout=BOUND))  # all its descriptors have the numbers of the old
            assert opened[0].fileno() == number
            second.send(b"for the new port")

        dispatcher.connect(swap, signal=Signals.DATA_RECEIVED, sender=listener)
        listener.start()
        pty.send(b"x")
        ear.wait_for_error()
        assert ended(listener)
        assert opened[0].read(16) == b"for the new port"
        opened[0].close()
    assert ear.order == ["data", "error"]


class SaysThatItIsOpen(serial.Serial):
    """As pyserial's own for a moment: closing takes the descriptors first, and only then says so."""

    def close(self) -> None:
        was_open = self.fd is not None
        super().close()
        self.is_open = was_open


def test_a_port_that_is_just_being_closed_by_its_owner_is_not_waited_for_again(pty: Pty) -> None:
    with no_leak():
        port = SaysThatItIsOpen(pty.path)
        listener = SerialListener(port)
        ear = Ear(listener)
        listener.start()
        pty.send(b"x")
        ear.wait_for_data(b"x")
        wait_until_asleep(listener)
        port.close()
        assert "closed by another part of this program" in str(ear.wait_for_error())
        assert ended(listener)


def wait_until_asleep(thread: threading.Thread) -> None:
    def asleep() -> bool:
        with open(f"/proc/self/task/{thread.native_id}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "S"

    wait_until(asleep, "the listener waits for data")


def test_cancel_read_is_nothing_to_the_listener(pty: Pty) -> None:
    with no_leak():
        port = serial.Serial(pty.path)
        listener = SerialListener(port)
        ear = Ear(listener)
        listener.start()
        pty.send(b"one")
        ear.wait_for_data(b"one")
        port.cancel_read()
        pty.send(b"two")
        ear.wait_for_data(b"onetwo")
        wait_until_asleep(listener)
        used = time.process_time()
        time.sleep(0.2)  # during which nothing is to be done
        assert time.process_time() - used < 0.1
        port.cancel_read()
        port.cancel_read()
        pty.send(b"three")
        ear.wait_for_data(b"onetwothree")
        listener.terminate()
        assert ended(listener)
    assert ear.errors == []


class ReadyWithNothing(serial.Serial):
    """A port that always says there is something to read, and then there is nothing: as if somebody were quicker."""

    def open(self) -> None:
        self.fd = os.open("/dev/null", os.O_RDWR)
        self.pipe_abort_read_r, self.pipe_abort_read_w = os.pipe()
        self.pipe_abort_write_r, self.pipe_abort_write_w = os.pipe()
        self.is_open = True


def test_a_port_that_is_ready_and_has_nothing_again_and_again_is_lost() -> None:
    with no_leak():
        listener = SerialListener(ReadyWithNothing("/dev/null"))
        ear = Ear(listener)
        listener.start()
        error = ear.wait_for_error()
        assert ended(listener)
    assert "does another program read from it" in str(error)


def test_a_port_that_has_nothing_now_and_then_is_not_lost(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only again and again without anything in between."""
    with no_leak():
        port = serial.Serial(pty.path)
        listener = SerialListener(port)
        ear = Ear(listener)
        number, original, nothing = port.fileno(), os.read, [b""] * 60

        def read(fd: int, size: int) -> bytes:
            return nothing.pop() if fd == number and nothing else original(fd, size)

        monkeypatch.setattr(os, "read", read)
        listener.start()
        for count in range(1, 4):
            nothing[:] = [b""] * 60
            pty.send(b"x")
            ear.wait_for_data(b"x" * count)
        listener.terminate()
        assert ended(listener)
    assert ear.errors == []


def test_terminated_while_the_lost_port_is_closed_it_says_nothing(pty: Pty) -> None:
    class Terminating(serial.Serial):
        def close(self) -> None:
            super().close()
            listener.terminate()

    with no_leak():
        listener = SerialListener(Terminating(pty.path))
        ear = Ear(listener)
        listener.start()
        assert listener._ready.wait(BOUND)
        pty.pull()
        assert ended(listener)
    assert ear.order == []


def test_two_that_read_the_same_port_share_its_bytes_and_neither_calls_it_lost(pty: Pty) -> None:
    with no_leak():
        listeners = [SerialListener(serial.Serial(pty.path)) for _ in range(2)]
        ears = [Ear(listener) for listener in listeners]
        for listener in listeners:
            listener.start()
            assert listener._ready.wait(BOUND)
        for _ in range(300):
            pty.send(b"12345")
        wait_until(lambda: sum(len(ear.data) for ear in ears) == 1500, "all has been read by one or the other")
        for listener in listeners:
            listener.terminate()
            assert ended(listener)
    assert [ear.errors for ear in ears] == [[], []]


def test_it_listens_once(pty: Pty) -> None:
    listener = SerialListener(serial.Serial(pty.path))
    listener.start()
    listener.terminate()
    assert ended(listener)
    with pytest.raises(RuntimeError, match="once"):
        listener.start()


def test_200_listeners_leave_nothing_behind(pty: Pty) -> None:
    with no_leak():
        for number in range(200):
            listener = SerialListener(serial.Serial(pty.path))
            listener.start()
            if number % 2:
                pty.offer(b"some data")
            listener.terminate()
            assert ended(listener)


def test_200_pulls_are_200_read_errors_and_leave_nothing_behind() -> None:
    with no_leak():
        for _ in range(200):
            with Pty() as pty:
                port = serial.Serial(pty.path)
                listener = SerialListener(port)
                ear = Ear(listener)
                listener.start()
                pty.pull()
                ear.wait_for_error()
                assert ended(listener)
                assert not port.is_open
                assert ear.order == ["error"]


def test_idle_timeout_and_buffer_size_are_its_own_keywords(pty: Pty) -> None:
    with no_leak():
        listener = SerialListener(serial.Serial(pty.path), idle_timeout=0.05, buffer_size=1000)
        ear = Ear(listener)
        listener.start()
        assert "nothing came from it for 0.05 s" in str(ear.wait_for_error())
        assert ended(listener)


def test_a_port_of_another_kind_is_read_by_its_own_methods() -> None:
    with no_leak():
        port = serial.serial_for_url("loop://", timeout=0)
        listener = SerialListener(port)
        ear = Ear(listener)
        listener.start()
        for size in (1, 5, 3000):
            port.write(pattern(size))
        ear.wait_for_data(pattern(1) + pattern(5) + pattern(3000))
        listener.terminate()
        began = time.monotonic()
        assert ended(listener)
        assert time.monotonic() - began < 5
        assert not port.is_open
    assert ear.errors == []


def test_a_port_of_another_kind_falls_silent_too() -> None:
    with no_leak():
        listener = SerialListener(serial.serial_for_url("loop://"), idle_timeout=0.15)
        ear = Ear(listener)
        listener.start()
        assert "nothing came from it for 0.15 s" in str(ear.wait_for_error())
        assert ended(listener)


def test_whoever_closes_at_once_as_it_stops_meets_no_exception(pty: Pty) -> None:
    """terminate() from eight threads, against a flood."""
    for _ in range(20):
        with no_leak():
            port = serial.Serial(pty.path)
            listener = SerialListener(port)
            listener.start()
            pty.offer(b"x" * 2000)
            callers = [Caller(listener.terminate) for _ in range(8)]
            for caller in callers:
                caller.join()
            assert ended(listener)
    assert library_threads() == []
