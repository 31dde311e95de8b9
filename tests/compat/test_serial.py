"""`cnxman.compat.Serial` on a line that stays up: pyserial's methods, settings, errors, copies, garbage."""

import contextlib
import copy
import errno
import gc
import io
import os
import pickle
import select
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Iterator

import pytest
import serial
import serial.rs485
import serial.threaded

from cnxman import ConnectionException, ConnectionManager, RetryPolicy, SerialConnection
from cnxman._compat import kept_line
from cnxman.compat import Serial
from cnxman.testing import SimulatedDevice
from tests.kit.lines import BOUND, Pty, no_leak, pattern
from tests.kit.managers import NEVER, Caller, Script, wait_until


@pytest.fixture
def device() -> Iterator[SimulatedDevice]:
    with SimulatedDevice({b"*IDN?\n": b"ACME\n"}) as device:
        yield device


@pytest.fixture
def port(device: SimulatedDevice) -> Iterator[Serial]:
    with Serial(device.port, timeout=BOUND) as port:
        yield port


# -- reading ----------------------------------------------------------------------------------------------


def test_answer_to_a_question_is_read_as_a_line(port: Serial) -> None:
    assert port.write(b"*IDN?\n") == 6
    assert port.readline() == b"ACME\n"


def test_read_returns_as_many_bytes_as_asked_for(port: Serial, device: SimulatedDevice) -> None:
    device.send(b"abcdef")
    assert [port.read(), port.read(2), port.read(size=3)] == [b"a", b"bc", b"def"]
    assert [port.read(0), port.read(-1)] == [b"", b""]


def test_read_returns_what_there_is_after_its_timeout(port: Serial, device: SimulatedDevice) -> None:
    port.timeout = 0.05
    device.send(b"abc")
    assert port.read(10) == b"abc"
    assert port.read(10) == b""


def test_read_without_timeout_waits_for_all(port: Serial, device: SimulatedDevice) -> None:
    port.timeout = None
    reading = Caller(lambda: port.read(6))
    device.send(b"abc")
    device.send(b"def")
    assert reading.join() == b"abcdef"


def test_read_with_timeout_0_takes_what_has_arrived(port: Serial, device: SimulatedDevice) -> None:
    port.timeout = 0
    assert port.read(10) == b""
    for _ in range(50):
        device.send(b"abc")
        assert port.read(10) == b"abc"


def test_in_waiting_counts_what_has_arrived(port: Serial, device: SimulatedDevice) -> None:
    assert port.in_waiting == 0
    for _ in range(50):
        device.send(b"abc")
        assert port.in_waiting == port.inWaiting() == 3
        assert port.read_all() == b"abc"


def test_inter_byte_timeout_ends_a_read_that_has_some(port: Serial, device: SimulatedDevice) -> None:
    port.timeout, port.inter_byte_timeout = None, 0.05
    reading = Caller(lambda: port.read(10))
    device.send(b"abc")
    assert reading.join() == b"abc"


def test_in_waiting_needs_no_poll(port: Serial, device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_line, "select", types.SimpleNamespace())
    assert port.in_waiting == 0
    device.send(b"abc")
    wait_until(lambda: port.in_waiting == 3, "it has come")


def test_read_until_ends_with_the_bytes_or_the_size(port: Serial, device: SimulatedDevice) -> None:
    device.send(b"one;two;three")
    assert port.read_until(b";") == b"one;"
    assert port.read_until(b";", 2) == b"tw"
    assert port.read_until(b"o;", 10) == b"o;"
    assert port.read_until(b";", 5) == b"three"


def test_read_until_returns_what_there_is_after_its_timeout(port: Serial, device: SimulatedDevice) -> None:
    port.timeout = 0.05
    device.send(b"three")
    assert port.read_until(b";") == b"three"
    assert list(port.iread_until(b";")) == []


def test_readline_gives_each_byte_the_whole_timeout(port: Serial, device: SimulatedDevice) -> None:
    port.timeout = 1.0
    reading = Caller(port.readline)
    for byte in (b"a", b"b", b"c", b"\n"):  # longer in all than the time-out
        assert not reading.done.wait(0.4)
        device.send(byte)
    assert reading.join() == b"abc\n"


def test_readline_takes_a_limit(port: Serial, device: SimulatedDevice) -> None:
    device.send(b"abcdef\nghi\n")
    assert [port.readline(4), port.readline(10), port.readline(0), port.readline(None)] == [
        b"abcd",
        b"ef\n",
        b"",
        b"ghi\n",
    ]


