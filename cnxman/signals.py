"""Sends signals to receivers, and `subscribe`.

Receivers that joined by PyDispatcher are called like those that joined by `subscribe`. PyDispatcher's own `send` is
not used: there, a receiver that disconnects itself makes it skip the next one, and one that raises keeps the rest from
being called. Here receivers are called from a snapshot, and what one raises is logged.

PyDispatcher's tables are not used for `subscribe` either. It changes them in several steps and without a lock, also
while receivers are garbage collected, on whichever thread that happens: every few hundredth subscription that meets
such a moment is lost. Here a sender has a list of its own, and each change of it is one step of the interpreter.

Receivers run on the thread that sends: see the signal's documentation for which one that is.
"""

import inspect
import logging
import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from enum import Enum
from functools import partial
from operator import is_
from types import MethodType
from typing import TypeGuard, cast

from pydispatch import dispatcher, robustapply

from cnxman._threads import on_library_thread

Receiver = Callable[..., object]
"""Called with those of a signal's named arguments that it names, besides `signal` and `sender`."""

Signal = Enum
"""What every `Signals` is; to make a `Signals` of your own."""

_logger = logging.getLogger(__name__)

_ANY_SENDER = id(dispatcher.Any)

_arguments: dict[Hashable, frozenset[str]] = {}
"""The named arguments of the library's own signals, besides `sender` and `signal`."""


def declare(signal: Enum, *arguments: str) -> None:
    """Note with which named arguments a signal of the library is sent, for `subscribe` to check receivers."""
    _arguments[signal] = frozenset(arguments)


# -- sending ----------------------------------------------------------------------------------------------


Pause = Callable[[Callable[[], bool]], Callable[[], None]]
"""Delivers nothing more while what it is given returns True; returns what has that asked again, from any thread."""


class Dispatch:
    """The calling of receivers on behalf of one opening of a line: who is called now, and whether to go on.

    Receivers that wait for something ask `current_dispatch()`, to learn whether somebody waits for them in turn.
    """

    def __init__(self) -> None:
        self.cancelled = False
        """Whether no further receiver is to be called."""
        self.receiver: Receiver | None = None
        """The receiver that runs now, or None."""
        self.is_ending = False
        """True when the line is being closed or is lost, so that a receiver that waits should return."""
        self.pause: Pause | None = None
        """What a receiver calls where it must not wait for room, as its thread is not its own."""

    def cancel(self) -> None:
        """Have no further receiver called."""
        self.cancelled = True


class _Here(threading.local):
    dispatch: Dispatch | None = None


here = _Here()
"""The `dispatch` for which the current thread calls receivers. Set by what calls them."""


def current_dispatch() -> Dispatch | None:
    """The dispatch for which the current thread calls receivers; None on any other thread."""
    return here.dispatch


def is_delivering() -> bool:
    """Whether the current thread calls receivers for a line, so that others may wait for it: it must wait for none."""
    return here.dispatch is not None


def send(sender: object, signal: Hashable, **named: object) -> None:
    """Call every receiver of `signal` from `sender`, on this thread.

    Args:
        sender: a connection or a manager.
        signal: which signal.
        **named: the signal's arguments.

    Raises:
        KeyboardInterrupt, SystemExit: what a receiver on the user's own thread raised, after all were called.
    """
    Emitter(sender, signal).send(**named)


