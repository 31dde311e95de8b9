"""The reader that waits, and query(), on lines that are lost in the middle."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from queue import Queue

import pytest
import serial
from hypothesis import given, settings
from hypothesis import strategies as st

from cnxman import ConnectionException, ConnectionManager, RetryPolicy, SerialConnection
from cnxman._line.kinds import make_line
from cnxman._line.posix import PosixLine
from cnxman._line.receive_buffer import ReceiveBuffer
from cnxman.framing import FixedLength, Framer, Lines
from cnxman.reading import ReceiveQueue, SerialReader
from cnxman.testing import SimulatedDevice
from tests.kit.probe import source_of, subscriptions

AT_ONCE = RetryPolicy(0.01, 1, 0.01, 0)
SOON = 60.0  # seconds that something may take which should be done in no time


@pytest.fixture(autouse=True)
def nothing_is_held(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    caplog.get_records("call").clear()  # what is logged holds errors, which hold the connections that they came from


@pytest.fixture
def connection(serial_device: SimulatedDevice) -> Iterator[SerialConnection]:
    connection = SerialConnection(serial_device.port)
    assert connection.try_connect()
    serial_device.wait_opened()
    yield connection
    connection.teardown()


def in_thread(work: Callable[[], object]) -> "Queue[object]":
    """Run `work` on a thread; what it returns or raises comes out of the queue."""
    result: Queue[object] = Queue()

    def run() -> None:
        try:
            result.put(work())
        except Exception as error:
            result.put(error)

    threading.Thread(target=run, daemon=True).start()
    return result


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < until
        time.sleep(0.001)


def inbox_of(reader: SerialReader) -> ReceiveQueue:
    return reader._queue


class Slow:
    """A receiver that does not return until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()

    def __call__(self, data: bytes) -> None:
        self.entered.set()
        assert self.go.wait(SOON)


# Reading


def test_a_reader_gives_what_came(serial_device: SimulatedDevice, connection: SerialConnection) -> None:
    with connection.reader() as reader:
        serial_device.send(b"one\ntwo\nthree")
        assert reader.read(SOON, size=2) == b"on"
        assert reader.read_until(b"\n", SOON) == b"e\n"
        assert reader.read_until(timeout=SOON) == b"two\n"
        assert reader.read(SOON, size=5) == b"three"
        serial_device.send(b"more")
        assert b"more".startswith(reader.read(SOON))


def test_a_timeout_says_what_came_and_loses_none_of_it(
    serial_device: SimulatedDevice, connection: SerialConnection
) -> None:
    with connection.reader() as reader:
        with pytest.raises(TimeoutError, match=r"any data did not come within 0 s: nothing came"):
            reader.read(0)
        serial_device.send(b"half")
        with pytest.raises(TimeoutError, match=r"5 bytes did not come within 0.05 s: b'half' came"):
            reader.read(0.05, size=5)
        with pytest.raises(TimeoutError, match=r"b'\\n' did not come .* b'half' came"):
            reader.read_until(b"\n", 0)
        serial_device.send(b" and half\n" + b"x" * 200)
        assert reader.read_until(b"\n", SOON) == b"half and half\n"
        wait_until(lambda: len(inbox_of(reader).data) == 200)
        with pytest.raises(TimeoutError, match="200 bytes came, last b'x"):
            reader.read_until(b"\n", 0)


def test_a_timeout_says_when_there_is_no_connection(serial_device: SimulatedDevice) -> None:
    with SerialConnection(serial_device.port).reader() as reader, pytest.raises(TimeoutError, match="is not connected"):
        reader.read(0)


