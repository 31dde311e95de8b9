"""The one place that tells receivers, and `subscribe`.

PyDispatcher keeps the tables; this module reads them, and calls each receiver with PyDispatcher's `robustApply`. Its
own `send` is not used, because there a receiver that disconnects itself makes it skip the next one, and one that raises
keeps the rest from hearing. Here receivers are called from a snapshot, and what one raises is logged.

Receivers run on the thread that tells: see the signal's documentation for which one that is.
"""

import logging
import threading
from collections.abc import Callable, Hashable
from enum import Enum

from pydispatch import dispatcher, robustapply
from pydispatch.errors import DispatcherError

from cnxman._threads import on_library_thread

Receiver = Callable[..., object]
"""Takes those of a signal's named arguments that it names, besides `signal` and `sender`."""

_logger = logging.getLogger(__name__)


class Signal(Enum):
    """A signal: what the members of every `Signals` are.

    Looked up by identity: `Enum` itself hashes names, in Python, which would be done thrice for each chunk of data.
    """

    __hash__ = object.__hash__


_ANYBODY = id(dispatcher.Any)

# PyDispatcher changes its tables in several steps and without a lock; at least our own changes take turns.
_tables = threading.RLock()


def hearing(sender: object, signal: Hashable) -> tuple[Receiver, ...]:
    """A snapshot of the receivers that hear `signal` from `sender`, in the order PyDispatcher calls them.

    It stands under every chunk of data, and so reads PyDispatcher's table itself: `getReceivers` raises and catches a
    KeyError for each of the four kinds that nobody uses, which costs more than the read from the port. Each list is
    copied in one step of the interpreter: no other thread can change it in between.
    """
    found: list[Receiver] = []
    for key in (id(sender), _ANYBODY):
        by_signal = dispatcher.connections.get(key)
        if by_signal:
            found += by_signal.get(signal, ())
            found += by_signal.get(dispatcher.Any, ())
    if len(found) > 1:
        return tuple(dict.fromkeys(dispatcher.liveReceivers(found)))
    return tuple(dispatcher.liveReceivers(found)) if found else ()


def tell(receiver: Receiver, named: dict[str, object]) -> BaseException | None:
    """Call one receiver with those of the named arguments that it takes; what it raises is logged with its traceback.

    Returns:
        A KeyboardInterrupt or SystemExit that belongs to a thread of the user's, to be raised once everybody
        has been told; otherwise None. (On a thread of the library's it would end the thread silently.)
    """
    try:
        robustapply.robustApply(receiver, **named)
    except Exception:
        _logger.exception("%s, a receiver of %s, raised", name_of(receiver), named["signal"])
    except BaseException as stop:
        if not on_library_thread():
            return stop
        _logger.exception("%s, a receiver of %s, raised", name_of(receiver), named["signal"])
    return None


def send(sender: object, signal: Hashable, **named: object) -> None:
    """Tell every receiver of `signal` from `sender`, on this thread.

    Raises:
        KeyboardInterrupt, SystemExit: what a receiver on the user's own thread raised, after all were told.
    """
    named |= {"sender": sender, "signal": signal}
    stops = [tell(receiver, named) for receiver in hearing(sender, signal)]
    for stop in filter(None, stops):
        raise stop


class Delivery:
    """Tells receivers, knows which one is running, and can be called off between two of them."""

    def __init__(self) -> None:
        self.called_off = False
        self.receiver: Receiver | None = None
        """The receiver that runs now; None between deliveries."""

    def send(self, sender: object, signal: Hashable, **named: object) -> None:
        """Tell every receiver of `signal` from `sender`, on this thread (one of the library's)."""
        for receiver in hearing(sender, signal):
            if self.called_off:
                break
            self.receiver = receiver
            named["sender"], named["signal"] = sender, signal
            tell(receiver, named)
        self.receiver = None


def subscribe(sender: object, receiver: Receiver, signal: Hashable) -> Callable[[], None]:
    """Have `receiver` hear `signal` from `sender` for as long as the sender lives.

    PyDispatcher holds receivers weakly, so a lambda or a local function vanishes at once. Here the sender holds
    it strongly. A receiver that is subscribed twice to the same signal is called once.

    Args:
        sender: a connection or a manager.
        receiver: a function, method or object with a `__call__` written in Python.
        signal: a member of one of the sender's `Signals`.

    Returns:
        A function that ends it; it may be called from any thread, and more than once.

    Raises:
        TypeError: if the receiver cannot be called, or does not tell which arguments it takes.
    """
    _check_receiver(receiver)
    held: list[tuple[Hashable, Receiver]] = sender.__dict__.setdefault("_subscribed", [])
    with _tables:
        dispatcher.connect(receiver, signal=signal, sender=sender)
        held.append((signal, receiver))
    ended = False

    def undo() -> None:
        nonlocal ended
        with _tables:
            if ended:
                return
            ended = True
            held.remove((signal, receiver))
            if (signal, receiver) in held:
                return  # subscribed a second time, and that one goes on
            try:
                dispatcher.disconnect(receiver, signal=signal, sender=sender)
            except DispatcherError:
                _logger.debug("%s had left %s before", name_of(receiver), signal)

    return undo


def listen(sender: object, receiver: Receiver, signal: Hashable) -> None:
    """Have `receiver` hear `signal` from `sender` for as long as somebody else holds the receiver."""
    with _tables:
        dispatcher.connect(receiver, signal=signal, sender=sender)


def name_of(receiver: Receiver) -> str:
    """A receiver's name, for a log or a message."""
    function = getattr(receiver, "__func__", receiver)
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return f"{module}.{name}" if module and name else repr(receiver)


def _check_receiver(receiver: Receiver) -> None:
    if not callable(receiver):
        raise TypeError(f"a receiver must be callable, not {receiver!r}")
    try:
        robustapply.function(receiver)
    except (ValueError, AttributeError) as unknown:
        raise TypeError(
            f"{receiver!r} does not tell which arguments it takes: wrap it in a function or a lambda"
            " that names them, such as `lambda data: ...`"
        ) from unknown
