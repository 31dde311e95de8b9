"""Protocols of `serial.threaded` over a managed connection, through outages, as their users use them."""

import copy
import gc
import logging
import pickle
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest
import serial
from hypothesis import given, settings
from hypothesis import strategies as st
from serial.threaded import FramedPacket, LineReader, Packetizer
from serial.threaded import Protocol as SerialProtocol

from cnxman import Connection, ConnectionException, ConnectionManager, RetryPolicy, SerialConnection, signals
from cnxman.protocols import Attachment, PortError, Transport, attach
from cnxman.testing import SimulatedDevice
from tests.kit.probe import subscriptions

QUICK = RetryPolicy(0.01, 1, 0.01, 0)
PATIENCE = 60.0


class Story:
    """What happened, in order; waited for with a bound."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self._change = threading.Condition()

    def tell(self, *what: object) -> None:
        with self._change:
            self.told.append(what[0] if len(what) == 1 else what)
            self._change.notify_all()

    def wait(self, until: Callable[[list[object]], bool]) -> None:
        with self._change:
            assert self._change.wait_for(lambda: until(self.told), PATIENCE), self.told

    def wait_for(self, *what: object) -> None:
        wanted = what[0] if len(what) == 1 else what
        self.wait(lambda told: wanted in told)


class Teller(SerialProtocol):
    """Tells every call, each with the number of the protocol that it was made to."""

    def __init__(self, story: Story, number: int) -> None:
        self.story, self.number = story, number
        self.transport: Transport | None = None
        self.threads: list[threading.Thread] = []

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.threads.append(threading.current_thread())
        self.story.tell("made", self.number)

    def data_received(self, data) -> None:
        self.threads.append(threading.current_thread())
        self.story.tell("data", self.number, bytes(data))

    def connection_lost(self, exc) -> None:
        self.threads.append(threading.current_thread())
        self.story.tell("lost", self.number, exc)


class Factory:
    """Makes protocols, numbered from 1, and keeps them."""

    def __init__(self, story: Story, kind: Callable[[Story, int], Teller] = Teller) -> None:
        self.story, self.kind = story, kind
        self.made: list[Teller] = []

    def __call__(self) -> Teller:
        self.made.append(self.kind(self.story, len(self.made) + 1))
        return self.made[-1]


@pytest.fixture
def manager(serial_device: SimulatedDevice) -> Iterator[ConnectionManager]:
    manager = ConnectionManager(SerialConnection(serial_device.port), retry=QUICK)
    yield manager
    manager.teardown()
    assert not [thread for thread in threading.enumerate() if "cnxman listener" in thread.name]


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
def complaints(caplog: pytest.LogCaptureFixture) -> Callable[[], list[logging.LogRecord]]:
    return lambda: [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.fixture
def no_complaints(complaints: Callable[[], list[logging.LogRecord]]) -> Iterator[None]:
    yield
    assert complaints() == []


def outage(device: SimulatedDevice, manager: ConnectionManager) -> None:
    device.unplug()
    device.plug()
    device.wait_opened()
    assert manager.wait_until_connected(PATIENCE)


# -- what protocols hear --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_complaints")
def test_each_opening_has_a_protocol_of_its_own(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    factory = Factory(story)
    attachment = attach(manager, factory)
    assert attachment.protocol is None
    assert story.told == []
    manager.connect()
    story.wait_for("made", 1)
    serial_device.wait_opened()
    serial_device.send(b"one")
    story.wait_for("data", 1, b"one")
    assert attachment.protocol is factory.made[0]

    outage(serial_device, manager)
    story.wait_for("made", 2)
    serial_device.send(b"two")
    story.wait_for("data", 2, b"two")
    assert attachment.protocol is factory.made[1]
    manager.disconnect()

    first, second = [tell for tell in story.told if tell[0] == "lost"]
    assert story.told == [
        ("made", 1),
        ("data", 1, b"one"),
        first,
        ("made", 2),
        ("data", 2, b"two"),
        ("lost", 2, None),
    ]
    assert second is story.told[-1]
    assert first[1] == 1
    reason = first[2]
    assert isinstance(reason, ConnectionException)
    assert isinstance(reason, serial.SerialException)
    assert "was lost" in str(reason)
    assert attachment.protocol is None


@pytest.mark.usefixtures("no_complaints")
def test_all_calls_come_on_the_listener_s_thread(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    factory = Factory(story)
    attach(manager, factory)
    manager.connect()
    serial_device.wait_opened()
    serial_device.send(b"x")
    story.wait_for("data", 1, b"x")
    serial_device.unplug()
    story.wait(lambda told: told[-1][:2] == ("lost", 1))
    (thread,) = set(factory.made[0].threads)
    assert thread.name.startswith("cnxman listener")


@pytest.mark.usefixtures("no_complaints")
def test_half_a_line_from_before_an_outage_is_never_glued_to_one_from_after(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    class Lines(LineReader):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            story.tell("bytes", data)

        def handle_line(self, line: str) -> None:
            story.tell("line", line)

    attach(manager, Lines)
    manager.connect()
    serial_device.wait_opened()
    serial_device.send(b"whole\r\nha")
    story.wait(lambda told: b"".join(data for kind, data in told if kind == "bytes").endswith(b"ha"))
    outage(serial_device, manager)
    serial_device.send(b"lf\r\nwhole again\r\n")
    story.wait_for("line", "whole again")
    assert [line for kind, line in story.told if kind == "line"] == ["whole", "lf", "whole again"]


@pytest.mark.usefixtures("no_complaints")
def test_pyserial_s_own_protocols_write_and_read(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    class Packets(Packetizer):
        def handle_packet(self, packet: bytes) -> None:
            story.tell("packet", bytes(packet))

    class Frames(FramedPacket):
        def handle_packet(self, packet: bytes) -> None:
            story.tell("frame", packet)

        def handle_out_of_packet_data(self, data: bytes) -> None:
            story.tell("between", bytes(data))

    class Lines(LineReader):
        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            self.write_line("hello")

        def handle_line(self, line: str) -> None:
            story.tell("line", line)

    with manager, attach(manager, Packets) as packets, attach(manager, Frames), attach(manager, Lines) as lines:
        assert serial_device.receive(until=b"\r\n") == b"hello\r\n"
        lines.write_line("and again")
        assert serial_device.receive(until=b"\r\n") == b"and again\r\n"
        packets.transport.write(b"raw")
        assert serial_device.receive(3) == b"raw"
        serial_device.send(b"-(frame)\r\n\0")
        story.wait_for("packet", b"-(frame)\r\n")
        story.wait_for("line", "-(frame)")
        story.wait_for("frame", b"frame")
        story.wait_for("between", b"-")
    assert lines.transport is None


@settings(max_examples=20)
@given(
    lines=st.lists(st.text("ab\N{DEGREE SIGN}", max_size=5), max_size=8),
    cuts=st.lists(st.integers(1, 4), min_size=1, max_size=8),
)
def test_lines_are_whole_however_they_come(lines: list[str], cuts: list[int]) -> None:
    stream = "".join(f"{line}\r\n" for line in [*lines, "the end"]).encode()
    story = Story()

    class Lines(LineReader):
        def handle_line(self, line: str) -> None:
            story.tell(line)

    with SimulatedDevice() as device:
        manager = ConnectionManager(SerialConnection(device.port))
        attach(manager, Lines)
        with manager:
            device.wait_opened()
            at = 0
            while at < len(stream):
                cut = cuts[at % len(cuts)]
                device.send(stream[at : at + cut])
                at += cut
            story.wait_for("the end")
    assert story.told == [*lines, "the end"]


# -- attaching and stopping -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_complaints")
def test_attached_while_the_port_is_open(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    factory = Factory(story)
    with manager, attach(manager, factory) as protocol:
        assert protocol is factory.made[0]
        assert protocol.threads == [threading.current_thread()]
        serial_device.wait_opened()
        serial_device.send(b"x")
        story.wait_for("data", 1, b"x")
    assert story.told == [("made", 1), ("data", 1, b"x"), ("lost", 1, None)]
    assert len(factory.made) == 1


@pytest.mark.usefixtures("no_complaints")
def test_attaching_while_the_port_opens_makes_one_protocol(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    attachments: list[Attachment[Teller]] = []
    factory = Factory(story)
    # The first receiver of OPENED attaches: the port is open, and OPENED is still being told.
    manager.connection.subscribe(lambda: attachments.append(attach(manager, factory)), SerialConnection.Signals.OPENED)
    manager.connect()
    serial_device.wait_opened()
    serial_device.send(b"x")
    story.wait_for("data", 1, b"x")
    assert story.told == [("made", 1), ("data", 1, b"x")]


@pytest.mark.usefixtures("no_complaints")
def test_opened_is_sent_while_attach_makes_the_protocol(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    told, attached = threading.Event(), threading.Event()

    def hold() -> None:
        told.set()
        assert attached.wait(PATIENCE)

    manager.connection.subscribe(hold, SerialConnection.Signals.OPENED)
    connecting = threading.Thread(target=manager.connect)
    connecting.start()
    assert told.wait(PATIENCE)
    # OPENED is under way, from a list of receivers made before; the next one would hear it.
    with attach(manager, Factory(story)):
        attached.set()
        connecting.join()
        serial_device.wait_opened()
        serial_device.send(b"x")
        story.wait_for("data", 1, b"x")
    assert story.told == [("made", 1), ("data", 1, b"x"), ("lost", 1, None)]


@pytest.mark.usefixtures("no_complaints")
def test_data_waits_for_a_connection_made_on_another_thread(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    manager.connect()
    serial_device.wait_opened()
    heard = threading.Event()
    manager.connection.subscribe(heard.set)

    class Slow(Teller):
        def connection_made(self, transport) -> None:
            serial_device.send(b"x")
            assert heard.wait(PATIENCE)
            story.tell("still made", threading.current_thread())
            super().connection_made(transport)

    with attach(manager, Factory(story, Slow)):
        story.wait_for("data", 1, b"x")
    assert story.told == [
        ("still made", threading.current_thread()),
        ("made", 1),
        ("data", 1, b"x"),
        ("lost", 1, None),
    ]


@pytest.mark.usefixtures("no_complaints")
def test_a_stopped_protocol_receives_no_more_and_the_line_stays(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    manager.connect()
    heard: list[bytes] = []
    more = threading.Event()

    def hear(data: bytes) -> None:
        heard.append(data)
        more.set()

    attachment = attach(manager, Factory(story))
    _, protocol = attachment.connect()
    attachment.stop()
    attachment.stop()
    assert story.told == [("made", 1), ("lost", 1, None)]
    assert attachment.protocol is None
    assert manager.is_connected
    manager.connection.subscribe(hear)
    serial_device.wait_opened()
    serial_device.send(b"x")
    assert more.wait(PATIENCE)
    assert heard == [b"x"]
    with pytest.raises(PortError, match="is over"):
        protocol.transport.write(b"too late")
    outage(serial_device, manager)
    assert story.told == [("made", 1), ("lost", 1, None)]
    assert serial_device.received == b""


@pytest.mark.usefixtures("no_complaints")
def test_stop_waits_for_the_call_under_way(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Slow(Teller):
        def data_received(self, data: bytes) -> None:
            inside.set()
            assert go_on.wait(PATIENCE)
            super().data_received(data)

    manager.connect()
    factory = Factory(story, Slow)
    attachment = attach(manager, factory)
    serial_device.wait_opened()
    serial_device.send(b"x")
    assert inside.wait(PATIENCE)
    stopping = threading.Thread(target=attachment.stop)
    stopping.start()
    while attachment.protocol is not None:
        time.sleep(0.001)
    assert stopping.is_alive()
    assert story.told == [("made", 1)]
    go_on.set()
    stopping.join(PATIENCE)
    assert story.told == [("made", 1), ("data", 1, b"x"), ("lost", 1, None)]
    assert factory.made[0].threads[-1].name.startswith("cnxman listener")  # by the thread that was inside


@pytest.mark.usefixtures("no_complaints")
def test_stopped_from_within_the_protocol(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    class Stops(Teller):
        def data_received(self, data: bytes) -> None:
            attachment.stop()
            super().data_received(data)

    attachment = attach(manager, Factory(story, Stops))
    manager.connect()
    serial_device.wait_opened()
    serial_device.send(b"x")
    story.wait_for("lost", 1, None)
    assert story.told == [("made", 1), ("data", 1, b"x"), ("lost", 1, None)]
    assert manager.is_connected


@pytest.mark.usefixtures("no_complaints")
def test_stopped_by_the_factory_there_is_no_protocol(manager: ConnectionManager, story: Story) -> None:
    def stop_then_make() -> Teller:
        attachment.stop()
        story.tell("asked")
        return Teller(story, 1)

    attachment = attach(manager, stop_then_make)
    manager.connect()
    story.wait_for("asked")
    manager.disconnect()
    assert story.told == ["asked"]


# -- closing --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_complaints")
@pytest.mark.parametrize("where", ["connection_made", "data_received", "connection_lost", "elsewhere"])
def test_a_transport_closes_the_line_for_good(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story, where: str
) -> None:
    class Closes(Teller):
        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            if where == "connection_made":
                transport.close()
                story.tell("closed")

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if where == "data_received":
                self.transport.close()
                story.tell("closed")

        def connection_lost(self, exc) -> None:
            super().connection_lost(exc)
            if where == "connection_lost":
                self.transport.close()
                self.transport.close()
                story.tell("closed")

    down = threading.Event()
    manager.subscribe(lambda state: down.set() if state == "disconnected" else None)
    attachment = attach(manager, Factory(story, Closes))
    manager.connect()
    story.wait_for("made", 1)
    if where != "connection_made":
        serial_device.wait_opened()
        serial_device.send(b"x")
        story.wait_for("data", 1, b"x")
    if where == "connection_lost":
        serial_device.unplug()
    elif where == "elsewhere":
        attachment.protocol.transport.close()
        story.tell("closed")
    assert down.wait(PATIENCE)
    serial_device.wait_closed()
    story.wait_for("closed")
    story.wait(lambda told: any(tell[0] == "lost" for tell in told))
    if where == "connection_lost":
        assert [tell[0] for tell in story.told[:-1]] == ["made", "data", "lost"]
        assert isinstance(story.told[2][2], PortError)
    else:
        assert [tell for tell in story.told if tell[0] == "lost"] == [("lost", 1, None)]
        if where != "elsewhere":
            assert story.told[-2:] == ["closed", ("lost", 1, None)]  # not before it has returned
    assert manager.state == "disconnected"


@pytest.mark.usefixtures("no_complaints")
def test_connection_made_may_close_the_line_while_data_comes_in(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    manager.connect()
    serial_device.wait_opened()
    heard = threading.Event()
    manager.connection.subscribe(heard.set)

    class Closes(Teller):
        def connection_made(self, transport) -> None:
            serial_device.send(b"x")
            assert heard.wait(PATIENCE)  # the listener is about to give us the data
            super().connection_made(transport)
            began = time.monotonic()
            transport.close()
            story.tell("promptly", time.monotonic() - began < 3)

    attachment = attach(manager, Factory(story, Closes))
    assert story.told == [("made", 1), ("promptly", True), ("lost", 1, None)]
    assert attachment.protocol is None
    with pytest.raises(PortError, match="the manager is disconnected"):
        attachment.connect()


@pytest.mark.usefixtures("no_complaints")
def test_a_farewell_goes_out_when_the_protocol_is_stopped(
    serial_device: SimulatedDevice, manager: ConnectionManager
) -> None:
    class Polite(LineReader):
        def connection_lost(self, exc) -> None:
            self.write_line("bye")
            super().connection_lost(exc)

    manager.connect()
    with attach(manager, Polite):
        pass
    assert serial_device.receive(until=b"\r\n") == b"bye\r\n"


# -- what is lost ---------------------------------------------------------------------------------------------


def test_an_old_transport_never_writes_into_a_new_opening(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    factory = Factory(story)
    attach(manager, factory)
    manager.connect()
    story.wait_for("made", 1)
    old = factory.made[0].transport
    assert old.alive
    assert repr(old) == f"<Transport of {serial_device.port}, alive>"
    outage(serial_device, manager)
    story.wait_for("made", 2)
    assert not old.alive
    assert repr(old) == f"<Transport of {serial_device.port}, over>"
    with pytest.raises(serial.SerialException, match="this opening of the port is over"):
        old.write(b"old")
    factory.made[1].transport.write(b"new")
    assert serial_device.receive(3) == b"new"
    assert serial_device.received == b"new"


def test_writing_without_a_line_raises_what_code_for_pyserial_expects(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    attachment = attach(manager, Factory(story))
    with pytest.raises(serial.SerialException, match="is not connected") as raised:
        attachment.write(b"x")
    assert isinstance(raised.value, ConnectionException)
    assert isinstance(raised.value, OSError)
    manager.connect()
    assert attachment.write(b"hello") == 5
    assert serial_device.receive(5) == b"hello"
    transport, _ = attachment.connect()
    with pytest.raises(TypeError):
        transport.write("text")


def test_a_port_error_survives_copy_and_pickle() -> None:
    error = PortError("it was lost", OSError(5, "Input/output error"))
    for other in (error, copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert str(other) == "it was lost"
        assert other.message == "it was lost"
        assert other.strerror == "it was lost"
        assert other.errno == 5
        assert isinstance(other.inner, OSError)
        assert other.__cause__ is other.inner


def test_the_port_of_pyserial_is_at_hand(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    with manager, attach(manager, Factory(story)) as protocol:
        assert isinstance(protocol.transport.serial, serial.Serial)
        assert protocol.transport.serial.port == serial_device.port
        assert protocol.transport.serial.baudrate == 9600


# -- what protocols raise -------------------------------------------------------------------------------------


def test_a_protocol_that_raises_is_lost_and_another_one_takes_over(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story, complaints
) -> None:
    noise = ValueError("no number")

    class Fragile(Teller):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if data == b"noise":
                raise noise

    heard: list[bytes] = []
    attachment = attach(manager, Factory(story, Fragile))
    manager.connection.subscribe(lambda data: heard.append(data))
    manager.connect()
    serial_device.wait_opened()
    serial_device.send(b"noise")
    story.wait_for("made", 2)
    serial_device.send(b"fine")
    story.wait_for("data", 2, b"fine")
    assert story.told == [
        ("made", 1),
        ("data", 1, b"noise"),
        ("lost", 1, noise),
        ("made", 2),
        ("data", 2, b"fine"),
    ]
    assert heard == [b"noise", b"fine"]
    assert attachment.connect()[1].number == 2
    (record,) = complaints()
    assert record.exc_info[1] is noise
    assert "Fragile.data_received raised" in record.getMessage()
    assert record.port == serial_device.port
    outage(serial_device, manager)
    story.wait_for("made", 3)
    assert [tell[1] for tell in story.told if tell[0] == "lost"] == [1, 2]


def test_a_protocol_that_raises_and_is_stopped_at_once_has_no_successor(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story, complaints
) -> None:
    class Fragile(Teller):
        def data_received(self, data: bytes) -> None:
            raise ValueError(data)

        def connection_lost(self, exc) -> None:
            attachment.stop()
            super().connection_lost(exc)

    factory = Factory(story, Fragile)
    attachment = attach(manager, factory)
    manager.connect()
    serial_device.wait_opened()
    serial_device.send(b"x")
    story.wait(lambda told: len(told) == 2)
    manager.disconnect()
    assert [tell[:2] for tell in story.told] == [("made", 1), ("lost", 1)]
    assert isinstance(story.told[1][2], ValueError)
    assert len(factory.made) == 1


def test_a_protocol_that_closes_and_then_raises_was_closed(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story, complaints
) -> None:
    class Fragile(Teller):
        def data_received(self, data: bytes) -> None:
            self.transport.close()
            raise ValueError(data)

    factory = Factory(story, Fragile)
    attach(manager, factory)
    manager.connect()
    serial_device.wait_opened()
    serial_device.send(b"x")
    story.wait_for("lost", 1, None)
    serial_device.wait_closed()
    manager.disconnect()
    assert story.told == [("made", 1), ("lost", 1, None)]
    assert len(factory.made) == 1
    assert len(complaints()) == 1


def test_a_protocol_that_closes_and_then_raises_has_no_successor_though_the_line_still_stands(
    serial_device: SimulatedDevice, story: Story, complaints
) -> None:
    class Prepares(SerialConnection):
        def prepare(self) -> bool:  # the manager is in its attempt, so that close() has to wait for it
            return over.wait(PATIENCE)

    class Fragile(Teller):
        def data_received(self, data: bytes) -> None:
            self.transport.close()
            raise ValueError(data)

        def connection_lost(self, exc) -> None:
            super().connection_lost(exc)
            threading.Timer(0.05, over.set).start()

    over = threading.Event()
    manager = ConnectionManager(Prepares(serial_device.port))
    factory = Factory(story, Fragile)
    attach(manager, factory)
    connecting = threading.Thread(target=manager.connect)
    connecting.start()
    serial_device.wait_opened()
    serial_device.send(b"x")
    connecting.join()
    serial_device.wait_closed()
    assert manager.state == "disconnected"
    assert story.told == [("made", 1), ("lost", 1, None)]
    assert len(factory.made) == 1
    manager.teardown()


@pytest.mark.usefixtures("no_complaints")
def test_a_line_that_is_closed_while_the_factory_works_has_no_protocol(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    def hang_up() -> Teller:
        manager.disconnect()
        return Teller(story, 1)

    manager.connect()
    attachment = attach(manager, hang_up)
    assert attachment.protocol is None
    assert story.told == []


def test_a_connection_made_that_raises_ends_the_protocol_until_the_next_opening(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story, complaints
) -> None:
    refusal = RuntimeError("not this one")

    class Refuses(Teller):
        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            if self.number == 1:
                raise refusal

    factory = Factory(story, Refuses)
    manager.connect()
    attachment = attach(manager, factory)
    assert story.told == [("made", 1), ("lost", 1, refusal)]
    with pytest.raises(PortError, match="its protocol's connection_made raised"):
        attachment.connect()
    serial_device.wait_opened()
    serial_device.send(b"x")
    serial_device.drain()
    outage(serial_device, manager)
    story.wait_for("made", 2)
    serial_device.send(b"y")
    story.wait_for("data", 2, b"y")
    assert story.told == [("made", 1), ("lost", 1, refusal), ("made", 2), ("data", 2, b"y")]
    (record,) = complaints()
    assert "Refuses.connection_made raised" in record.getMessage()
    assert attachment.connect()[1] is factory.made[1]


def test_what_connection_lost_raises_is_logged_unless_it_is_the_reason(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story, complaints
) -> None:
    class Raises(Teller):
        def connection_lost(self, exc) -> None:
            super().connection_lost(exc)
            if exc is not None:
                raise exc
            raise RuntimeError("on top of it")

    attach(manager, Factory(story, Raises))
    manager.connect()
    serial_device.wait_opened()
    outage(serial_device, manager)
    story.wait_for("made", 2)
    assert complaints() == []
    manager.disconnect()
    (record,) = complaints()
    assert "Raises.connection_lost raised" in record.getMessage()
    assert str(record.exc_info[1]) == "on top of it"


def test_what_the_factory_raises_comes_out_of_attach(manager: ConnectionManager) -> None:
    def refuse() -> Teller:
        raise RuntimeError("no protocol today")

    manager.connect()
    with pytest.raises(RuntimeError, match="no protocol today"):
        attach(manager, refuse)
    assert not subscriptions(manager.connection)


def test_what_the_factory_raises_later_is_logged_and_it_is_asked_again(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story, complaints
) -> None:
    factory = Factory(story)

    def refuse_once() -> Teller:
        if not story.told:
            story.tell("refused")
            raise RuntimeError("no protocol today")
        return factory()

    attachment = attach(manager, refuse_once)
    manager.connect()
    serial_device.wait_opened()
    story.wait_for("refused")
    serial_device.send(b"nobody hears this")
    serial_device.drain()
    outage(serial_device, manager)
    story.wait_for("made", 1)
    assert story.told == ["refused", ("made", 1)]
    (record,) = complaints()
    assert str(record.exc_info[1]) == "no protocol today"
    assert attachment.connect()[1] is factory.made[0]


def test_a_protocol_that_raises_with_no_other_made_leaves_none(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    class Fragile(Teller):
        def data_received(self, data: bytes) -> None:
            raise ValueError(data)

    factory = Factory(story, Fragile)

    def make_one() -> Teller:
        if factory.made:
            story.tell("refused")
            raise RuntimeError("no other")
        return factory()

    attachment = attach(manager, make_one)
    manager.connect()
    serial_device.wait_opened()
    serial_device.send(b"x")
    story.wait_for("refused")
    assert attachment.protocol is None
    with pytest.raises(PortError, match="there is no protocol for it"):
        attachment.connect(0.05)


@pytest.mark.usefixtures("no_complaints")
def test_ctrl_c_while_attaching_takes_the_protocol_off_again(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    class Interrupted(Teller):
        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            raise KeyboardInterrupt

    manager.connect()
    with pytest.raises(KeyboardInterrupt):
        attach(manager, Factory(story, Interrupted))
    assert story.told == [("made", 1), ("lost", 1, None)]


# -- connect --------------------------------------------------------------------------------------------------


def test_connect_waits_for_the_port(serial_device: SimulatedDevice, manager: ConnectionManager, story: Story) -> None:
    serial_device.unplug()
    manager.connect()
    attachment = attach(manager, Factory(story))
    with pytest.raises(PortError, match="the port is not open") as raised:
        attachment.connect(timeout=0.05)
    assert raised.value.inner is manager.last_error
    plugging = threading.Timer(0.05, serial_device.plug)
    plugging.start()
    transport, protocol = attachment.connect(PATIENCE)
    plugging.join()
    assert transport.alive
    assert protocol.number == 1
    transport.write(b"x")
    assert serial_device.receive(1) == b"x"


def test_connect_does_not_wait_for_what_will_not_come(manager: ConnectionManager, story: Story) -> None:
    attachment = attach(manager, Factory(story))
    with pytest.raises(PortError, match="never asked to connect"):
        attachment.connect()
    manager.disconnect()
    attachment.stop()
    with pytest.raises(PortError, match="it was stopped"):
        attachment.connect()
    with pytest.raises(PortError, match="never asked to connect"), attach(manager, Factory(story)):
        pass
    assert not subscriptions(manager.connection)
    manager.teardown()
    with pytest.raises(PortError, match="torn down"):
        attach(manager, Factory(story)).connect()


def test_connect_waits_for_connection_made(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    class Slow(Teller):
        def connection_made(self, transport) -> None:
            assert manager.wait_until_connected() or connected.wait(PATIENCE)
            story.tell("waiting", waiting.wait(PATIENCE))
            super().connection_made(transport)

    connected, waiting = threading.Event(), threading.Event()
    manager.subscribe(lambda state: connected.set() if state == "connected" else None)
    attachment = attach(manager, Factory(story, Slow))
    manager.connect()
    threading.Timer(0.05, waiting.set).start()
    attachment.connect()
    assert story.told == [("waiting", True), ("made", 1)]


@pytest.mark.parametrize("how", ["stop", "teardown", "connection_made"])
def test_connect_ends_when_waiting_becomes_vain(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story, how: str
) -> None:
    class Refuses(Teller):
        def connection_made(self, transport) -> None:
            raise RuntimeError("not this one")

    serial_device.unplug()
    manager.connect()
    attachment = attach(manager, Factory(story, Refuses))
    ends = {"stop": attachment.stop, "teardown": manager.teardown, "connection_made": serial_device.plug}
    reasons = {"stop": "it was stopped", "teardown": "torn down", "connection_made": "connection_made raised"}
    threading.Timer(0.05, ends[how]).start()
    with pytest.raises(PortError, match=reasons[how]):
        attachment.connect()


def test_connect_ends_when_the_manager_gives_up(serial_device: SimulatedDevice, story: Story) -> None:
    serial_device.unplug()
    manager = ConnectionManager(SerialConnection(serial_device.port), retry=RetryPolicy(0.2, 1, 0.2, 0, attempts=2))
    attachment = attach(manager, Factory(story))
    manager.connect()
    with pytest.raises(PortError, match="the manager is disconnected") as raised:
        attachment.connect()
    assert "no such port" in str(raised.value.inner)
    manager.teardown()


def test_connect_does_not_wait_on_a_thread_of_the_library_s(manager: ConnectionManager, story: Story) -> None:
    other = attach(manager, Factory(Story()))

    class Asks(Teller):
        def connection_made(self, transport) -> None:
            try:
                self.story.tell("got", attachment.connect())
            except PortError as error:
                self.story.tell("refused", str(error))
            super().connection_made(transport)

    attachment = attach(manager, Factory(story, Asks))
    manager.connect()
    story.wait_for("made", 1)
    assert story.told[0] == (
        "refused",
        f"no protocol on {manager.connection.port}: the port is not open, or there is no protocol for it",
    )
    assert other.connect(PATIENCE)


# -- receivers that hang --------------------------------------------------------------------------------------


def test_a_protocol_that_hangs_is_notified_of_its_end_when_it_returns(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnxman.serial.LONGEST_DELIVERY", 0.05)
    inside, go_on = threading.Event(), threading.Event()

    class Hangs(Teller):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.number == 1:
                inside.set()
                assert go_on.wait(PATIENCE)
                with pytest.raises(PortError, match="is over"):
                    self.transport.write(b"into the new opening")

    attach(manager, Factory(story, Hangs))
    manager.connect()
    serial_device.wait_opened()
    serial_device.send(b"x")
    assert inside.wait(PATIENCE)
    manager.connection.raise_alarm()  # somebody else has noticed that it hangs
    story.wait_for("made", 2)
    serial_device.wait_opened()
    serial_device.send(b"y")
    story.wait_for("data", 2, b"y")
    assert story.told == [("made", 1), ("data", 1, b"x"), ("made", 2), ("data", 2, b"y")]
    go_on.set()
    story.wait_for("lost", 1, None)
    manager.disconnect()
    assert story.told[4:] == [("lost", 1, None), ("lost", 2, None)]
    assert serial_device.received == b""


def test_the_end_is_sent_though_another_receiver_hangs(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnxman.serial.LONGEST_DELIVERY", 0.05)
    inside, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        inside.set()
        assert go_on.wait(PATIENCE)

    attach(manager, Factory(story))
    manager.connection.subscribe(hang)
    manager.connect()
    serial_device.wait_opened()
    serial_device.send(b"x")
    assert inside.wait(PATIENCE)
    (listener,) = [thread for thread in threading.enumerate() if "cnxman listener" in thread.name]
    manager.disconnect()
    assert story.told == [("made", 1), ("data", 1, b"x"), ("lost", 1, None)]
    go_on.set()
    listener.join(PATIENCE)


def test_what_an_abandoned_listener_sends_is_not_received(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    attach(manager, Factory(story))
    manager.connect()
    serial_device.wait_opened()
    # On this thread, which is not the listener of this opening.
    signals.send(manager.connection, SerialConnection.Signals.DATA_RECEIVED, data=b"late")
    signals.send(manager.connection, SerialConnection.Signals.CLOSED, error=None)
    serial_device.send(b"x")
    story.wait_for("data", 1, b"x")
    assert story.told == [("made", 1), ("data", 1, b"x")]


# -- the rest -------------------------------------------------------------------------------------------------


def test_nothing_is_kept_alive(serial_device: SimulatedDevice, story: Story, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "cnxman")  # records of a loss hold its traceback, and with it all the rest

    class Lines(LineReader):
        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            alive.append(weakref.ref(self))
            story.tell("made")

        def handle_line(self, line: str) -> None:
            story.tell(line)

    alive: list[weakref.ref[object]] = []
    manager = ConnectionManager(SerialConnection(serial_device.port), retry=QUICK)
    attachment = attach(manager, Lines)
    manager.connect()
    serial_device.wait_opened()
    outage(serial_device, manager)
    story.wait(lambda told: told == ["made", "made"])
    gc.collect()
    assert [reference() is not None for reference in alive] == [False, True]  # though the reason is still told
    assert manager.connection.last_error is None
    alive += [weakref.ref(attachment), weakref.ref(manager), weakref.ref(manager.connection)]
    manager.teardown()
    del attachment, manager
    gc.collect()
    assert [reference() for reference in alive] == [None] * 5


def test_an_attachment_need_not_be_held(
    serial_device: SimulatedDevice, manager: ConnectionManager, story: Story
) -> None:
    attach(manager, Factory(story))
    gc.collect()
    manager.connect()
    story.wait_for("made", 1)


def test_what_can_t_be_attached_is_refused(manager: ConnectionManager) -> None:
    class Telegraph(Connection):
        def try_connect(self) -> bool:
            return True

        def disconnect(self) -> None: ...

        def teardown(self) -> None: ...

    with pytest.raises(TypeError, match="manager must be a ConnectionManager, not <SerialConnection"):
        attach(manager.connection, LineReader)
    with pytest.raises(TypeError, match="must be a SerialConnection, not <"):
        attach(ConnectionManager(Telegraph()), LineReader)
    with pytest.raises(TypeError, match="protocol_factory must be callable"):
        attach(manager, LineReader())
    assert repr(attach(manager, LineReader)) == f"<Attachment on {manager.connection.port}: None>"
