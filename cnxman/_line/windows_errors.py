"""What Windows said went wrong with a port, found in what pyserial raises there.

pyserial writes `repr(ctypes.WinError())` into the text of its exception, and keeps the error nowhere else: no errno, no
cause, no context. The words in it are in the user's language. The number at its end is Windows' own: that is read.
"""

import errno
import re
from collections.abc import Iterator

_REPR = re.compile(r"\w+\((\d+), .*, None, (\d+)\)", re.DOTALL)
"""An OSError's repr on Windows: errno, words, file name, Windows' number."""

_ABSENT = (errno.ENOENT, "there is no such port (yet); is it plugged in?")
_IN_USE = (errno.EBUSY, "it is in use by another program, or opened twice by this one")
_FORBIDDEN = (errno.EACCES, "permission denied: Windows does not let this program open it")
_NOT_READY = (errno.ENODEV, "the device is not ready; it may still be starting, or have been unplugged")
_NO_PORT = (errno.EINVAL, "this is no serial port, or one that cannot be set up so")
_NO_ANSWER = (
    errno.ETIMEDOUT,
    "the device does not answer; is it a Bluetooth device out of reach, or does its driver hang?",
)
_GONE = (errno.ENXIO, "the device is gone; was it unplugged?")
_CLOSED = (errno.EBADF, "its port was closed by another part of this program")

_PULLED = (5, 21, 22, 31, 55, 109, 433, 995, 1117, 1167, 1617)
"""Access is denied; not ready; bad command; general failure; device, or pipe, or device again, is not there; aborted;
I/O error; not connected; removed. Which of them a pull gives is the driver's choice."""

_OPENING = {
    **dict.fromkeys(_PULLED, _NOT_READY),
    **dict.fromkeys((2, 3), _ABSENT),
    **dict.fromkeys((5, 32, 170), _IN_USE),  # nobody needs a right to open a port of Windows': 5 means that it is open
    **dict.fromkeys((65, 1260, 1314), _FORBIDDEN),
    **dict.fromkeys((1, 6, 50, 87, 123, 161), _NO_PORT),
    121: _NO_ANSWER,
}
_USING = {**dict.fromkeys(_PULLED, _GONE), **dict.fromkeys((2, 3), _GONE), 6: _CLOSED, 121: _NO_ANSWER}

_INVALID_PARAMETER = 87

_SOCKETS = range(10000, 12000)
"""Numbers of sockets' errors: Python's own errno names them, as on other systems."""


class WindowsPortError(OSError):
    """What Windows said: `errno` and `strerror` as on other systems, with a hint, and `number` is Windows' own."""

    def __init__(self, code: int, words: str, number: int) -> None:
        super().__init__(code, words)
        self.number = number

    def __reduce__(self) -> tuple[type["WindowsPortError"], tuple[int | None, str | None, int]]:
        """Copied and pickled with its number."""
        return type(self), (self.errno, self.strerror, self.number)


def windows_error(error: BaseException, *, opening: bool) -> WindowsPortError | None:
    """What Windows said, with an errno and a hint.

    Args:
        error: what a port raised; what caused it counts, too.
        opening: whether it was being opened. The same number means another thing then.

    Returns:
        None if Windows said nothing.
    """
    first = next(_found(error), None)
    if first is None:
        return None
    given, number, text = first
    code, words = (_OPENING if opening else _USING).get(number, (given, f"{text} (Windows error {number})"))
    return WindowsPortError(code, words, number)


def is_no_loss(error: BaseException) -> bool:
    """Whether this comes from a virtual port that cannot be asked how much is waiting, though it works."""
    return any(number == _INVALID_PARAMETER for _, number, _ in _found(error)) and "ClearCommError" in str(error)


def _found(error: BaseException) -> Iterator[tuple[int, int, str]]:
    """For each error of Windows' in the chain, the outermost first: errno, number, and its text."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        text = str(link)
        number = getattr(link, "winerror", None)
        if isinstance(link, WindowsPortError):
            yield link.errno or 0, link.number, text
        elif isinstance(link, OSError) and isinstance(number, int) and number not in _SOCKETS:
            yield link.errno or 0, number, text
        elif found := list(_REPR.finditer(text)):
            yield int(found[-1][1]), int(found[-1][2]), text
        link = link.__cause__ or link.__context__