@settings(max_examples=50)
@given(parts=st.lists(st.binary(min_size=1, max_size=5).map(lambda part: part.replace(b"\n", b"")), max_size=6))
def test_a_terminator_is_found_however_the_data_are_cut(parts: list[bytes]) -> None:
    with SerialConnection("loop://").reader() as reader:
        inbox = inbox_of(reader)
        looked_for, _ = reader._terminator_ready(b"<end>\n")
        for part in (*filter(None, parts), b"<en", b"d>"):
            inbox.on_data(part)
            assert looked_for() == 0
        inbox.on_data(b"\nrest")
        assert looked_for() == len(b"".join(parts) + b"<end>\n")
        assert reader.read_until(b"<end>\n", 0) == b"".join(parts) + b"<end>\n"
        assert reader.read(0) == b"rest"


def test_frames_wait_one_by_one(serial_device: SimulatedDevice, connection: SerialConnection) -> None:
    framer = Lines()
    framer.feed(b"left from before")
    with connection.reader() as reader:
        frames = reader.frames(framer, timeout=0.05)
        serial_device.send(b"one\ntwo\nthr")
        assert [next(frames), next(frames)] == [b"one", b"two"]
        with pytest.raises(TimeoutError, match=r"no whole frame came within 0.05 s: b'one\\ntwo\\nthr' came"):
            next(frames)
        serial_device.send(b"ee\n")
        assert next(reader.frames(Lines(), timeout=SOON)) == b"ee"  # what the first has taken stays with it
        endless = reader.frames(Lines())
        serial_device.send(b"x" * 300)
        wait_until(lambda: len(inbox_of(reader).data) == 300)
        threading.Timer(0.05, serial_device.send, [b"\n"]).start()
        assert next(endless) == b"x" * 300


def test_a_reader_takes_nothing_from_the_others(serial_device: SimulatedDevice, connection: SerialConnection) -> None:
    heard: list[bytes] = []
    connection.subscribe(lambda data: heard.append(data))
    with connection.reader() as one, connection.reader() as two:
        serial_device.send(b"hello\n")
        assert one.read_until(timeout=SOON) == two.read_until(timeout=SOON) == b"hello\n"
    serial_device.send(b"goodbye")
    wait_until(lambda: b"".join(heard) == b"hello\ngoodbye")


# The end of the line


def test_what_had_come_is_read_before_the_loss_is_raised(
    serial_device: SimulatedDevice, connection: SerialConnection
) -> None:
    with ConnectionManager(connection, retry=AT_ONCE) as manager, connection.reader() as reader:
        serial_device.wait_opened()
        serial_device.send(b"one\ntw")
        serial_device.drain()
        waiting = in_thread(lambda: [reader.read_until(timeout=SOON), reader.read_until(timeout=SOON)])
        serial_device.unplug()
        assert isinstance(error := waiting.get(timeout=SOON), ConnectionException)
        assert "unplugged" in str(error)
        assert reader.read() == b"tw"
        for _ in range(2):
            with pytest.raises(ConnectionException, match=r"was lost.*unplugged"):
                reader.read()
        serial_device.plug()
        assert manager.wait_until_connected(SOON)
        with pytest.raises(ConnectionException, match="was lost"):  # one opening of the port, no more
            reader.read()
        with connection.reader() as another:
            serial_device.wait_opened()
            serial_device.send(b"again")
            assert another.read(SOON, size=5) == b"again"


def test_disconnecting_ends_a_read(connection: SerialConnection) -> None:
    with connection.reader() as reader:
        waiting = in_thread(reader.read)
        connection.disconnect()
        assert isinstance(error := waiting.get(timeout=SOON), ConnectionException)
        assert str(error).endswith("was disconnected")
        assert isinstance(error.inner, ConnectionAbortedError)


def test_a_reader_made_before_receives_the_first_byte(serial_device: SimulatedDevice) -> None:
    connection = SerialConnection(serial_device.port)
    with connection.reader() as reader, ConnectionManager(connection):
        serial_device.wait_opened()
        serial_device.send(b"boot\n")
        assert reader.read_until(timeout=SOON) == b"boot\n"


def test_a_closed_reader(connection: SerialConnection) -> None:
    reader = connection.reader()
    waiting = in_thread(reader.read)
    reader.close()
    reader.close()
    assert isinstance(waiting.get(timeout=SOON), ValueError)
    with pytest.raises(ValueError, match="the reader is closed"):
        reader.read()