class Emitter:
    """Sends one signal of one sender, again and again.

    It keeps what it found out about the receivers for as long as they stay the same.

    Args:
        sender: whose signal it is.
        signal: a member of the sender's `Signals`.
        dispatch: notes which receiver runs, and says whether to go on. None for one of its own.
    """

    def __init__(self, sender: object, signal: Hashable, dispatch: Dispatch | None = None) -> None:
        self._sender = sender
        self._key = id(sender)  # as PyDispatcher has it
        self._signal = signal
        self._dispatch = dispatch or Dispatch()
        self._subscriptions = _subscriptions_of(sender)
        self._found: Sequence[Receiver] = ()
        self._targets: Sequence[_Target] = ()

    def send(self, **named: object) -> None:
        """Call every receiver, from a snapshot. See `send`."""
        of_sender, of_any = dispatcher.connections.get(self._key), dispatcher.connections.get(_ANY_SENDER)
        if not (self._subscriptions or of_sender or of_any):
            return  # at once: where an iterator or a protocol takes the data, nobody else is there
        found = self._registered(of_sender, of_any)
        if len(found) != len(self._found) or not all(map(is_, found, self._found)):
            self._found, self._targets = found, _unique_targets(found)
        named["sender"], named["signal"] = self._sender, self._signal
        dispatch = self._dispatch
        interrupt = None
        for refer, accepted in self._targets:
            receiver = refer()
            if receiver is None:
                continue
            if dispatch.cancelled:
                break
            dispatch.receiver = receiver
            raised = _call(receiver, accepted, named)
            interrupt = interrupt or raised
        dispatch.receiver = None
        if interrupt is not None:
            raise interrupt

    def _registered(self, *tables: dict[Hashable, list[Receiver]] | None) -> list[Receiver]:
        """The receivers, or weak references to them: those of ours, then those in PyDispatcher's tables.

        It runs for every chunk of data, and so the tables themselves are read: `getReceivers` raises and catches a
        KeyError for each kind of registration that nobody uses, which costs more than the read from the port. Each list
        is copied in one step of the interpreter: no other thread can change it in between.
        """
        found: list[Receiver] = []
        for each in tuple(self._subscriptions):
            if each.signal == self._signal or each.signal is dispatcher.Any:
                found.append(each.receiver)
        for by_signal in tables:
            if by_signal:
                found += by_signal.get(self._signal, ())
                found += by_signal.get(dispatcher.Any, ())
        return found


_Target = tuple[Callable[[], Receiver | None], tuple[str, ...] | None]
"""What gives a receiver, or None once it is gone; and which arguments it takes, None if it takes any."""


def _unique_targets(found: list[Receiver]) -> list[_Target]:
    """Each receiver once, in the order of their registration."""
    targets: dict[Hashable, _Target] = {}
    for registered in found:
        is_weak = isinstance(registered, dispatcher.WEAKREF_TYPES)
        refer = cast(Callable[[], Receiver | None], registered) if is_weak else partial(_itself, registered)
        receiver = refer()
        if receiver is not None:
            # Each look-up of a method makes another object; other receivers may not be hashable.
            identity = receiver if isinstance(receiver, MethodType) else id(receiver)
            targets.setdefault(identity, (refer, _accepted(receiver)))
    return list(targets.values())


def _itself(receiver: Receiver) -> Receiver:
    return receiver


def _accepted(receiver: Receiver) -> tuple[str, ...] | None:
    """The names of the arguments a receiver takes; None if it takes any. As PyDispatcher finds them out.

    (But keyword-only arguments count as well, which its `robustApply` overlooks. What does not say what it takes, such
    as a `functools.partial`, is called without any, where PyDispatcher raises an error that nobody expects.)
    """
    try:
        _, code, start = robustapply.function(receiver)
    except (ValueError, AttributeError):
        return ()
    if code.co_flags & inspect.CO_VARKEYWORDS:
        return None
    return tuple(code.co_varnames[start : code.co_argcount + code.co_kwonlyargcount])


def _call(receiver: Receiver, accepted: tuple[str, ...] | None, named: dict[str, object]) -> BaseException | None:
    """Call one receiver with those of the named arguments that it takes; what it raises is logged with its traceback.

    Returns:
        A KeyboardInterrupt or SystemExit that belongs to a thread of the user's, to be raised once every receiver was
        called; otherwise None. (On a thread of the library's it would end the thread silently.)
    """
    try:
        receiver(**(named if accepted is None else {name: named[name] for name in accepted if name in named}))
    except Exception:
        _logger.exception("%s, a receiver of %s, raised", name_of(receiver), named["signal"])
    except BaseException as interrupt:
        if not on_library_thread():
            return interrupt
        _logger.exception("%s, a receiver of %s, raised", name_of(receiver), named["signal"])
    return None


