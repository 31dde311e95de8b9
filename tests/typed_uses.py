"""The public API as a program uses it, for type checkers: `mypy --strict` and pyright both take this file.

It is checked, never run. `assert_type` says what a user's checker has to know; a public name whose type became `Any`
would fail here.
"""

import asyncio
import threading
from collections.abc import Callable, Hashable
from typing import assert_type

import serial
import serial.rs485
import serial.threaded

import cnxman.basics
import cnxman.serial
from cnxman import (
    Connection,
    ConnectionException,
    ConnectionManager,
    ConnectionState,
    RetryPolicy,
    SerialConnection,
    SerialListener,
    __version__,
    ports,
    signals,
)
from cnxman.aio import AsyncConnection, AsyncManager, AsyncStream, SerialAttachment, SerialTransport
from cnxman.aio import attach as attach_in_loop
from cnxman.compat import Serial
from cnxman.framing import DEFAULT_LIMIT, FixedLength, Framer, LengthPrefixed, Lines, Markers
from cnxman.logging import loggable_class
from cnxman.protocols import Attachment, PortError, SerialProtocol, Transport, attach
from cnxman.testing import ManualClock, SimulatedDevice


def use(*values: object) -> None:
    """Take anything."""


version: str = __version__


@loggable_class()
class Thing(Connection):
    """A connection of a user's own."""

    class Signals(signals.Signal):  # pyright: ignore[reportIncompatibleVariableOverride] (as SerialConnection's own)
        """What it sends besides the alarm."""

        MOVED = "moved"

    def try_connect(self) -> bool:
        """Connect."""
        self.last_error = ConnectionException("it did not", OSError(5, "Input/output error"))
        return False

    def disconnect(self) -> None:
        """Hang up."""
        signals.send(self, Thing.Signals.MOVED, distance=3)

    def teardown(self) -> None:
        """Release everything."""

    def presence(self) -> Hashable | None:
        """Whether it is there."""
        return ("here", 7)


class Meter(SerialConnection):
    """A serial connection with a device that has to be made ready."""

    def prepare(self) -> bool:
        """Ask it."""
        return self.query(b"RESET\n", timeout=2) == b"OK\n"


def connections() -> None:
    thing = Thing()
    assert_type(thing.last_error, ConnectionException | None)
    thing.raise_alarm()
    thing.raise_alarm(ConnectionException.from_exception(OSError(5, "gone")))
    undo = thing.subscribe(lambda error: use(error))
    assert_type(undo, Callable[[], None])
    undo()
    use(Connection.Signals.RAISE_ALARM.value.upper())


def exceptions(error: ConnectionException) -> None:
    assert_type(error.message, str)
    assert_type(error.inner, Exception)
    assert_type(error.errno, int | None)
    assert_type(error.written, int)
    assert_type(ConnectionException.from_exception(error), ConnectionException)
    raise error


def managers(connection: Connection) -> None:
    with ConnectionManager(connection, retry=RetryPolicy(initial=0.1, maximum=5, attempts=3)) as manager:
        assert_type(manager, ConnectionManager)
        assert_type(manager.connection, Connection)
    assert_type(manager.connect(), None)
    assert_type(manager.disconnect(), None)
    assert_type(manager.teardown(), None)
    assert_type(manager.state, ConnectionState)
    assert_type(manager.is_connected, bool)
    assert_type(manager.last_error, ConnectionException | None)
    assert_type(manager.wait_until_connected(timeout=1.5), bool)
    assert_type(manager.statistics.losses, int)
    assert_type(manager.statistics.up_since, float | None)

    def on_state(state: ConnectionState, previous: ConnectionState, error: ConnectionException | None) -> None:
        use(state, previous, error)

    def on_retry(attempt: int, delay: float, error: ConnectionException | None) -> None:
        use(attempt, delay, error)

    undo = manager.subscribe(on_state)
    manager.subscribe(on_retry, ConnectionManager.Signals.RETRY_SCHEDULED)
    assert_type(undo, Callable[[], None])
    if manager.state == "connected" or manager.state is ConnectionState.RECOVERING:
        use(manager.state.upper())


def policies() -> None:
    policy = RetryPolicy(5, 1, 5, 0, attempts=None, reset_after=10)
    assert_type(policy.delay(1), float)
    assert_type(policy.attempts, int | None)


