"""Lines in asyncio, with outages, slow consumers, cancelled awaits, and loops that are closed at bad moments."""

import asyncio
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from enum import Enum
from typing import TypeVar

import pytest
import serial

from cnxman import Connection, ConnectionException, ConnectionManager, ConnectionState, RetryPolicy, SerialConnection
from cnxman.aio import AsyncConnection, AsyncManager, AsyncStream, SerialTransport, attach
from cnxman.framing import Lines
from cnxman.testing import SimulatedDevice
from tests.kit.managers import Script
from tests.kit.probe import is_writing, subscriptions

try:
    import uvloop
except ImportError:
    uvloop = None
else:
    uvloop.new_event_loop().close()  # the first one of a process keeps some descriptors

AT_ONCE = RetryPolicy(0.01, 1, 0.01, 0)
SOON = 60.0  # seconds that something may take which should be done in no time
_T = TypeVar("_T")


def kept_up(device: SimulatedDevice, buffer_size: int = 2**20) -> AsyncManager:
    manager = ConnectionManager(SerialConnection(device.port, buffer_size=buffer_size), retry=AT_ONCE)
    return AsyncManager(manager, in_loop=Way.in_loop)


async def soon(awaited: Awaitable[_T]) -> _T:
    return await asyncio.wait_for(awaited, SOON)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not true():
            await asyncio.sleep(0.001)


async def opened(device: SimulatedDevice) -> None:
    await asyncio.to_thread(device.wait_opened, SOON)


async def outage(device: SimulatedDevice, line: AsyncManager) -> None:
    back = line.next_connect()
    await asyncio.to_thread(device.unplug)
    device.plug()
    await soon(back)
    await opened(device)


async def read(stream: AsyncStream, size: int) -> bytes:
    data = b""
    async with asyncio.timeout(SOON):
        while len(data) < size:
            data += await anext(stream)
    return data


def asyncio_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("cnxman aio")]


