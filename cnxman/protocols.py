"""A protocol written for pyserial's `serial.threaded`, over a managed connection.

`attach` replaces `serial.threaded.ReaderThread`. The protocol (a `LineReader`, a `Packetizer`, a `FramedPacket`, or
one's own) stays as it is:

    ser = SerialConnection("/dev/ttyUSB0", baudrate=115200)
    with ConnectionManager(ser) as manager, attach(manager, PrintLines) as protocol:
        protocol.write_line("hello")

Each time the port opens, the factory makes a new protocol, so that half a line from before an outage is never
joined to one from after. Its calls are, in order and one at a time: `connection_made`, `data_received` any number of
times, `connection_lost` once. They run on the listener's thread, with two exceptions: if the port is open already,
`attach` calls `connection_made` on the caller's thread; and `stop()` and `transport.close()` call `connection_lost` on
their caller's thread, unless another thread is in the protocol just then: that one makes this call, too.

What a protocol raises is logged, and affects neither the line nor other receivers:

* from `data_received`: as with pyserial, `connection_lost` is called with it, and that protocol ends. The factory
  makes another protocol for the line at once. (Bytes in the first one's buffer, and the rest of that call's, are lost.)
* from `connection_made`: likewise, but there is no other protocol until the port opens again.
* from `connection_lost`: nothing more. If it raises the exception that it was given, as pyserial's `Protocol` does,
  that isn't logged again.
* from the factory: no protocol until the port opens again; if `attach` called it, `attach` raises it.
"""

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Never, Protocol, TypeVar

import serial as pyserial

from cnxman import signals
from cnxman._threads import on_library_thread, wait_for
from cnxman.basics import ConnectionException, ConnectionManager, ConnectionState
from cnxman.serial import LONGEST_DELIVERY, Opening, SerialConnection

_logger = logging.getLogger(__name__)

__all__ = ["Attachment", "PortError", "SerialProtocol", "Transport", "attach"]

_NOTHING_COMES_IN = {
    ConnectionState.READY: "the manager was never asked to connect",
    ConnectionState.DISCONNECTED: "the manager is disconnected",
    ConnectionState.TORNDOWN: "the manager is torn down",
}


class SerialProtocol(Protocol):
    """The methods of a protocol. Every `serial.threaded.Protocol` has them.

    (`Never` lets each protocol declare its own argument types; it is given a `Transport`, and an exception or None.)
    """

    def connection_made(self, transport: Never, /) -> object:
        """The port is open. `transport`, a `Transport`, writes and closes."""

    def data_received(self, data: bytes, /) -> object:
        """There is data, never empty."""

    def connection_lost(self, exc: Never, /) -> object:
        """The port is closed: `exc` is the reason, or None after a `close()`, `stop()` or `disconnect()`."""


P = TypeVar("P", bound=SerialProtocol)


class PortError(ConnectionException, pyserial.SerialException):
    """A `ConnectionException` that code written for pyserial catches, too: it is a `SerialException`, so an `OSError`.

    `connection_lost` is given one when the line was lost, and writing raises one.
    """

    def __init__(self, message: str, inner: Exception) -> None:
        super().__init__(message, inner)
        self.strerror = message


class _Session(Generic[P]):
    """One protocol on one opening of the port.

    It is created locked by the current thread. Call `begin()` or discard it.

    Args:
        protocol: a new protocol.
        opening: the opening of the port.
    """

    def __init__(self, protocol: P, opening: Opening) -> None:
        self.protocol = protocol
        self.opening = opening
        self._change = threading.Condition()  # never held while the protocol is called
        self._busy: threading.Thread | None = threading.current_thread()
        self._end: tuple[Exception | None] | None = None  # once it is to end: why
        self.made = False
        """Whether `connection_made` has returned."""
        self.over = False
        """Whether `connection_lost` was called, and has returned."""

    @property
    def ending(self) -> bool:
        """Whether it is over, or will be as soon as the protocol returns from a call."""
        return self._end is not None

    def begin(self, transport: object) -> None:
        """Call `connection_made`."""
        self.made = self._run("connection_made", transport)

    def feed(self, data: bytes) -> bool:
        """Call `data_received`, unless this has ended. Wait while another thread is in the protocol.

        Returns:
            False if this ended because `data_received` raised.
        """
        with self._change:
            self._change.wait_for(lambda: self._busy is None or self.ending)
            if self.ending:
                return True
            self._busy = threading.current_thread()
        return self._run("data_received", data)

    def end(self, reason: Exception | None) -> None:
        """Call `connection_lost`, or have it called by whoever is in the protocol now. Only the first time counts."""
        with self._change:
            if self.ending:
                return
            self._end = (reason,)
            self._change.notify_all()
            if self._busy is not None:
                return
            self._busy = threading.current_thread()
        self._call_connection_lost()

    def wait_until_over(self, timeout: float) -> None:
        """Wait until `connection_lost` has returned. Not from within the protocol."""
        with self._change:
            self._change.wait_for(lambda: self.over, timeout)

    def _run(self, name: str, argument: object) -> bool:
        """Make one of the protocol's calls, with the session locked."""
        raised: Exception | None = None
        try:
            getattr(self.protocol, name)(argument)
        except Exception as error:
            raised = error
            self._log_protocol_error(name, error)
        finally:
            self._release(raised)
        return raised is None or self._end != (raised,)

    def _release(self, raised: Exception | None) -> None:
        with self._change:
            if raised is not None and self._end is None:
                self._end = (raised,)
            if not self.ending:
                self._busy = None
                self._change.notify_all()
                return
        self._call_connection_lost()

    def _call_connection_lost(self) -> None:
        assert self._end is not None
        (reason,) = self._end
        try:
            self.protocol.connection_lost(reason)  # type: ignore[arg-type]  # see SerialProtocol
        except Exception as error:
            if error is not reason:
                self._log_protocol_error("connection_lost", error)
        finally:
            with self._change:
                self.over = True
                self._busy = None
                self._change.notify_all()

    def _log_protocol_error(self, name: str, error: Exception) -> None:
        kind, port = type(self.protocol), str(self.opening.port.port)
        what = f"{kind.__module__}.{kind.__qualname__}.{name}"
        _logger.error("%s: %s raised", port, what, exc_info=error, extra={"port": port})