def serial_connections() -> None:
    connection = SerialConnection(
        "/dev/ttyUSB0",
        115200,
        8,
        "N",
        1.5,
        None,
        xonxoff=False,
        rtscts=True,
        dsrdtr=False,
        inter_byte_timeout=None,
        write_timeout=2,
        exclusive=True,
        dtr=None,
        rts=False,
        rs485_mode=serial.rs485.RS485Settings(),
        low_latency=True,
        buffer_size=1 << 20,
        idle_timeout=10,
        schemes=["", "usb"],
    )
    assert_type(connection.port, str)
    assert_type(connection.try_connect(), bool)
    assert_type(connection.is_connected, bool)
    assert_type(connection.write(b"bytes"), int)
    connection.write(bytearray(3))
    connection.write(memoryview(b"view"))
    assert_type(connection.query(b"*IDN?\n", timeout=None), bytes)
    assert_type(connection.query(b"*IDN?\n", 7), bytes)
    assert_type(connection.query(b"*IDN?\n", until=Lines()), bytes)
    connection.configure(baudrate=9600, parity="E")
    assert_type(connection.settings.get("baudrate"), int | None)
    assert_type(connection.use(lambda port: port.in_waiting), int)
    connection.dtr = True
    connection.rts = None
    assert_type(connection.cts, bool)
    assert_type(connection.dsr and connection.ri and connection.cd, bool)
    connection.send_break(0.1)
    assert_type(connection.last_error, ConnectionException | None)
    assert_type(connection.statistics.bytes_in, int)
    counts = connection.statistics.driver
    if counts is not None:
        assert_type(counts.framing, int)
    undo = connection.add_framer(Lines())
    undo()
    for signal in SerialConnection.Signals:
        connection.subscribe(lambda data: use(data), signal)
    use(SerialConnection.Signals.DATA_RECEIVED.value.upper())
    connection.subscribe(lambda frame: use(frame), SerialConnection.Signals.FRAME_RECEIVED)
    connection.logger.info("it is a logging.Logger")
    connection.disconnect()
    connection.teardown()


def readers(connection: SerialConnection) -> None:
    with connection.reader(buffer_size=65536) as reader:
        assert_type(reader.read(timeout=1), bytes)
        assert_type(reader.read(size=3), bytes)
        assert_type(reader.read_until(b"\n", timeout=1), bytes)
        for frame in reader.frames(Lines(), timeout=1):
            assert_type(frame, bytes)


def listeners() -> None:
    listener = SerialListener(serial.Serial(), buffer_size=65536, idle_timeout=None)
    assert_type(listener.serial, serial.Serial)
    assert_type(listener.is_listening, bool)
    assert_type(listener.start(), None)
    assert_type(listener.terminate(), None)
    thread: threading.Thread = listener
    thread.join()
    use(SerialListener.Signals.READ_ERROR.value.upper())


def framers() -> list[Framer[bytes]]:
    assert_type(Lines((b"\r", b"\n"), keep=True, limit=DEFAULT_LIMIT).feed(b"one\n"), list[bytes])
    assert_type(Lines().skipped, int)
    return [
        Lines(),
        FixedLength(8, start=b"\xaa"),
        Markers(b"$", b"\r\n", keep=True, restart=False),
        LengthPrefixed(2, byteorder="little", counts_itself=True, start=b"\xb5\x62", offset=4, extra=2, keep=True),
    ]


def port_names() -> None:
    for info in ports.available():
        name: str | None = ports.usb_name(info, with_location=True)
        use(name, info.device)
    with ports.watch(lambda event, info: use(event is ports.PortEvent.ARRIVED, info.device)) as watch:
        assert_type(watch, ports.PortWatch)
        assert_type([info.device for info in watch.at_start][0:1], list[str])
        watch.stop()
    for holder in ports.holders("/dev/ttyUSB0"):
        assert_type(holder.pid, int)
        assert_type(holder.command, str)
    assert_type(ports.find_usb("usb://0403:6001"), str)
    assert_type(ports.parse_usb("usb://0403:6001/A5").serial_number, str | None)