@pytest.fixture(autouse=True)
def no_thread_is_left(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    caplog.get_records("call").clear()  # what is logged holds errors, which hold the connections that they came from
    end = time.monotonic() + SOON
    while asyncio_threads():
        assert time.monotonic() < end, asyncio_threads()
        time.sleep(0.01)


def run_with_uvloop(main: Coroutine[object, object, _T]) -> _T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


class Way:
    """Where the bytes of a test are read, and in which loop: see `way`."""

    in_loop = True


thread_only = pytest.mark.parametrize("way", ["thread"], indirect=True)
in_loop_only = pytest.mark.parametrize("way", ["selector", "uvloop"], indirect=True)


@pytest.fixture(autouse=True, params=["selector", "uvloop", "thread"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test runs with asyncio's own loop, with uvloop, and with a thread that reads for the loop."""
    name: str = request.param
    monkeypatch.setattr(Way, "in_loop", name != "thread")
    if name == "selector" and sys.platform == "win32":
        pytest.skip("the loop of Windows can't read: see the thread's way")
    if name == "uvloop":
        if uvloop is None:
            pytest.skip("uvloop is not installed")
        monkeypatch.setattr(asyncio, "run", run_with_uvloop)
        monkeypatch.setattr(asyncio, "new_event_loop", uvloop.new_event_loop)
    return name


# As users would


def test_data_and_writes_through_outages(serial_device: SimulatedDevice) -> None:
    async def main() -> list[bytes]:
        lines = []
        async with kept_up(serial_device) as line:
            await opened(serial_device)
            assert await line.write(b"START\n") == 6
            serial_device.wait_received(b"START\n", SOON)
            serial_device.send(b"1\n2\nhalf of 3")
            async for sentence in line.frames(Lines()):
                lines.append(sentence)
                if sentence == b"2":
                    await outage(serial_device, line)
                    serial_device.send(b"4\n5\nand half of 6")
                if sentence == b"5":
                    await outage(serial_device, line)
                    await line.write(b"ENOUGH?\n")
                    serial_device.wait_received(b"ENOUGH?\n", SOON)
                    serial_device.send(b"7\n")
                if sentence == b"7":
                    break
        return lines

    assert asyncio.run(main()) == [b"1", b"2", b"4", b"5", b"7"]


def test_the_first_iterator_receives_everything_since_the_opening() -> None:
    async def main() -> None:
        with SimulatedDevice({b"HELLO\n": b"welcome\n"}) as device:
            async with kept_up(device) as line:
                await line.write(b"HELLO\n")
                await asyncio.to_thread(device.wait_received, b"HELLO\n")
                await asyncio.sleep(0.05)
                chunks = aiter(line)
                assert await read(chunks, 8) == b"welcome\n"
                second = line.data()  # hears from now on
                device.send(b"x")
                assert await read(second, 1) == b"x" == await read(chunks, 1)

    asyncio.run(main())


def test_a_connection_without_recovery(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        connection = SerialConnection(serial_device.port)
        async with AsyncConnection(connection, in_loop=Way.in_loop) as line:
            await opened(serial_device)
            closed = asyncio.create_task(line.wait_closed())
            serial_device.send(b"one")
            chunks, lines = line.data(), line.frames(Lines())
            assert await read(chunks, 3) == b"one"
            serial_device.send(b"\ntwo")
            await asyncio.to_thread(serial_device.drain)
            assert await soon(anext(lines)) in (b"", b"one")
            await asyncio.to_thread(serial_device.unplug)
            assert await read(chunks, 4) == b"\ntwo"
            for stream in (chunks, chunks, lines, line.data()):
                with pytest.raises(ConnectionException, match=r"unplugged"):
                    await soon(anext(stream))
            assert "unplugged" in str(await soon(closed))
            assert await soon(line.wait_closed()) is connection.last_error
            with pytest.raises(ConnectionException):
                await line.write(b"x")
            with pytest.raises(ConnectionException, match="no such port"):
                await line.connect()
            serial_device.plug()
            again = line.next_connect()
            await line.connect()
            await soon(again)
            await opened(serial_device)
            chunks = line.data()
            serial_device.send(b"back")
            assert await read(chunks, 4) == b"back"
            closed = asyncio.create_task(line.wait_closed())
            await line.disconnect()
            assert [chunk async for chunk in chunks] == []
            assert await soon(closed) is None

    asyncio.run(main())


def test_what_a_connection_received_before_it_was_opened_anew(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with AsyncConnection(SerialConnection(serial_device.port), in_loop=Way.in_loop) as line:
            await opened(serial_device)
            serial_device.send(b"old")
            await asyncio.to_thread(serial_device.drain)
            await line.disconnect()
            await line.connect()
            await opened(serial_device)
            chunks = line.data()  # of this opening
            serial_device.send(b"new")
            assert await read(chunks, 3) == b"new"
            await line.disconnect()
            with pytest.raises(ConnectionException, match="is not connected"):
                await soon(anext(line.data()))
        async with line:
            await opened(serial_device)
            serial_device.send(b"last words")
            await asyncio.to_thread(serial_device.drain)
            await line.disconnect()
            chunks = line.data()
            assert await read(chunks, 10) == b"last words"
            assert [chunk async for chunk in chunks] == []

    asyncio.run(main())


def test_a_connection_that_cannot_be_opened(serial_device: SimulatedDevice) -> None:
    serial_device.unplug()

    async def main() -> None:
        with pytest.raises(ConnectionException, match="no such port"):
            async with AsyncConnection(SerialConnection(serial_device.port), in_loop=Way.in_loop):
                pytest.fail("entered")

    asyncio.run(main())


def test_a_connection_that_gives_no_reason() -> None:
    class Silent(SerialConnection):
        def try_connect(self) -> bool:
            return False

    async def main() -> None:
        with pytest.raises(ConnectionException, match=r"loop:// is not connected"):
            await AsyncConnection(Silent("loop://")).connect()

    asyncio.run(main())


def test_queries(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        with SimulatedDevice(lambda question: b"answer to " + question) as device:
            async with kept_up(device) as line:
                questions = [b"%d\n" % n for n in range(20)]
                answers = await soon(asyncio.gather(*(line.query(question, timeout=SOON) for question in questions)))
                assert answers == [b"answer to " + question for question in questions]
                await outage(device, line)
                assert await line.query(b"?\n", timeout=SOON) == b"answer to ?\n"
                with pytest.raises(TimeoutError, match="no answer"):
                    await line.query(b"?", timeout=0.05)

    asyncio.run(main())


def test_many_lines_in_one_loop() -> None:
    async def talk(device: SimulatedDevice) -> int:
        async with kept_up(device) as line:
            lines = line.frames(Lines())
            for n in range(20):
                await line.write(b"%d\n" % n)
                assert await soon(anext(lines)) == b"%d" % n
                if n == 10:
                    await outage(device, line)
        return 20

    async def main(devices: list[SimulatedDevice]) -> None:
        assert await asyncio.gather(*map(talk, devices)) == [20] * len(devices)

    devices = [SimulatedDevice(lambda question: question) for _ in range(12)]
    asyncio.run(main(devices))
    for device in devices:
        device.close()


def test_messages_go_out_in_the_order_of_the_calls(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            messages = [b"%d\n" % n for n in range(200)]
            await asyncio.gather(*map(line.write, messages))
            serial_device.wait_received(b"199\n")
            assert serial_device.received == b"".join(messages)

    asyncio.run(main())


def test_without_async_with(serial_device: SimulatedDevice) -> None:
    """Where somebody else connects and hangs up, or one does it by hand."""

    async def main() -> None:
        line = AsyncConnection(SerialConnection(serial_device.port), in_loop=Way.in_loop)
        await line.connect()
        await opened(serial_device)
        framer = Lines()
        framer.feed(b"left from before")
        lines = line.frames(framer)
        serial_device.send(b"one\n")
        assert await soon(anext(lines)) == b"one"
        await line.write(b"two")
        await asyncio.to_thread(serial_device.wait_received, b"two")
        await line.disconnect()

    asyncio.run(main())


def test_entering_again_receives_everything_since_the_opening_again() -> None:
    async def main() -> None:
        with SimulatedDevice({b"HELLO\n": b"welcome\n"}) as device:
            line = kept_up(device)
            await line.connect()
            await line.disconnect()
            async with line:
                await line.write(b"HELLO\n")
                await asyncio.sleep(0.1)
                assert await read(line.data(), 8) == b"welcome\n"

    asyncio.run(main())


def test_what_nobody_asked_for_is_gone_with_the_line(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        heard = bytearray()
        line = kept_up(serial_device)
        line._line().subscribe(lambda data: heard.extend(data))
        async with line:
            await opened(serial_device)
            serial_device.send(b"x")
            await until(lambda: heard == b"x")
        assert [chunk async for chunk in line] == []

    asyncio.run(main())


# States


def test_states(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        line = kept_up(serial_device)
        connecting = asyncio.create_task(line.wait_for(ConnectionState.CONNECTING))
        await asyncio.sleep(0)
        async with line:
            assert await soon(connecting) is ConnectionState.CONNECTING  # though it is over
            assert await soon(line.wait_for(ConnectionState.CONNECTED)) is ConnectionState.CONNECTED
            down = line.wait_for(ConnectionState.RECOVERING, ConnectionState.DISCONNECTED)
            serial_device.unplug()
            assert await soon(down) is ConnectionState.RECOVERING
            serial_device.plug()
            await soon(line.wait_for(ConnectionState.CONNECTED))
            await line.disconnect()
            assert line.manager.state is ConnectionState.DISCONNECTED
            waiting = asyncio.create_task(line.next_connect())
            torn_down = asyncio.create_task(line.wait_for(ConnectionState.TORNDOWN))
            await asyncio.sleep(0.01)
        with pytest.raises(ConnectionException, match="torn down"):
            await soon(waiting)
        assert await soon(torn_down) is ConnectionState.TORNDOWN
        assert await soon(line.wait_for(ConnectionState.TORNDOWN)) is ConnectionState.TORNDOWN
        with pytest.raises(ConnectionException, match="torn down"):
            await line.wait_for(ConnectionState.CONNECTED)
        with pytest.raises(ValueError, match="one state or more"):
            await line.wait_for()

    asyncio.run(main())


def test_what_nobody_awaits_is_no_trouble(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            forgotten = asyncio.create_task(line.next_connect())
            forgotten.cancel()  # before it has begun
            await asyncio.wait([forgotten])
            subscribed = len(line.manager.__dict__["_subscriptions"])
            hasty = asyncio.create_task(line.next_connect())
            await asyncio.sleep(0)
            hasty.cancel()
            await asyncio.wait([hasty])
            closed, begun = line.next_connect(), line.next_connect()
            closed.close()
            begun.send(None)
            begun.close()
            assert len(line.manager.__dict__["_subscriptions"]) == subscribed
            _ = line.next_connect()  # and forgotten, until there is a connect
            await outage(serial_device, line)
            assert len(line.manager.__dict__["_subscriptions"]) == subscribed
            assert forgotten.cancelled()
            assert hasty.cancelled()

    asyncio.run(main())


def test_giving_up_ends_everything_with_its_reason() -> None:
    async def main() -> None:
        device = SimulatedDevice()
        connection = SerialConnection(device.port)
        manager = ConnectionManager(connection, retry=RetryPolicy(0.01, 1, 0.01, 0, attempts=2))
        async with AsyncManager(manager, in_loop=Way.in_loop) as line:
            await opened(device)
            chunks, back = line.data(), asyncio.create_task(line.next_connect())
            device.send(b"last words")
            await asyncio.to_thread(device.drain)
            device.close()
            assert await read(chunks, 10) == b"last words"
            for ended in (anext(chunks), back, anext(line.data())):
                with pytest.raises(ConnectionException, match="no such port"):
                    await soon(ended)

    asyncio.run(main())


def test_an_attempt_that_was_the_last(serial_device: SimulatedDevice) -> None:
    serial_device.unplug()

    async def main() -> None:
        manager = ConnectionManager(
            SerialConnection(serial_device.port), retry=RetryPolicy(0.01, 1, 0.01, 0, attempts=1)
        )
        async with AsyncManager(manager, in_loop=Way.in_loop) as line:
            with pytest.raises(ConnectionException, match="no such port"):
                await soon(anext(aiter(line)))
            serial_device.plug()
            await line.connect()
            await opened(serial_device)
            chunks = line.data()
            serial_device.send(b"x")
            assert await read(chunks, 1) == b"x"

    asyncio.run(main())


def test_what_came_before_giving_up_is_not_taken_for_an_end_later(serial_device: SimulatedDevice) -> None:
    serial_device.unplug()

    async def main() -> None:
        manager = ConnectionManager(
            SerialConnection(serial_device.port), retry=RetryPolicy(0.01, 1, 0.01, 0, attempts=1)
        )
        async with AsyncManager(manager, in_loop=Way.in_loop) as line:  # fails
            serial_device.plug()
            manager.connect()  # by somebody else
            await opened(serial_device)
            chunks = line.data()
            serial_device.send(b"x")
            assert await read(chunks, 1) == b"x"

    asyncio.run(main())


def test_disconnecting_ends_an_iteration(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            await opened(serial_device)
            chunks = line.data()
            serial_device.send(b"x")
            assert await read(chunks, 1) == b"x"
            await line.disconnect()
            assert [chunk async for chunk in chunks] == []
            assert [chunk async for chunk in line] == []
        assert [chunk async for chunk in line] == []

    asyncio.run(main())


def test_a_manager_of_something_else() -> None:
    async def main() -> None:
        async with AsyncManager(ConnectionManager(Script(True))) as line:
            assert await line.wait_for(ConnectionState.CONNECTED)
            for wrong in (line.data, lambda: aiter(line), lambda: line.frames(Lines())):
                with pytest.raises(TypeError, match="only a SerialConnection"):
                    wrong()
            with pytest.raises(TypeError, match="only a SerialConnection"):
                await line.write(b"x")

    asyncio.run(main())


def test_bad_arguments(serial_device: SimulatedDevice) -> None:
    connection = SerialConnection(serial_device.port)

    async def main() -> None:
        line = AsyncConnection(connection)
        with pytest.raises(TypeError, match="data must be bytes, not 'x'"):
            await line.write("x")  # type: ignore[arg-type]
        for wrong in (b"\n", Lines):
            with pytest.raises(TypeError, match="framer"):
                line.frames(wrong)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="buffer_size must be 1 byte or more, not 0"):
        AsyncConnection(connection, buffer_size=0)
    with pytest.raises(TypeError, match="manager must be a ConnectionManager, not <SerialConnection"):
        AsyncManager(connection)  # type: ignore[arg-type]
    asyncio.run(main())


# Consumers: slow, gone, several, broken


def test_a_slow_consumer_holds_the_device_off_and_loses_nothing(
    serial_device: SimulatedDevice, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnxman.reading.FULL_INTERVAL", 60)  # who makes room tells
    sent = bytes(range(256)) * 2000

    async def main() -> None:
        async with kept_up(serial_device, buffer_size=20_000) as line:
            await opened(serial_device)
            chunks = line.data()
            sending = asyncio.create_task(asyncio.to_thread(serial_device.send, sent, 30))
            await until(lambda: ("deliveries wait" if Way.in_loop else "reading pauses") in caplog.text)
            await asyncio.sleep(0.1)
            assert not sending.done()
            assert len(chunks._queue.data) < 20_000 + 65536
            assert await read(chunks, len(sent)) == sent
            await soon(sending)

    asyncio.run(main())


def test_a_consumer_that_is_far_behind_lets_others_have_their_turns(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            await opened(serial_device)
            chunks = line.data()
            await asyncio.to_thread(serial_device.send, b"x" * 500_000)
            await until(lambda: len(chunks._queue.data) == 500_000)
            turns = 0

            async def take_turns() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            taking = asyncio.create_task(take_turns())
            assert [len(await anext(chunks)) for _ in range(7)] == [65536] * 7
            assert turns == 7
            taking.cancel()

    asyncio.run(main())


def test_a_consumer_that_is_behind_an_outage_is_given_nothing_glued_together(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            await opened(serial_device)
            chunks, lines = line.data(), line.frames(Lines())
            for _ in range(2):
                serial_device.send(b"half")
                await asyncio.to_thread(serial_device.drain)
                await outage(serial_device, line)
            await outage(serial_device, line)  # in which nothing comes
            serial_device.send(b"whole\n")
            await until(lambda: len(chunks._queue.data) == 14)
            assert [await anext(chunks) for _ in range(3)] == [b"half", b"half", b"whole\n"]
            assert await soon(anext(lines)) == b"whole"

    asyncio.run(main())


@thread_only
def test_one_line_of_many_chunks_wakes_the_loop_once(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            await opened(serial_device)
            chunks = line.data()
            first = asyncio.create_task(anext(chunks))
            await asyncio.sleep(0.01)
            loop = asyncio.get_running_loop()
            wakings = 0
            original: Callable[..., asyncio.Handle] = loop.call_soon_threadsafe

            def count(*arguments: object) -> asyncio.Handle:
                nonlocal wakings
                wakings += 1
                return original(*arguments)

            loop.call_soon_threadsafe = count  # type: ignore[method-assign,assignment]
            for n in range(50):  # while the loop has no turn
                serial_device.send(b"%02d" % n)
                serial_device.drain()
            data = await soon(first)
            data += await read(chunks, 100 - len(data))
            assert data == b"".join(b"%02d" % n for n in range(50))
            assert wakings <= 2

    asyncio.run(main())


@thread_only
def test_outages_do_not_make_a_stuck_consumer_grow(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with kept_up(serial_device, buffer_size=1000) as line:
            await opened(serial_device)
            chunks = line.data()
            queue = chunks._queue
            for _ in range(4):
                sending = asyncio.create_task(asyncio.to_thread(serial_device.send, b"x" * 3000))
                await until(lambda: queue._holding)
                await soon(sending)
                await outage(serial_device, line)
            connection = line._line()
            assert len(queue.data) > 4000  # it fits: two deliveries of 64 KB may come beyond the bounds
            queue.data += b"y" * 200_000  # as many more would have made
            sending = asyncio.create_task(asyncio.to_thread(serial_device.send, b"x" * 3000))
            await until(lambda: queue._holding)
            await soon(sending)
            await asyncio.to_thread(serial_device.unplug)
            await until(lambda: not connection.is_connected)
            await asyncio.sleep(0.1)
            assert line.manager.state is ConnectionState.CONNECTED  # the loss is told after what had come
            await read(chunks, 200_000)
            await soon(line.wait_for(ConnectionState.RECOVERING))

    asyncio.run(main())


def test_two_consumers_each_receive_everything(serial_device: SimulatedDevice) -> None:
    async def collect(line: AsyncManager) -> bytes:
        data = b""
        async for chunk in line.data():
            data += chunk
            if data.endswith(b"end"):
                break
        return data

    async def main() -> None:
        async with kept_up(serial_device) as line:
            await opened(serial_device)
            both = asyncio.gather(collect(line), collect(line))
            await asyncio.sleep(0.01)
            serial_device.send(b"begin" + b"x" * 10_000)
            await asyncio.to_thread(serial_device.drain)
            await outage(serial_device, line)
            serial_device.send(b"end")
            one, two = await soon(both)
            assert one == two
            assert one.startswith(b"begin")

    asyncio.run(main())


def test_two_tasks_may_share_one_iterator(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            await opened(serial_device)
            lines = line.frames(Lines())
            tasks = [asyncio.create_task(anext(lines)) for _ in range(4)]
            await asyncio.sleep(0.01)
            serial_device.send(b"1\n2\n3\n4\n")
            assert sorted(await soon(asyncio.gather(*tasks))) == [b"1", b"2", b"3", b"4"]

    asyncio.run(main())


def test_disconnecting_while_a_lost_line_has_yet_to_deliver_all(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with kept_up(serial_device, buffer_size=1000) as line:
            await opened(serial_device)
            chunks = line.data()
            queue = chunks._queue
            queue.data += b"y" * 200_000  # as much as only some outages make
            await asyncio.to_thread(serial_device.send, b"x" * 1000)
            await until(lambda: queue._holding)
            await asyncio.to_thread(serial_device.unplug)
            await until(lambda: not line._line().is_connected)
            began = time.monotonic()
            await line.disconnect()
            assert time.monotonic() - began < 4
            await chunks.aclose()

    asyncio.run(main())


class Busy:
    """A receiver that does not return until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()

    def __call__(self, data: bytes) -> None:
        self.entered.set()
        assert self.go.wait(SOON)


@thread_only
def test_a_loss_that_has_yet_to_be_sent(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        connection = SerialConnection(serial_device.port)
        busy = Busy()
        async with AsyncConnection(connection, in_loop=Way.in_loop) as line:
            await opened(serial_device)
            connection.subscribe(busy)
            serial_device.send(b"x")
            await asyncio.to_thread(busy.entered.wait)
            first = line.data()
            await asyncio.to_thread(serial_device.unplug)
            await until(lambda: not connection.is_connected)
            second, closed = line.data(), asyncio.create_task(line.wait_closed())
            await asyncio.sleep(0.01)
            assert not closed.done()
            busy.go.set()
            assert await read(first, 1) == b"x"
            for stream in (first, second):
                with pytest.raises(ConnectionException, match="unplugged"):
                    await soon(anext(stream))
            assert "unplugged" in str(await soon(closed))

    asyncio.run(main())


@thread_only
def test_an_end_that_is_never_sent(serial_device: SimulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnxman.serial.LONGEST_DELIVERY", 0.05)
    busy = Busy()

    async def main() -> None:
        connection = SerialConnection(serial_device.port)
        async with AsyncConnection(connection, in_loop=Way.in_loop) as line:
            await opened(serial_device)
            connection.subscribe(busy)
            chunks = line.data()
            serial_device.send(b"x")
            await asyncio.to_thread(busy.entered.wait)
        assert [chunk async for chunk in chunks] in ([], [b"x"])

    asyncio.run(main())
    busy.go.set()


def test_iterators_that_become_garbage_unsubscribe_by_themselves(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            line.data()
            await until(lambda: subscriptions(line._line()) == 0)

    asyncio.run(main())


def test_garbage_holds_nobody_up_even_while_the_loop_is_busy(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        heard = bytearray()
        async with kept_up(serial_device, buffer_size=1000) as line:
            await opened(serial_device)
            line._line().subscribe(lambda data: heard.extend(data))
            chunks = line.data()
            serial_device.send(b"x" * 3000)
            await until(lambda: stuck(line))
            del chunks
            gc.collect()
            end = time.monotonic() + SOON
            while len(heard) < 3000:
                assert time.monotonic() < end
                time.sleep(0.001)  # the loop has no turn

    asyncio.run(main())


def stuck(line: AsyncManager) -> bool:
    """Whether a delivery waits for any of the line's iterators."""
    return any(queue._holding for queue in line._live_queues())


@pytest.mark.parametrize("how", ["breaks off", "raises", "closes", "is cancelled"])
def test_a_consumer_that_is_gone_holds_nobody_up(
    serial_device: SimulatedDevice, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def consume(line: AsyncManager, took_one: asyncio.Event, go_on: asyncio.Event) -> None:
        async for _ in line.data():
            took_one.set()
            await go_on.wait()
            if how == "raises":
                raise ZeroDivisionError
            break

    async def close(line: AsyncManager, took_one: asyncio.Event, go_on: asyncio.Event) -> None:
        async with aclosing(line.data()) as chunks:
            await anext(chunks)
            took_one.set()
            await go_on.wait()
        assert aiter(chunks) is chunks  # closed, but kept

    async def main() -> None:
        heard = bytearray()
        async with kept_up(serial_device, buffer_size=1000) as line:
            await opened(serial_device)
            line._line().subscribe(lambda data: heard.extend(data))
            took_one, go_on = asyncio.Event(), asyncio.Event()
            gone = asyncio.create_task((close if how == "closes" else consume)(line, took_one, go_on))
            serial_device.send(b"x")
            await soon(took_one.wait())  # otherwise it may take all that comes at once, and nobody waits for it
            await until(lambda: heard == b"x")
            sending = asyncio.create_task(asyncio.to_thread(serial_device.send, b"x" * 50_000))
            await until(lambda: stuck(line))
            go_on.set() if how != "is cancelled" else gone.cancel()
            await asyncio.wait([gone])
            if how == "raises":
                assert isinstance(gone.exception(), ZeroDivisionError)
            del gone
            gc.collect()
            await soon(sending)
            await until(lambda: len(heard) == 50_001)
            await until(lambda: subscriptions(line._line()) == 1)
            await outage(serial_device, line)

    asyncio.run(main())
    assert "Traceback" not in caplog.text


def test_what_nobody_asks_for_is_dropped_when_it_becomes_much(
    serial_device: SimulatedDevice, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        heard = bytearray()
        async with kept_up(serial_device, buffer_size=1000) as line:
            line._line().subscribe(lambda data: heard.extend(data))
            await opened(serial_device)
            await asyncio.to_thread(serial_device.send, b"x" * 50_000)
            await until(lambda: len(heard) == 50_000)
            assert "nobody has taken the first 1000 bytes: dropped" in caplog.text
            chunks = line.data()
            serial_device.send(b"new")
            assert await read(chunks, 3) == b"new"

    asyncio.run(main())


# Cancelling, and loops that are closed


def test_cancelling_a_read_loses_nothing(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            await opened(serial_device)
            chunks = line.data()
            data = b""
            for n in range(100):
                reading = asyncio.create_task(anext(chunks))
                for _ in range(n % 4):
                    await asyncio.sleep(0)
                serial_device.send(b"%02d" % n)
                if n % 3:
                    await asyncio.sleep(0.001 * (n % 2))
                reading.cancel()
                await asyncio.wait([reading])
                if not reading.cancelled():
                    data += reading.result()
            data += await read(chunks, 200 - len(data))
            assert data == b"".join(b"%02d" % n for n in range(100))

    asyncio.run(main())


@in_loop_only
def test_chunk_for_a_task_that_a_receiver_cancels_is_kept(serial_device: SimulatedDevice) -> None:
    """The receiver is called between the read and the task that waits for the chunk."""

    async def main() -> None:
        async with kept_up(serial_device) as line:
            await opened(serial_device)
            chunks = line.data()
            serial_device.send(b"1")
            assert await read(chunks, 1) == b"1"
            reading = asyncio.create_task(anext(chunks))
            await until(lambda: chunks._queue.is_ready)
            undo = line._line().subscribe(lambda: reading.cancel())
            serial_device.send(b"2")
            await soon(asyncio.wait([reading]))
            undo()
            assert reading.cancelled()
            serial_device.send(b"3")
            assert await read(chunks, 2) == b"23"

    asyncio.run(main())


def test_tasks_that_share_an_iterator_get_all_and_in_turn(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        got: list[bytes] = []

        async def take(lines: AsyncStream) -> None:
            async for line in lines:
                got.append(line)

        async with kept_up(serial_device) as line:
            await opened(serial_device)
            lines = line.frames(Lines())
            one, other = (asyncio.create_task(take(lines)) for _ in range(2))
            sent = [b"%d" % n for n in range(30)]
            for number, each in enumerate(sent):
                if number == 20:
                    one.cancel()
                serial_device.send(each + b"\n")
                await until(lambda: len(got) == number + 1)  # noqa: B023 (it is awaited at once)
            assert got == sent
            assert not other.done()

    asyncio.run(main())


@contextmanager
def stalled(device: SimulatedDevice) -> Iterator[None]:
    """A device that takes nothing: a write that is long enough waits."""
    device.stall(60)
    yield
    device.stall(0)


def test_cancelled_writes(serial_device: SimulatedDevice, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            await opened(serial_device)
            with stalled(serial_device):
                begun = asyncio.create_task(line.write(b"1" * 100_000))
                not_begun = asyncio.create_task(line.write(b"2"))
                await asyncio.sleep(0.1)
                begun.cancel()
                not_begun.cancel()
                await asyncio.wait([begun, not_begun])
            await soon(line.write(b"3"))
            await asyncio.to_thread(serial_device.wait_received, b"3")
            assert serial_device.received == b"1" * 100_000 + b"3"

    asyncio.run(main())
    assert "InvalidStateError" not in caplog.text


def test_a_message_is_what_it_was_at_the_call(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            await opened(serial_device)
            message = bytearray(b"message")
            with stalled(serial_device):
                first = asyncio.create_task(line.write(b"1" * 100_000))
                second = asyncio.create_task(line.write(message))
                await asyncio.sleep(0.01)
                message[:] = b"something else"
            await soon(asyncio.gather(first, second))
            await asyncio.to_thread(serial_device.wait_received, b"1message")

    asyncio.run(main())


def test_leaving_ends_a_write_that_waits(serial_device: SimulatedDevice, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            await opened(serial_device)
            with stalled(serial_device):
                writing = asyncio.create_task(line.write(b"1" * 100_000))
                cancelled = asyncio.create_task(line.write(b"1" * 100_000))
                await asyncio.sleep(0.1)
                cancelled.cancel()
                began = time.monotonic()
                await line.disconnect()
                assert time.monotonic() - began < 4
                with pytest.raises(ConnectionException, match=r"\d+ of 100000 bytes were written"):
                    await soon(writing)

    asyncio.run(main())


def test_what_a_cancelled_write_raises_is_logged(
    serial_device: SimulatedDevice, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            await opened(serial_device)
            with stalled(serial_device):
                writing = asyncio.create_task(line.write(b"1" * 100_000))
                await asyncio.sleep(0.1)
                writing.cancel()
                await asyncio.wait([writing])
                await line.disconnect()
                await until(lambda: "for which nobody waits any more, raised" in caplog.text)

    asyncio.run(main())


class Slow(SerialConnection):
    """Its attempts last until they are let go, or the line is closed."""

    def __init__(self, port: str) -> None:
        super().__init__(port)
        self.preparing, self.go = threading.Event(), threading.Event()

    def prepare(self) -> bool:
        self.preparing.set()
        return self.go.wait(SOON)


@pytest.mark.parametrize("managed", [True, False])
@pytest.mark.parametrize("twice", [True, False])
def test_cancelling_in_mid_connect(serial_device: SimulatedDevice, managed: bool, twice: bool) -> None:
    connection = Slow(serial_device.port)
    line = (
        AsyncManager(ConnectionManager(connection), in_loop=Way.in_loop)
        if managed
        else AsyncConnection(connection, in_loop=Way.in_loop)
    )

    async def enter() -> None:
        async with line:
            pytest.fail("entered")

    async def main() -> None:
        entering = asyncio.create_task(enter())
        await until(connection.preparing.is_set)
        entering.cancel()
        await asyncio.sleep(0.02)
        assert not entering.done()  # it hangs up first
        if twice:
            entering.cancel()
            await asyncio.wait([entering])
        connection.go.set()
        await asyncio.wait([entering])
        assert entering.cancelled()
        await until(lambda: not connection.is_connected)
        await asyncio.to_thread(serial_device.wait_closed)

    asyncio.run(main())
    serial_device.wait_closed()


def test_a_connect_that_fails_while_nobody_waits_is_logged(
    serial_device: SimulatedDevice, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    begun, go = threading.Event(), threading.Event()

    class Broken(SerialConnection):
        def try_connect(self) -> bool:
            begun.set()
            go.wait(SOON)
            raise ZeroDivisionError("oh")

    async def main() -> None:
        line = AsyncConnection(Broken(serial_device.port))
        connecting = asyncio.create_task(line.connect())
        await until(begun.is_set)
        connecting.cancel()

    asyncio.run(main())
    go.set()
    end = time.monotonic() + SOON
    while "for which nobody waits any more, raised: oh" not in caplog.text:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_loop_that_is_left_in_mid_outage(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            await opened(serial_device)
            asyncio.create_task(line.next_connect())  # noqa: RUF006 (asyncio.run cancels it)
            await asyncio.to_thread(serial_device.unplug)
            await soon(line.wait_for(ConnectionState.RECOVERING))
            asyncio.create_task(anext(line.data()))  # noqa: RUF006
            await asyncio.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())


def test_a_loop_that_is_closed_under_its_tasks(serial_device: SimulatedDevice) -> None:
    """Nobody cancels the tasks: what they waited for is sent to a loop that is closed, and they become garbage."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending!"
    line = kept_up(serial_device, buffer_size=1000)
    heard = bytearray()
    line._line().subscribe(lambda data: heard.extend(data))
    ready = asyncio.Event()

    async def consume() -> None:
        async with line:
            waiting = asyncio.create_task(line.next_connect())
            reading = asyncio.create_task(anext(line.data()))
            full = line.data()
            await asyncio.sleep(0)
            ready.set()
            await asyncio.sleep(3600)
            assert not {id(waiting)} & {id(reading), id(full)}  # all kept till here

    consuming = loop.create_task(consume())
    loop.run_until_complete(ready.wait())
    serial_device.wait_opened()
    loop.close()
    if not Way.in_loop:
        serial_device.send(b"x" * 50_000)
        end = time.monotonic() + SOON
        while len(heard) < 50_000:
            assert time.monotonic() < end
            time.sleep(0.001)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "call_exception_handler", lambda context: None)
        if not Way.in_loop:  # otherwise nobody reads, and so nobody notices
            back = threading.Event()
            line.manager.subscribe(lambda state: back.set() if state == "connected" else None)
            serial_device.unplug()
            serial_device.plug()
            assert back.wait(SOON)
        del consuming
        gc.collect()  # the coroutine now, at the latest; so its `async with` is left
    end = time.monotonic() + SOON
    while line.manager.state is not ConnectionState.TORNDOWN:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_busy_loop_does_not_hinder_disconnecting(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with kept_up(serial_device, buffer_size=1000) as line:
            await opened(serial_device)
            chunks = line.data()
            serial_device.send(b"x" * 3000)
            await until(lambda: chunks._queue._holding)
            began = time.monotonic()
            line.manager.disconnect()  # blocks the loop, and with it the consumer
            assert time.monotonic() - began < 4
            assert await read(chunks, 1000)  # the rest had not been delivered
            assert [chunk async for chunk in chunks] == []

    asyncio.run(main())


# In the loop


def library_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("cnxman")]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@in_loop_only
def test_a_connected_manager_has_no_thread_and_few_descriptors() -> None:
    async def main() -> None:
        with SimulatedDevice() as device:
            port = serial.Serial(device.port)  # and its own descriptors
            before = descriptors()
            port.close()
            of_the_port = before - descriptors()
            before, threads = descriptors(), library_threads()
            async with kept_up(device) as line:
                await until(lambda: library_threads() == threads)
                assert descriptors() - before <= of_the_port + 2
                await outage(device, line)
                await until(lambda: library_threads() == threads)
                chunks = line.data()
                device.send(b"x")
                assert await read(chunks, 1) == b"x"
                await line.write(b"y")
                assert library_threads() == threads
            await until(lambda: descriptors() <= before)

    asyncio.run(main())


@in_loop_only
def test_receivers_are_called_on_the_thread_of_the_loop(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        threads: dict[str, threading.Thread] = {}

        def note(signal: Enum) -> None:
            threads[signal.name] = threading.current_thread()

        line = kept_up(serial_device)
        own = SerialConnection.Signals
        for signal in (own.OPENED, own.DATA_RECEIVED, own.CLOSED, own.FRAME_RECEIVED, Connection.Signals.RAISE_ALARM):
            line._line().subscribe(note, signal)
        line._line().add_framer(Lines())
        async with line:
            await opened(serial_device)
            serial_device.send(b"one\n")
            await until(lambda: "FRAME_RECEIVED" in threads)
            await outage(serial_device, line)
        assert set(threads) == {"OPENED", "DATA_RECEIVED", "CLOSED", "FRAME_RECEIVED", "RAISE_ALARM"}
        assert set(threads.values()) == {threading.current_thread()}

    asyncio.run(main())


@in_loop_only
def test_reading_pauses_while_an_iterator_is_full(serial_device: SimulatedDevice) -> None:
    sent = bytes(range(256)) * 1000

    async def main() -> None:
        async with kept_up(serial_device, buffer_size=20_000) as line:
            await opened(serial_device)
            chunks = line.data()
            sending = asyncio.create_task(asyncio.to_thread(serial_device.send, sent, 30))
            await until(lambda: chunks._queue._holding)
            held = len(chunks._queue.data)
            assert 20_000 <= held < 20_000 + 65536
            for _ in range(5):
                await asyncio.sleep(0)
            assert len(chunks._queue.data) == held
            assert not sending.done()
            assert await read(chunks, len(sent)) == sent
            await sending

    asyncio.run(main())


@in_loop_only
def test_a_loss_is_noticed_while_reading_pauses(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with kept_up(serial_device, buffer_size=1000) as line:
            await opened(serial_device)
            chunks = line.data()
            await asyncio.to_thread(serial_device.send, b"x" * 1000)
            await until(lambda: chunks._queue._holding)
            await asyncio.to_thread(serial_device.unplug)
            await soon(line.wait_for(ConnectionState.RECOVERING))
            serial_device.plug()
            await soon(line.wait_for(ConnectionState.CONNECTED))
            assert await read(chunks, 1000) == b"x" * 1000
            serial_device.send(b"y")
            assert await read(chunks, 1) == b"y"

    asyncio.run(main())


@in_loop_only
def test_a_reader_on_a_thread_that_is_full_pauses_and_goes_on(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            await opened(serial_device)
            chunks = line.data()
            with line._line().reader(buffer_size=1000) as reader:
                await asyncio.to_thread(serial_device.send, b"x" * 3000)
                await until(lambda: reader._queue._holding)
                for _ in range(3):
                    assert await asyncio.to_thread(reader.read, SOON, size=1000) == b"x" * 1000
            readers = [line._line().reader(buffer_size=1000)]
            serial_device.send(b"x" * 1000)
            await until(lambda: readers[0]._queue._holding)
            readers.clear()  # garbage holds up nobody
            serial_device.send(b"y")
            assert await read(chunks, 4001) == b"x" * 4000 + b"y"

    asyncio.run(main())


@in_loop_only
def test_closing_and_opening_again_in_a_receiver(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        connection = SerialConnection(serial_device.port)
        events: list[str] = []

        def on_data(data: bytes) -> None:
            events.append(data.decode())
            if data == b"again":
                connection.disconnect()
                assert not connection.is_connected
                assert connection.try_connect()
                events.append("dialled")

        async with AsyncConnection(connection):
            await opened(serial_device)
            connection.subscribe(on_data)
            connection.subscribe(lambda: events.append("opened"), SerialConnection.Signals.OPENED)
            connection.subscribe(lambda: events.append("closed"), SerialConnection.Signals.CLOSED)
            serial_device.send(b"again")
            await until(lambda: events[-1:] == ["opened"])
            await opened(serial_device)
            serial_device.send(b"new")
            await until(lambda: "new" in events)
        assert events == ["again", "dialled", "closed", "opened", "new", "closed"]

    asyncio.run(main())


@in_loop_only
@pytest.mark.parametrize("call", ["disconnect", "teardown", "connect"])
def test_a_manager_is_called_on_the_thread_of_the_loop(serial_device: SimulatedDevice, call: str) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            await opened(serial_device)
            began = time.monotonic()
            getattr(line.manager, call)()
            assert time.monotonic() - began < 4
            assert line.manager.is_connected == line._line().is_connected == (call == "connect")

    asyncio.run(main())


@in_loop_only
def test_a_receiver_in_the_loop_may_disconnect_the_manager(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            await opened(serial_device)
            line._line().subscribe(lambda data: line.manager.disconnect())
            began = time.monotonic()
            serial_device.send(b"x")
            await soon(line.wait_for(ConnectionState.DISCONNECTED))
            await until(lambda: not line._line().is_connected)
            assert time.monotonic() - began < 4

    asyncio.run(main())


@in_loop_only
def test_a_thread_that_waits_behind_a_write_of_the_loop_fails_on_disconnect(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            await opened(serial_device)
            with stalled(serial_device):
                ours = asyncio.create_task(line.write(b"1" * 100_000))
                await until(lambda: is_writing(line._line()))
                theirs = asyncio.create_task(asyncio.to_thread(line._line().write, b"2"))
                await asyncio.sleep(0.05)
                began = time.monotonic()
                await line.disconnect()
                for writing in (ours, theirs):
                    with pytest.raises(ConnectionException):
                        await soon(writing)
                assert time.monotonic() - began < 4

    asyncio.run(main())


@in_loop_only
def test_waiting_for_data_on_the_thread_of_the_loop_is_refused(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            for wait in (lambda: line._line().query(b"?"), lambda: line._line().reader().read(1)):
                with pytest.raises(RuntimeError, match="on another one"):
                    wait()

    asyncio.run(main())


@in_loop_only
def test_a_silent_line_is_lost_after_its_idle_timeout(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        connection = SerialConnection(serial_device.port, idle_timeout=0.1)
        async with AsyncConnection(connection) as line:
            await opened(serial_device)
            for _ in range(4):
                serial_device.send(b"x")
                await asyncio.sleep(0.05)
            assert "nothing came from it for 0.1 s" in str(await soon(line.wait_closed()))

    asyncio.run(main())


@in_loop_only
def test_a_write_without_progress_fails_in_time(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        connection = SerialConnection(serial_device.port, write_timeout=0.1)
        async with AsyncConnection(connection) as line:
            await opened(serial_device)
            with stalled(serial_device):
                both = [asyncio.create_task(line.write(b"1" * 100_000)) for _ in range(2)]
                for writing in both:
                    with pytest.raises(ConnectionException, match=r"of 100000 bytes were written.*nothing for 0.1 s"):
                        await soon(writing)
            connection.configure(write_timeout=SOON)
            await soon(line.write(b"2"))
            await asyncio.to_thread(serial_device.wait_received, b"2")
            written = len(serial_device.received)
            assert connection.statistics.bytes_out == written

    asyncio.run(main())


@in_loop_only
def test_messages_of_a_thread_are_not_mixed_with_those_of_the_loop() -> None:
    async def main() -> None:
        with SimulatedDevice() as device:
            async with kept_up(device) as line:
                await opened(device)
                ours, theirs = b"o" * 30_000 + b"\n", b"t" * 30_000 + b"\n"
                both = [line.write(ours), asyncio.to_thread(line._line().write, theirs)] * 1
                await soon(asyncio.gather(*both, line.write(ours)))
                await asyncio.to_thread(device.wait_received, b"\n")
                await until(lambda: len(device.received) == 3 * 30_001)
                assert sorted(bytes(device.received).split(b"\n")) == sorted([b"", ours[:-1], ours[:-1], theirs[:-1]])

    asyncio.run(main())


def test_what_the_loop_can_not_read_a_thread_does() -> None:
    async def main() -> None:
        async with AsyncConnection(SerialConnection("loop://")) as line:
            chunks = line.data()
            await line.write(b"x")
            assert await read(chunks, 1) == b"x"
            assert [name for name in library_threads() if "listener" in name]

    asyncio.run(main())


@in_loop_only
def test_a_loop_that_has_stopped_does_not_hinder_a_teardown(serial_device: SimulatedDevice) -> None:
    loop = asyncio.new_event_loop()
    line = kept_up(serial_device)
    loop.run_until_complete(line.__aenter__())
    began = time.monotonic()
    line.manager.teardown()
    assert time.monotonic() - began < 4
    serial_device.wait_closed()
    loop.run_until_complete(line.__aexit__(None, None, None))
    loop.close()


@in_loop_only
def test_thirty_lines_in_one_loop_have_no_thread() -> None:
    async def main(devices: list[SimulatedDevice]) -> None:
        lines = [kept_up(device) for device in devices]
        for line in lines:
            await line.__aenter__()
        chunks = [line.data() for line in lines]
        for device in devices:
            device.send(b"hello")
        for stream in chunks:
            assert await read(stream, 5) == b"hello"
        await until(lambda: not [name for name in library_threads() if "manager" in name or "listener" in name])
        await asyncio.gather(*(line.__aexit__(None, None, None) for line in lines))

    devices = [SimulatedDevice() for _ in range(30)]
    asyncio.run(main(devices))
    for device in devices:
        device.close()


# Protocols


class Noting(asyncio.Protocol):
    """Notes what it is called with."""

    made: list["Noting"]

    def __init__(self) -> None:
        self.events: list[object] = []
        self.data = bytearray()
        self.lost: list[Exception | None] = []
        self.made.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, SerialTransport)
        self.transport = transport
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        assert self.events
        assert not self.lost
        self.data += data
        if data == b"raise":
            raise ZeroDivisionError

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")


@pytest.fixture
def noting() -> type[Noting]:
    """A protocol's class; its instances are in `made`."""
    return type("OneTest", (Noting,), {"made": []})


def test_a_protocol_for_each_time_the_line_connects(serial_device: SimulatedDevice, noting: type[Noting]) -> None:
    async def main() -> None:
        line = kept_up(serial_device)
        attachment = attach(line, noting)
        assert attachment.protocol is None
        async with line:
            await until(lambda: attachment.protocol is not None)
            await opened(serial_device)
            serial_device.send(b"one")
            first = noting.made[0]
            await until(lambda: first.data == b"one")
            assert first.transport.get_extra_info("serial").port == serial_device.port
            first.transport.write(b"hello")
            await asyncio.to_thread(serial_device.wait_received, b"hello")
            await outage(serial_device, line)
            await until(lambda: len(noting.made) == 2 and attachment.protocol is noting.made[1])
            assert "unplugged" in str(first.lost[0])
            first.transport.write(b"too late")
            serial_device.send(b"two")
            await until(lambda: noting.made[1].data == b"two")
            assert attachment.protocol is noting.made[1]
        assert [len(each.lost) for each in noting.made] == [1, 1]
        assert noting.made[1].lost == [None]
        assert b"too late" not in serial_device.received

    asyncio.run(main())


def test_a_protocol_on_a_line_that_is_open(serial_device: SimulatedDevice, noting: type[Noting]) -> None:
    async def main() -> None:
        async with kept_up(serial_device) as line:
            await opened(serial_device)
            attachment = attach(line, noting)
            await until(lambda: attachment.protocol is not None)
            serial_device.send(b"x")
            await until(lambda: noting.made[0].data == b"x")
            attachment.stop()
            assert noting.made[0].lost == [None]
            assert line._line().is_connected
            serial_device.send(b"y")
            await outage(serial_device, line)
            assert len(noting.made) == 1
            assert attachment.protocol is None
            assert noting.made[0].data == b"x"

    asyncio.run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_a_transport_disconnects_the_line(serial_device: SimulatedDevice, noting: type[Noting], how: str) -> None:
    async def main() -> None:
        line = kept_up(serial_device)
        attach(line, noting)
        async with line:
            await opened(serial_device)
            await until(lambda: bool(noting.made))
            transport = noting.made[0].transport
            transport.write(b"last words")
            await until(lambda: serial_device.received == b"last words")  # a pseudo-terminal drops what isn't read
            getattr(transport, how)()
            getattr(transport, how)()
            assert transport.is_closing()
            await until(lambda: noting.made[0].lost == [None])
            await soon(line.wait_for(ConnectionState.DISCONNECTED))
            transport.write(b"too late")
            assert serial_device.received == b"last words"

    asyncio.run(main())


def test_a_transport_controls_the_flow(serial_device: SimulatedDevice, noting: type[Noting]) -> None:
    async def main() -> None:
        line = kept_up(serial_device)
        attach(line, noting)
        async with line:
            await opened(serial_device)
            await until(lambda: bool(noting.made))
            protocol = noting.made[0]
            transport = protocol.transport
            assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
            transport.set_write_buffer_limits(high=100_000)
            with stalled(serial_device):
                for _ in range(20):
                    transport.write(b"x" * 10_000)
                assert protocol.events == ["made", "pause"]
                assert transport.get_write_buffer_size() > 100_000
            await until(lambda: protocol.events == ["made", "pause", "resume"])
            await until(lambda: transport.get_write_buffer_size() == 0)
            await until(lambda: len(serial_device.received) == 200_000)
            assert serial_device.received == b"x" * 200_000
            with pytest.raises(ValueError, match="low must be"):
                transport.set_write_buffer_limits(high=1, low=2)
            with pytest.raises(TypeError, match="data must be bytes"):
                transport.write("x")  # type: ignore[arg-type]
            with pytest.raises(NotImplementedError):
                transport.write_eof()

    asyncio.run(main())


def test_a_protocol_that_pauses_reading_bounds_what_waits(serial_device: SimulatedDevice, noting: type[Noting]) -> None:
    async def main() -> None:
        line = kept_up(serial_device, buffer_size=1000)
        attach(line, noting)
        async with line:
            await opened(serial_device)
            await until(lambda: bool(noting.made))
            protocol = noting.made[0]
            protocol.transport.pause_reading()
            assert not protocol.transport.is_reading()
            sending = asyncio.create_task(asyncio.to_thread(serial_device.send, b"x" * 100_000, 30))
            await until(lambda: stuck(line))
            assert not protocol.data
            protocol.transport.resume_reading()
            await until(lambda: len(protocol.data) == 100_000)
            await sending
            protocol.transport.pause_reading()
            await outage(serial_device, line)
            await until(lambda: len(noting.made) == 2)
            assert len(protocol.lost) == 1

    asyncio.run(main())


@in_loop_only
def test_a_protocol_paused_by_a_receiver_gets_the_chunk_when_it_resumes(
    serial_device: SimulatedDevice, noting: type[Noting]
) -> None:
    """The receiver is called between the read and the protocol."""

    async def main() -> None:
        line = kept_up(serial_device)
        attachment = attach(line, noting)
        received: list[bytes] = []
        async with line:
            await opened(serial_device)
            await until(lambda: attachment.protocol is not None)
            protocol = noting.made[0]
            serial_device.send(b"1")
            await until(lambda: protocol.data == b"1")

            def pause(data: bytes) -> None:
                protocol.transport.pause_reading()
                received.append(data)

            line._line().subscribe(pause)
            serial_device.send(b"2")
            await until(lambda: received == [b"2"])
            assert protocol.data == b"1"
            protocol.transport.resume_reading()
            await until(lambda: protocol.data == b"12")

    asyncio.run(main())


def test_a_protocol_that_raises_is_followed_by_another(serial_device: SimulatedDevice, noting: type[Noting]) -> None:
    async def main() -> None:
        reports: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(str(context["message"])))
        line = kept_up(serial_device)
        attach(line, noting)
        async with line:
            await opened(serial_device)
            await until(lambda: bool(noting.made))
            serial_device.send(b"raise")
            await until(lambda: len(noting.made) == 2)
            assert isinstance(noting.made[0].lost[0], ZeroDivisionError)
            assert "data_received raised" in reports[0]
            serial_device.send(b"x")
            await until(lambda: noting.made[1].data == b"x")

    asyncio.run(main())


def test_a_factory_that_raises_leaves_the_line_alone(serial_device: SimulatedDevice) -> None:
    async def main() -> None:
        reports: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(str(context["message"])))

        def factory() -> asyncio.Protocol:
            raise ZeroDivisionError

        line = kept_up(serial_device)
        attach(line, factory)
        async with line:
            await opened(serial_device)
            await until(lambda: len(reports) == 1)
            await outage(serial_device, line)
            await until(lambda: len(reports) == 2)

    asyncio.run(main())


def test_attaching_to_what_is_no_line() -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="line must be an AsyncConnection or an AsyncManager, not 'x'"):
            attach("x", asyncio.Protocol)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="protocol_factory must be callable"):
            attach(AsyncConnection(SerialConnection("loop://")), 1)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="only a SerialConnection"):
            attach(AsyncManager(ConnectionManager(Script(True))), asyncio.Protocol)

    asyncio.run(main())