class Transport:
    """Writes and closes, for one protocol. It is valid for one opening of the port."""

    def __init__(self, manager: ConnectionManager, connection: SerialConnection, session: _Session[Any]) -> None:
        self._manager = manager
        self._connection = connection
        self._session = session

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._connection.port}, {'alive' if self.alive else 'over'}>"

    @property
    def serial(self) -> pyserial.Serial:
        """The port object of pyserial, for its settings and modem lines. Don't read from it, nor write or close it."""
        return self._session.opening.port

    @property
    def alive(self) -> bool:
        """Whether this opening of the port, and its protocol, still last. Answers at once."""
        return not self._session.over and self._session.opening.is_open

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Send a message; see `SerialConnection.write`.

        Raises:
            PortError: it did not go out, or only in part; or this opening is over. (It isn't written into a later one.)
            TypeError: if `data` isn't bytes.
        """
        if not self.alive:
            over = f"{self._connection.port}: this opening of the port is over"
            raise PortError(over, ConnectionError(over))
        return _write(self._connection, data)

    def close(self) -> None:
        """Disconnect the manager: the line stays down until the manager connects again.

        From any thread. If the protocol calls it, `connection_lost` is called once the protocol has returned.
        """
        self._session.end(None)
        self._manager.disconnect()


class Attachment(Generic[P]):
    """What `attach` returns, with the methods of a `serial.threaded.ReaderThread`.

    As a context manager it gives the protocol, as soon as the port is open, and calls `stop()` at the end.
    """

    def __init__(self, manager: ConnectionManager, connection: SerialConnection, factory: Callable[[], P]) -> None:
        self._manager = manager
        self._connection = connection
        self._factory = factory
        self._change = threading.Condition()  # guards what is below; never held while anything is called
        self._opening: Opening | None = None
        self._session: _Session[P] | None = None
        self._stopped = False
        own = SerialConnection.Signals
        self._undo = [
            connection.subscribe(self._on_opened, own.OPENED),
            connection.subscribe(self._on_data, own.DATA_RECEIVED),
            connection.subscribe(self._on_closed, own.CLOSED),
            manager.subscribe(self._on_state, ConnectionManager.Signals.STATE_CHANGED),
        ]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._connection.port}: {self.protocol}>"

    @property
    def protocol(self) -> P | None:
        """The current protocol; None while the port isn't open. Answers at once."""
        session = self._session
        return session.protocol if session is not None and not session.ending else None

    def connect(self, timeout: float | None = None) -> tuple[Transport, P]:
        """Wait until the port is open and its protocol's `connection_made` has returned.

        On a thread of the library's, so in a protocol or a receiver, it doesn't wait.

        Args:
            timeout: how long to wait, in seconds; None waits for as long as the manager tries.

        Returns:
            The transport and the protocol.

        Raises:
            PortError: it is not open in time; or nothing will come of waiting, as when the manager is disconnected.
        """
        with self._change:
            if not (signals.is_delivering() or on_library_thread()):
                wait_for(self._change, lambda: self._live() or self._why_not(), timeout)
            if (session := self._live()) is not None:
                return Transport(self._manager, self._connection, session), session.protocol
            reason = self._why_not() or "the port is not open, or there is no protocol for it"
        raise PortError(
            f"no protocol on {self._connection.port}: {reason}", self._manager.last_error or OSError(reason)
        )

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Send a message; see `SerialConnection.write`.

        Raises:
            PortError: it did not go out, or only in part.
            TypeError: if `data` isn't bytes.
        """
        return _write(self._connection, data)

    def stop(self) -> None:
        """Detach the protocol, and call its `connection_lost` with None. The line stays up.

        From any thread, at any time, and more than once. After it has returned the protocol is not called any more. (It
        waits up to 5 seconds for a call that is under way; but not on a thread of the library, so not in the protocol.)
        """
        for undo in self._undo:
            undo()
        with self._change:
            self._stopped = True
            session = self._take_session()
            self._change.notify_all()
        if session is not None:
            session.end(None)
            if not (signals.is_delivering() or on_library_thread()):
                session.wait_until_over(LONGEST_DELIVERY)

    def __enter__(self) -> P:
        """Wait until the port is open; see `connect`."""
        try:
            return self.connect()[1]
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    # -- what happens -------------------------------------------------------------------------------------

    def _on_opened(self) -> None:
        opening = self._connection.current_opening
        if opening is not None:
            self._begin_on(opening)

    def _begin_on_open_port(self) -> None:
        """The port may have been open before: then there is no OPENED to come. On the thread that attaches."""
        opening = self._connection.current_opening
        if opening is not None and opening.is_open:
            self._begin_on(opening)

    def _begin_on(self, opening: Opening) -> None:
        with self._change:
            if self._opening is opening:
                return  # attach() and OPENED both found it open; whoever came first makes the protocol
            self._opening = opening
            hung = self._take_session()
        if hung is not None:
            hung.end(None)  # some receiver took so long that CLOSED was never sent
        self._begin(opening)

    def _begin(self, opening: Opening) -> None:
        session = _Session(self._factory(), opening)
        with self._change:
            # Whoever ends the line first makes is_open False, then sends CLOSED: here or there it is noticed.
            if self._stopped or self._opening is not opening or not opening.is_open:
                return
            self._session = session
        session.begin(Transport(self._manager, self._connection, session))
        with self._change:
            self._change.notify_all()

    def _on_data(self, data: bytes) -> None:
        session = self._session
        if session is None or not session.opening.is_delivering_here or session.feed(data):
            return
        if self._session is session:  # not stopped meanwhile
            self._begin(session.opening)

    def _on_closed(self, error: ConnectionException | None) -> None:
        with self._change:
            session = self._take_session() if self._opening is not None and self._opening.is_delivering_here else None
        if session is not None:
            session.end(None if error is None else PortError(error.message, error.inner))

    def _on_state(self, state: ConnectionState) -> None:
        with self._change:
            self._change.notify_all()
            session = self._take_session() if state in _NOTHING_COMES_IN else None
        if session is not None:
            session.end(None)  # some receiver took so long that CLOSED was never sent

    def _take_session(self) -> _Session[P] | None:
        session, self._session = self._session, None
        return session

    def _live(self) -> _Session[P] | None:
        session = self._session
        return session if session is not None and session.made and not session.ending else None

    def _why_not(self) -> str | None:
        """Why nothing will come of waiting; None if something may."""
        if self._stopped:
            return "it was stopped"
        if self._session is not None and self._session.over and not self._session.made:
            return "its protocol's connection_made raised"
        return _NOTHING_COMES_IN.get(self._manager.state)


def attach(manager: ConnectionManager, protocol_factory: Callable[[], P]) -> Attachment[P]:
    """Attach a protocol to a managed connection: it receives and writes each time the port is open.

    It goes on until the attachment's `stop()`; you need not keep the attachment.

    Args:
        manager: keeps up a `SerialConnection`; connected already, or later.
        protocol_factory: returns a new protocol; often it is the protocol's class. Called each time the port opens,
            and at once if it is open.

    Returns:
        The attachment, which replaces a `ReaderThread`.

    Raises:
        TypeError: if the manager's connection isn't a `SerialConnection`, or the factory can't be called.
        Exception: what the factory raised, if it was called at once.
    """
    if not isinstance(manager, ConnectionManager):
        raise TypeError(f"manager must be a ConnectionManager, not {manager!r}")
    connection = manager.connection
    if not isinstance(connection, SerialConnection):
        raise TypeError(f"the manager's connection must be a SerialConnection, not {connection!r}")
    if not callable(protocol_factory):
        raise TypeError(f"protocol_factory must be callable, such as a protocol's class, not {protocol_factory!r}")
    attachment = Attachment(manager, connection, protocol_factory)
    try:
        attachment._begin_on_open_port()
    except BaseException:
        attachment.stop()
        raise
    return attachment


def _write(connection: SerialConnection, data: bytes | bytearray | memoryview) -> int:
    try:
        return connection.write(data)
    except ConnectionException as error:
        raise PortError(error.message, error.inner) from error