def test_reading_in_a_receiver_is_refused_at_once(serial_device: SimulatedDevice, connection: SerialConnection) -> None:
    refusals: Queue[str] = Queue()
    reader = connection.reader()

    def receiver(data: bytes) -> None:
        wrongs: list[Callable[[], bytes]] = [reader.read, reader.read_until, partial(connection.query, b"?")]
        for wrong in wrongs:
            try:
                wrong()
            except RuntimeError as error:
                refusals.put(str(error))

    connection.subscribe(receiver)
    serial_device.send(b"x")
    for _ in range(3):
        assert "listener thread" in refusals.get(timeout=SOON)
    assert serial_device.received == b""
    reader.close()


def test_a_receiver_may_ask_another_line(serial_device: SimulatedDevice, connection: SerialConnection) -> None:
    answers: Queue[bytes] = Queue()
    with SimulatedDevice({b"?\n": b"yes\n"}) as other:
        asked = SerialConnection(other.port)
        assert asked.try_connect()
        connection.subscribe(lambda data: answers.put(asked.query(b"?\n", timeout=SOON)))
        serial_device.send(b"x")
        assert answers.get(timeout=SOON) == b"yes\n"
        asked.teardown()


# A reader that is full


def full_reader(device: SimulatedDevice, connection: SerialConnection, sent: bytes) -> SerialReader:
    reader = connection.reader(buffer_size=1000)
    in_thread(lambda: device.send(sent, SOON))
    wait_until(lambda: inbox_of(reader)._holding)
    return reader


