"""Connection and ConnectionException: what a subclass must have, and what an error keeps of its cause."""

import copy
import pickle
import threading

import pytest
import serial
from pydispatch import dispatcher

from cnxman.basics import Connection, ConnectionException
from tests.kit.managers import Script

try:
    import termios
except ImportError:
    termios = None  # type: ignore[assignment]


# -- Connection ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["try_connect", "disconnect", "teardown"])
def test_a_class_without_one_of_the_three_cannot_be_instantiated(missing: str) -> None:
    methods = {"try_connect": lambda self: True, "disconnect": lambda self: None, "teardown": lambda self: None}
    del methods[missing]
    with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
        type("Incomplete", (Connection,), methods)()


def test_the_class_itself_cannot_be_instantiated() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Connection()  # type: ignore[abstract]


class Plain(Connection):
    """One that does not call super().__init__()."""

    def __init__(self) -> None:
        pass

    def try_connect(self) -> bool:
        return True

    def disconnect(self) -> None:
        pass

    def teardown(self) -> None:
        pass


def test_a_subclass_need_not_call_init() -> None:
    connection = Plain()
    connection.raise_alarm()
    assert connection.last_error is None
    assert connection.presence() is None
    heard: list[object] = []
    connection.subscribe(lambda error: heard.append(error))()
    undo = connection.subscribe(lambda error: heard.append(error))
    connection.raise_alarm()
    undo()
    connection.raise_alarm()
    assert heard == [None]


def test_the_alarm_is_sent_from_the_connection_on_the_thread_that_raises_it() -> None:
    connection, other = Plain(), Plain()
    error = ConnectionException("lost", OSError(5, "Input/output error"))
    heard: list[object] = []

    def hear(sender: object, signal: object, error: object) -> None:
        heard.append((sender, signal, error, threading.current_thread()))

    dispatcher.connect(hear, signal=Connection.Signals.RAISE_ALARM, sender=connection)
    other.raise_alarm()
    connection.raise_alarm(error)
    connection.raise_alarm()
    here = threading.current_thread()
    alarm = Connection.Signals.RAISE_ALARM
    assert heard == [(connection, alarm, error, here), (connection, alarm, None, here)]


def test_names_and_values_of_the_api_page() -> None:
    assert Connection.Signals.RAISE_ALARM.value == "raise-alarm"
    assert Connection.Signals("raise-alarm") is Connection.Signals.RAISE_ALARM
    assert list(Connection.Signals) == [Connection.Signals.RAISE_ALARM]
    assert Connection.__module__ == ConnectionException.__module__ == "cnxman.basics"


def test_a_signal_stays_itself() -> None:
    """It is looked up by identity, so copies must be the same."""
    alarm = Connection.Signals.RAISE_ALARM
    assert pickle.loads(pickle.dumps(alarm)) is copy.deepcopy(alarm) is alarm
    assert {alarm: 1}[Connection.Signals("raise-alarm")] == 1


# -- ConnectionException ---------------------------------------------------------------------------------------


def test_what_it_keeps() -> None:
    inner = OSError(16, "Device or resource busy")
    error = ConnectionException("the port is busy", inner)
    assert error.inner is error.__cause__ is inner
    assert error.args == ("the port is busy", inner)
    assert (str(error), error.message, error.errno) == ("the port is busy", "the port is busy", 16)
    assert error.written == 0
    assert isinstance(error, Exception)


