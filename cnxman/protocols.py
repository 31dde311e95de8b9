"""A protocol written for pyserial's `serial.threaded`, over a managed connection.

`attach` stands where `serial.threaded.ReaderThread` stood; the protocol (a `LineReader`, a `Packetizer`, a
`FramedPacket`, or one's own) stays as it is:

    ser = SerialConnection("/dev/ttyUSB0", baudrate=115200)
    with ConnectionManager(ser) as manager, attach(manager, PrintLines) as protocol:
        protocol.write_line("hello")

Each time the port opens, the factory makes a new protocol, so that half a line from before an outage is never
glued to one from after. Its calls are, in order and one at a time: `connection_made`, `data_received` any number of
times, `connection_lost` once. They run on the listener's thread, but for two: where `attach` finds the port open,
`connection_made` runs on the caller's thread; and `connection_lost` runs on the thread that calls `stop()` or
`transport.close()`, unless another thread is in the protocol just then, which makes this call too.

What a protocol raises is logged, and hurts neither the line nor anybody else who listens:

* from `data_received`: as with pyserial, `connection_lost` is called with it, and that protocol is done with. But the
  line isn't left without anyone: the factory makes another protocol for it at once. (What the first one still had
  to do, in its buffer or in the bytes of that call, is lost with it.)
* from `connection_made`: likewise, but there is no other protocol until the port opens again.
* from `connection_lost`: nothing more. What it was given, it may raise, as pyserial's `Protocol` does; that isn't
  logged again.
* from the factory: no protocol until the port opens again; if `attach` called it, `attach` raises it.
"""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic

import serial as pyserial

from cnxman._listener import SerialListener
from cnxman._protocol_session import P, SerialProtocol, Session
from cnxman._threads import on_library_thread
from cnxman.basics import ConnectionException, ConnectionManager, ConnectionState
from cnxman.serial import LONGEST_DELIVERY, SerialConnection

__all__ = ["Attachment", "PortError", "SerialProtocol", "Transport", "attach"]

SerialProtocol.__module__ = __name__  # documented under the name of the module that hands it on

_NOTHING_COMES_IN = {
    ConnectionState.READY: "the manager was never asked to connect",
    ConnectionState.DISCONNECTED: "the manager is disconnected",
    ConnectionState.TORNDOWN: "the manager is torn down",
}


class PortError(ConnectionException, pyserial.SerialException):
    """A `ConnectionException` that code written for pyserial catches, too: it is a `SerialException`, so an `OSError`.

    It is what `connection_lost` is given when the line was lost, and what writing raises.
    """

    def __init__(self, message: str, inner: Exception) -> None:
        super().__init__(message, inner)
        self.strerror = message


class Transport:
    """What a protocol is given to write and close with. It is good for one opening of the port."""

    def __init__(self, manager: ConnectionManager, connection: SerialConnection, session: Session[Any]) -> None:
        self._manager = manager
        self._connection = connection
        self._session = session

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._connection.port}, {'alive' if self.alive else 'over'}>"

    @property
    def serial(self) -> pyserial.Serial:
        """The port object of pyserial, for its settings and modem lines. Don't read from it, nor write or close it."""
        return self._session.listener.serial

    @property
    def alive(self) -> bool:
        """Whether this opening of the port, and its protocol, still last. Answers at once."""
        return not self._session.over and self._session.listener.is_listening

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
        """Disconnect the manager: the line stays down until somebody connects it again.

        From any thread. Called from within the protocol, its `connection_lost` comes once the protocol has returned.
        """
        self._session.end(None)
        self._manager.disconnect()


class Attachment(Generic[P]):
    """What `attach` gives back: it stands where a `serial.threaded.ReaderThread` stood.

    As a context manager it gives the protocol, as soon as the port is open, and calls `stop()` in the end.
    """

    def __init__(self, manager: ConnectionManager, connection: SerialConnection, factory: Callable[[], P]) -> None:
        self._manager = manager
        self._connection = connection
        self._factory = factory
        self._change = threading.Condition()  # guards what is below; never held while anything is called
        self._opening: SerialListener | None = None
        self._session: Session[P] | None = None
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
        """The protocol of now; None while there is none, because the port isn't open. Answers at once."""
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
            if not on_library_thread():
                self._change.wait_for(lambda: self._live() or self._why_not(), timeout)
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
        """Take the protocol off the line, which stays as it is; its `connection_lost` is called with None.

        From any thread, at any time, and more than once. When it returns the protocol is called no more. (A call that
        is under way is waited for, 5 seconds at most; but not on a thread of the library's, so not in the protocol.)
        """
        for undo in self._undo:
            undo()
        with self._change:
            self._stopped = True
            session = self._take_session()
            self._change.notify_all()
        if session is not None:
            session.end(None)
            if not on_library_thread():
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
        listener = threading.current_thread()
        assert isinstance(listener, SerialListener)
        self._begin_on(listener)

    def _begin_on_open_port(self) -> None:
        """The port may have been open before: then there is no OPENED to come. On the thread that attaches."""
        listener = self._connection._listener
        if listener is not None and listener.is_listening:
            self._begin_on(listener)

    def _begin_on(self, listener: SerialListener) -> None:
        with self._change:
            if self._opening is listener:
                return  # attach() and OPENED both found it open; whoever came first makes the protocol
            self._opening = listener
            hung = self._take_session()
        if hung is not None:
            hung.end(None)  # some receiver took so long that CLOSED was never told
        self._begin(listener)

    def _begin(self, listener: SerialListener) -> None:
        session = Session(self._factory(), listener)
        with self._change:
            # Whoever ends the line first sets is_listening to False, then tells CLOSED: here or there it is noticed.
            if self._stopped or self._opening is not listener or not listener.is_listening:
                return
            self._session = session
        session.begin(Transport(self._manager, self._connection, session))
        with self._change:
            self._change.notify_all()

    def _on_data(self, data: bytes) -> None:
        session = self._session
        if session is None or session.listener is not threading.current_thread() or session.give(data):
            return
        if self._session is session:  # not stopped meanwhile
            self._begin(session.listener)

    def _on_closed(self, error: ConnectionException | None) -> None:
        with self._change:
            session = self._take_session() if self._opening is threading.current_thread() else None
        if session is not None:
            session.end(None if error is None else PortError(error.message, error.inner))

    def _on_state(self, state: ConnectionState) -> None:
        with self._change:
            self._change.notify_all()
            session = self._take_session() if state in _NOTHING_COMES_IN else None
        if session is not None:
            session.end(None)  # some receiver took so long that CLOSED was never told

    def _take_session(self) -> Session[P] | None:
        session, self._session = self._session, None
        return session

    def _live(self) -> Session[P] | None:
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
    """Have a protocol hear a managed connection, and answer on it, each time the port is open.

    It goes on until the attachment's `stop()`; the attachment need not be held.

    Args:
        manager: keeps up a `SerialConnection`; connected already, or later.
        protocol_factory: returns a new protocol; often it is the protocol's class. Called each time the port opens,
            and at once if it is open.

    Returns:
        The attachment, which stands where a `ReaderThread` stood.

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
