"""Other people's libraries, as they come from PyPI, over a line that is pulled out and put back."""

import asyncio
import contextlib
import io
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

import can
import minimalmodbus
import pymodbus.client
import pymodbus.exceptions
import pymodbus.server
import pynmea2
import pytest
import pyvisa
import serial
from meshtastic.protobuf import mesh_pb2
from meshtastic.stream_interface import StreamInterface
from pymodbus.framer import FramerType
from pymodbus.simulator import DataType, SimData, SimDevice
from xmodem import XMODEM

from cnxman import ConnectionManager, SerialConnection
from cnxman.compat import Serial
from cnxman.testing import SimulatedDevice
from tests.kit.lines import BOUND, pattern
from tests.kit.managers import Caller, wait_until

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs are not ours to mend


def url(device: SimulatedDevice) -> str:
    return f"managed://{device.port}"


def pull(device: SimulatedDevice) -> None:
    """Pull it out, when the host has read everything."""
    device.drain()
    device.unplug()


# -- Modbus -----------------------------------------------------------------------------------------------


class ModbusServer:
    """pymodbus's server, with RTU frames over TCP."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._stop: Callable[[], object] = lambda: None
        self.address = ("", 0)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        device = SimDevice(1, [SimData(0, values=[100, 101, 102, 103], datatype=DataType.REGISTERS)])
        server = pymodbus.server.ModbusTcpServer(device, framer=FramerType.RTU, address=("127.0.0.1", 0))
        await server.serve_forever(background=True)
        self.address = server.transport.sockets[0].getsockname()
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(over.set)
        self._ready.set()
        await over.wait()
        await server.shutdown()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(BOUND)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._thread.join(BOUND)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def modbus_device() -> Iterator[SimulatedDevice]:
    """A device with pymodbus's server in it, which gets what the host writes and answers it."""
    over = threading.Event()

    def ask(device: SimulatedDevice, server: socket.socket) -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                server.sendall(device.receive(timeout=0.05))

    def answer(device: SimulatedDevice, server: socket.socket) -> None:
        while data := server.recv(1000):
            with contextlib.suppress(ConnectionError):
                device.send(data)

    with ModbusServer() as server, SimulatedDevice() as device, socket.create_connection(server.address) as connection:
        threads = [Caller(lambda each=each: each(device, connection)) for each in (ask, answer)]
        yield device
        over.set()
        threads[0].join()
        connection.shutdown(socket.SHUT_RDWR)
        threads[1].join()


def test_minimalmodbus_goes_on_after_a_pull() -> None:
    with modbus_device() as device, Serial(device.port, 19200, timeout=BOUND) as port:
        instrument = minimalmodbus.Instrument(port, 1)
        assert instrument.read_register(2) == 102
        for _ in range(2):
            pull(device)
            port.timeout = port.write_timeout = 0.2
            with pytest.raises((serial.SerialException, minimalmodbus.NoResponseError)):
                instrument.read_register(2)
            device.plug()
            port.timeout = port.write_timeout = BOUND
            assert instrument.read_register(3) == 103
            instrument.write_register(1, 7)
            assert instrument.read_register(1) == 7


def test_minimalmodbus_may_close_the_port_after_each_call() -> None:
    with modbus_device() as device:
        port = Serial(device.port, 19200, timeout=BOUND)
        instrument = minimalmodbus.Instrument(port, 1, close_port_after_each_call=True)
        assert instrument.read_register(2) == 102
        pull(device)
        device.plug()
        assert instrument.read_register(3) == 103
        assert not port.is_open


def test_pymodbus_client_goes_on_after_a_pull() -> None:
    with modbus_device() as device:
        client = pymodbus.client.ModbusSerialClient(url(device), baudrate=19200, timeout=3, retries=1)
        assert client.connect()
        line = client.socket
        assert client.read_holding_registers(2, device_id=1).registers == [102]
        for _ in range(2):
            pull(device)
            line.write_timeout = 0.2
            client.comm_params.timeout_connect = 0.2
            with pytest.raises(pymodbus.exceptions.ModbusException):
                client.read_holding_registers(2, device_id=1)
            device.plug()
            line.write_timeout = BOUND
            client.comm_params.timeout_connect = 3
            assert client.read_holding_registers(0, count=4, device_id=1).registers == [100, 101, 102, 103]
            assert client.socket is line
        client.close()