def test_a_full_reader_holds_the_sender_off_and_loses_nothing(
    serial_device: SimulatedDevice, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnxman.reading.FULL_INTERVAL", 60)  # who makes room tells
    sent = bytes(range(256)) * 1000
    connection = SerialConnection(serial_device.port, buffer_size=8000)
    assert connection.try_connect()
    serial_device.wait_opened()
    reader = connection.reader(buffer_size=1000)
    sending = in_thread(lambda: serial_device.send(sent, 30))
    wait_until(lambda: "reading pauses" in caplog.text)
    assert sending.empty()
    assert 1000 <= len(inbox_of(reader).data) < 1000 + 65536
    assert b"".join(reader.read(SOON) for _ in read_all(reader, len(sent))) == sent
    assert sending.get(timeout=SOON) is None
    assert caplog.text.count("wait for a reader") == 1
    reader.close()
    connection.teardown()


def read_all(reader: SerialReader, size: int) -> Iterator[None]:
    """As many turns as it takes to read so much."""
    inbox = inbox_of(reader)
    while inbox._taken < size:
        yield


def test_a_full_reader_does_not_hinder_disconnecting(
    serial_device: SimulatedDevice,
    connection: SerialConnection,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cnxman.serial.LONGEST_DELIVERY", SOON)
    reader = full_reader(serial_device, connection, b"x" * 3000)
    began = time.monotonic()
    connection.disconnect()
    assert time.monotonic() - began < SOON / 2  # and not the time after which a receiver is given up
    assert "without waiting" not in caplog.text
    assert reader.read(size=1000) == b"x" * 1000
    reader.close()


def test_a_full_reader_does_not_hinder_recovery(serial_device: SimulatedDevice, connection: SerialConnection) -> None:
    with ConnectionManager(connection, retry=AT_ONCE) as manager:
        serial_device.wait_opened()
        reader = full_reader(serial_device, connection, b"x" * 3000)
        serial_device.drain()
        lost = threading.Event()
        manager.subscribe(lambda state: lost.set() if state == "recovering" else None)
        serial_device.unplug()
        assert lost.wait(SOON)
        serial_device.plug()
        assert manager.wait_until_connected(SOON)
        assert reader.read(size=1000) == b"x" * 1000
        reader.close()


@pytest.mark.parametrize("leave", [SerialReader.close, None], ids=["closed", "garbage"])
def test_a_full_reader_that_is_gone_holds_nobody_up(
    serial_device: SimulatedDevice, connection: SerialConnection, leave: Callable[[SerialReader], None] | None
) -> None:
    heard = bytearray()
    connection.subscribe(lambda data: heard.extend(data))
    reader = full_reader(serial_device, connection, b"x" * 3000)
    inbox = inbox_of(reader)
    if leave is not None:
        leave(reader)
    del reader
    gc.collect()
    wait_until(lambda: heard == b"x" * 3000)
    serial_device.send(b"y")  # now, at the latest, it leaves
    wait_until(lambda: heard.endswith(b"y") and not inbox.data)
    assert inbox.ended
    assert subscriptions(connection) == 1


def test_an_end_that_does_not_fit(serial_device: SimulatedDevice, connection: SerialConnection) -> None:
    reader = full_reader(serial_device, connection, b"x" * 3000)
    with pytest.raises(BufferError, match=r"b'\\n' did not come within the \d+ bytes that the reader holds"):
        reader.read_until(b"\n")
    assert reader.read(size=1000) == b"x" * 1000
    reader.close()


# Bad arguments


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (lambda reader: reader.read(-1), ValueError, "timeout must be 0 seconds or more, or None, not -1"),
        (lambda reader: reader.read(float("nan")), ValueError, "timeout"),
        (lambda reader: reader.read(True), TypeError, "timeout must be a number of seconds or None, not True"),
        (lambda reader: reader.read("1"), TypeError, "timeout"),
        (lambda reader: reader.read(size=0), ValueError, "size must be 1 byte or more, not 0"),
        (lambda reader: reader.read(size=10**9), ValueError, "size must be at most the reader's buffer_size"),
        (lambda reader: reader.read_until(b""), ValueError, "one byte or more"),
        (lambda reader: reader.read_until("\n"), TypeError, "must be bytes, not '\\\\n'"),
        (lambda reader: reader.frames(b"\n"), TypeError, "framer"),
        (lambda reader: reader.frames(Lines(), -1), ValueError, "timeout"),
    ],
)
def test_bad_arguments(
    connection: SerialConnection, wrong: Callable[[SerialReader], object], error: type[Exception], words: str
) -> None:
    with connection.reader() as reader, pytest.raises(error, match=words):
        wrong(reader)


def test_a_bad_buffer_size(connection: SerialConnection) -> None:
    with pytest.raises(ValueError, match="buffer_size must be 1 byte or more"):
        connection.reader(buffer_size=0)


# Asking

ANSWERS = {b"*IDN?\n": b"ACME,1000\n", b"A?\n": b"a" * 10, b"B?\n": b"first\nsecond\n"}


@pytest.fixture
def instrument() -> Iterator[tuple[SimulatedDevice, SerialConnection]]:
    with SimulatedDevice(ANSWERS) as device:
        connection = SerialConnection(device.port)
        assert connection.try_connect()
        device.wait_opened()
        yield device, connection
        connection.teardown()


@pytest.mark.parametrize(
    ("question", "until", "answer"),
    [
        (b"*IDN?\n", b"\n", b"ACME,1000\n"),
        (b"*IDN?\n", b"100", b"ACME,100"),
        (b"A?\n", 10, b"a" * 10),
        (b"B?\n", Lines(), b"first"),
        (b"A?\n", FixedLength(5), b"a" * 5),
    ],
)
def test_query(
    instrument: tuple[SimulatedDevice, SerialConnection], question: bytes, until: bytes | int | Framer, answer: bytes
) -> None:
    _, connection = instrument
    heard = bytearray()
    connection.subscribe(lambda data: heard.extend(data))
    assert connection.query(question, until, timeout=SOON) == answer
    wait_until(lambda: bytes(heard) == ANSWERS[question])
    assert connection.query(b"*IDN?\n", timeout=None) == b"ACME,1000\n"


