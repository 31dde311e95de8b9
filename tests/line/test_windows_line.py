"""A line to one of Windows' ports, over a port that behaves as pyserial's `serialwin32` does.

The same is run on CPython for Windows by `python -m tests.windows`; here it can be made to fail in every way.
"""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import serial

from cnxman._line import calls, kinds, line_watch
from cnxman._line.calls import CallLine
from cnxman._line.errors import HangUpError, SilenceError
from cnxman._line.port import IncompleteWriteError
from cnxman._line.windows import EMPTY_READS, STATUS_PENDING, is_windows_port, windows_line
from cnxman._line.windows_errors import WindowsPortError
from cnxman.serial import SerialListener
from tests.kit.managers import BOUND, Caller, wait_until

SOON = BOUND
GONE = "ClearCommError failed (PermissionError(13, 'Zugriff verweigert', None, 5))"
UNABLE = "ClearCommError failed (OSError(22, 'Falscher Parameter.', None, 87))"


class WindowsPort:
    """What the library uses of pyserial's port on Windows. A close under a call is what would crash the interpreter."""

    port = "COM5"
    exclusive = None
    baudrate = 115200

    def __init__(self) -> None:
        self.is_open = True
        self.timeout: float | None = 1.0
        self.write_timeout: float | None = 1.0
        self.faults: dict[str, list[Exception | bytes | None]] = {}
        self.output = bytearray()
        self.room: int | None = None
        self.looks = 0
        self.reads = 0
        self.deaf = 0  # so many cancels go unheard
        self.crashed = False
        self._overlapped_read: SimpleNamespace | None = None
        self._input = bytearray()
        self._change = threading.Condition()
        self._pending: dict[str, bool] = {}  # what is under way, and whether it was cancelled

    def feed(self, data: bytes) -> None:
        with self._change:
            self._input += data
            self._change.notify_all()

    def fail(self, what: str, *faults: Exception | bytes | None) -> None:
        with self._change:
            self.faults[what] = list(faults)
            self._change.notify_all()

    def give_room(self, count: int | None) -> None:
        with self._change:
            self.room = count if count is None else (self.room or 0) + count
            self._change.notify_all()

    def is_pending(self, what: str) -> bool:
        return what in self._pending

    def _fault(self, what: str) -> bytes | None:
        """The next fault; the last one stays."""
        faults = self.faults.get(what)
        if not faults:
            return None
        fault = faults.pop(0) if len(faults) > 1 else faults[0]
        if isinstance(fault, Exception):
            raise fault
        return fault

    @property
    def in_waiting(self) -> int:
        with self._change:
            self.looks += 1
            self._fault("in_waiting")
            return len(self._input)

    def read(self, size: int = 1) -> bytes:
        with self._change:
            self.reads += 1
            self._pending["read"] = False
            try:
                while len(self._input) < size and not self._pending["read"]:
                    if (fault := self._fault("read")) is not None:
                        return fault
                    self._change.wait()
                data = bytes(self._input[:size])
                del self._input[:size]
                return data
            finally:
                del self._pending["read"]

    def write(self, data: bytes) -> int:
        with self._change:
            self._fault("write")
            self._pending["write"] = False
            sent = 0
            try:
                while sent < len(data) and not self._pending["write"]:
                    count = len(data) - sent if self.room is None else min(self.room, len(data) - sent)
                    self.output += data[sent : sent + count]
                    sent += count
                    if self.room is not None:
                        self.room -= count
                    if sent < len(data):
                        self._change.wait()
                return sent
            finally:
                del self._pending["write"]

    def _cancel(self, what: str) -> None:
        with self._change:
            if self.deaf:
                self.deaf -= 1
            elif what in self._pending:
                self._pending[what] = True
                self._change.notify_all()

    def cancel_read(self) -> None:
        self._cancel("read")

    def cancel_write(self) -> None:
        self._cancel("write")

    def close(self) -> None:
        with self._change:
            self.crashed = self.crashed or bool(self._pending)
            self.is_open = False


@pytest.fixture
def port() -> Iterator[WindowsPort]:
    port = WindowsPort()
    yield port
    assert not port.crashed, "the port was closed under a call"
    wait_until(lambda: line_watch._watch is None, "no line is watched any more")


