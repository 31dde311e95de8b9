"""The one place that tells receivers, and `subscribe`.

Receivers that joined by PyDispatcher are told like those that did by `subscribe`. Its `send` is not used, because there
a receiver that disconnects itself makes it skip the next one, and one that raises keeps the rest from hearing. Here
receivers are called from a snapshot, and what one raises is logged.

Its tables are not used for `subscribe` either: it changes them in several steps and without a lock, also while
receivers are garbage collected, on whichever thread that happens. Every few hundredth subscription that meets such a
moment is lost. Here a sender has a list of its own, and each change of it is one step of the interpreter.

Receivers run on the thread that tells: see the signal's documentation for which one that is.
"""

import inspect
import logging
import weakref
from collections.abc import Callable, Hashable
from contextlib import suppress
from enum import Enum
from functools import partial
from operator import is_
from types import MethodType
from typing import TypeGuard

from pydispatch import dispatcher, robustapply

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

_TOLD_WITH = {
    "raise-alarm": {"error"},
    "state-changed": {"state", "previous", "error"},
    "retry-scheduled": {"attempt", "delay", "error"},
    "data-received": {"data"},
    "read-error": {"error"},
    "opened": set[str](),
    "closed": {"error"},
    "frame-received": {"frame", "framer"},
}
"""The named arguments of the library's own signals, besides `sender` and `signal`."""


class _Held:
    """A subscription: a signal, and the receiver that hears it, or a weak reference to it."""

    def __init__(self, signal: Hashable, receiver: Receiver) -> None:
        self.signal = signal
        self.receiver = receiver


def _registered(sender: object, signal: Hashable) -> list[Receiver]:
    """Who is to hear a signal from a sender: receivers, or weak references to them.

    It stands under every chunk of data, and so reads PyDispatcher's table itself: `getReceivers` raises and catches a
    KeyError for each kind of registration that nobody uses, which costs more than the read from the port. Each list is
    copied in one step of the interpreter: no other thread can change it in between.
    """
    found: list[Receiver] = []
    subscribed: list[_Held] | None = sender.__dict__.get("_subscribed")
    if subscribed:
        for each in tuple(subscribed):
            if each.signal == signal or each.signal is dispatcher.Any:
                found.append(each.receiver)
    for key in (id(sender), _ANYBODY):
        by_signal = dispatcher.connections.get(key)
        if by_signal:
            found += by_signal.get(signal, ())
            found += by_signal.get(dispatcher.Any, ())
    return found


def hearing(sender: object, signal: Hashable) -> tuple[Receiver, ...]:
    """A snapshot of the receivers that hear `signal` from `sender`, each once, in the order of PyDispatcher's calls."""
    listening: list[_Held] = sender.__dict__.get("_listening", [])
    found = [each.receiver for each in tuple(listening) if each.signal == signal]
    found += _registered(sender, signal)
    return tuple({_identity(each): each for each in dispatcher.liveReceivers(found)}.values())


def _identity(receiver: Receiver) -> Hashable:
    """What tells receivers apart: a method is made anew each time it is looked up; others may not be hashable."""
    return receiver if isinstance(receiver, MethodType) else id(receiver)


def _accepted(receiver: Receiver) -> tuple[str, ...] | None:
    """The names of the arguments a receiver takes; None if it takes any. As PyDispatcher finds them out.

    (But keyword-only arguments count as well, which its `robustApply` overlooks; and what does not tell, such as
    a `functools.partial`, is called without any, where that raises an error that nobody expects.)
    """
    try:
        _, code, start = robustapply.function(receiver)
    except (ValueError, AttributeError):
        return ()
    if code.co_flags & inspect.CO_VARKEYWORDS:
        return None
    return tuple(code.co_varnames[start : code.co_argcount + code.co_kwonlyargcount])


def _tell(receiver: Receiver, accepted: tuple[str, ...] | None, named: dict[str, object]) -> BaseException | None:
    """Call one receiver with those of the named arguments that it takes; what it raises is logged with its traceback.

    Returns:
        A KeyboardInterrupt or SystemExit that belongs to a thread of the user's, to be raised once everybody
        has been told; otherwise None. (On a thread of the library's it would end the thread silently.)
    """
    try:
        receiver(**(named if accepted is None else {name: named[name] for name in accepted if name in named}))
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
    stops = [_tell(receiver, _accepted(receiver), named) for receiver in hearing(sender, signal)]
    for stop in filter(None, stops):
        raise stop


class Delivery:
    """Whether a thread of the library's tells a receiver something right now, and whether it may go on to the next."""

    def __init__(self) -> None:
        self.called_off = False
        """Set it to have nobody told anything more."""
        self.receiver: Receiver | None = None
        """The receiver that runs now, or None."""


