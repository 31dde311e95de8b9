"""Telling receivers: from a snapshot, each once, whatever one of them does."""

import gc
import logging
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial, wraps

import pytest
from pydispatch import dispatcher

from cnxman import signals
from cnxman.basics import Connection, ConnectionManager
from cnxman.framing import Lines
from cnxman.retry import RetryPolicy
from cnxman.serial import SerialConnection, SerialListener
from cnxman.testing import SimulatedDevice
from tests.kit.managers import BOUND, Caller, Script, all_join, wait_until
from tests.kit.threads import OnLibraryThread

ALARM = Connection.Signals.RAISE_ALARM

PROMISED = {
    "read-error": {"error"},
    "raise-alarm": {"error"},
    "state-changed": {"state", "previous", "error"},
    "retry-scheduled": {"attempt", "delay", "error"},
    "data-received": {"data"},
    "opened": set[str](),
    "closed": {"error"},
    "frame-received": {"frame", "framer"},
}


class Own(signals.Signal):
    """A user's own signals, made as the library's are."""

    DONE = "done"


Tell = Callable[..., None]


class Wanting:
    def hear(self, what: object) -> None: ...

    def __call__(self, what: object) -> None: ...


@pytest.fixture
def sender() -> Script:
    return Script()


@pytest.fixture(params=["send", "channel"])
def tell(request: pytest.FixtureRequest, sender: Script) -> Iterator[Tell]:
    """Both ways to tell: on whichever thread, or again and again on one of the library's."""
    if request.param == "send":
        yield partial(signals.send, sender, ALARM)
    else:
        yield signals.Emitter(sender, ALARM, signals.Dispatch()).send


# -- who is told, and what -------------------------------------------------------------------------------------


def test_each_argument_that_is_named_and_no_other(sender: Script, tell: Tell) -> None:
    heard: list[object] = []
    receivers = [
        lambda: heard.append("nothing"),
        lambda error: heard.append(error),
        lambda sender: heard.append(sender),
        lambda signal, error: heard.append((signal, error)),
        lambda *, error: heard.append(("keyword only", error)),
        lambda error, *, sender: heard.append(("both", error, sender)),
        lambda other=7: heard.append(other),
        lambda **named: heard.append(set(named)),
        lambda *args: heard.append(args),
    ]
    for receiver in receivers:
        sender.subscribe(receiver)
    tell(error="E", unused=1)
    assert heard == [
        "nothing",
        "E",
        sender,
        (ALARM, "E"),
        ("keyword only", "E"),
        ("both", "E", sender),
        7,
        {"sender", "signal", "error", "unused"},
        (),
    ]


class Collects:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def method(self, error: object) -> None:
        self.heard.append(error)

    def __call__(self, error: object) -> None:
        self.heard.append(error)

    @classmethod
    def of_the_class(cls, error: list[object]) -> None:
        error.append(cls)

    @staticmethod
    def of_nobody(error: list[object]) -> None:
        error.append("static")


def test_every_kind_of_receiver(sender: Script, tell: Tell) -> None:
    one = Collects()
    heard: list[object] = []
    sender.subscribe(one.method)
    sender.subscribe(one)
    sender.subscribe(Collects.of_the_class)
    sender.subscribe(Collects.of_nobody)

    @wraps(one.method)
    def wrapped(*args: object, **named: object) -> None:
        heard.append((args, set(named)))

    sender.subscribe(wrapped)
    tell(error=heard)
    assert one.heard == [heard, heard]
    assert heard == [Collects, "static", ((), {"error", "sender", "signal"})]