def test_an_answer_that_does_not_come(instrument: tuple[SimulatedDevice, SerialConnection]) -> None:
    _, connection = instrument
    with pytest.raises(
        TimeoutError, match=r"no answer to b'HELP\?\\n': b'\\n' did not come within 0.05 s: nothing came"
    ):
        connection.query(b"HELP?\n", timeout=0.05)
    with pytest.raises(TimeoutError, match=r"no answer to b'A\?\\n': no whole frame .*: b'aaaaaaaaaa' came"):
        connection.query(b"A?\n", Lines(), timeout=2)


def test_a_query_without_a_connection(serial_device: SimulatedDevice) -> None:
    with pytest.raises(ConnectionException, match="is not connected"):
        SerialConnection(serial_device.port).query(b"?")


@pytest.mark.parametrize(
    ("until", "error"),
    [(b"", ValueError), (0, ValueError), (10**9, ValueError), ("\n", TypeError), (1.5, TypeError), (Lines, TypeError)],
)
def test_a_bad_end_is_refused_before_anything_is_asked(
    instrument: tuple[SimulatedDevice, SerialConnection], until: bytes, error: type[Exception]
) -> None:
    device, connection = instrument
    with pytest.raises(error):
        connection.query(b"*IDN?\n", until)
    with pytest.raises(ValueError, match="timeout"):
        connection.query(b"*IDN?\n", timeout=-1)
    assert connection.query(b"A?\n", 10) == b"a" * 10
    assert device.received == b"A?\n"


def test_questions_from_many_threads_get_their_own_answers() -> None:
    with SimulatedDevice(lambda question: b"answer to " + question) as device:
        connection = SerialConnection(device.port)
        assert connection.try_connect()

        def ask(name: int) -> list[bytes]:
            return [connection.query(b"%d-%d\n" % (name, n), timeout=SOON) for n in range(20)]

        asked = [in_thread(partial(ask, name)) for name in range(5)]
        for name, answers in enumerate(asked):
            assert answers.get(timeout=SOON) == [b"answer to %d-%d\n" % (name, n) for n in range(20)]
        connection.teardown()


def test_what_came_before_is_not_the_answer(instrument: tuple[SimulatedDevice, SerialConnection]) -> None:
    device, connection = instrument
    slow = Slow()
    connection.subscribe(slow)
    device.send(b"old\n")
    assert slow.entered.wait(SOON)
    device.send(b"old as well\n")
    asking = in_thread(lambda: connection.query(b"*IDN?\n", timeout=SOON))
    with pytest.raises(TimeoutError):
        device.wait_received(b"*IDN?\n", 0.1)
    slow.go.set()
    assert asking.get(timeout=SOON) == b"ACME,1000\n"


def test_nothing_is_asked_while_a_receiver_does_not_return(
    instrument: tuple[SimulatedDevice, SerialConnection],
) -> None:
    device, connection = instrument
    slow = Slow()
    connection.subscribe(slow)
    device.send(b"old\n")
    assert slow.entered.wait(SOON)
    with pytest.raises(TimeoutError, match=r"not asked: what came before still waits for slow receivers, after 0.05 s"):
        connection.query(b"*IDN?\n", timeout=0.05)
    slow.go.set()
    assert device.received == b""


