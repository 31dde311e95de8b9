"""What pyserial raises on Windows, word for word as people have reported it, and what it means."""

import copy
import errno
import pickle
from collections.abc import Callable

import pytest
import serial

from cnxman._line.errors import control_message, loss_message, open_message
from cnxman._line.port import open_port
from cnxman._line.windows_errors import WindowsPortError, is_no_loss, windows_error

CONFIGURING = "Cannot configure port, something went wrong. Original message: "

USING = [
    ("ClearCommError failed (PermissionError(13, 'The device does not recognize the command.', None, 22))", 22),
    ("ClearCommError failed (PermissionError(13, 'Access is denied.', None, 5))", 5),
    ("ClearCommError failed (PermissionError(13, 'Acesso negado.', None, 5))", 5),
    ("ClearCommError failed (PermissionError(13, 'Zugriff verweigert', None, 5))", 5),
    ("ClearCommError failed (PermissionError(13, 'Not ready.', None, 21))", 21),
    ("GetOverlappedResult failed (BrokenPipeError(32, 'Broken pipe.', None, 109))", 109),
    ("GetOverlappedResult failed (PermissionError(13, 'Access is denied.', None, 5))", 5),
    ("GetOverlappedResult failed (OSError(22, 'A device which does not exist was specified.', None, 433))", 433),
    ("ReadFile failed (PermissionError(13, 'A device attached to the system is not functioning.', None, 31))", 31),
    ("ReadFile failed (OSError(22, 'The device is not connected.', None, 1167))", 1167),
    ("ReadFile failed (OSError(22, 'The I/O operation has been aborted (or not).', None, 995))", 995),
    ("ReadFile failed (OSError(22, 'The indicated device has been removed.', None, 1617))", 1617),
    ("WriteFile failed (PermissionError(13, 'Not ready.', None, 21))", 21),
]

OPENING = [
    ("could not open port 'COM5': FileNotFoundError(2, 'The system cannot find the file specified.', None, 2)", 2),
    ("could not open port 'COM5': FileNotFoundError(2, 'Das System kann die Datei nicht finden.', None, 2)", 2),
    ("could not open port 'COM5': FileNotFoundError(2, 'Path not found.', None, 3)", 3),
    ("could not open port 'COM5': PermissionError(13, 'Access is denied.', None, 5)", 5),
    ("could not open port 'COM5': PermissionError(13, 'Zugriff verweigert', None, 5)", 5),
    ("could not open port 'COM5': PermissionError(13, 'The process cannot access the file.', None, 32)", 32),
    ("could not open port 'COM5': PermissionError(13, 'A required privilege is not held.', None, 1314)", 1314),
    ("could not open port 'COM5': OSError(22, 'The semaphore timeout period has expired.', None, 121)", 121),
    (CONFIGURING + "PermissionError(13, 'A device attached to the system is not functioning.', None, 31)", 31),
    (CONFIGURING + "OSError(22, 'The parameter is incorrect.', None, 87)", 87),
    ("could not open port 'NUL': OSError(9, 'Invalid handle.', None, 6)", 6),
]

MEANING = {
    2: (errno.ENOENT, "no such port"),
    3: (errno.ENOENT, "no such port"),
    5: (errno.EBUSY, "in use"),
    32: (errno.EBUSY, "in use"),
    1314: (errno.EACCES, "permission denied"),
    121: (errno.ETIMEDOUT, "Bluetooth"),
    31: (errno.ENODEV, "not ready"),
    87: (errno.EINVAL, "no serial port"),
    6: (errno.EINVAL, "no serial port"),
}

UNABLE = "ClearCommError failed (OSError(22, 'The parameter is incorrect.', None, 87))"


@pytest.mark.parametrize(("text", "number"), USING)
def test_number_in_text_means_the_device_is_gone(text: str, number: int) -> None:
    found = windows_error(serial.SerialException(text), opening=False)
    assert isinstance(found, WindowsPortError)
    assert (found.number, found.errno) == (number, errno.ENXIO)
    assert "unplugged" in str(found.strerror)


