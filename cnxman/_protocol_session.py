"""One protocol on one opening of a port: its calls are made one at a time, and its end is told once."""

import logging
import threading
from typing import Generic, Never, Protocol, TypeVar

from cnxman._listener import SerialListener

_logger = logging.getLogger(__name__)


class SerialProtocol(Protocol):
    """What a protocol has: every `serial.threaded.Protocol` has it, and so may anything else.

    (`Never` lets each protocol declare as it likes what it takes; it is given a `Transport`, and an exception or None.)
    """

    def connection_made(self, transport: Never, /) -> object:
        """The port is open: `transport`, a `Transport`, writes and closes."""

    def data_received(self, data: bytes, /) -> object:
        """There is data, never empty."""

    def connection_lost(self, exc: Never, /) -> object:
        """It is over: `exc` is why, or None if somebody asked for it."""


P = TypeVar("P", bound=SerialProtocol)


class Session(Generic[P]):
    """One protocol on one opening of the port.

    It begins busy, on behalf of the thread that makes it, which is to call `begin`, or else to drop it.

    Args:
        protocol: a new protocol.
        listener: who listens to this opening of the port.
    """

    def __init__(self, protocol: P, listener: SerialListener) -> None:
        self.protocol = protocol
        self.listener = listener
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

    def give(self, data: bytes) -> bool:
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
        self._tell_end()

    def wait_until_over(self, timeout: float) -> None:
        """Wait until `connection_lost` has returned. Not from within the protocol."""
        with self._change:
            self._change.wait_for(lambda: self.over, timeout)

    def _run(self, name: str, argument: object) -> bool:
        """Make one of the protocol's calls, with the turn taken."""
        raised: Exception | None = None
        try:
            getattr(self.protocol, name)(argument)
        except Exception as error:
            raised = error
            self._complain(name, error)
        finally:
            self._return_turn(raised)
        return raised is None or self._end != (raised,)

    def _return_turn(self, raised: Exception | None) -> None:
        with self._change:
            if raised is not None and self._end is None:
                self._end = (raised,)
            if not self.ending:
                self._busy = None
                self._change.notify_all()
                return
        self._tell_end()

    def _tell_end(self) -> None:
        assert self._end is not None
        (reason,) = self._end
        try:
            self.protocol.connection_lost(reason)  # type: ignore[arg-type]  # see SerialProtocol
        except Exception as error:
            if error is not reason:
                self._complain("connection_lost", error)
        finally:
            with self._change:
                self.over = True
                self._busy = None
                self._change.notify_all()

    def _complain(self, name: str, error: Exception) -> None:
        kind, port = type(self.protocol), str(self.listener.serial.port)
        what = f"{kind.__module__}.{kind.__qualname__}.{name}"
        _logger.error("%s: %s raised", port, what, exc_info=error, extra={"port": port})