class Heard:
    """A listener, and what it told."""

    def __init__(self, port: WindowsPort, monkeypatch: pytest.MonkeyPatch, **named: Any) -> None:
        monkeypatch.setattr(kinds, "is_windows_port", lambda port: True)
        self.data = bytearray()
        self.errors: list[Any] = []
        self.on_data: Callable[[], object] = lambda: None
        self.listener = SerialListener(port, **named)  # type: ignore[arg-type]
        self.undo = [self._subscribe(self._hear, "DATA_RECEIVED"), self._subscribe(self._fail, "READ_ERROR")]
        self.listener.start()

    def _subscribe(self, receiver: Callable[..., object], name: str) -> object:
        from pydispatch import dispatcher

        dispatcher.connect(receiver, getattr(SerialListener.Signals, name), self.listener)
        return receiver

    def _hear(self, data: bytes) -> None:
        self.data += data
        self.on_data()

    def _fail(self, error: Exception) -> None:
        self.errors.append(error)

    def wait_lost(self) -> Any:
        wait_until(lambda: bool(self.errors), "the loss is told")
        self.listener.join(SOON)
        assert not self.listener.is_alive()
        return self.errors[0]

    def stop(self) -> float:
        began = time.monotonic()
        self.listener.terminate()
        self.listener.join(SOON)
        assert not self.listener.is_alive()
        assert not self.errors
        return time.monotonic() - began