@pytest.mark.parametrize(("text", "number"), OPENING)
def test_number_in_text_says_why_no_port_was_opened(text: str, number: int) -> None:
    found = windows_error(serial.SerialException(text), opening=True)
    assert isinstance(found, WindowsPortError)
    code, words = MEANING[number]
    assert (found.number, found.errno) == (number, code)
    assert words in str(found.strerror)


def test_closed_handle_was_closed_by_this_program() -> None:
    text = "ClearCommError failed (OSError(9, 'Invalid handle.', None, 6))"
    found = windows_error(serial.SerialException(text), opening=False)
    assert found is not None
    assert found.errno == errno.EBADF


@pytest.mark.parametrize("message", [loss_message, open_message, control_message])
def test_messages_give_the_hint(message: Callable[[str, Exception, int | None], str]) -> None:
    found = windows_error(serial.SerialException(USING[1][0]), opening=message is open_message)
    assert found is not None
    told = message("COM5", found, found.errno)
    assert "COM5" in told
    assert str(found.strerror) in told


def test_port_that_does_not_open_says_why() -> None:
    class Taken(serial.SerialBase):
        def open(self) -> None:
            raise serial.SerialException(OPENING[3][0])

    with pytest.raises(WindowsPortError, match="in use") as failed:
        open_port(Taken())
    assert failed.value.errno == errno.EBUSY


def test_unknown_number_keeps_errno_and_text() -> None:
    text = "ReadFile failed (OSError(22, 'Something new.', None, 4711))"
    found = windows_error(serial.SerialException(text), opening=False)
    assert found is not None
    assert (found.errno, found.number) == (errno.EINVAL, 4711)
    assert "Something new." in str(found.strerror)
    assert "4711" in str(found.strerror)


def test_error_survives_copy_and_pickle() -> None:
    found = windows_error(serial.SerialException(USING[0][0]), opening=False)
    assert found is not None
    for again in (copy.copy(found), pickle.loads(pickle.dumps(found))):
        assert (again.errno, again.strerror, again.number) == (found.errno, found.strerror, 22)


def test_number_is_found_in_causes() -> None:
    inner = serial.SerialException(USING[0][0])
    outer = ValueError("no number here")
    outer.__cause__ = inner
    found = windows_error(outer, opening=False)
    assert found is not None
    assert found.number == 22
    assert windows_error(found, opening=False) is not None  # its own kind, too


def test_winerror_of_an_exception_counts() -> None:
    error = PermissionError(errno.EACCES, "Access is denied.")
    error.winerror = 5  # type: ignore[attr-defined]  # on Windows it is there
    found = windows_error(error, opening=True)
    assert found is not None
    assert found.errno == errno.EBUSY


def test_sockets_error_keeps_the_errno_that_python_has_for_it() -> None:
    error = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    error.winerror = 10061  # type: ignore[attr-defined]  # on Windows it is there
    assert windows_error(error, opening=True) is None
    assert windows_error(error, opening=False) is None


@pytest.mark.parametrize(
    "error",
    [
        serial.SerialTimeoutException("Write timeout"),
        OSError(errno.EIO, "Input/output error"),
        ValueError("(13, 'a tuple', None)"),
        serial.PortNotOpenError(),
    ],
)
def test_other_errors_are_not_from_windows(error: Exception) -> None:
    assert windows_error(error, opening=False) is None
    assert not is_no_loss(error)


def test_port_that_cannot_clear_errors_is_not_lost() -> None:
    assert is_no_loss(serial.SerialException(UNABLE))
    assert not is_no_loss(serial.SerialException(USING[0][0]))
    assert not is_no_loss(serial.SerialException(OPENING[-2][0]))


def test_chain_that_bites_its_tail_ends() -> None:
    error = ValueError("no number")
    error.__cause__ = KeyError("none here")
    error.__cause__.__context__ = error
    assert windows_error(error, opening=False) is None