def test_pymodbus_client_can_be_made_while_the_device_is_absent() -> None:
    with modbus_device() as device:
        device.unplug()
        client = pymodbus.client.ModbusSerialClient(url(device), baudrate=19200, timeout=3, retries=1)
        assert client.connect()
        device.plug()
        assert client.read_holding_registers(2, device_id=1).registers == [102]
        client.close()


# -- instruments ------------------------------------------------------------------------------------------


def test_pyvisa_goes_on_after_a_pull() -> None:
    with SimulatedDevice({b"*IDN?\n": b"ACME\n"}) as device:
        manager = pyvisa.ResourceManager("@py")
        instrument: Any = manager.open_resource(
            f"ASRL{url(device)}::INSTR", read_termination="\n", write_termination="\n"
        )
        instrument.timeout = 3000
        assert instrument.query("*IDN?") == "ACME"
        for _ in range(2):
            pull(device)
            instrument.timeout = 200
            with pytest.raises(pyvisa.errors.VisaIOError, match="VI_ERROR_TMO"):
                instrument.query("*IDN?")
            device.plug()
            instrument.timeout = 3000
            assert instrument.query("*IDN?") == "ACME"
        instrument.close()
        manager.close()


# -- CAN --------------------------------------------------------------------------------------------------


def test_slcan_goes_on_after_a_pull() -> None:
    with SimulatedDevice() as device:
        bus = can.Bus(interface="slcan", channel=url(device), bitrate=500_000, timeout=0.01, sleep_after_open=0)
        device.wait_received(b"S6\r")
        for number in (0x123, 0x124, 0x125):
            device.send(b"t%03X2AABB\r" % number)
            message = bus.recv(BOUND)
            assert message is not None
            assert (message.arbitration_id, bytes(message.data)) == (number, b"\xaa\xbb")
            pull(device)
            assert bus.recv(0.05) is None
            with pytest.raises(can.CanOperationError):
                bus.send(can.Message(arbitration_id=1, is_extended_id=False), timeout=0.2)
            device.plug()
            bus.send(can.Message(arbitration_id=number, data=b"\x01", is_extended_id=False), timeout=BOUND)
            device.wait_received(b"t%03X101\r" % number)
        assert b"t0010" not in device.received  # what could not be sent is not sent later
        bus.shutdown()


def test_slcan_over_a_manager_sets_the_adapter_up_again() -> None:
    class Adapter(SerialConnection):
        """It has lost its power, and with it its bit rate."""

        def prepare(self) -> bool:
            self.write(b"C\rS6\rO\r")
            return True

    with SimulatedDevice() as device, ConnectionManager(Adapter(device.port)) as manager:
        bus: Any = can.Bus(interface="slcan", channel="loop://", sleep_after_open=0)
        bus.serialPortOrig.close()
        bus.serialPortOrig = Serial.over(manager)  # it takes no object at the beginning
        device.wait_received(b"O\r")
        device.clear()
        pull(device)
        device.plug()
        bus.send(can.Message(arbitration_id=1, is_extended_id=False), timeout=BOUND)
        device.wait_received(b"t0010\r")
        assert device.received == b"C\rS6\rO\rt0010\r"
        bus.shutdown()


# -- positions --------------------------------------------------------------------------------------------

SENTENCE = b"$GPGGA,184353.07,1929.045,S,02410.506,E,1,04,2.6,100.00,M,-33.9,M,,0000*6D\r\n"


def test_pynmea2_behind_a_text_wrapper_goes_on_after_a_pull() -> None:
    with SimulatedDevice() as device, Serial(device.port, timeout=0.1) as port:
        reader = pynmea2.NMEAStreamReader(io.TextIOWrapper(io.BufferedReader(port), "ascii"), errors="raise")

        def next_one() -> Any:
            while not (found := list(reader.next())):
                pass
            return found[0]

        for _ in range(3):
            device.wait_opened()
            device.send(SENTENCE)
            assert next_one().num_sats == "04"
            pull(device)
            device.plug()