def test_iteration_gives_lines_until_the_timeout(port: Serial, device: SimulatedDevice) -> None:
    port.timeout = 0.1
    device.send(b"one\ntwo\nrest")
    assert list(port) == [b"one\n", b"two\n", b"rest"]


def test_readinto_fills_a_buffer(port: Serial, device: SimulatedDevice) -> None:
    device.send(b"abcd")
    buffer = bytearray(3)
    assert port.readinto(buffer) == 3
    assert buffer == b"abc"


def test_cancel_read_ends_a_read_that_waits(port: Serial, device: SimulatedDevice) -> None:
    port.timeout = None
    reading = Caller(lambda: port.read(10))
    device.send(b"abc")
    wait_until(lambda: port.in_waiting == 3, "it has come")
    port.cancel_read()
    assert reading.join() == b"abc"


def test_cancel_read_before_a_read_ends_the_next_one_only(port: Serial, device: SimulatedDevice) -> None:
    port.cancel_read()
    assert port.read() == b""
    device.send(b"abc")
    wait_until(lambda: port.in_waiting == 3, "it has come")
    port.cancel_read()
    assert port.read(3) == b"abc"
    device.send(b"def")
    assert port.read(3) == b"def"


def test_reset_input_buffer_forgets_all_that_came(port: Serial, device: SimulatedDevice) -> None:
    for _ in range(50):
        device.send(b"old")
        port.reset_input_buffer()
        device.send(b"new")
        assert port.read(3) == b"new"


def test_reset_input_buffer_forgets_what_waits_beyond_the_buffer(device: SimulatedDevice) -> None:
    with Serial(device.port, timeout=BOUND) as port:
        device.send(bytes(3 * 2**20), timeout=BOUND)
        port.reset_input_buffer()
        device.send(b"new")
        assert port.read(3) == b"new"


def test_megabytes_come_whole_and_in_order(port: Serial, device: SimulatedDevice) -> None:
    data = pattern(3 * 2**20)
    sending = Caller(lambda: device.send(data, timeout=60))
    got = bytearray()
    while len(got) < len(data):
        got += port.read(min(5000, len(data) - len(got)))
    sending.join()
    assert got == data


def test_slow_reader_holds_the_listener_and_loses_nothing(device: SimulatedDevice) -> None:
    data = pattern(2**20 + 300_000)
    with Serial(device.port, timeout=BOUND) as port:
        device.send(data, timeout=60)
        wait_until(lambda: port.in_waiting >= 2**20, "the buffer is full")
        assert port.read(10) + port.read(len(data) - 10) == data


# -- writing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"abc", bytearray(b"abc"), memoryview(b"abc"), [97, 98, 99]])
def test_write_takes_what_pyserial_takes(port: Serial, device: SimulatedDevice, data: bytes) -> None:
    assert port.write(data) == 3
    assert device.receive(3) == b"abc"


def test_write_of_text_is_a_typeerror(port: Serial) -> None:
    with pytest.raises(TypeError, match="unicode"):
        port.write("abc")  # type: ignore[arg-type]


def test_write_of_nothing_writes_nothing(port: Serial, device: SimulatedDevice) -> None:
    assert port.write(b"") == 0
    device.unplug()
    assert port.write(b"") == 0


def test_threads_that_write_are_never_mixed(port: Serial, device: SimulatedDevice) -> None:
    messages = [bytes([65 + number]) * 3000 for number in range(8)]
    writers = [Caller(lambda message=message: port.write(message)) for message in messages]
    received = device.receive(8 * 3000)
    for writer in writers:
        assert writer.join() == 3000
    assert sorted(received[at : at + 3000] for at in range(0, 24000, 3000)) == messages


def test_write_times_out_on_a_line_that_takes_nothing() -> None:
    with Pty() as pty, Serial(pty.path, write_timeout=0.2) as port:
        with pytest.raises(serial.SerialTimeoutException) as raised:
            port.write(bytes(1_000_000))
        assert raised.value.errno == errno.ETIMEDOUT
        assert "of 1000000 bytes were written" in str(raised.value)
        assert port.is_connected


def test_write_timeout_0_writes_what_is_taken_at_once() -> None:
    with Pty() as pty, Serial(pty.path, write_timeout=0) as port:
        written = port.write(bytes(1_000_000))
        assert 0 < written < 1_000_000
        assert pty.receive(written) == bytes(written)