@pytest.mark.parametrize("wrong", [None, 5, "print"])
def test_what_cannot_be_called_is_refused(sender: Script, wrong: object) -> None:
    with pytest.raises(TypeError, match="a receiver must be callable, not "):
        sender.subscribe(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("silent", [print, [].append, partial(print, 1), int])
def test_a_receiver_without_known_arguments_is_refused(sender: Script, silent: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="does not say which arguments it takes: wrap it in a function"):
        sender.subscribe(silent)
    assert not sender.__dict__.get("_subscriptions")


def test_a_pydispatcher_receiver_without_known_arguments_is_called_without_any(sender: Script, tell: Tell) -> None:
    called: list[object] = []
    silent = partial(called.append, 1)
    dispatcher.connect(silent, signal=ALARM, sender=sender)
    tell(error=1)
    assert called == [1]


@pytest.mark.parametrize(
    "signal",
    [None, "raise-alarm", ConnectionManager.Signals.STATE_CHANGED, SerialConnection.Signals.DATA_RECEIVED],
)
def test_a_signal_that_is_never_sent_is_refused(sender: Script, signal: object) -> None:
    message = f"sends, such as Script.Signals.RAISE_ALARM; not {signal!r}"
    with pytest.raises(TypeError, match=re.escape(message)):
        sender.subscribe(lambda: None, signal)


@pytest.mark.parametrize(
    ("receiver", "wanted"),
    [
        (lambda line: line, "line"),
        (lambda error, data, *, extra: None, "data, extra"),
        (Wanting().hear, "what"),
        (Wanting(), "what"),
    ],
)
def test_a_receiver_that_could_only_ever_raise_is_refused(
    sender: Script, receiver: Callable[..., object], wanted: str
) -> None:
    with pytest.raises(TypeError, match=rf"takes {wanted}, but .*RAISE_ALARM comes with error, sender, signal"):
        sender.subscribe(receiver)


@pytest.mark.parametrize(
    "receiver",
    [lambda: None, lambda error: None, lambda sender, signal: None, lambda other=1: None, lambda *a, **k: None],
)
def test_a_receiver_names_what_it_likes(sender: Script, tell: Tell, receiver: Callable[..., object]) -> None:
    heard: list[int] = []
    sender.subscribe(receiver)
    sender.subscribe(lambda: heard.append(1))
    sender.subscribe(lambda what: None, Own.DONE)
    tell()
    assert heard == [1]


def test_signals_come_with_what_receivers_are_promised(serial_device: SimulatedDevice) -> None:
    """Each of the library's signals, as it is sent."""
    told: dict[str, set[str]] = {}
    connection = SerialConnection(serial_device.port)
    manager = ConnectionManager(connection)
    frame = threading.Event()
    for each in (connection, manager):
        for signal in each.Signals:
            each.subscribe(lambda signal, **named: told.__setitem__(signal.value, set(named) | {"signal"}), signal)
    connection.subscribe(lambda error: told.__setitem__("raise-alarm", {"error", "sender", "signal"}), ALARM)
    connection.add_framer(Lines())
    connection.subscribe(frame.set, SerialConnection.Signals.FRAME_RECEIVED)
    with manager:
        read_error = SerialListener.Signals.READ_ERROR
        dispatcher.connect(Told(told), read_error, weak=False)
        serial_device.send(b"x\n")
        assert frame.wait(BOUND)
        serial_device.unplug()
        wait_until(lambda: "retry-scheduled" in told, "it is lost")
    assert told == {value: names | {"sender", "signal"} for value, names in PROMISED.items()}


class Told:
    """Notes with what it is called."""

    def __init__(self, told: dict[str, set[str]]) -> None:
        self.told = told

    def __call__(self, signal: object, **named: object) -> None:
        self.told[signal.value] = set(named) | {"signal"}  # type: ignore[attr-defined]


def test_only_that_signal_from_that_sender(sender: Script, tell: Tell) -> None:
    heard: list[object] = []
    other = Script()
    sender.subscribe(lambda: heard.append("the alarm"))
    sender.subscribe(lambda: heard.append("another signal"), Own.DONE)
    sender.subscribe(lambda: heard.append("any signal"), dispatcher.Any)
    other.subscribe(lambda: heard.append("another sender"))
    tell()
    assert heard == ["the alarm", "any signal"]


def test_receivers_connected_by_pydispatcher_are_called_too(sender: Script, tell: Tell) -> None:
    heard: list[str] = []
    kept = [partial(heard.append, name) for name in ("exact", "any signal", "any sender", "any at all", "strong")]
    functions = [(lambda say=say: say()) for say in kept]
    dispatcher.connect(functions[3])
    dispatcher.connect(functions[2], signal=ALARM)
    dispatcher.connect(functions[1], sender=sender)
    dispatcher.connect(functions[0], signal=ALARM, sender=sender)
    dispatcher.connect(functions.pop(), signal=ALARM, sender=sender, weak=False)
    sender.subscribe(lambda: heard.append("subscribed"))
    try:
        tell()
    finally:
        dispatcher.disconnect(functions[3])
        dispatcher.disconnect(functions[2], signal=ALARM)
    assert heard == ["subscribed", "exact", "strong", "any signal", "any sender", "any at all"]


def test_each_receiver_is_called_once(sender: Script, tell: Tell) -> None:
    one = Collects()
    for _ in range(2):
        sender.subscribe(one.method)
        dispatcher.connect(one.method, signal=ALARM, sender=sender)
        dispatcher.connect(one.method, sender=sender)
    tell(error=1)
    assert one.heard == [1]


def test_methods_of_two_objects_are_two(sender: Script, tell: Tell) -> None:
    one, other = Collects(), Collects()
    sender.subscribe(one.method)
    sender.subscribe(other.method)
    tell(error=1)
    assert one.heard == other.heard == [1]


@dataclass
class Unhashable:
    heard: list[object] = field(default_factory=list, compare=False)

    def __call__(self, error: object) -> None:
        self.heard.append(error)


@dataclass(frozen=True)
class Equal:
    heard: list[object] = field(default_factory=list, compare=False)

    def __call__(self, error: object) -> None:
        self.heard.append(error)


class Falsy(Collects):
    def __bool__(self) -> bool:
        return False


@pytest.mark.parametrize("kind", [Unhashable, Equal, Falsy])
def test_receivers_of_a_strange_kind(sender: Script, tell: Tell, kind: Callable[[], Collects]) -> None:
    """Two that are equal are still two; one that has no hash, or is false, is one too."""
    one, other = kind(), kind()
    undo = sender.subscribe(one)
    tell(error=1)
    sender.subscribe(other)
    tell(error=2)
    undo()
    tell(error=3)
    sender.subscribe(one)
    undo()
    tell(error=4)
    assert one.heard == [1, 2, 4]
    assert other.heard == [2, 3, 4]


def test_an_equal_one_in_place_of_another(sender: Script, tell: Tell) -> None:
    one, other = Equal(), Equal()
    undo = sender.subscribe(one)
    tell(error=1)
    undo()
    sender.subscribe(other)
    tell(error=2)
    assert (one.heard, other.heard) == ([1], [2])


# -- coming and going --------------------------------------------------------------------------------------------


def test_a_lambda_stays(sender: Script, tell: Tell) -> None:
    heard: list[int] = []
    sender.subscribe(lambda: heard.append(1))
    gc.collect()
    tell()
    assert heard == [1]


def test_undo(sender: Script, tell: Tell) -> None:
    heard: list[int] = []
    undo = sender.subscribe(lambda: heard.append(1))
    tell()
    undo()
    undo()
    tell()
    assert heard == [1]
    assert not sender.__dict__["_subscriptions"]


def test_the_last_one_leaves(sender: Script, tell: Tell) -> None:
    one, other = Collects(), Collects()
    sender.subscribe(one)
    undo = sender.subscribe(other)
    tell(error=1)
    undo()
    tell(error=2)
    assert (one.heard, other.heard) == ([1, 2], [1])


def test_twice_subscribed_ends_when_both_are_ended(sender: Script, tell: Tell) -> None:
    one = Collects()
    first, second = sender.subscribe(one.method), sender.subscribe(one.method)
    tell(error=1)
    first()
    first()
    tell(error=2)
    second()
    tell(error=3)
    assert one.heard == [1, 2]


def test_a_subscription_ends_with_the_sender() -> None:
    sender, one = Script(), Collects()
    sender.subscribe(one.method)
    gone, held = weakref.ref(sender), weakref.ref(one)
    del one
    gc.collect()
    assert held() is not None
    del sender
    gc.collect()
    assert gone() is held() is None


def test_one_who_listens_is_held_by_somebody_else(sender: Script) -> None:
    one, other = Collects(), Collects()
    signals.subscribe_weakly(sender, one.method, ALARM)
    signals.subscribe_weakly(sender, other.method, ALARM)
    sender.raise_alarm()
    dispatcher.send(ALARM, sender, error=2)
    assert one.heard == other.heard == [None, 2]
    del other
    gc.collect()
    assert len(sender.__dict__["_subscriptions"]) == 1
    signals.send(sender, "another signal", error=1)
    sender.raise_alarm()
    assert one.heard == [None, 2, None]


def test_weak_receivers_that_are_gone_are_passed_by(sender: Script, tell: Tell) -> None:
    """Also one that goes during the telling, and whose place another one takes."""
    heard: list[str] = []
    others: list[Collects] = [Collects(), Collects()]

    def first() -> None:
        heard.append("first")
        others.clear()
        gc.collect()

    def last() -> None:
        heard.append("last")

    dispatcher.connect(first, signal=ALARM, sender=sender)
    for other in others:
        dispatcher.connect(other.method, signal=ALARM, sender=sender)
    del other
    dispatcher.connect(last, signal=ALARM, sender=sender)
    tell()
    tell()
    assert heard == ["first", "last"] * 2


def test_one_that_went_before_it_was_looked_at() -> None:
    one = Collects()
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert signals._unique_targets([gone]) == []


def test_a_snapshot_of_receivers_is_called(sender: Script, tell: Tell) -> None:
    """Who leaves or joins during the telling does so for the next one; nobody else misses anything."""
    heard: list[str] = []

    def leaving() -> None:
        heard.append("leaving")
        undo()
        undo_next()
        sender.subscribe(lambda: heard.append("joined"))

    undo = sender.subscribe(leaving)
    undo_next = sender.subscribe(lambda: heard.append("sent away"))
    sender.subscribe(lambda: heard.append("staying"))
    tell()
    assert heard == ["leaving", "sent away", "staying"]
    heard.clear()
    tell()
    assert heard == ["staying", "joined"]


def test_a_receiver_that_leaves_during_the_lookup_keeps_no_other_from_receiving(sender: Script) -> None:
    """As another thread might at any moment; here it is the comparing of the signal that makes somebody leave."""
    heard: list[str] = []

    leave: list[Callable[[], None]] = []

    class Leaving(Enum):
        NOW = "now"

        def __eq__(self, other: object) -> bool:
            for undo in leave:
                undo()
            return self is other

        __hash__ = object.__hash__

    leave.append(sender.subscribe(lambda: heard.append("left"), Leaving.NOW))
    sender.subscribe(lambda: heard.append("stayed"), Leaving.NOW)
    signals.send(sender, Leaving.NOW)
    assert "stayed" in heard


# -- what receivers raise ----------------------------------------------------------------------------------------


def test_what_a_receiver_raises_is_logged(sender: Script, tell: Tell, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[int] = []
    boom = ValueError("boom")

    def raising() -> None:
        raise boom

    sender.subscribe(raising)
    sender.subscribe(lambda: heard.append(1))
    tell()
    [record] = caplog.records
    assert (record.levelno, record.name) == (logging.ERROR, "cnxman.signals")
    assert record.getMessage().endswith("raising, a receiver of Signals.RAISE_ALARM, raised")
    assert record.exc_info is not None
    assert record.exc_info[1] is boom
    assert heard == [1]


@pytest.mark.parametrize("raised", [MemoryError(), RecursionError()])
def test_also_when_there_is_no_memory(sender: Script, tell: Tell, raised: Exception) -> None:
    heard: list[int] = []

    def raising() -> None:
        raise raised

    sender.subscribe(raising)
    sender.subscribe(lambda: heard.append(1))
    tell()
    assert heard == [1]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_goes_on_once_all_were_called(sender: Script, stop: type[BaseException]) -> None:
    heard: list[int] = []
    first, second = stop("first"), stop("second")

    def interrupted(error: BaseException) -> None:
        raise error

    sender.subscribe(lambda: interrupted(first))
    sender.subscribe(lambda: interrupted(second))
    sender.subscribe(lambda: heard.append(1))
    with pytest.raises(stop) as caught:
        sender.raise_alarm()
    assert caught.value is first
    assert heard == [1]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_but_not_on_the_librarys_own_threads(
    sender: Script, tell: Tell, stop: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """There it would end the thread without a word."""
    heard: list[int] = []

    def interrupted() -> None:
        raise stop

    sender.subscribe(interrupted)
    sender.subscribe(lambda: heard.append(1))
    called = OnLibraryThread(tell)
    called.join(BOUND)
    assert called.error is None
    assert heard == [1]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_names_for_the_log() -> None:
    here = Collects.__module__
    assert signals.name_of(Collects().method) == f"{here}.Collects.method"
    assert signals.name_of(test_names_for_the_log) == f"{here}.test_names_for_the_log"
    assert signals.name_of(print) == "builtins.print"
    nameless = Unhashable()
    assert signals.name_of(nameless) == repr(nameless)


# -- a delivery that is called off --------------------------------------------------------------------------------


def test_a_delivery_knows_which_receiver_runs_and_can_be_cancelled(sender: Script) -> None:
    delivery = signals.Dispatch()
    channel = signals.Emitter(sender, ALARM, delivery)
    heard: list[object] = []

    def first() -> None:
        heard.append(delivery.receiver)

    def second() -> None:
        heard.append(delivery.receiver)
        delivery.cancelled = True

    def third() -> None:
        heard.append(delivery.receiver)

    channel.send()
    for receiver in (first, second, third):
        sender.subscribe(receiver)
    channel.send()
    assert heard == [first, second]
    assert delivery.receiver is None
    channel.send()
    assert heard == [first, second]


# -- many threads ---------------------------------------------------------------------------------------------------


def test_subscriptions_are_never_lost() -> None:
    """Not even when PyDispatcher's receivers of the same signal are collected on another thread meanwhile."""
    sender = Script()
    stop = threading.Event()
    before = sys.getswitchinterval()

    def come_and_go() -> None:
        while not stop.is_set():

            def receiver() -> None:
                pass

            with suppress(KeyError):  # PyDispatcher's own, when the one before is collected just now
                dispatcher.connect(receiver, signal=ALARM, sender=sender)

    def subscribe(signal: object) -> None:
        for _ in range(5000):
            heard: list[int] = []
            undo = sender.subscribe(lambda heard=heard: heard.append(1), signal)
            signals.send(sender, signal)
            undo()
            assert heard, "a subscription was lost"
            heard.clear()
            signals.send(sender, signal)
            assert not heard, "a subscription that was ended goes on"

    sys.setswitchinterval(1e-6)
    try:
        other = Caller(come_and_go)
        all_join([Caller(partial(subscribe, signal)) for signal in (ALARM, Own.DONE)])
    finally:
        stop.set()
        other.join()
        sys.setswitchinterval(before)
    assert not sender.__dict__["_subscriptions"]


# -- additions --


@pytest.mark.parametrize("signal", [Own.DONE, dispatcher.Any])
def test_a_users_own_signals_are_enum_members(sender: Script, signal: object) -> None:
    heard: list[object] = []
    sender.subscribe(lambda signal: heard.append(signal), signal)
    signals.send(sender, Own.DONE)
    assert heard == [Own.DONE]


@pytest.mark.parametrize("signal", ["raise-alarm", "raise_alarm", "my-alarm", 7, None, RetryPolicy()])
def test_what_a_sender_never_sends_is_refused(sender: Script, signal: object) -> None:
    with pytest.raises(TypeError, match=r"signal must be one that .* sends, such as Script\.Signals\.RAISE_ALARM; not"):
        sender.subscribe(lambda: None, signal)


def test_a_wrapper_says_itself_what_it_takes(sender: Script, tell: Tell) -> None:
    """Not what it wraps, which may need more than the signal comes with."""
    heard: list[object] = []

    def note(error: object, where: str) -> None:
        heard.append((error, where))

    @wraps(note)
    def wrapper(error: object) -> None:
        note(error, "here")

    sender.subscribe(wrapper)
    tell(error=1)
    assert heard == [(1, "here")]