@pytest.fixture
def heard(port: WindowsPort, monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    heard = Heard(port, monkeypatch)
    wait_until(lambda: port.is_pending("read"), "it reads")
    yield heard
    heard.listener.terminate()
    heard.listener.join(SOON)


def test_data_comes_in_pieces_as_large_as_there_are(port: WindowsPort, heard: Heard) -> None:
    port.feed(b"hello")
    wait_until(lambda: heard.data == b"hello", "all came")
    port.feed(bytes(5000))
    wait_until(lambda: len(heard.data) == 5005, "all came")
    assert port.reads < 10


def test_idle_line_is_looked_at_once_a_second(port: WindowsPort, heard: Heard) -> None:
    looks, reads = port.looks, port.reads
    began = time.monotonic()
    wait_until(lambda: port.looks == looks + 2, "two looks")
    assert time.monotonic() - began > 0.9
    assert port.reads == reads, "the read is the same all the time"
    assert port.timeout is None
    assert port.write_timeout is None


def test_stop_is_immediate(port: WindowsPort, heard: Heard) -> None:
    assert heard.stop() < 0.9  # and not the look that comes each second
    assert not port.is_open


def test_stop_does_not_miss_a_read_that_just_begins(port: WindowsPort, heard: Heard) -> None:
    port.deaf = 7
    assert heard.stop() < 0.9  # and not the look that comes each second


def test_read_that_begins_when_the_stop_has_given_up_is_ended(
    port: WindowsPort, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine, a thread may take its time between the decision to read and the read."""
    monkeypatch.setattr(calls, "CANCEL_TIME", 0.0)
    heard.stop()


def test_pull_that_ends_the_read_is_a_loss(port: WindowsPort, heard: Heard) -> None:
    port.fail("read", serial.SerialException(GONE))
    error = heard.wait_lost()
    assert error.errno == errno.ENXIO
    assert "unplugged" in str(error)
    assert isinstance(error.inner, WindowsPortError)
    assert error.inner.number == 5


def test_pull_that_the_read_does_not_notice_is_a_loss(port: WindowsPort, heard: Heard) -> None:
    began = time.monotonic()
    port.fail("in_waiting", serial.SerialException(GONE))
    assert "unplugged" in str(heard.wait_lost())
    assert time.monotonic() - began < 5


def test_pull_that_looks_like_a_cancelled_read_is_a_loss(port: WindowsPort, heard: Heard) -> None:
    port.faults["in_waiting"] = [serial.SerialException(GONE)]
    port.fail("read", b"")
    assert "unplugged" in str(heard.wait_lost())


def test_reads_that_end_for_no_reason_are_a_loss_in_the_end(port: WindowsPort, heard: Heard) -> None:
    reads = port.reads
    port.fail("read", b"")
    assert isinstance(heard.wait_lost().inner, HangUpError)
    assert port.reads - reads == EMPTY_READS - 1


def test_read_that_somebody_cancels_is_no_loss(port: WindowsPort, heard: Heard) -> None:
    port.cancel_read()
    port.feed(b"x")
    wait_until(lambda: heard.data == b"x", "it came")
    assert heard.stop() < 0.9  # and not the look that comes each second


def test_virtual_port_that_cannot_be_asked_is_not_lost(port: WindowsPort, heard: Heard) -> None:
    port.faults["in_waiting"] = [serial.SerialException(UNABLE)]
    port.fail("read", serial.SerialException(UNABLE), serial.SerialException(UNABLE), None)
    port.feed(b"xy")
    wait_until(lambda: heard.data == b"xy", "all came")
    looks = port.looks
    wait_until(lambda: port.looks > looks, "another look")
    assert heard.stop() < 0.9  # and not the look that comes each second


def test_loss_after_data_comes_after_the_data(port: WindowsPort, heard: Heard) -> None:
    port.faults["in_waiting"] = [serial.SerialException(GONE)]
    port.feed(b"x")
    heard.wait_lost()
    assert heard.data == b"x"


def test_what_a_read_has_taken_waits_too(port: WindowsPort, line: CallLine) -> None:
    """A read may have its byte when the thread that waits for it has not run yet."""
    port._overlapped_read = SimpleNamespace(Internal=0, InternalHigh=1)  # as the last read has left it
    assert line.in_waiting() == 0
    reading = Caller(line.wait)
    wait_until(lambda: port.is_pending("read"), "it reads")
    port._overlapped_read.Internal = STATUS_PENDING
    assert line.in_waiting() == 0
    port._overlapped_read.Internal = 0
    assert line.in_waiting() == 1
    port.feed(b"x")
    assert reading.join() == 1
    port._overlapped_read.InternalHigh = 0
    assert line.in_waiting() == 1, "it is ahead now"
    port.fail("in_waiting", serial.SerialException(GONE))
    assert line.in_waiting() == 1, "it comes before the loss"
    with line.lock:
        assert line.read_available(1) == b"x"
    with pytest.raises(serial.SerialException):
        line.in_waiting()


def test_port_that_is_closed_between_two_reads_says_so(port: WindowsPort, heard: Heard) -> None:
    port.fail("read", serial.PortNotOpenError())
    error = heard.wait_lost()
    assert error.errno == errno.EBADF
    assert "closed by another part of this program" in str(error)


@pytest.mark.parametrize("silence", [0.1, 1.2])
def test_silence_is_a_loss_after_idle_timeout(
    port: WindowsPort, monkeypatch: pytest.MonkeyPatch, silence: float
) -> None:
    began = time.monotonic()
    heard = Heard(port, monkeypatch, idle_timeout=silence)
    assert isinstance(heard.wait_lost().inner, SilenceError)
    assert silence * 0.9 <= time.monotonic() - began < silence + 1


def test_reading_goes_on_while_a_receiver_is_busy(port: WindowsPort, heard: Heard) -> None:
    go = threading.Event()
    heard.on_data = lambda: go.wait(SOON)
    size = 300_000
    for _ in range(size // 1000):
        port.feed(bytes(1000))
    wait_until(lambda: port.in_waiting == 0, "all was read")
    assert len(heard.data) < size
    go.set()
    wait_until(lambda: len(heard.data) == size, "all came")


def test_loss_behind_a_full_buffer_is_noticed(port: WindowsPort, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    heard = Heard(port, monkeypatch, buffer_size=10)
    heard.on_data = lambda: go.wait(SOON)
    port.feed(b"x")
    wait_until(lambda: len(heard.data) == 1, "a receiver is busy")
    port.feed(bytes(100))
    wait_until(lambda: port.in_waiting < 100, "the buffer fills")
    port.fail("in_waiting", serial.SerialException(GONE))
    wait_until(lambda: not port.is_open, "the port is closed")
    go.set()
    assert "unplugged" in str(heard.wait_lost())


# -- writing ----------------------------------------------------------------------------------------------


@pytest.fixture
def line(port: WindowsPort) -> Iterator[CallLine]:
    line = windows_line(port, None)  # type: ignore[arg-type]
    yield line
    line.close()


def test_all_is_written_in_pieces(port: WindowsPort, line: CallLine) -> None:
    data = os.urandom(100_000)
    assert line.write(data, 10) == len(data)
    assert line.write(b"", None) == 0
    assert line.write(b"x", None) == 1
    assert port.output == data + b"x"


@pytest.mark.parametrize("timeout", [0, 0.2])
def test_write_to_a_line_that_takes_nothing_more_times_out(port: WindowsPort, line: CallLine, timeout: float) -> None:
    port.room = 1234
    began = time.monotonic()
    with pytest.raises(IncompleteWriteError) as failed:
        line.write(bytes(10_000), timeout)
    assert failed.value.written == len(port.output) == 1234
    assert isinstance(failed.value.cause, TimeoutError)
    assert timeout * 0.9 <= time.monotonic() - began < timeout * 2 + 1


def test_write_to_a_slow_line_goes_on_while_it_takes_some(port: WindowsPort, line: CallLine) -> None:
    port.room = 0
    writer = Caller(lambda: line.write(bytes(500), 2))
    for _ in range(10):
        time.sleep(0.25)
        port.give_room(50)
    assert writer.join() == 500


def test_stop_ends_a_write_and_the_count_is_true(port: WindowsPort, line: CallLine) -> None:
    port.room = 5000
    writer = Caller(lambda: line.write(bytes(10_000), None))
    wait_until(lambda: len(port.output) == 5000, "the line is full")
    began = time.monotonic()
    line.close()
    assert time.monotonic() - began < 3
    with pytest.raises(IncompleteWriteError) as failed:
        writer.join()
    assert failed.value.written == 5000
    line.close()


def test_time_out_without_a_time_out_is_a_loss_if_the_device_is_gone(port: WindowsPort, line: CallLine) -> None:
    port.faults["write"] = [serial.SerialTimeoutException("Write timeout")]
    port.faults["in_waiting"] = [serial.SerialException(GONE)]
    with pytest.raises(IncompleteWriteError) as failed:
        line.write(b"x", 10)
    assert isinstance(failed.value.cause, WindowsPortError)


def test_time_out_without_a_time_out_is_else_tried_again(port: WindowsPort, line: CallLine) -> None:
    port.faults["write"] = [serial.SerialTimeoutException("Write timeout"), None]
    assert line.write(b"x", 10) == 1
    assert port.output == b"x"


# -- the port itself, and its end -------------------------------------------------------------------------


def test_settings_changed_leave_the_time_outs_as_they_have_to_be(port: WindowsPort, line: CallLine) -> None:
    assert line.use(lambda port: setattr(port, "timeout", 3)) is None
    assert port.timeout is None


def test_use_explains_what_goes_wrong(line: CallLine) -> None:
    def fail(_: object) -> None:
        raise serial.SerialException(GONE)

    with pytest.raises(WindowsPortError):
        line.use(fail)
    line.stop()
    with pytest.raises(OSError, match="closed"):
        line.use(fail)
    assert line.look() == line_watch.LOOK_INTERVAL


def test_use_hands_on_what_is_no_error_of_windows(line: CallLine) -> None:
    def fail(_: object) -> None:
        raise ValueError("a bad setting")

    with pytest.raises(ValueError, match="a bad setting"):
        line.use(fail)


def test_read_of_what_another_thread_has_taken_is_nothing(port: WindowsPort, line: CallLine) -> None:
    port.feed(b"x")
    assert line.wait() == line.wait() == 1
    with line.lock:
        assert line.read_available(1) == b"x"
        assert line.read_available(1) == b""


def test_driver_that_does_not_return_has_its_port_closed_when_it_does(
    port: WindowsPort, line: CallLine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(calls, "CANCEL_TIME", 0.05)
    port.deaf = 1_000_000
    reader = Caller(line.wait)
    wait_until(lambda: port.is_pending("read"), "it reads")
    line.close()
    assert port.is_open
    assert "does not return" in caplog.text
    port.feed(b"x")
    reader.join()
    assert not port.is_open


def test_cancel_that_fails_does_no_harm(port: WindowsPort, line: CallLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise TypeError("closed by somebody else")

    monkeypatch.setattr(calls, "CANCEL_TIME", 0.05)
    reader = Caller(line.wait)
    wait_until(lambda: port.is_pending("read"), "it reads")
    with monkeypatch.context() as patched:
        patched.setattr(port, "cancel_read", fail)
        line.stop()
    line.stop()
    assert reader.join() == 0


def test_lines_share_one_thread_that_ends_with_the_last(port: WindowsPort) -> None:
    before = threading.active_count()
    lines = [windows_line(WindowsPort(), None) for _ in range(3)]  # type: ignore[arg-type]
    assert threading.active_count() == before + 1
    for line in lines:
        line.close()
        line.close()
    assert threading.active_count() == before


def test_forked_child_has_a_line_that_is_closed_and_a_watch_of_its_own(line: CallLine) -> None:
    line.lock.acquire()  # as another thread of the parent's might hold it
    child = os.fork()
    if child == 0:
        other = windows_line(WindowsPort(), None)  # type: ignore[arg-type]
        line.abandon()  # twice does no harm
        ok = line.closed and not line.lock.locked() and not line.is_open and line_watch._watch is not None
        other.close()
        os._exit(0 if ok and line_watch._watch is None else 1)
    line.lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert line.is_open


def test_ports_on_windows_are_pyserials_own_and_on_windows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own = serial.Serial(None)
    assert not is_windows_port(own)
    monkeypatch.setattr("sys.platform", "win32")
    assert is_windows_port(own)
    assert not is_windows_port(serial.serial_for_url("loop://", do_not_open=True))