def test_flush_and_output_buffer(port: Serial, device: SimulatedDevice) -> None:
    port.write(b"abc")
    port.flush()
    assert port.out_waiting == 0
    port.reset_output_buffer()
    port.flushOutput()
    port.flushInput()


def test_flush_waits_until_everything_has_gone_out(port: Serial, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [30, 20, 20, 10, 0]
    monkeypatch.setattr(kept_line, "unsent", lambda _: left.pop(0))
    port.flush()
    assert left == []


def test_flush_times_out_when_nothing_goes_out(port: Serial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_line, "unsent", lambda _: 30)
    port.write_timeout = 0.1
    with pytest.raises(serial.SerialTimeoutException, match="30 bytes wait"):
        port.flush()


def test_close_ends_a_flush(port: Serial, monkeypatch: pytest.MonkeyPatch) -> None:
    began = threading.Event()
    monkeypatch.setattr(kept_line, "unsent", lambda _: began.set() or 30)
    flushing = Caller(port.flush)
    assert began.wait(BOUND)
    port.close()
    with pytest.raises(serial.SerialException) as raised:
        flushing.join()
    assert raised.value.errno
    assert not isinstance(raised.value, serial.SerialTimeoutException)


def test_cancel_write_does_nothing_to_a_later_write(port: Serial, device: SimulatedDevice) -> None:
    port.cancel_write()
    assert port.write(b"abc") == 3


# -- settings ---------------------------------------------------------------------------------------------

CHANGES = [
    ("baudrate", 115200),
    ("stopbits", 2),
    ("xonxoff", True),
    ("rtscts", True),
    ("dsrdtr", True),
    ("timeout", 2.5),
    ("write_timeout", 3.5),
    ("inter_byte_timeout", 0.5),
    ("exclusive", True),
    ("dtr", False),
    ("rts", False),
    ("rs485_mode", serial.rs485.RS485Settings()),
]


@pytest.mark.parametrize(("name", "value"), CHANGES[:8])
def test_setting_is_kept_when_changed_while_open(port: Serial, name: str, value: object) -> None:
    setattr(port, name, value)
    assert getattr(port, name) == value
    settings = port.get_settings()
    assert settings[name] == value
    if name in ("baudrate", "stopbits", "xonxoff", "rtscts", "dsrdtr"):
        assert port.connection.settings[name] == value  # type: ignore[literal-required]
        assert port.connection.use(lambda plain: getattr(plain, name)) == value


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_setting_counts_when_set_before_opening(device: SimulatedDevice, name: str, value: object) -> None:
    port = Serial()
    port.port = device.port
    setattr(port, name, value)
    with contextlib.suppress(ValueError):  # a pty has no RS-485
        port.open()
    if name in ("timeout", "inter_byte_timeout", "write_timeout") or not port.is_connected:
        assert getattr(port, name) == value
    else:
        assert port.connection.use(lambda plain: getattr(plain, name)) == value
    port.close()


def test_setting_that_the_port_has_not_is_a_valueerror_at_opening(device: SimulatedDevice) -> None:
    port = Serial()
    port.port, port.rs485_mode = device.port, serial.rs485.RS485Settings()
    with pytest.raises(ValueError, match="RS485"):
        port.open()
    assert not port.is_open
    port.rs485_mode = None
    with port, pytest.raises(ValueError, match="RS485"):
        port.rs485_mode = serial.rs485.RS485Settings()
    assert port.rs485_mode is None


def test_modem_lines_set_while_closed_count_at_the_next_opening(port: Serial) -> None:
    port.close()
    port.dtr = False
    port.open()
    assert port.connection.use(lambda plain: (plain.dtr, plain.rts)) == (False, True)


def test_setting_changed_at_the_moment_of_a_loss_is_kept(port: Serial, monkeypatch: pytest.MonkeyPatch) -> None:
    configure = port.connection.configure

    def lost(**changes: int) -> None:
        configure(**changes)  # type: ignore[arg-type]
        raise ConnectionException("it was just pulled out", OSError(errno.EIO, "Input/output error"))

    monkeypatch.setattr(port.connection, "configure", lost)
    port.baudrate = 19200
    assert port.baudrate == port.connection.settings["baudrate"] == 19200


def test_port_that_refuses_what_it_had_before_says_so(
    port: Serial, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_: object) -> None:
        raise ConnectionException("not with me", OSError(errno.EINVAL, "Invalid argument"))

    monkeypatch.setattr(port.connection, "configure", refuse)
    with pytest.raises(serial.SerialException, match="not with me"):
        port.baudrate = 19200
    assert port.baudrate == 9600
    assert "not with me" in caplog.text


def test_settings_are_kept_over_an_outage(port: Serial, device: SimulatedDevice) -> None:
    port.baudrate = 38400
    device.unplug()
    wait_until(lambda: not port.is_connected, "the loss is noticed")
    port.stopbits = 2
    device.plug()
    assert port.manager.wait_until_connected(BOUND)
    assert port.connection.use(lambda plain: (plain.baudrate, plain.stopbits)) == (38400, 2)


def test_exclusive_set_while_open_is_kept_over_an_outage(port: Serial, device: SimulatedDevice) -> None:
    port.exclusive = True
    device.unplug()
    wait_until(lambda: not port.is_connected, "the loss is noticed")
    device.plug()
    port.write(b"x")  # it waits until what is kept was set again
    with pytest.raises(serial.SerialException, match="lock"):
        serial.Serial(device.port, exclusive=True)
    port.exclusive = None


def test_settings_go_from_one_port_to_another(port: Serial) -> None:
    port.apply_settings({"baudrate": 19200, "stopbits": 2, "timeout": 7})
    other = serial.Serial()
    other.apply_settings(port.get_settings())
    assert (other.baudrate, other.stopbits, other.timeout) == (19200, 2, 7)
    assert port.getSettingsDict() == port.get_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("baudrate", 0),
        ("baudrate", -1),
        ("bytesize", 9),
        ("parity", "X"),
        ("stopbits", 3),
        ("timeout", -1),
        ("timeout", "soon"),
        ("write_timeout", -1),
        ("inter_byte_timeout", -1),
    ],
)
def test_senseless_setting_is_a_valueerror_and_changes_nothing(port: Serial, name: str, value: object) -> None:
    before = port.get_settings()
    with pytest.raises(ValueError):  # noqa: PT011 (pyserial's words)
        setattr(port, name, value)
    assert port.get_settings() == before
    port.write(b"*IDN?\n")
    assert port.readline() == b"ACME\n"


