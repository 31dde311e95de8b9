"""The listener of a connection: it hands on what it hears, and keeps two openings in order."""

import threading
from typing import TYPE_CHECKING

import serial as pyserial

from cnxman import signals
from cnxman._connection import ConnectionException
from cnxman._conversation import Conversation
from cnxman._listener import SerialListener

if TYPE_CHECKING:
    from cnxman.serial import SerialConnection


class ConnectionsListener(SerialListener):
    """The listener of a connection, to which it hands on what it hears.

    Args:
        connection: whose line it is.
        port: the port, which is open.
        turn: the connection's turn that it belongs to.
        predecessor: a listener that has yet to tell its last, because a receiver on its thread dials again. Until
            then this one tells nothing.
    """

    def __init__(
        self,
        connection: "SerialConnection",
        port: pyserial.Serial,
        turn: int,
        predecessor: "ConnectionsListener | None",
    ) -> None:
        super().__init__(port, buffer_size=connection.buffer_size, idle_timeout=connection.idle_timeout)
        self._connection = connection
        self._connections_data = signals.Channel(self.delivery, connection, Conversation.Signals.DATA_RECEIVED)
        self.predecessor = predecessor
        self.successor: ConnectionsListener | None = None
        self._may_tell = threading.Event()
        if predecessor is not None:
            predecessor.successor = self
        if predecessor is None or predecessor.finished.is_set():
            self._may_tell.set()
        self.has_told = False
        """Whether it has told of its opening."""
        self.turn = turn
        self.settled = False
        """Whether `try_connect` has returned True: from then on a loss raises the alarm."""

    def terminate(self) -> None:
        """Stop listening; see `SerialListener.terminate`."""
        super().terminate()
        self._may_tell.set()

    def _finish(self) -> None:
        super()._finish()
        if self.successor is not None:
            self.successor._may_tell.set()

    def _on_open(self) -> None:
        self._may_tell.wait()
        if self.predecessor is not None and not self.predecessor.finished.is_set():
            return  # hung up again before it was its turn
        self.predecessor = None
        self.has_told = True
        signals.Channel(self.delivery, self._connection, Conversation.Signals.OPENED).send()

    def _on_data(self, data: bytes) -> None:
        super()._on_data(data)
        self._connection._count_in(len(data))
        self._connections_data.send(data=data)

    def _on_end(self, error: ConnectionException | None) -> None:
        super()._on_end(error)
        self._connection._line_ended(self, error)
