"""The command `cnxman query`: asks a device once, and prints its answer."""

import os
import time

from cnxman import ConnectionException, ConnectionManager, SerialConnection
from cnxman.cli.stdio import STDERR, STDOUT, write_all


def run(connection: SerialConnection, question: bytes, until: bytes, timeout: float, *, echo: bool) -> int:
    """Ask, and print the answer on standard output.

    Args:
        connection: whom to ask; it isn't connected yet.
        question: sent as it is.
        until: where the answer ends.
        timeout: how long to wait for the device and its answer together, in seconds.
        echo: whether the device repeats the question before it answers.

    Returns:
        The exit status.
    """
    connection.configure(write_timeout=timeout)
    manager = ConnectionManager(connection)
    try:
        answer = _ask(manager, connection, question, until, time.monotonic() + timeout, echo=echo)
        line_end = b"" if answer.endswith(b"\n") or not os.isatty(STDOUT) else b"\n"
        write_all(STDOUT, answer + line_end)
    except (ConnectionException, OSError, BufferError) as error:  # a TimeoutError is an OSError
        write_all(STDERR, f"cnxman query: {error}\n".encode(errors="replace"))
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        manager.teardown()
    return 0


def _ask(
    manager: ConnectionManager, connection: SerialConnection, question: bytes, until: bytes, end: float, *, echo: bool
) -> bytes:
    manager.connect()
    if not manager.wait_until_connected(_left(end)):
        raise manager.last_error or TimeoutError("it could not be opened in time")
    if not echo:
        return connection.query(question, until, timeout=_left(end))
    with connection.reader() as reader:
        connection.write(question)
        repeated = reader.read(_left(end), size=len(question))
        if repeated != question:
            raise TimeoutError(f"{repeated!r} came, not the question: it seems that this device doesn't repeat it")
        return reader.read_until(until, _left(end))


def _left(end: float) -> float:
    return max(0.0, end - time.monotonic())
