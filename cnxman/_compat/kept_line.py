"""A line that a manager keeps up, as `cnxman.compat.Serial` needs it: what it received, and when it may be written.

It knows nothing of the object that uses it. The manager, which lives by itself while it keeps the line up, holds this;
so the object in front can be dropped, and notices.

Which thread runs what: `_on_opened`, `_on_data` and `_on_closed` run on the listener's thread, `_on_state` on whichever
thread runs the manager's input. All others run on users' threads.
"""

import errno
import logging
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import serial
from automat import NoTransition

from cnxman import _fork, ports
from cnxman._compat import errors
from cnxman._compat.receive_buffer import ReceiveBuffer
from cnxman._threads import on_library_thread
from cnxman.basics import ConnectionException, ConnectionManager, ConnectionState
from cnxman.serial import SerialConnection

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

LIMIT = 2**20
"""How many bytes wait to be read before the listener waits for the reader. (Reading goes on into the line's own buffer
then, which `SerialConnection`'s `buffer_size` bounds.)"""

LOOK_EVERY = 0.05
"""Seconds between two looks, while the listener waits for a reader, whether the line is still there."""

CATCHING_UP = 0.1
"""How long, in seconds, a read that doesn't wait gives the listener to hand over what has come. Mostly that takes
0.1 ms; but the listener needs the interpreter for it, which others may have for 5 ms each."""

FORGETTING = 1.0
"""How long, in seconds, to wait for the end of what came before, if it comes without a pause."""

DRAIN_LOOK = 0.002
"""Seconds between two looks whether everything has gone out."""

LONGEST_DROP = 2.0
"""How long, in seconds, dropping an object that is open waits for its line to be closed."""

_GONE = (ConnectionState.DISCONNECTED, ConnectionState.TORNDOWN)


