"""A protocol of asyncio's on a line that is kept up: `attach`, and the transport that a protocol is given."""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from cnxman import signals
from cnxman._aio.waiting import AsyncReceiveQueue
from cnxman.basics import ConnectionException
from cnxman.reading import MOST_AT_ONCE
from cnxman.serial import Opening, SerialConnection

_logger = logging.getLogger("cnxman.aio")

P = TypeVar("P", bound=asyncio.Protocol)

StartWrite = Callable[[bytes], "asyncio.Future[int]"]
"""Begins to send a message."""

HIGH_WATER = 64 * 1024
"""How many bytes may wait to be written before the protocol is asked to pause, unless told otherwise."""


class SerialTransport(asyncio.Transport):
    """What a protocol is given to write and close with. It is good for one opening of the port.

    Everything here is to be used in the loop. `get_extra_info("serial")` is pyserial's port object, for its settings
    and modem lines: don't read from it, nor write or close it.
    """

    def __init__(
        self, session: "_Session[Any]", protocol: asyncio.BaseProtocol, opening: Opening, write: StartWrite
    ) -> None:
        super().__init__(extra={"serial": opening.port})
        self._session = session
        self._start_write = write
        self._opening = opening
        self._protocol: asyncio.BaseProtocol = protocol
        self._waiting = 0  # bytes that have yet to be written
        self._is_closing = False
        self._is_paused = False
        self._asked_to_pause = False
        self._high, self._low = HIGH_WATER, HIGH_WATER // 4

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._opening.port.port}, {'closing' if self.is_closing() else 'open'}>"

    # -- reading ------------------------------------------------------------------------------------------

    def is_reading(self) -> bool:
        """Whether `data_received` is called with what comes."""
        return not (self._is_paused or self.is_closing())

    def pause_reading(self) -> None:
        """Have `data_received` called no more. What comes waits, as for every slow consumer of this line.

        (If the line ends meanwhile, what waits is dropped, and `connection_lost` is called at once.)
        """
        self._is_paused = True

    def resume_reading(self) -> None:
        """Have `data_received` called again."""
        if self._is_paused:
            self._is_paused = False
            self._session.run_soon()

    # -- writing ------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send a message: at once what the line takes, and the rest when it takes more. It never waits.

        Whole messages go out in the order of the calls, unmixed with those of others who write. Once this opening of
        the port is over nothing is written, in a later one neither. If the line takes nothing for `write_timeout`
        seconds, `connection_lost` is called with the error.

        Raises:
            TypeError: if `data` isn't bytes.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be bytes, not {data!r}")
        if not data:
            return
        if self.is_closing() or not self._opening.is_open:
            _logger.debug("%r: %d bytes are not written", self, len(data))
            return
        message = bytes(data)
        writing = self._start_write(message)
        self._waiting += len(message)
        if writing.done():
            self._on_written(len(message), writing)
            return
        writing.add_done_callback(lambda done: self._on_written(len(message), done))
        self._control_flow()

    def get_write_buffer_size(self) -> int:
        """How many bytes of messages wait that have yet to go out whole."""
        return self._waiting

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The low and the high water mark, in bytes."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Say from how many bytes on the protocol's `pause_writing` is called, and down to which `resume_writing`.

        Raises:
            ValueError: unless 0 <= low <= high.
        """
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not 0 <= low <= high:
            raise ValueError(f"low must be 0 or more, and at most high, which is {high}, not {low}")
        self._high, self._low = high, low
        self._control_flow()

    def can_write_eof(self) -> bool:
        """A serial line has no such thing."""
        return False

    def write_eof(self) -> None:
        """A serial line has no such thing.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a serial line has no end of file")

    def _on_written(self, size: int, writing: "asyncio.Future[int]") -> None:
        self._waiting -= size
        error = None if writing.cancelled() else writing.exception()
        if isinstance(error, Exception) and self._opening.is_open and not self._session.is_over:
            self._session.fail("writing", error)
        self._control_flow()
        if self._is_closing and not self._waiting:
            self._session.disconnect()

    def _control_flow(self) -> None:
        """Ask the protocol to pause writing, or to go on, if it is time."""
        if self._session.is_over:
            return
        if not self._asked_to_pause and self._waiting > self._high:
            self._asked_to_pause = True
            self._session.call("pause_writing")
        elif self._asked_to_pause and self._waiting <= self._low:
            self._asked_to_pause = False
            self._session.call("resume_writing")

    # -- the end ------------------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._is_closing or self._session.is_over

    def close(self) -> None:
        """Write what waits, then disconnect the line: it stays down until somebody connects it.

        `data_received` is called no more; `connection_lost` is called with None in the end.
        """
        if not self.is_closing():
            self._is_closing = True
            if not self._waiting:
                self._session.disconnect()

    def abort(self) -> None:
        """Disconnect the line at once: what waits to be written is dropped. See `close`."""
        if not self._session.is_over:
            self._is_closing = True
            self._session.disconnect()

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Have another protocol called from now on."""
        self._protocol = protocol


class _Session(Generic[P]):
    """One protocol on one opening of the port. Runs in the loop.

    Args:
        attachment: whose it is.
        opening: the opening of the port.
        queue: what comes on it.
    """

    def __init__(self, attachment: "SerialAttachment[P]", opening: Opening, queue: AsyncReceiveQueue) -> None:
        self.queue = queue
        self.protocol: P | None = None
        self.is_over = False
        """Whether `connection_lost` was called, or there is no protocol to call."""
        self._attachment = attachment
        self._opening = opening
        self._transport: SerialTransport | None = None
        queue.on_arrival, queue.take_directly = self.run, self._take

    def run(self) -> None:
        """Give the protocol what has come. Make it before, if its time has come; end it after the last."""
        queue = self.queue
        if self.is_over or not self._attachment.is_next(self):
            return
        transport = self._transport or self._make()
        while transport is not None and not self.is_over:
            if not (transport.is_reading() or transport.is_closing()):
                queue.is_awaited = True
                if queue.ended:
                    self.end(queue.error)
                return
            try:
                data, _ = queue.take_now()
            except StopAsyncIteration:
                self.end(None)
                return
            except ConnectionException as error:
                self.end(error)
                return
            if not data:
                queue.is_ready = True
                return
            if transport.is_reading():
                self.call("data_received", data)
            if len(data) == MOST_AT_ONCE:
                self.run_soon()  # others have their turn
                return

    def _take(self, data: bytes) -> None:
        """Give the protocol what came while nothing else was there to give, if it is ready for that."""
        transport = self._transport
        if transport is not None and transport.is_reading():
            self.queue.is_ready = True
            self.call("data_received", data)
        else:
            self.queue.keep(data)

    def run_soon(self) -> None:
        """Run in the loop's next round."""
        self.queue.loop.call_soon(self.run)

    def call(self, name: str, *arguments: object) -> None:
        """Make one of the protocol's calls. If it raises, the protocol is done with."""
        assert self._transport is not None
        try:
            getattr(self._transport.get_protocol(), name)(*arguments)
        except Exception as error:
            self.fail(name, error)

    def fail(self, what: str, error: Exception) -> None:
        """The protocol is done with, but the line isn't left without one: the factory makes another."""
        if self.is_over:
            return
        self._report(f"{what} raised", error)
        if what == "connection_made":  # the next one would fare no better
            self.end(error)
        else:
            self._attachment.replace(self, _Session(self._attachment, self._opening, self.queue))
            self._end(error)

    def end(self, error: Exception | None) -> None:
        """Call `connection_lost`, and take no more. Only the first time counts."""
        if not self.is_over:
            self._end(error)
            self.queue.close()
            self._attachment.forget(self)

    def disconnect(self) -> None:
        """Disconnect the line, whose end then calls `connection_lost`."""
        self._attachment.disconnect()
        self.run_soon()  # and take what comes till then, to drop it

    def _end(self, error: Exception | None) -> None:
        self.is_over = True
        if self._transport is not None:
            try:
                self._transport.get_protocol().connection_lost(error)
            except Exception as raised:
                self._report("connection_lost raised", raised)

    def _make(self) -> SerialTransport | None:
        factory = self._attachment.factory
        try:
            self.protocol = factory()
        except Exception as error:
            self._report(f"{signals.name_of(factory)} raised", error)
            self.end(None)
            return None
        self._transport = SerialTransport(self, self.protocol, self._opening, self._attachment.write)
        self.call("connection_made", self._transport)
        return self._transport

    def _report(self, message: str, error: Exception) -> None:
        context = {"message": f"{self._opening.port.port}: {message}", "exception": error, "protocol": self.protocol}
        self.queue.loop.call_exception_handler(context)


