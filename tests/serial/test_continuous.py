"""Frames and questions that go on in spite of outages: `frames` and `query` of managers, framers with a receiver."""

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cnxman import Connection, ConnectionException, ConnectionManager, Lines, RetryPolicy, SerialConnection, basics
from cnxman.testing import SimulatedDevice
from tests.kit.lines import BOUND, wait_until
from tests.kit.managers import Caller
from tests.kit.probe import subscriptions

QUICK = RetryPolicy.fixed(0.01)
ANSWERS = {b"*IDN?\n": b"ACME,1000\n"}


@pytest.fixture
def device() -> Iterator[SimulatedDevice]:
    with SimulatedDevice(ANSWERS) as device:
        yield device


@pytest.fixture
def manager(device: SimulatedDevice) -> Iterator[ConnectionManager]:
    with ConnectionManager(SerialConnection(device.port), retry=QUICK) as manager:
        yield manager


def test_frames_go_on_after_an_outage_and_glue_nothing(device: SimulatedDevice, manager: ConnectionManager) -> None:
    lines = manager.frames(Lines(encoding="ascii"), timeout=BOUND)
    for number in range(3):
        device.send(b"whole\nhalf a li")
        assert next(lines) == "whole"
        wait_until(manager.connection.is_drained, "the half has come")  # type: ignore[attr-defined]
        device.unplug()
        device.plug()
        wait_until(lambda number=number: manager.statistics.connects == number + 2, "it is back")
    device.send(b"last\n")
    assert next(lines) == "last"


def test_frames_that_do_not_come_are_a_time_out_and_can_be_waited_for_again(
    device: SimulatedDevice, manager: ConnectionManager
) -> None:
    lines = manager.frames(Lines(), timeout=0.01)
    with pytest.raises(TimeoutError, match=r"no whole frame came within 0.01 s$"):
        next(lines)
    device.unplug()
    wait_until(lambda: not manager.is_connected, "it is lost")
    with pytest.raises(TimeoutError, match="is not connected"):
        next(lines)


@pytest.mark.parametrize("end", ["disconnect", "teardown"])
def test_frames_end_with_the_manager(manager: ConnectionManager, end: str) -> None:
    lines = manager.frames(Lines())
    waiting = Caller(lambda: list(lines))
    getattr(manager, end)()
    assert waiting.join() == []
    assert list(manager.frames(Lines())) == []


def test_frames_raise_when_the_manager_gives_up(device: SimulatedDevice) -> None:
    connection = SerialConnection(device.port)
    with ConnectionManager(connection, retry=RetryPolicy.fixed(0, attempts=1)) as manager:
        lines = manager.frames(Lines())
        device.unplug()
        with pytest.raises(ConnectionException, match="cannot open"):
            next(lines)


def test_frames_that_are_dropped_hold_up_nobody(manager: ConnectionManager) -> None:
    before = subscriptions(manager), subscriptions(manager.connection)
    lines = manager.frames(Lines())
    assert (subscriptions(manager), subscriptions(manager.connection)) != before
    del lines
    gc.collect()
    assert subscriptions(manager) == before[0]


def test_a_connections_own_frames_end_when_they_are_closed(device: SimulatedDevice) -> None:
    connection = SerialConnection(device.port)
    assert connection.try_connect()
    with connection.frames(Lines()) as lines:
        waiting = Caller(lambda: list(lines))
        lines.close()
        assert waiting.join() == []
    connection.teardown()


def test_query_waits_for_a_line_that_is_down_and_asks_again(
    device: SimulatedDevice, manager: ConnectionManager
) -> None:
    assert manager.query(b"*IDN?\n") == b"ACME,1000\n"
    device.unplug()
    wait_until(lambda: not manager.is_connected, "it is lost")
    asking = Caller(lambda: manager.query(b"*IDN?\n", Lines(encoding="ascii"), patience=BOUND))
    device.plug()
    assert asking.join() == "ACME,1000"


def test_query_of_a_device_that_is_pulled_out_before_it_answers_is_asked_again() -> None:
    questions: list[bytes] = []
    asked = threading.Event()

    def answer(question: bytes) -> bytes | None:
        questions.append(question)
        asked.set()
        return b"yes\n" if len(questions) > 1 else None

    with (
        SimulatedDevice(answer) as device,
        ConnectionManager(SerialConnection(device.port), retry=QUICK) as manager,
    ):
        asking = Caller(lambda: manager.query(b"ready?\n", timeout=BOUND, patience=BOUND))
        assert asked.wait(BOUND)
        device.unplug()
        device.plug()
        assert asking.join() == b"yes\n"
    assert questions == [b"ready?\n"] * 2