class KeptLine:
    """A manager and its connection, with a buffer between them and those who read by calls.

    Args:
        manager: keeps the line up.
        connection: the manager's connection.
    """

    def __init__(self, manager: ConnectionManager, connection: SerialConnection) -> None:
        self.manager = manager
        self.connection = connection
        self.buffer = ReceiveBuffer(self._catch_up, self._check_may_wait)
        self.kept: dict[str, Callable[[serial.Serial], object]] = {}
        """What is done to the port at each opening, besides what the connection does by itself."""
        self.opened_here = False
        """Whether the manager keeps the line up because it was told so by `open`."""
        self._prepares = type(connection).prepare is not SerialConnection.prepare
        self._own_threads: list[threading.Thread] = []
        self._cancels = 0
        self._has_warned = False
        signals = SerialConnection.Signals
        with self.buffer.lock:  # whatever is told from now on changes what is set here, and after it was set
            self._undo = [
                connection.subscribe(self._on_closed, signals.CLOSED),
                connection.subscribe(self._on_opened, signals.OPENED),
                connection.subscribe(self._on_data, signals.DATA_RECEIVED),
                manager.subscribe(self._on_state),
            ]
            self._opening = 0
            self._has_port = connection.is_connected
            self._is_connected = manager.is_connected
            self._is_ready = self._is_connected or not self._prepares
        _fork.after_in_child(self, KeptLine.abandon)

    # -- opening and closing ------------------------------------------------------------------------------

    def open(self) -> None:
        """Keep the line up from now on, unless the manager does so already.

        Raises:
            serial.SerialException: the manager is torn down, or belongs to the process that this one is a fork of.
        """
        self.buffer.start()
        self.opened_here = self.opened_here or self.manager.state in (ConnectionState.READY, *_GONE)
        try:
            self.manager.connect()
        except ConnectionException as error:
            raise errors.failed(error) from error
        except NoTransition as error:
            words = f"{self.manager!r} is torn down for good: make a new manager"
            raise serial.SerialException(errno.ESHUTDOWN, words) from error
        if not self._is_own_thread():
            with self.buffer.lock:  # connected may be told a moment before the listener tells that the port is open
                self.buffer.change.wait_for(lambda: self._has_port or not self._is_connected, CATCHING_UP)

    def stop(self) -> None:
        """End all calls that wait, and take nothing more in. Closing the line is the manager's business then."""
        self.buffer.stop()

    def drop(self) -> None:
        """Nobody uses this any more: leave the line, and close it if it was opened here. May be run by the collector.

        It is closed by a thread of its own: the collector runs anywhere, and may interrupt somebody who holds a lock.
        """
        self.buffer.is_open = False
        for undo in self._undo:
            undo()
        if not self.opened_here or self.manager.state in (ConnectionState.READY, *_GONE) or sys.is_finalizing():
            return
        closer = threading.Thread(target=self.manager.disconnect, name=f"cnxman closes {self.connection.port}")
        closer.daemon = True
        closer.start()
        if not on_library_thread():
            closer.join(LONGEST_DROP)

    def abandon(self) -> None:
        """In a forked child: nothing is kept up here."""
        self.buffer.abandon()

    # -- the port -----------------------------------------------------------------------------------------

    @property
    def port(self) -> str:
        """The port's name."""
        return self.connection.port

    def use(self, what: Callable[[serial.Serial], _Result]) -> _Result:
        """Do something short with the port.

        Raises:
            serial.SerialException: it is down, or what the port raised.
        """
        return self.call(lambda: self.connection.use(what))

    def use_if_up(self, what: Callable[[serial.Serial], _Result], otherwise: _Result) -> _Result:
        """Do something short with the port, or nothing if it is down, whether or not that was noticed yet.

        Raises:
            serial.SerialException: what the port raised.
        """
        try:
            return self.connection.use(what)
        except ConnectionException as error:
            if self.connection.is_connected and not errors.is_loss(error):
                raise errors.failed(error) from error
            return otherwise

    def call(self, what: Callable[[], _Result]) -> _Result:
        """Call something of the connection's.

        Raises:
            serial.SerialException: for its `ConnectionException`.
        """
        try:
            return what()
        except ConnectionException as error:
            raise errors.failed(error) from error

    def change(self, what: Callable[[], object]) -> None:
        """Call something that the connection keeps for further openings: if the line is down, those are what counts.

        Raises:
            ValueError: the port refuses the value, in pyserial's words.
            serial.SerialException: the port refuses it, in the system's.
        """
        try:
            what()
        except ConnectionException as error:
            if self.connection.is_connected and not errors.is_loss(error):
                raise errors.refused_setting(self.port, error) or errors.failed(error) from error
            _logger.debug("set at the next opening: %s", error)

    def keep(self, name: str, what: Callable[[serial.Serial], object]) -> None:
        """Do something to the port, now if it is up, and at each opening to come; raises as `change`."""
        self.change(lambda: self.connection.use(what))
        self.kept[name] = what

    def forget_input(self) -> None:
        """Forget all that has come by now."""
        try:
            self.connection.use(lambda port: port.reset_input_buffer())
        except ConnectionException as error:
            _logger.debug("nothing to discard in the port: %s", error)
        until = time.monotonic() + FORGETTING
        while True:
            with self.buffer.lock:
                self.buffer.clear()
            if self._is_drained() or self._is_own_thread() or time.monotonic() >= until:
                break
            with self.buffer.lock:
                self.buffer.change.wait(0.001)
        with self.buffer.lock:
            self.buffer.clear()

    # -- writing ------------------------------------------------------------------------------------------

    def write(self, data: bytes, timeout: float) -> int:
        """Write a message, when the line is up.

        Args:
            data: the message.
            timeout: how long to wait for the line, in seconds. (How long the line may take nothing is the connection's
                own `write_timeout`.)

        Returns:
            How many bytes were written: less than all only if it was cancelled, or if it doesn't wait.

        Raises:
            serial.SerialTimeoutException: the line was down, or took nothing, for too long.
            serial.SerialException: the line was lost when some bytes were out already; or it is closed.
        """
        until, failed = time.monotonic() + timeout, None
        while (opening := self._wait_for_line(until, timeout, failed)) is not None:
            try:
                return self.connection.write(data)
            except ConnectionException as error:
                is_stalled = isinstance(error.inner, (TimeoutError, serial.SerialTimeoutException))
                if is_stalled and timeout == 0:
                    return error.written
                if is_stalled:
                    raise errors.timed_out(error.message) from error
                if not self._may_try_again(error):
                    raise errors.failed(error) from error
                failed = opening  # it was lost before it took anything: then it is down, as far as we go
        return 0

    def cancel_write(self) -> None:
        """Have the write that waits for the line return 0."""
        with self.buffer.lock:
            self._cancels += 1
            self.buffer.change.notify_all()

    def drain(self, timeout: float) -> None:
        """Wait until everything has gone out.

        Raises:
            serial.SerialTimeoutException: nothing went out for `timeout` seconds.
            serial.SerialException: the line is down.
        """
        left, since = -1, time.monotonic()
        while waiting := self.use(unsent):
            if waiting != left:
                left, since = waiting, time.monotonic()
            elif time.monotonic() - since >= timeout:
                raise errors.timed_out(f"{waiting} bytes wait in {self.port}, and none went out for {timeout} s")
            with self.buffer.lock:
                self.buffer.change.wait(DRAIN_LOOK)
                if not self.buffer.is_open:
                    raise errors.closed_meanwhile(self.port)
        self.use(lambda port: port.flush())  # what the driver doesn't count: its device's own few bytes

    def _wait_for_line(self, until: float, timeout: float, failed: int | None) -> int | None:
        """Wait until the line can be written to: the number of its opening, or None if that was cancelled."""
        with self.buffer.lock:
            cancels, session = self._cancels, self.buffer.session
            while True:
                if not self.buffer.is_open or self.buffer.session != session:
                    raise errors.closed_meanwhile(self.port)
                if self._has_port and self._is_connected and self._is_ready and self._opening != failed:
                    return self._opening
                if self.buffer.ended is not None:
                    raise errors.failed(self.buffer.ended) from self.buffer.ended
                if self._cancels != cancels:
                    return None
                left = until - time.monotonic()
                if left <= 0:
                    raise errors.timed_out(f"nothing was written: {self.port} was down for {timeout} s{self._why()}")
                self._check_may_wait()
                self.buffer.change.wait(min(left, threading.TIMEOUT_MAX))

    def _may_try_again(self, error: ConnectionException) -> bool:
        """Whether certainly nothing went out, so that the message can go out on the next opening."""
        if errors.was_not_open(error):
            return True
        counts = ports.scheme_of(self.port) in ("", "usb", "hwgrep", "socket") and sys.platform != "win32"
        return counts and not error.written

    def _why(self) -> str:
        error = self.manager.last_error
        return f" ({error})" if error is not None else ""

    # -- what is told -------------------------------------------------------------------------------------

    def _on_opened(self) -> None:
        self._note_thread()
        for name, what in list(self.kept.items()):
            try:
                self.connection.use(what)
            except ConnectionException as error:
                _logger.warning("%s: %s could not be set again: %s", self.port, name, error)
        with self.buffer.lock:
            self._opening += 1
            self._has_port = True
            self._is_ready = not self._prepares or self._is_connected  # connected may be told before this is
            self.buffer.seal()

    def _on_data(self, data: bytes) -> None:
        with self.buffer.lock:
            if not (self.buffer.is_open and self._is_ready):
                return
            self.buffer.add(data)
            must_wait = self._must_wait()
        if must_wait:
            self._wait_for_room()

    def _on_closed(self) -> None:
        with self.buffer.lock:
            self._has_port = False
            self.buffer.seal()

    def _on_state(self, state: ConnectionState, error: ConnectionException | None) -> None:
        if on_library_thread():
            self._note_thread()
        is_connected = state is ConnectionState.CONNECTED
        if is_connected and self._prepares:
            self._wait_until_drained(FORGETTING)  # what prepare() has asked for is no answer to anybody else
        with self.buffer.lock:
            self._is_connected = is_connected
            self._is_ready = self._is_ready or is_connected
            self.buffer.end(self._ending(error) if state in _GONE else None)

    def _ending(self, error: ConnectionException | None) -> ConnectionException:
        if error is not None:
            return error
        words = f"{self.port} was disconnected"
        return ConnectionException(words, ConnectionAbortedError(words))

    def _note_thread(self) -> None:
        """This thread brings what is waited for: it must not wait for that itself."""
        thread = threading.current_thread()
        with self.buffer.lock:
            others = [each for each in self._own_threads if each.is_alive() and each is not thread]
            self._own_threads = [*others, thread]

    # -- how ----------------------------------------------------------------------------------------------

    def _wait_for_room(self) -> None:
        """Hold the listener until somebody reads; but not for longer than the line is there."""
        if not self._has_warned:
            self._has_warned = True
            size = self.buffer.size
            _logger.warning("%s: %d bytes wait to be read: deliveries wait for the reader", self.port, size)
        with self.buffer.lock:
            self.buffer.is_awaited = True
            while self._must_wait():
                self.buffer.change.wait(LOOK_EVERY)
            self.buffer.is_awaited = False

    def _must_wait(self) -> bool:
        if self.buffer.size < LIMIT or self.buffer.readers or not self.buffer.is_open:
            return False
        # A line that was lost has no sender to be held off: what it left is taken, so that it can be opened again. But
        # not what a second outage leaves on top of that.
        rest = 0 if self.connection.is_connected else self.connection.buffer_size
        return self.buffer.size >= LIMIT + rest and self.manager.state not in _GONE

    def _catch_up(self) -> None:
        try:
            self.connection.use(_push)
        except ConnectionException:
            return  # it is down, or a kind of port without a descriptor
        self._wait_until_drained(CATCHING_UP)

    def _wait_until_drained(self, timeout: float) -> None:
        until = time.monotonic() + timeout
        while not self._is_drained() and not self._is_own_thread() and time.monotonic() < until:
            with self.buffer.lock:
                self.buffer.change.wait(0.001)

    def _is_drained(self) -> bool:
        try:
            return self.connection.is_drained()
        except ConnectionException:
            return True  # the line is lost: nothing more will come of it

    def _is_own_thread(self) -> bool:
        return threading.current_thread() in self._own_threads

    def _check_may_wait(self) -> None:
        if self._is_own_thread():
            raise errors.never_comes(self.port)


def _push(port: serial.Serial) -> None:
    """Have the kernel hand over what has just arrived: asking by `poll` does that on Linux, `in_waiting` does not."""
    if hasattr(select, "poll"):
        poller = select.poll()
        poller.register(port.fileno(), select.POLLIN)
        poller.poll(0)


def unsent(port: serial.Serial) -> int:
    """How many bytes wait in a port; some kinds of port can't tell."""
    return int(getattr(port, "out_waiting", 0))