class SerialAttachment(Generic[P]):
    """What `attach` gives back. It need not be held.

    Args:
        connection: on what.
        factory: makes a protocol.
        make_queue: makes what the data of an opening wait in.
        write: begins to send a message.
        disconnect: disconnects the line, soon.
    """

    def __init__(
        self,
        connection: SerialConnection,
        factory: Callable[[], P],
        *,
        make_queue: Callable[[], AsyncReceiveQueue],
        write: StartWrite,
        disconnect: Callable[[], object],
    ) -> None:
        self.factory = factory
        self.write = write
        self.disconnect = disconnect
        self._connection = connection
        self._make_queue = make_queue
        self._loop = asyncio.get_running_loop()
        self._sessions: list[_Session[P]] = []  # the first is under way; it ends before the next begins
        self._lock = threading.Lock()
        self._opening: Opening | None = None
        self._remove_tap = connection.add_tap(self)
        opening = connection.current_opening
        if opening is not None and opening.is_open and opening.has_sent_opened:
            self._begin_on(opening)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self._connection.port}: {self.protocol}>"

    @property
    def protocol(self) -> P | None:
        """The protocol of now; None while the port isn't open."""
        return self._sessions[0].protocol if self._sessions else None

    def stop(self) -> None:
        """Take the protocol off the line, which stays as it is: `connection_lost` is called with None. In the loop."""
        self._remove_tap()
        for session in tuple(self._sessions):
            session.end(None)

    # -- for its sessions, in the loop --------------------------------------------------------------------

    def is_next(self, session: _Session[P]) -> bool:
        """Whether it is this session's turn."""
        return self._sessions[:1] == [session]

    def replace(self, session: _Session[P], by: _Session[P]) -> None:
        """Have another session in the place of one that is over."""
        self._sessions[self._sessions.index(session)] = by
        by.run_soon()

    def forget(self, session: _Session[P]) -> None:
        """A session is over: the next one may begin."""
        self._sessions.remove(session)
        if self._sessions:
            self._sessions[0].run_soon()

    # -- on the listener's thread; see `cnxman.reading.Tap` -----------------------------------------------

    def on_opened(self) -> None:
        """See `Tap`."""
        opening = self._connection.current_opening
        if opening is not None:
            self._begin_on(opening)

    def on_data(self, data: bytes) -> None:
        """See `Tap`: the session's queue takes them."""

    def on_closed(self, error: ConnectionException | None) -> None:
        """See `Tap`: the session's queue notes it."""

    def _begin_on(self, opening: Opening) -> None:
        with self._lock:
            if self._opening is opening:
                return  # attaching and OPENED both found it open
            self._opening = opening
        queue = self._make_queue()
        session = _Session(self, opening, queue)
        self._sessions.append(session)
        with queue.lock:
            queue.is_awaited = True
            queue.notify()
        if not opening.is_open:
            queue.finish(None)  # it may have ended before there was a queue to note it