class Channel:
    """One signal of one sender, told again and again on one of the library's threads.

    What it found out about the receivers it keeps for as long as they stay the same.

    Args:
        delivery: kept up to date about which receiver runs.
        sender: whose signal it is.
        signal: a member of the sender's `Signals`.
    """

    def __init__(self, delivery: Delivery, sender: object, signal: Hashable) -> None:
        self._delivery = delivery
        self._sender = sender
        self._signal = signal
        self._found: list[Receiver] = []
        self._told: list[tuple[Callable[[], Receiver | None], tuple[str, ...] | None]] = []

    def send(self, **named: object) -> None:
        """Tell every receiver, from a snapshot."""
        found = _registered(self._sender, self._signal)
        if len(found) != len(self._found) or not all(map(is_, found, self._found)):
            self._found, self._told = found, _each_once(found)
        if not found:
            return
        named["sender"], named["signal"] = self._sender, self._signal
        delivery = self._delivery
        for refer, accepted in self._told:
            receiver = refer()
            if receiver is None:
                continue
            if delivery.called_off:
                break
            delivery.receiver = receiver
            _tell(receiver, accepted, named)
        delivery.receiver = None


def _each_once(found: list[Receiver]) -> list[tuple[Callable[[], Receiver | None], tuple[str, ...] | None]]:
    """For each receiver what gives it, or None once it is gone, and which arguments it takes."""
    told: dict[Hashable, tuple[Callable[[], Receiver | None], tuple[str, ...] | None]] = {}
    for registered in found:
        refer = registered if isinstance(registered, dispatcher.WEAKREF_TYPES) else partial(_itself, registered)
        receiver = refer()
        if receiver is not None:
            told.setdefault(_identity(receiver), (refer, _accepted(receiver)))
    return list(told.values())


def _itself(receiver: Receiver) -> Receiver:
    return receiver


def subscribe(sender: object, receiver: Receiver, signal: Hashable) -> Callable[[], None]:
    """Have `receiver` hear `signal` from `sender` for as long as the sender lives.

    PyDispatcher holds receivers weakly, so a lambda or a local function vanishes at once. Here the sender holds
    it strongly. A receiver that is subscribed twice to the same signal is called once, until both are ended.

    Args:
        sender: a connection or a manager.
        receiver: a function, method or object with a `__call__` written in Python.
        signal: a member of one of the sender's `Signals`.

    Returns:
        A function that ends it; it may be called from any thread, and more than once.

    Raises:
        TypeError: if the receiver cannot be called, or does not tell which arguments it takes; if this sender never
            sends such a signal; or if the receiver needs an argument that the signal has not.
    """
    _check_receiver(receiver)
    _check_signal(sender, signal)
    _check_names(receiver, signal)
    subscribed: list[_Held] = sender.__dict__.setdefault("_subscribed", [])
    held = _Held(signal, receiver)
    subscribed.append(held)

    def undo() -> None:
        with suppress(ValueError):  # it was ended before
            subscribed.remove(held)

    return undo


def listen(sender: object, receiver: Receiver, signal: Hashable) -> None:
    """Have `receiver`, a method, hear `signal` from `sender` for as long as somebody else holds the receiver.

    It is told of what is sent by PyDispatcher's `send` as well.
    """
    listening: list[_Held] = sender.__dict__.setdefault("_listening", [])
    held = _Held(signal, weakref.WeakMethod(receiver, lambda _: listening.remove(held)))
    listening.append(held)
    dispatcher.connect(receiver, signal=signal, sender=sender)


def name_of(receiver: Receiver) -> str:
    """A receiver's name, for a log or a message."""
    function = getattr(receiver, "__func__", receiver)
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return f"{module}.{name}" if module and name else repr(receiver)


def _check_signal(sender: object, signal: Hashable) -> None:
    """Refuse what looks like one of the library's signals, but would never be sent by this sender."""
    kinds = [vars(kind)["Signals"] for kind in type(sender).__mro__ if "Signals" in vars(kind)]
    known = {member.value: member for kind in kinds for member in kind}
    if _is_ours(signal):
        is_sent = signal in known.values()
    else:  # a signal of the user's own; but mind a string such as "data-received"
        is_sent = signal is not None and not (isinstance(signal, str) and signal in known)
    if not is_sent:
        allowed = ", ".join(f"{type(sender).__name__}.{member}" for member in known.values())
        raise TypeError(f"signal must be one that {sender!r} sends, such as {allowed}; not {signal!r}")


def _is_ours(signal: Hashable) -> TypeGuard[Signal]:
    return isinstance(signal, Signal) and type(signal).__module__.startswith(f"{__package__}.")


def _check_names(receiver: Receiver, signal: Hashable) -> None:
    """Refuse a receiver that could only ever raise."""
    if not _is_ours(signal):
        return  # a signal of the user's own
    told = _TOLD_WITH[signal.value] | {"sender", "signal"}
    wanted = inspect.signature(receiver, follow_wrapped=False).parameters.values()
    by_itself = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    unknown = [
        each.name
        for each in wanted
        if each.default is each.empty and each.kind not in by_itself and each.name not in told
    ]
    if unknown:
        raise TypeError(
            f"{name_of(receiver)} takes {', '.join(unknown)}, but {signal} comes with {', '.join(sorted(told))}:"
            " arguments are told by their names"
        )


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