def test_it_keeps_its_cause_where_it_is_raised_from_elsewhere() -> None:
    inner = OSError(5, "Input/output error")
    with pytest.raises(ConnectionException) as caught:  # noqa: PT012
        try:
            raise KeyError("something else")
        except KeyError:
            raise ConnectionException("lost", inner)  # noqa: B904
    assert caught.value.__cause__ is inner


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_survives_pickling(protocol: int) -> None:
    error = ConnectionException("lost", OSError(5, "Input/output error"))
    error.add_note("at the pump")
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is ConnectionException
    assert (str(again), again.message, again.errno) == ("lost", "lost", 5)
    assert (type(again.inner), again.inner.args) == (OSError, (5, "Input/output error"))
    assert again.__cause__ is again.inner
    assert again.__notes__ == ["at the pump"]


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
def test_it_survives_copying(copier: object) -> None:
    error = ConnectionException("lost", OSError(5, "Input/output error"))
    again = copier(error)  # type: ignore[operator]
    assert again is not error
    assert (str(again), again.errno, again.inner.args) == ("lost", 5, (5, "Input/output error"))
    assert again.__cause__ is again.inner
    assert (again.inner is error.inner) == (copier is copy.copy)


def test_one_within_another_survives_pickling() -> None:
    error = ConnectionException("outer", ConnectionException("inner", OSError(5, "Input/output error")))
    again = pickle.loads(pickle.dumps(error))
    assert str(again.inner) == "inner"
    assert again.errno == again.inner.errno == 5


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (ValueError("no"), "ValueError: no"),
        (OSError(5, "Input/output error"), "OSError: [Errno 5] Input/output error"),
        (FileNotFoundError(2, "No such file", "/dev/x"), "FileNotFoundError: [Errno 2] No such file: '/dev/x'"),
        (ValueError(), "ValueError"),
        (serial.SerialException("device reports readiness"), "SerialException: device reports readiness"),
    ],
)
def test_from_exception_names_type_and_text(inner: Exception, message: str) -> None:
    error = ConnectionException.from_exception(inner)
    assert str(error.from_exception(inner)) == message
    assert type(error) is ConnectionException
    assert str(error) == message
    assert error.inner is error.__cause__ is inner


# -- the error number --------------------------------------------------------------------------------------------


def chained(outer: Exception, *, cause: BaseException | None = None, context: BaseException | None = None) -> Exception:
    outer.__cause__, outer.__context__ = cause, context
    return outer


EIO = OSError(5, "Input/output error")
NUMBERS = {
    "an OSError": (EIO, 5),
    "pyserial's with a number": (serial.SerialException(2, "could not open port"), 2),
    "pyserial's with a text": (serial.SerialException("could not open port"), None),
    "pyserial's, its cause in the context": (chained(serial.SerialException("write failed"), context=EIO), 5),
    "the cause": (chained(ValueError(), cause=EIO), 5),
    "the cause before the context": (chained(ValueError(), cause=EIO, context=OSError(2, "No such file")), 5),
    "a chain": (chained(ValueError(), cause=chained(KeyError(), context=chained(TypeError(), cause=EIO))), 5),
    "one's own before one's cause's": (chained(OSError(13, "Permission denied"), cause=EIO), 13),
    "none at all": (chained(ValueError("no"), cause=KeyError("no")), None),
    "an OSError without": (OSError("no number"), None),
    "an argument that only looks like one": (ValueError(5), None),
    "the same of another module": (type("Odd", (Exception,), {"__module__": "zzz"})(5), None),
    "a number that is none": (chained(type("Odd", (Exception,), {"errno": "five"})(), cause=EIO), 5),
}
if termios is not None:
    NUMBERS["termios"] = (termios.error(5, "Input/output error"), 5)
    NUMBERS["termios without"] = (termios.error(), None)


@pytest.mark.parametrize("kind", NUMBERS)
def test_the_error_number_is_found(kind: str) -> None:
    inner, number = NUMBERS[kind]
    assert ConnectionException("no", inner).errno == number


def test_a_chain_that_bites_its_tail() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert ConnectionException("no", first).errno is None


def test_a_script_is_a_connection() -> None:
    """The tests' own connection says so when it is used by two at once."""
    connection = Script(lambda: connection.disconnect() is None)
    assert connection.try_connect()
    assert connection.overlaps == ["disconnect"]