def standing_in_for_pyserial(manager: ConnectionManager) -> None:
    port = Serial("/dev/ttyUSB0", 115200, 8, "N", 1, 0.5, write_timeout=2, retry=RetryPolicy(), must_exist=True)
    of_pyserials: serial.SerialBase = port
    with Serial.over(manager) as over:
        assert_type(over, Serial)
        assert_type(over.manager, ConnectionManager)
        assert_type(over.connection, SerialConnection)
        assert_type(over.is_connected, bool)
    assert_type(port.read(3), bytes)
    assert_type(port.read(size=3), bytes)
    assert_type(port.readline(), bytes)
    assert_type(port.read_until(b";", 10), bytes)
    for line in port:
        assert_type(line, bytes)
    assert_type(port.write(b"bytes"), int)
    assert_type(port.in_waiting, int)
    assert_type(port.cts, bool)
    assert_type(port.port, str | None)
    port.baudrate, port.timeout, port.dtr = 9600, None, False
    assert_type(port.retry, RetryPolicy)
    port.close()
    use(of_pyserials)


class PrintLines(serial.threaded.LineReader):
    """A protocol of a user's own, written for pyserial."""

    def handle_line(self, line: str) -> None:
        """Print it."""
        use(line)


def protocols(manager: ConnectionManager) -> None:
    with attach(manager, PrintLines) as protocol:
        assert_type(protocol, PrintLines)
        protocol.write_line("hello")
    attachment = attach(manager, lambda: PrintLines())
    assert_type(attachment, Attachment[PrintLines])
    assert_type(attachment.protocol, PrintLines | None)
    transport, protocol = attachment.connect(timeout=2)
    assert_type(transport, Transport)
    assert_type(transport.write(b"bytes"), int)
    assert_type(transport.alive, bool)
    assert_type(attachment.stop(), None)
    lost: OSError = PortError("lost", OSError(5, "gone"))
    of_pyserials: SerialProtocol = protocol
    use(lost, of_pyserials)


async def in_asyncio(connection: SerialConnection, manager: ConnectionManager) -> None:
    async with AsyncManager(manager, buffer_size=65536) as line:
        assert_type(line, AsyncManager)
        assert_type(await line.write(b"bytes"), int)
        assert_type(await line.query(b"*IDN?\n", timeout=2), bytes)
        assert_type(await line.wait_for(ConnectionState.CONNECTED), ConnectionState)
        await line.next_connect()
        frames = line.frames(Lines())
        assert_type(frames, AsyncStream)
        async for frame in frames:
            assert_type(frame, bytes)
        async for chunk in line:
            assert_type(chunk, bytes)
        await frames.aclose()
        await line.disconnect()
    async with AsyncConnection(connection) as single:
        assert_type(single.connection, SerialConnection)
        assert_type(await single.wait_closed(), ConnectionException | None)
        assert_type(await anext(single.data()), bytes)
        attachment = attach_in_loop(single, InLoop)
        assert_type(attachment, SerialAttachment[InLoop])
        assert_type(attachment.protocol, InLoop | None)
        attachment.stop()
    use(AsyncManager(manager, in_loop=False), AsyncConnection(connection, in_loop=False))


class InLoop(asyncio.Protocol):
    """A protocol of asyncio's."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Write."""
        assert isinstance(transport, SerialTransport)
        transport.write(b"bytes")
        transport.set_write_buffer_limits(high=4096)


def devices() -> None:
    def answer(request: bytes) -> bytes | None:
        return request or None

    with SimulatedDevice({b"*IDN?\n": b"ACME\n"}, baudrate=9600, seed=3) as device:
        assert_type(device, SimulatedDevice)
        assert_type(device.port, str)
        device.send(b"bytes", timeout=1)
        assert_type(device.receive(until=b"\n"), bytes)
        assert_type(device.received, bytes)
        device.unplug()
        device.plug()
        device.wait_opened()
        device.stall(0.1)
        device.cut(at=3, of="received")
        device.noise(drop=0.1)
    SimulatedDevice(answer, terminator=b"\r").close()


def clocks(thing: Thing) -> None:
    with ManualClock() as clock, ConnectionManager(thing) as manager:
        assert_type(clock, ManualClock)
        assert_type(clock.now(), float)
        clock.advance(3600)
        use(manager)


def test_with_the_fixture(serial_device: SimulatedDevice) -> None:
    assert_type(serial_device.is_open, bool)


def as_in_0_0_2() -> None:
    connection = cnxman.serial.SerialConnection("/dev/ttyUSB0", 9600, 8, "N", 1, timeout=None)
    manager = cnxman.basics.ConnectionManager(connection)
    manager.connect()
    use(cnxman.basics.ConnectionManager.connected, manager)