def test_a_line_that_is_lost_before_the_question(
    instrument: tuple[SimulatedDevice, SerialConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, connection = instrument

    def pulled_out() -> bool:
        raise OSError(5, "Input/output error")  # what in_waiting raises then

    monkeypatch.setattr(source_of(connection), "is_drained", pulled_out)
    with pytest.raises(ConnectionException, match="unplugged"):
        connection.query(b"*IDN?\n")


def test_a_line_that_is_lost_before_the_answer() -> None:
    def pull(question: bytes) -> bytes | None:
        if question == b"DIE\n":
            device.unplug()
            return None
        return b"alive\n"

    with SimulatedDevice(pull) as device:
        connection = SerialConnection(device.port)
        with ConnectionManager(connection, retry=AT_ONCE) as manager:
            lost = threading.Event()
            manager.subscribe(lambda state: lost.set() if state == "recovering" else None)
            assert connection.query(b"?\n", timeout=SOON) == b"alive\n"
            with pytest.raises(ConnectionException, match="was lost"):
                connection.query(b"DIE\n", timeout=SOON)
            assert lost.wait(SOON)
            device.plug()
            assert manager.wait_until_connected(SOON)
            assert connection.query(b"?\n", timeout=SOON) == b"alive\n"


def test_a_query_in_prepare_at_each_opening() -> None:
    class Instrument(SerialConnection):
        def prepare(self) -> bool:
            return self.query(b"*IDN?\n", timeout=SOON).startswith(b"ACME")

    with SimulatedDevice(ANSWERS) as device:
        connection = Instrument(device.port)
        with ConnectionManager(connection, retry=AT_ONCE) as manager:
            assert manager.is_connected
            lost = threading.Event()
            manager.subscribe(lambda state: lost.set() if state == "recovering" else None)
            device.clear()
            device.unplug()
            assert lost.wait(SOON)
            device.plug()
            assert manager.wait_until_connected(SOON)
            assert device.received == b"*IDN?\n"


def test_much_that_came_before_does_not_fill_the_readers_own_store(serial_device: SimulatedDevice) -> None:
    connection = SerialConnection(serial_device.port, buffer_size=2000)
    assert connection.try_connect()
    serial_device.wait_opened()
    slow = Slow()
    connection.subscribe(slow)
    serial_device.send(b"old\n" * 1_000, 30)  # all of it is with the kernel, or in the line's store of 2000 bytes
    assert slow.entered.wait(SOON)
    asking = in_thread(lambda: connection.query(b"?\n", timeout=SOON))
    wait_until(lambda: subscriptions(connection) == 2)
    slow.go.set()
    serial_device.wait_received(b"?\n")
    serial_device.send(b"new\n")
    assert asking.get(timeout=SOON) == b"new\n"
    connection.teardown()


def test_when_all_that_came_was_delivered(serial_device: SimulatedDevice) -> None:
    with serial.Serial(serial_device.port, timeout=0) as port:
        serial_device.wait_opened()
        source = ReceiveBuffer(PosixLine(port, None), 1000)
        assert source.is_drained()
        serial_device.send(b"x")
        wait_until(lambda: not source.is_drained())  # with the kernel
        assert source.read() == b"x"
        assert not source.is_drained()  # being told
        source.end_delivery()
        assert source.is_drained()
        source.end()
        assert source.is_drained()


def test_when_all_that_came_by_url_was_delivered() -> None:
    with serial.serial_for_url("loop://") as port:
        line, source = make_line(port, None, 1000)
        assert source.is_drained()
        line.write(b"x", None)
        assert not source.is_drained()
        assert source.read() == b"x"
        assert not source.is_drained()
        source.end_delivery()
        assert source.is_drained()
        source.end()
        assert source.is_drained()


def test_a_query_on_a_port_by_url() -> None:
    connection = SerialConnection("loop://")
    assert connection.try_connect()
    connection.write(b"old\n")
    assert connection.query(b"echo\n", timeout=SOON) == b"echo\n"
    connection.teardown()


def test_openings_without_data_begin_nothing_of_their_own() -> None:
    """Only what comes after them does."""
    queue = ReceiveQueue(SerialConnection("loop://"), 1000, across_reconnects=True)
    queue.on_data(b"a")
    queue.on_opened()
    queue.on_data(b"b")
    queue.on_opened()
    queue.on_opened()
    queue.on_data(b"c")
    with queue.lock:
        assert [(queue.take(10), queue.is_first_of_opening()) for _ in range(3)] == [
            (b"a", True),
            (b"b", True),
            (b"c", False),
        ]
