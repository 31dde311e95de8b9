"""Frames as signals: a framer on a connection, through an outage."""

import threading

import pytest
from pydispatch import dispatcher

from cnxman import ConnectionManager, RetryPolicy, SerialConnection
from cnxman.framing import FixedLength, Lines
from cnxman.testing import SimulatedDevice

FRAME = SerialConnection.Signals.FRAME_RECEIVED


class Ear:
    """Collects frames, and waits for so many of them."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.framers: list[object] = []
        self.changed = threading.Condition()

    def hear(self, frame: bytes, framer: object) -> None:
        with self.changed:
            self.frames.append(frame)
            self.framers.append(framer)
            self.changed.notify_all()

    def wait_for(self, count: int) -> list[bytes]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.frames) >= count, 5), self.frames
            return list(self.frames)


@pytest.fixture
def ear() -> Ear:
    return Ear()


def test_each_frame_is_one_signal_and_half_a_one_does_not_outlive_an_outage(
    serial_device: SimulatedDevice, ear: Ear
) -> None:
    connection = SerialConnection(serial_device.port)
    framer = Lines()
    connection.add_framer(framer)
    dispatcher.connect(ear.hear, signal=FRAME, sender=connection)
    with ConnectionManager(connection, retry=RetryPolicy(0.01, 1, 0.01, 0)) as manager:
        serial_device.send(b"one\ntwo\nhal")
        assert ear.wait_for(2) == [b"one", b"two"]
        serial_device.drain()
        serial_device.unplug()
        serial_device.plug()
        serial_device.wait_opened()
        assert manager.wait_until_connected(5)
        serial_device.send(b"f\nthree\n")
        assert ear.wait_for(4) == [b"one", b"two", b"f", b"three"]
    assert set(ear.framers) == {framer}


def test_two_framers_on_one_connection_are_named_and_end_independently(
    serial_device: SimulatedDevice, ear: Ear
) -> None:
    connection = SerialConnection(serial_device.port)
    lines, pairs = Lines(), FixedLength(2)
    end_lines = connection.add_framer(lines)
    connection.add_framer(pairs)
    connection.subscribe(ear.hear, FRAME)
    assert connection.try_connect()
    serial_device.wait_opened()
    serial_device.send(b"abc\n")
    ear.wait_for(3)
    assert sorted(zip(ear.frames, map(id, ear.framers), strict=True)) == sorted(
        [(b"abc", id(lines)), (b"ab", id(pairs)), (b"c\n", id(pairs))]
    )
    end_lines()
    end_lines()
    serial_device.send(b"de")
    assert ear.wait_for(4)[3] == b"de"
    connection.disconnect()


def test_a_receiver_that_raises_loses_no_further_frame_of_the_same_chunk(
    serial_device: SimulatedDevice, ear: Ear, caplog: pytest.LogCaptureFixture
) -> None:
    connection = SerialConnection(serial_device.port)
    connection.add_framer(Lines())

    def faulty() -> None:
        raise LookupError("on purpose")

    connection.subscribe(faulty, FRAME)
    connection.subscribe(ear.hear, FRAME)
    assert connection.try_connect()
    serial_device.wait_opened()
    serial_device.send(b"1\n2\n3\n")
    assert ear.wait_for(3) == [b"1", b"2", b"3"]
    connection.disconnect()
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [LookupError] * 3


def test_a_receiver_that_disconnects_receives_no_further_frame_once_it_was_abandoned(
    serial_device: SimulatedDevice, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnxman.serial.LONGEST_DELIVERY", 0.05)
    connection = SerialConnection(serial_device.port)
    connection.add_framer(Lines())
    stalled, go_on, over = threading.Event(), threading.Event(), threading.Event()

    def stall(frame: bytes, framer: object) -> None:
        ear.hear(frame, framer)
        stalled.set()
        go_on.wait(60)
        over.set()

    connection.subscribe(stall, FRAME)
    assert connection.try_connect()
    serial_device.wait_opened()
    serial_device.send(b"1\n2\n3\n")
    assert stalled.wait(60)
    connection.disconnect()
    threads = [t for t in threading.enumerate() if t.name.startswith("cnxman listener")]
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert over.is_set()
    assert ear.frames == [b"1"]


@pytest.mark.parametrize("no_framer", [None, b"\n", object(), Lines])
def test_what_is_no_framer_is_refused(no_framer: object) -> None:
    with pytest.raises(TypeError, match="framer"):
        SerialConnection("/dev/ttyS0").add_framer(no_framer)  # type: ignore[arg-type]