# -- subscribing ------------------------------------------------------------------------------------------


class _Subscription:
    """A signal, and its receiver or a weak reference to it."""

    def __init__(self, signal: Hashable, receiver: Receiver) -> None:
        self.signal = signal
        self.receiver = receiver


def subscribe(sender: object, receiver: Receiver, signal: Hashable) -> Callable[[], None]:
    """Have `receiver` called for `signal` from `sender` for as long as the sender lives.

    PyDispatcher holds receivers weakly, so a lambda or a local function vanishes at once. Here the sender holds
    it strongly. A receiver that is subscribed twice to the same signal is called once, until both are ended.

    Args:
        sender: a connection or a manager.
        receiver: a function, method or object with a `__call__` written in Python.
        signal: a member of one of the sender's `Signals`, or of an enumeration of your own; `dispatcher.Any` for all.

    Returns:
        A function that ends it. It may be called from any thread, and more than once.

    Raises:
        TypeError: if the receiver cannot be called, or does not say which arguments it takes; if this sender never
            sends such a signal; or if the receiver needs an argument that the signal has not.
    """
    _check_receiver(receiver)
    _check_signal(sender, signal)
    _check_names(receiver, signal)
    subscriptions = _subscriptions_of(sender)
    subscription = _Subscription(signal, receiver)
    subscriptions.append(subscription)

    def undo() -> None:
        with suppress(ValueError):  # it was ended before
            subscriptions.remove(subscription)

    return undo


def subscribe_weakly(sender: object, receiver: Receiver, signal: Hashable) -> None:
    """Have `receiver`, a method, called for `signal` from `sender` for as long as somebody else holds the receiver.

    It is also called for what PyDispatcher's `send` sends.
    """
    subscriptions = _subscriptions_of(sender)
    subscription = _Subscription(signal, weakref.WeakMethod(receiver, lambda _: subscriptions.remove(subscription)))
    subscriptions.insert(0, subscription)
    dispatcher.connect(receiver, signal=signal, sender=sender)


def _subscriptions_of(sender: object) -> list[_Subscription]:
    found: list[_Subscription] = sender.__dict__.setdefault("_subscriptions", [])
    return found


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
            f"{receiver!r} does not say which arguments it takes: wrap it in a function or a lambda"
            " that names them, such as `lambda data: ...`"
        ) from unknown


def _check_signal(sender: object, signal: Hashable) -> None:
    """Refuse what this sender would never send: a text or a number, or another class's signal."""
    kinds = [vars(kind)["Signals"] for kind in type(sender).__mro__ if "Signals" in vars(kind)]
    known = [member for kind in kinds for member in kind]
    is_own = isinstance(signal, Enum) and not _is_ours(signal)  # the user's own, sent by the user
    if signal is not dispatcher.Any and signal not in known and not is_own:
        allowed = ", ".join(f"{type(sender).__name__}.{member}" for member in known)
        raise TypeError(f"signal must be one that {sender!r} sends, such as {allowed}; not {signal!r}")


def _is_ours(signal: Hashable) -> TypeGuard[Enum]:
    return isinstance(signal, Enum) and signal in _arguments


def _check_names(receiver: Receiver, signal: Hashable) -> None:
    """Refuse a receiver that could only ever raise."""
    if not _is_ours(signal):
        return
    given = _arguments[signal] | {"sender", "signal"}
    wanted = inspect.signature(receiver, follow_wrapped=False).parameters.values()
    any_number = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    unknown = [
        each.name
        for each in wanted
        if each.default is each.empty and each.kind not in any_number and each.name not in given
    ]
    if unknown:
        raise TypeError(
            f"{name_of(receiver)} takes {', '.join(unknown)}, but {signal} comes with {', '.join(sorted(given))}:"
            " arguments are given by their names"
        )