def test_setting_that_the_port_refuses_is_taken_back(
    port: Serial, device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure = port.connection.configure

    def refuse(**changes: object) -> None:
        configure(**changes)  # type: ignore[arg-type]
        if changes.get("parity") == "E":
            raise ConnectionException("not with me", OSError(errno.EINVAL, "Invalid argument"))

    monkeypatch.setattr(port.connection, "configure", refuse)
    with pytest.raises(serial.SerialException) as raised:
        port.parity = "E"
    assert raised.value.errno == errno.EINVAL
    assert port.parity == port.connection.settings["parity"] == "N"
    device.unplug()
    device.plug()
    port.write(b"*IDN?\n")
    assert port.readline() == b"ACME\n"


def test_calls_that_discard_are_silent_before_a_loss_is_noticed(port: Serial, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise ConnectionException("it was just pulled out", OSError(errno.EIO, "Input/output error"))

    monkeypatch.setattr(port.connection, "use", fail)
    port.reset_output_buffer()
    port.reset_input_buffer()
    assert port.out_waiting == port.in_waiting == 0


def test_calls_that_discard_raise_what_is_no_loss(port: Serial, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise ConnectionException("not with me", OSError(errno.ENOTTY, "Inappropriate ioctl for device"))

    monkeypatch.setattr(port.connection, "use", fail)
    with pytest.raises(serial.SerialException, match="not with me"):
        port.reset_output_buffer()


def test_bad_setting_is_refused_at_opening_though_the_device_is_absent() -> None:
    with pytest.raises(ValueError, match="baudrate"):
        Serial("/dev/cnxman-none", 0)
    with pytest.raises(ValueError, match="byte size"):
        Serial("/dev/cnxman-none", bytesize=9)


def test_port_changed_while_open_opens_the_new_one(port: Serial, device: SimulatedDevice) -> None:
    with SimulatedDevice() as other:
        port.port = other.port
        other.send(b"abc")
        assert port.read(3) == b"abc"
        assert port.name == port.portstr == other.port
        assert not device.is_open
        port.close()


def test_modem_lines_a_pty_has_not_raise_with_errno(port: Serial) -> None:
    for name in ("cts", "dsr", "ri", "cd"):
        with pytest.raises(serial.SerialException) as raised:
            getattr(port, name)
        assert raised.value.errno == errno.ENOTTY
    for name in ("rts", "dtr"):
        with pytest.raises(serial.SerialException) as raised:
            setattr(port, name, False)
        assert raised.value.errno == errno.ENOTTY
        assert getattr(port, name) is False  # and counts from the next opening
    with pytest.raises(ValueError, match="LOW_LATENCY"):
        port.set_low_latency_mode(True)


def test_modem_lines_of_loop() -> None:
    with Serial("loop://", timeout=1) as port:
        port.rts = False
        assert port.cts is False
        port.setRTS(True)
        assert port.cts is port.getCTS() is True
        port.dtr = False
        assert port.dsr is port.getDSR() is False
        assert [port.ri, port.cd] == [port.getRI(), port.getCD()]
        port.break_condition = True
        port.break_condition = False


def test_break_and_flow_control(port: Serial) -> None:
    port.send_break(0.01)
    port.sendBreak(0.01)
    port.set_output_flow_control(False)
    port.set_output_flow_control(True)
    port.set_input_flow_control(True)
    with pytest.warns(DeprecationWarning, match="no effect"):
        port.nonblocking()


def test_what_only_another_system_has_says_so(port: Serial) -> None:
    with pytest.raises(serial.SerialException, match="set_buffer_size") as raised:
        port.set_buffer_size(4096)
    assert raised.value.errno == errno.ENOSYS


# -- open and close ---------------------------------------------------------------------------------------


def test_object_without_port_is_not_open_and_can_be_opened_later(device: SimulatedDevice) -> None:
    port = Serial(timeout=BOUND)
    assert not port.is_open
    assert not port.isOpen()
    with pytest.raises(serial.SerialException, match="must be configured") as raised:
        port.open()
    assert raised.value.errno == errno.EINVAL
    port.port = device.port
    port.open()
    device.send(b"abc")
    assert port.read(3) == b"abc"
    port.close()


def test_opening_twice_is_refused(port: Serial) -> None:
    with pytest.raises(serial.SerialException, match="already open"):
        port.open()
    assert port.is_connected


def test_closed_port_opens_again_with_the_same_manager(port: Serial, device: SimulatedDevice) -> None:
    manager = port.manager
    device.send(b"old")
    with no_leak():
        for _ in range(3):
            port.close()
            port.close()
            assert not port.is_open
            port.open()
            assert port.manager is manager
            device.send(b"new")
            assert port.read(3) == b"new"


def test_receiver_that_opens_what_is_closed_keeps_it_open(port: Serial) -> None:
    def open_again(state: str) -> None:
        if state == "disconnected":
            undo()
            port.open()

    undo = port.manager.subscribe(open_again)
    port.close()
    assert port.is_open
    port.write(b"*IDN?\n")
    assert port.readline() == b"ACME\n"


def test_thread_that_opens_while_another_closes_has_the_last_word(
    port: Serial, monkeypatch: pytest.MonkeyPatch
) -> None:
    disconnect = port.manager.disconnect

    def opened_meanwhile() -> None:
        monkeypatch.undo()
        Caller(port.open).join()
        disconnect()

    monkeypatch.setattr(port.manager, "disconnect", opened_meanwhile)
    port.close()
    assert port.is_open
    port.write(b"*IDN?\n")
    assert port.readline() == b"ACME\n"


def test_receiver_may_close_and_open_the_line(port: Serial, device: SimulatedDevice) -> None:
    done = threading.Event()

    def begin_anew() -> None:
        undo()
        port.close()
        port.open()
        done.set()

    undo = port.connection.subscribe(begin_anew)
    device.send(b"x")
    assert done.wait(BOUND)
    port.write(b"*IDN?\n")
    assert port.readline() == b"ACME\n"


def test_context_manager_opens_and_closes(device: SimulatedDevice) -> None:
    port = Serial()
    port.port = device.port
    with port as opened:
        assert opened is port
        assert port.is_connected
    assert not port.is_open
    device.wait_closed()


CALLS = {
    "read": lambda port: port.read(),
    "readline": lambda port: port.readline(),
    "read_until": lambda port: port.read_until(),
    "in_waiting": lambda port: port.in_waiting,
    "out_waiting": lambda port: port.out_waiting,
    "write": lambda port: port.write(b"x"),
    "flush": lambda port: port.flush(),
    "reset_input_buffer": lambda port: port.reset_input_buffer(),
    "reset_output_buffer": lambda port: port.reset_output_buffer(),
    "send_break": lambda port: port.send_break(),
    "cts": lambda port: port.cts,
    "set_output_flow_control": lambda port: port.set_output_flow_control(),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_between_close_and_open_raise(device: SimulatedDevice, name: str) -> None:
    never, closed = Serial(), Serial(device.port)
    closed.close()
    for port in (never, closed):
        with pytest.raises(serial.SerialException, match="not open") as raised:
            CALLS[name](port)
        assert raised.value.errno == errno.EBADF
        port.cancel_read()
        port.cancel_write()


def test_must_exist_raises_as_pyserial_does() -> None:
    with pytest.raises(serial.SerialException, match="no such port") as raised:
        Serial("/dev/cnxman-none", must_exist=True)
    assert raised.value.errno == errno.ENOENT
    port = Serial(must_exist=True)
    port.port = "/dev/cnxman-none"
    with no_leak(), pytest.raises(serial.SerialException):
        port.open()
    assert not port.is_open


def test_what_is_no_port_raises_though_it_need_not_exist() -> None:
    with pytest.raises(serial.SerialException, match="folder") as raised:
        Serial("/tmp")
    assert raised.value.errno == errno.EISDIR
    with pytest.raises(serial.SerialException, match="no serial port") as raised:
        Serial(os.devnull)
    assert raised.value.errno == errno.ENOTTY


def test_policy_that_gives_up_at_the_first_attempt_raises() -> None:
    with pytest.raises(serial.SerialException, match="no such port"):
        Serial("/dev/cnxman-none", retry=RetryPolicy(attempts=1))


def test_retry_must_be_a_policy() -> None:
    with pytest.raises(TypeError, match="RetryPolicy"):
        Serial(retry=3)  # type: ignore[arg-type]


def test_manager_and_connection_are_there_before_opening(device: SimulatedDevice) -> None:
    port = Serial()
    with pytest.raises(serial.SerialException, match="must be configured"):
        assert port.manager
    port.port = device.port
    told: list[str] = []
    port.manager.subscribe(lambda state: told.append(state))
    assert port.connection is port.manager.connection
    with port:
        assert told == ["connecting", "connected"]


# -- as a file --------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as with pyserial's own, on 3.13
def test_textiowrapper_reads_and_writes_lines(port: Serial) -> None:
    port.timeout = 1
    text = io.TextIOWrapper(io.BufferedRWPair(port, port), newline="\n")
    text.write("*IDN?\n")
    text.flush()
    assert text.readline() == "ACME\n"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as with pyserial's own, on 3.13
def test_bufferedreader_reads_lines(port: Serial, device: SimulatedDevice) -> None:
    port.timeout = 0.2
    reader = io.BufferedReader(port)
    device.send(b"one\ntwo\n")
    assert reader.readline() == b"one\n"
    assert reader.readline() == b"two\n"
    assert reader.readline() == b""


def test_it_looks_like_a_raw_file(port: Serial) -> None:
    assert (port.readable(), port.writable(), port.seekable(), port.closed) == (True, True, False, False)


def test_select_gets_a_clear_error(port: Serial) -> None:
    with pytest.raises(io.UnsupportedOperation, match="descriptor"):
        select.select([port], [], [], 0)
    with pytest.raises(OSError, match=r"cnxman\.aio"):
        port.fileno()


def test_readerthread_of_pyserial_runs_and_stops(port: Serial, device: SimulatedDevice) -> None:
    lines: list[str] = []
    came = threading.Event()

    class Lines(serial.threaded.LineReader):
        TERMINATOR = b"\n"

        def handle_line(self, line: str) -> None:
            lines.append(line)
            came.set()

    port.timeout = None
    with serial.threaded.ReaderThread(port, Lines) as protocol:
        protocol.write_line("*IDN?")
        assert came.wait(BOUND)
        device.unplug()
        device.plug()
        came.clear()
        protocol.write_line("*IDN?")
        assert came.wait(BOUND)
    assert lines == ["ACME", "ACME"]
    assert not port.is_open


# -- copies, garbage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda port: pickle.loads(pickle.dumps(port))])
def test_copy_has_the_settings_and_is_not_open(port: Serial, make: type) -> None:
    port.apply_settings({"baudrate": 19200, "timeout": 3, "write_timeout": 4})
    twin = make(port)
    assert type(twin) is Serial
    assert not twin.is_open
    assert (twin.port, twin.get_settings()) == (port.port, port.get_settings())
    assert (twin.retry, twin.must_exist) == (port.retry, port.must_exist)
    assert port.is_connected


def test_dropped_object_leaves_nothing(device: SimulatedDevice) -> None:
    with no_leak():
        port = Serial(device.port)
        assert port.is_connected
        del port
    device.wait_closed()


def test_object_dropped_in_an_outage_leaves_nothing(device: SimulatedDevice) -> None:
    with no_leak():
        port = Serial(device.port)
        manager = port.manager
        device.unplug()
        wait_until(lambda: not manager.is_connected, "the loss is noticed")
        del port


def test_object_dropped_in_a_circle_leaves_nothing(device: SimulatedDevice) -> None:
    with no_leak():
        circle = [Serial(device.port)]
        circle.append(circle)  # type: ignore[arg-type]
        del circle
        gc.collect()
    device.wait_closed()


def test_object_dropped_by_a_receiver_leaves_nothing(device: SimulatedDevice) -> None:
    with no_leak():
        kept = [Serial(device.port)]
        kept[0].connection.subscribe(lambda data: kept.clear() if data else None)
        device.send(b"x")
        device.wait_closed()


def test_object_whose_making_failed_leaves_nothing() -> None:
    with no_leak(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for arguments in ({"bytesize": 9}, {"port": 3}, {"retry": 3}):
            with pytest.raises((ValueError, TypeError)):
                Serial(**arguments)  # type: ignore[arg-type]


# -- over a manager ---------------------------------------------------------------------------------------


class Meter(SerialConnection):
    """A device that is silent until it is told to start."""

    def prepare(self) -> bool:
        return self.query(b"START\n", timeout=BOUND) == b"OK\n"


@pytest.fixture
def meter() -> Iterator[SimulatedDevice]:
    with SimulatedDevice({b"START\n": b"OK\n", b"READ\n": b"42\n"}) as meter:
        yield meter


def test_over_a_manager_connects_it_and_prepares(meter: SimulatedDevice) -> None:
    with ConnectionManager(Meter(meter.port, 19200, timeout=BOUND)) as manager:
        port = Serial.over(manager)
        assert (port.manager, port.connection) == (manager, manager.connection)
        assert (port.port, port.baudrate, port.timeout, port.write_timeout) == (meter.port, 19200, BOUND, 10)
        for _ in range(3):
            port.write(b"READ\n")
            assert port.readline() == b"42\n"  # and never OK, which prepare() asked for
            meter.unplug()
            meter.plug()
        assert meter.received.count(b"START\n") >= 3


def test_answer_to_prepare_that_is_delivered_late_is_not_read(meter: SimulatedDevice) -> None:
    class Hasty(SerialConnection):
        """Its own receiver, which comes first, has the answer a while before anybody else."""

        def __init__(self, port: str) -> None:
            super().__init__(port, timeout=BOUND)
            self._answered = threading.Event()
            self.subscribe(self._on_data)

        def _on_data(self, data: bytes) -> None:
            if data == b"OK\n":
                self._answered.set()
                threading.Event().wait(0.1)

        def prepare(self) -> bool:
            self.write(b"START\n")
            return self._answered.wait(BOUND)

    manager = ConnectionManager(Hasty(meter.port))
    port = Serial.over(manager)
    port.write(b"READ\n")
    assert port.readline() == b"42\n"
    manager.teardown()


def test_over_waits_with_writes_until_prepared(meter: SimulatedDevice) -> None:
    with ConnectionManager(Meter(meter.port, timeout=BOUND)) as manager:
        port = Serial.over(manager)
        meter.unplug()
        wait_until(lambda: not port.is_connected, "the loss is noticed")
        writing = Caller(lambda: port.write(b"READ\n"))
        meter.clear()
        meter.plug()
        writing.join()
        meter.wait_received(b"READ\n")
        assert meter.received == b"START\nREAD\n"


def test_line_that_opens_while_an_object_is_made_over_it_counts(
    meter: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = SerialConnection(meter.port)
    subscribe, telling = connection.subscribe, []

    def subscribe_and_open(receiver: Callable[[], None], signal: object) -> Callable[[], None]:
        undo = subscribe(receiver, signal)
        if signal is SerialConnection.Signals.OPENED:
            telling.append(Caller(receiver))
            telling[0].done.wait(0.1)  # it must wait until the object is made
        return undo

    monkeypatch.setattr(connection, "subscribe", subscribe_and_open)
    Serial.over(ConnectionManager(connection))
    telling[0].join()


def test_prepare_that_receives_nothing_may_end_before_opened_is_sent(meter: SimulatedDevice) -> None:
    class Blind(SerialConnection):
        def prepare(self) -> bool:
            return True

    for _ in range(20):
        with ConnectionManager(Blind(meter.port, timeout=BOUND)) as manager:
            port = Serial.over(manager)
            port.write(b"READ\n")
            assert port.readline() == b"42\n"


def test_over_closes_and_opens_the_manager(meter: SimulatedDevice) -> None:
    manager = ConnectionManager(SerialConnection(meter.port))
    port = Serial.over(manager)
    assert manager.is_connected
    port.close()
    assert manager.state == "disconnected"
    port.open()
    assert manager.is_connected
    manager.teardown()


def test_object_over_a_manager_disconnects_what_it_connected(meter: SimulatedDevice) -> None:
    manager = ConnectionManager(SerialConnection(meter.port))
    port = Serial.over(manager)
    del port
    wait_until(lambda: manager.state == "disconnected", "it is disconnected")
    manager.teardown()


def test_object_over_a_connected_manager_leaves_it_connected(meter: SimulatedDevice) -> None:
    with ConnectionManager(SerialConnection(meter.port)) as manager:
        port = Serial.over(manager)
        line = weakref.ref(port._line)
        del port
        gc.collect()
        assert manager.is_connected
        assert line() is None  # nothing is collected for nobody


def test_over_a_manager_that_is_torn_down_is_refused(meter: SimulatedDevice) -> None:
    manager = ConnectionManager(SerialConnection(meter.port))
    manager.teardown()
    with pytest.raises(serial.SerialException, match="torn down for good"):
        Serial.over(manager)


def test_over_refuses_what_is_no_manager_of_a_serial_connection() -> None:
    with pytest.raises(TypeError, match="ConnectionManager"):
        Serial.over("/dev/ttyUSB0")  # type: ignore[arg-type]


def test_over_refuses_a_connection_that_is_not_serial() -> None:
    with pytest.raises(TypeError, match="SerialConnection"):
        Serial.over(ConnectionManager(Script()))


def test_over_refuses_another_port_and_copies(meter: SimulatedDevice) -> None:
    with ConnectionManager(SerialConnection(meter.port)) as manager:
        port = Serial.over(manager)
        with pytest.raises(ValueError, match=f"can't be '{os.devnull}'"):
            port.port = os.devnull
        with pytest.raises(TypeError, match="can't be copied"):
            copy.copy(port)


def test_over_changes_the_connections_settings(meter: SimulatedDevice) -> None:
    connection = SerialConnection(meter.port, write_timeout=None)
    with ConnectionManager(connection) as manager:
        port = Serial.over(manager)
        port.baudrate = 57600
        assert connection.settings["baudrate"] == 57600
        assert connection.settings["write_timeout"] is None


def test_calls_raise_once_somebody_else_has_disconnected_the_manager(meter: SimulatedDevice) -> None:
    with ConnectionManager(SerialConnection(meter.port), retry=NEVER) as manager:
        port = Serial.over(manager)
        reading = Caller(lambda: port.read(3))
        meter.send(b"ab")
        wait_until(lambda: port.in_waiting == 2, "it has come")
        manager.disconnect()
        assert reading.join() == b"ab"
        for call in (port.read, lambda: port.write(b"x"), port.readline):
            with pytest.raises(serial.SerialException, match="disconnected"):
                call()
        manager.connect()
        meter.send(b"ef")
        assert port.read(2) == b"ef"


def test_forked_child_has_no_line(device: SimulatedDevice, port: Serial) -> None:
    def reopen() -> None:
        port.close()
        port.open()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: threads
        child = os.fork()
    if child == 0:
        refused = 0
        for call in (port.read, port.readline, lambda: port.in_waiting, lambda: port.write(b"x"), reopen):
            try:
                call()
            except serial.SerialException:
                refused += 1
        os._exit(5 - refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    port.write(b"*IDN?\n")
    assert port.readline() == b"ACME\n"
