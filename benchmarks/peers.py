"""The readers, as their documentation uses them: each opens a line, calls the receiver, and returns its stop."""

import asyncio
import enum
import os
import select
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from pydispatch import dispatcher

BAUD = 115200
ORIGINAL = os.path.abspath(".cache/benchmarks/cnxman-0.0.2")  # a place of its own, as it bears our name

Receiver = Callable[[bytes], object]
Stop = Callable[[], object]
Signals = enum.Enum("Signals", {"DATA_RECEIVED": "data-received"})


def in_thread(target: Callable[..., object], *args: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread


def plain_floor(path: str, receiver: Receiver) -> Stop:
    def loop(fd: int, wake: int, deliver: Receiver) -> None:
        poll, read = poller.poll, os.read
        while True:
            for ready, _ in poll():
                if ready == wake:
                    return
            deliver(read(fd, 65536))

    def stop() -> None:
        os.eventfd_write(wake, 1)
        thread.join()
        os.close(fd)
        os.close(wake)

    fd, wake, poller = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK), os.eventfd(0), select.poll()
    poller.register(fd, select.POLLIN)
    poller.register(wake, select.POLLIN)
    thread = in_thread(loop, fd, wake, receiver)
    return stop


def floor(path: str, receiver: Receiver) -> Stop:
    send, signal = dispatcher.send, Signals.DATA_RECEIVED
    sender = threading.Event()  # any object can be one
    dispatcher.connect(receiver, signal=signal, sender=sender)  # weakly: the caller holds it
    return plain_floor(path, lambda data: send(signal=signal, sender=sender, data=data))


def reader_thread(path: str, receiver: Receiver) -> Stop:
    serial, threaded = import_module("serial"), import_module("serial.threaded")
    protocol = threaded.Protocol()
    protocol.data_received = receiver
    thread = threaded.ReaderThread(serial.Serial(path, BAUD), lambda: protocol)
    thread.start()
    thread.connect()
    return thread.close  # type: ignore[no-any-return]


@cache
def event_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    in_thread(loop.run_forever)
    return loop


def on_event_loop(package: str, path: str, receiver: Receiver) -> Stop:
    loop, lost = event_loop(), threading.Event()
    methods = {"data_received": staticmethod(receiver), "connection_lost": lambda *_: lost.set()}
    protocol = type("Forward", (asyncio.Protocol,), methods)
    opening = import_module(package).create_serial_connection(loop, protocol, path, baudrate=BAUD)
    transport, _ = asyncio.run_coroutine_threadsafe(opening, loop).result(10)
    return lambda: (loop.call_soon_threadsafe(transport.close), lost.wait(10))


def serialx_thread(path: str, receiver: Receiver) -> Stop:
    def loop(read: Callable[[int], bytes]) -> None:
        while not stopped.is_set():
            if data := read(4096):
                receiver(data)

    def stop() -> None:
        stopped.set()
        thread.join()
        port.close()

    stopped, port = threading.Event(), import_module("serialx").serial_for_url(path, BAUD, read_timeout=1)
    port.open()
    thread = in_thread(loop, port.read)
    return stop


def original(path: str, receiver: Receiver, managed: bool = False) -> Stop:
    sys.path.insert(0, ORIGINAL)
    serial = import_module("cnxman.serial")
    if managed:
        connection = serial.SerialConnection(path, BAUD)
        connection._handle_listener_data_received = receiver  # it printed what came, and told nobody
        return in_thread(import_module("cnxman.basics").ConnectionManager(connection).connect).join
    thread = serial.SerialListener(import_module("serial").Serial(path, BAUD))
    dispatcher.connect(receiver, signal=thread.Signals.DATA_RECEIVED, sender=thread)
    thread.start()
    return thread.terminate  # type: ignore[no-any-return]


def cnxman(path: str, receiver: Receiver, managed: bool = False, **options: int) -> Stop:
    library = import_module("cnxman")
    connection = library.SerialConnection(path, BAUD, **options)
    connection.subscribe(receiver)
    if managed:
        library.ConnectionManager(connection).connect()
    elif not connection.try_connect():
        raise RuntimeError(f"try_connect() answered False: {connection.last_error}")
    return connection.disconnect  # type: ignore[no-any-return]