def test_query_that_meets_the_loss_before_the_listener_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basics, "LOSS_NOTICED_WITHIN", BOUND)
    held, proceed, failed = threading.Event(), threading.Event(), threading.Event()

    class Asked(SerialConnection):
        def query(self, *arguments: Any, **options: Any) -> Any:
            try:
                return super().query(*arguments, **options)
            except ConnectionException:
                failed.set()
                raise

    def hold(data: bytes) -> None:  # the loss is reported when this has returned
        held.set()
        proceed.wait(BOUND)

    with SimulatedDevice({b"*IDN?\n": b"ACME,1000\n"}) as device:
        connection = Asked(device.port)
        with ConnectionManager(connection, retry=QUICK) as manager:
            undo = connection.subscribe(hold)
            device.send(b"x")
            assert held.wait(BOUND)
            undo()
            device.unplug()
            asking = Caller(lambda: manager.query(b"*IDN?\n", timeout=BOUND))
            try:
                assert failed.wait(BOUND)
            finally:
                proceed.set()
            device.plug()
            assert asking.join() == b"ACME,1000\n"


def test_query_in_vain_raises_one_kind_of_exception(device: SimulatedDevice, manager: ConnectionManager) -> None:
    with pytest.raises(ConnectionException, match="no answer to b'what") as silent:
        manager.query(b"what?\n", timeout=0.01)
    assert isinstance(silent.value.inner, TimeoutError)
    device.unplug()
    wait_until(lambda: not manager.is_connected, "it is lost")
    with pytest.raises(ConnectionException, match=r"was not connected within 0.01 s: .*plugged") as absent:
        manager.query(b"*IDN?\n", patience=0.01)
    assert isinstance(absent.value.inner, TimeoutError)
    manager.disconnect()
    with pytest.raises(ConnectionException, match="is not kept up: the manager is disconnected"):
        manager.query(b"*IDN?\n")


def test_after_a_query_that_failed_the_manager_is_not_connected(
    device: SimulatedDevice, manager: ConnectionManager
) -> None:
    """What the caller was given is what the caller then sees."""
    connection = manager.connection
    assert isinstance(connection, SerialConnection)
    for number in range(20):
        asking = Caller(lambda: (connection.query(b"silence\n", timeout=BOUND), manager.is_connected))
        device.receive(until=b"silence\n")
        connects = manager.statistics.connects
        seen: list[bool] = []

        def note(error: ConnectionException, connects: int = connects, seen: list[bool] = seen) -> None:
            seen.append(manager.is_connected and manager.statistics.connects == connects)

        undo = connection.subscribe(note, SerialConnection.Signals.CLOSED)
        device.unplug()
        with pytest.raises(ConnectionException):
            asking.join()
        undo()
        assert seen == [False]
        device.plug()
        wait_until(lambda number=number: manager.statistics.connects == number + 2, "it is back")


def test_a_line_that_is_not_connected_says_why(device: SimulatedDevice, manager: ConnectionManager) -> None:
    device.unplug()
    wait_until(lambda: not manager.is_connected, "it is lost")
    with pytest.raises(ConnectionException, match=r"is not connected: .*(lost|cannot open)"):
        manager.connection.write(b"x")  # type: ignore[attr-defined]


def test_a_connection_that_has_neither_is_refused() -> None:
    class Bare(Connection):
        def try_connect(self) -> bool:
            return True

        def disconnect(self) -> None: ...

        def teardown(self) -> None: ...

    with ConnectionManager(Bare()) as manager:
        with pytest.raises(TypeError, match="has no method frames"):
            manager.frames(Lines())
        with pytest.raises(TypeError, match="has no method query"):
            manager.query(b"?")


def test_a_framers_own_receiver_gets_its_frames(
    device: SimulatedDevice, manager: ConnectionManager, caplog: pytest.LogCaptureFixture
) -> None:
    connection = manager.connection
    assert isinstance(connection, SerialConnection)
    got: list[str] = []

    def receive(line: str) -> None:
        got.append(line)
        if line == "bad":
            raise ValueError("a bad line")

    end = connection.add_framer(Lines(encoding="ascii"), receive)
    device.send(b"one\nbad\nthree\n")
    wait_until(lambda: got == ["one", "bad", "three"], "all lines have come")
    wait_until(lambda: "a receiver of frames, raised" in caplog.text, "it is logged")
    end()
    with pytest.raises(TypeError, match="a receiver must be callable"):
        connection.add_framer(Lines(), 7)  # type: ignore[arg-type]


def test_disconnecting_the_connection_disconnects_its_manager(
    device: SimulatedDevice, manager: ConnectionManager
) -> None:
    manager.connection.disconnect()
    wait_until(lambda: manager.state == "disconnected", "the manager knows")
    manager.connect()
    assert manager.is_connected


@pytest.mark.parametrize(("encoding", "kind"), [("no such", ValueError), ("base64", ValueError), (7, TypeError)])
def test_an_encoding_that_makes_no_sense_is_refused(encoding: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="encoding: "):
        Lines(encoding=encoding)  # type: ignore[call-overload]
