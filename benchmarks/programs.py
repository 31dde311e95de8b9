"""Programs that read lines from a port, as their packages' documentation shows it, for `benchmarks.comparison`.

    python -m benchmarks.programs NAME PORT

Each says on standard output what it receives and notices, and writes once for each line of standard input.
"""

import asyncio
import contextlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

Write = Callable[[bytes], object]


def say(kind: str, *what: object) -> None:
    print(kind, *what, flush=True)


def name_of(error: BaseException | None) -> str:
    return type(error).__name__ if error is not None else "None"


def read_lines(readline: Callable[[], bytes | str]) -> None:
    try:
        while True:
            if line := readline():
                say("got", line.strip())
    except Exception as error:
        say("noticed", f"``readline`` raises ``{name_of(error)}``")


def in_thread(target: Callable[..., object], *args: object) -> None:
    threading.Thread(target=target, args=args, daemon=True).start()


def pyserial(port: str) -> Write:
    line = import_module("serial").Serial(port, 115200)
    in_thread(read_lines, line.readline)
    return line.write  # type: ignore[no-any-return]


def reader_thread(port: str) -> Write:
    serial, threaded = import_module("serial"), import_module("serial.threaded")

    def handle_line(_self: object, line: str) -> None:
        say("got", line)

    def connection_lost(_self: object, error: BaseException | None) -> None:
        say("noticed", f"``connection_lost({name_of(error)})``")

    methods = {"TERMINATOR": b"\n", "handle_line": handle_line, "connection_lost": connection_lost}
    thread = threaded.ReaderThread(serial.Serial(port, 115200), type("Lines", (threaded.LineReader,), methods))
    thread.start()
    thread.connect()
    return thread.write  # type: ignore[no-any-return]


def serialx_sync(port: str) -> Write:
    line = import_module("serialx").Serial(port, 115200)
    line.open()
    in_thread(read_lines, line.readline)
    return line.write  # type: ignore[no-any-return]


def compat(port: str) -> Write:
    line = import_module("cnxman.compat").Serial(port, 115200, timeout=1, write_timeout=2)
    in_thread(read_lines, line.readline)
    line.manager.subscribe(lambda state: say("noticed", f"``port.manager`` sends ``STATE_CHANGED``: {state}"))
    return line.write  # type: ignore[no-any-return]


def signals(port: str) -> Write:
    cnxman = import_module("cnxman")
    connection = cnxman.SerialConnection(port, 115200)
    manager = cnxman.ConnectionManager(connection)
    connection.add_framer(cnxman.Lines(), lambda line: say("got", line))
    manager.connect()
    manager.subscribe(lambda state: say("noticed", f"``STATE_CHANGED``: {state}"))
    return connection.write  # type: ignore[no-any-return]


async def aioserial_lines(port: str) -> Any:
    line = import_module("aioserial").AioSerial(port, 115200)
    return line.readline_async, line.write_async


def streams(package: str) -> Callable[[str], Any]:
    async def lines(port: str) -> Any:
        reader, writer = await import_module(package).open_serial_connection(url=port, baudrate=115200)

        async def write(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        return reader.readline, write

    return lines


async def modbus_registers(port: str) -> Any:
    client = import_module("pymodbus.client").AsyncModbusSerialClient(
        port, baudrate=115200, timeout=0.3, retries=0, trace_connect=on_trace
    )
    if not await client.connect():
        say("noticed", "``connect`` returns False")

    async def read() -> bytes:
        await asyncio.sleep(0.1)
        with contextlib.suppress(import_module("pymodbus.exceptions").ModbusException):
            return str((await client.read_holding_registers(0)).registers).encode()
        return b""

    async def write(_data: bytes) -> None:
        await client.read_holding_registers(1)

    return read, write


def on_trace(connected: bool) -> None:
    if not connected:
        say("noticed", "``trace_connect(False)``; a request raises ``ModbusIOException``")


async def frames_in_loop(port: str) -> Any:
    cnxman, aio = import_module("cnxman"), import_module("cnxman.aio")
    manager = cnxman.ConnectionManager(cnxman.SerialConnection(port, 115200))
    line = await aio.AsyncManager(manager).__aenter__()
    manager.subscribe(lambda state: say("noticed", f"``STATE_CHANGED``: {state}"))
    return line.frames(cnxman.Lines()).__anext__, line.write


def in_loop(open_lines: Callable[[str], Any]) -> Callable[[str], Write]:
    """Run a reader of asyncio's in a thread."""

    def start(port: str) -> Write:
        loop = asyncio.new_event_loop()
        in_thread(loop.run_forever)
        readline, write = asyncio.run_coroutine_threadsafe(open_lines(port), loop).result()

        async def read() -> None:
            empty = False
            try:
                while not empty:
                    line = await readline()
                    empty = line == b"" and open_lines is not modbus_registers
                    if line:
                        say("got", line.strip())
                say("noticed", "``readline`` returns ``b''``, as at an end")
            except Exception as error:
                say("noticed", f"``readline`` raises ``{name_of(error)}``")

        asyncio.run_coroutine_threadsafe(read(), loop)
        return lambda data: asyncio.run_coroutine_threadsafe(write(data), loop).result()

    return start


def tcp_client(address: str) -> Write:
    """A client of ser2net's, which is just starting."""
    until = time.monotonic() + 15
    while True:
        try:
            line = socket.create_connection(("127.0.0.1", int(address)))
            break
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)

    def read() -> None:
        with line.makefile("rb") as lines:
            for each in lines:
                say("got", each.strip())
        say("noticed", "the connection is closed")

    in_thread(read)
    return line.sendall


PROGRAMS: dict[str, Callable[[str], Write]] = {
    "cnxman's signals": signals,
    "cnxman.aio": in_loop(frames_in_loop),
    "cnxman.compat": compat,
    "pyserial": pyserial,
    "pyserial's ReaderThread": reader_thread,
    "aioserial": in_loop(aioserial_lines),
    "pyserial-asyncio-fast": in_loop(streams("serial_asyncio_fast")),
    "serialx": serialx_sync,
    "serialx in asyncio": in_loop(streams("serialx")),
    "pymodbus's asynchronous client": in_loop(modbus_registers),
    "a client of ser2net's": tcp_client,
}


def main(name: str, port: str) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    say("starts")
    try:
        write = PROGRAMS[name](port)
    except Exception as error:
        say("raises", name_of(error))
        return 1
    for _ in sys.stdin:
        try:
            write(b"hello\n")
            say("write", "returns")
        except Exception as error:
            say("write", f"raises ``{name_of(error)}``")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