def cnxman_asyncio(path: str, receiver: Receiver, managed: bool = False, **options: int) -> Stop:
    library, aio = import_module("cnxman"), import_module("cnxman.aio")
    connection = library.SerialConnection(path, BAUD, **options)
    line = aio.AsyncManager(library.ConnectionManager(connection)) if managed else aio.AsyncConnection(connection)

    async def forward(chunks: AsyncIterator[bytes]) -> None:
        try:
            async for chunk in chunks:
                receiver(chunk)
        finally:
            await line.__aexit__(None, None, None)

    async def start() -> "asyncio.Task[None]":
        await line.__aenter__()
        return asyncio.create_task(forward(line.data()))

    async def cancel() -> None:
        task.cancel()
        await asyncio.wait([task])

    task = asyncio.run_coroutine_threadsafe(start(), event_loop()).result(10)
    return lambda: asyncio.run_coroutine_threadsafe(cancel(), event_loop()).result(10)


def cnxman_protocol(path: str, receiver: Receiver) -> Stop:
    library, aio = import_module("cnxman"), import_module("cnxman.aio")
    line = aio.AsyncConnection(library.SerialConnection(path, BAUD))
    protocol = type("Forward", (asyncio.Protocol,), {"data_received": staticmethod(receiver)})

    async def start() -> None:
        aio.attach(line, protocol)
        await line.__aenter__()

    asyncio.run_coroutine_threadsafe(start(), event_loop()).result(10)
    return lambda: asyncio.run_coroutine_threadsafe(line.__aexit__(None, None, None), event_loop()).result(10)


def pyserial_port(path: str) -> Any:
    return import_module("serial").Serial(path, BAUD, timeout=5)


def compat_port(path: str) -> Any:
    return import_module("cnxman.compat").Serial(path, BAUD, timeout=5)


def compat(path: str, receiver: Receiver, managed: bool = True) -> Stop:
    assert managed  # it always is

    def loop() -> None:
        while port.is_open:
            if data := port.read(port.in_waiting or 1):
                receiver(data)

    def stop() -> None:
        port.close()
        thread.join()

    port = compat_port(path)
    port.timeout = None
    thread = in_thread(loop)
    return stop


class Peer(NamedTuple):
    """A reader; ``slowness`` is how many times less it gets to read, one that ``manages`` outlives outages.

    One with a ``port`` can be read by calls that wait.
    """

    about: str
    start: Callable[..., Stop]
    package: str = "serial"
    slowness: int = 1
    manages: bool = False
    port: Callable[[str], Any] | None = None


FAST, SERIALX = "serial_asyncio_fast", "serialx"
PEERS = {
    "floor": Peer("poll, os.read, one dispatcher.send: the least with signals", floor),
    "floor without dispatch": Peer("poll, os.read, a plain call", plain_floor),
    "pyserial ReaderThread": Peer("serial.threaded", reader_thread, port=pyserial_port),
    "pyserial-asyncio-fast": Peer("on one event loop in a thread", partial(on_event_loop, FAST), FAST),
    "serialx threads": Peer("its read in a thread, with a time-out and a flag", serialx_thread, SERIALX),
    "serialx asyncio": Peer("on one event loop in a thread", partial(on_event_loop, SERIALX), SERIALX),
    "cnxman 0.0.2": Peer("the original's SerialListener", original, "serial", 64, manages=True),
    "cnxman asyncio": Peer("AsyncConnection, async for, on one event loop", cnxman_asyncio, "cnxman", manages=True),
    "cnxman attach": Peer("AsyncConnection, an asyncio.Protocol", cnxman_protocol, "cnxman"),
    "cnxman.compat": Peer("its Serial in a thread", compat, "cnxman", manages=True, port=compat_port),
    "cnxman": Peer("SerialConnection", cnxman, "cnxman", manages=True),
}
QUICK = ["floor", "pyserial ReaderThread", "cnxman.compat", "cnxman asyncio", "cnxman"]


def missing(name: str) -> str | None:
    """Return why a reader can't be measured here, or None. The original is fetched if it isn't there yet."""
    if name == "cnxman 0.0.2" and not os.path.isdir(ORIGINAL):
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", ORIGINAL]
        if subprocess.run([*pip, "cnxman==0.0.2"], capture_output=True, check=False).returncode:
            return "pip could not install it"
    package = PEERS[name].package
    return None if find_spec(package) else f"{package} is not installed"