def test_pynmea2_parses_no_sentence_made_of_two_halves() -> None:
    with SimulatedDevice() as device, Serial(device.port, timeout=BOUND) as port:
        device.send(SENTENCE[:30])
        wait_until(lambda: port.in_waiting == 30, "it has come")
        pull(device)
        device.plug()
        device.wait_opened()
        device.send(SENTENCE[40:] + SENTENCE)
        halves = [port.readline(), port.readline()]
        assert halves == [SENTENCE[:30], SENTENCE[40:]]
        assert pynmea2.parse(port.readline().decode()).num_sats == "04"


# -- radios -----------------------------------------------------------------------------------------------


class Mesh(StreamInterface):
    """meshtastic's stream, without a radio: what comes is put into a queue."""

    def __init__(self, stream: Serial) -> None:
        self.came: queue.Queue[bytes] = queue.Queue()
        super().__init__(noProto=True, connectNow=False)
        self.stream = stream

    def _handleFromRadio(self, data: bytes) -> None:
        self.came.put(data)


def mesh_frame(number: int) -> bytes:
    data = mesh_pb2.FromRadio(id=number).SerializeToString()
    return b"\x94\xc3" + len(data).to_bytes(2, "big") + data


def test_stream_of_meshtastic_goes_on_after_a_pull() -> None:
    with SimulatedDevice() as device:
        mesh = Mesh(Serial(device.port, 115200, timeout=0.1))
        mesh.connect()
        device.wait_received(b"\xc3" * 32)
        for number in (1, 2, 3):
            device.wait_opened()
            device.send(mesh_frame(number))
            assert mesh_pb2.FromRadio.FromString(mesh.came.get(timeout=BOUND)).id == number
            device.clear()
            mesh._sendToRadioImpl(mesh_pb2.ToRadio(want_config_id=number))
            device.wait_received(mesh_pb2.ToRadio(want_config_id=number).SerializeToString())
            pull(device)
            device.plug()
        mesh.close()
        assert mesh.stream is None


# -- files ------------------------------------------------------------------------------------------------


def transfer(port: Serial) -> XMODEM:
    def getc(size: int, timeout: float = 1) -> bytes | None:
        port.timeout = timeout
        return port.read(size) or None

    def putc(data: bytes, timeout: float = 1) -> int:
        port.write_timeout = timeout
        return port.write(data)

    return XMODEM(getc, putc)


def xmodem_receiver(device: SimulatedDevice) -> XMODEM:
    def getc(size: int, timeout: float = 1) -> bytes | None:
        try:
            return device.receive(size, timeout=timeout)
        except (TimeoutError, RuntimeError):
            return None

    def putc(data: bytes, timeout: float = 1) -> int | None:
        try:
            device.send(data)
        except (ConnectionError, RuntimeError):
            return None
        return len(data)

    return XMODEM(getc, putc)


def test_xmodem_sends_a_file() -> None:
    with SimulatedDevice() as device, Serial(device.port) as port:
        got, data = io.BytesIO(), pattern(128 * 40)
        receiving = Caller(lambda: xmodem_receiver(device).recv(got, timeout=1, delay=0))
        assert transfer(port).send(io.BytesIO(data))
        receiving.join()
        assert got.getvalue() == data


def test_xmodem_ends_with_an_error_when_the_device_stays_away() -> None:
    with SimulatedDevice() as device, Serial(device.port) as port:
        receiving = Caller(lambda: xmodem_receiver(device).recv(io.BytesIO(), retry=1, timeout=0.5, delay=0))
        sending = Caller(lambda: transfer(port).send(io.BytesIO(pattern(128 * 5000)), retry=2, timeout=0.5))
        device.wait_received(pattern(128))
        device.unplug()
        with pytest.raises(serial.SerialTimeoutException):
            sending.join(60)
        receiving.join(60)
        assert port.is_open


def test_xmodem_through_a_pull_fails_or_delivers_the_file() -> None:
    data, got = pattern(128 * 200), io.BytesIO()
    with SimulatedDevice() as device, Serial(device.port) as port:
        receiving = Caller(lambda: xmodem_receiver(device).recv(got, retry=3, timeout=0.5, delay=0))
        sending = Caller(lambda: transfer(port).send(io.BytesIO(data), retry=3, timeout=0.5))
        device.wait_received(data[:128])
        device.unplug()
        device.plug()
        try:
            is_sent = sending.join(60)
        except serial.SerialException:
            is_sent = False
        receiving.join(60)
        assert not is_sent or got.getvalue() == data
        assert port.manager.wait_until_connected(BOUND)
