"""What went wrong with a port, in words that a person can use.

The kind of a failure is found by its error number, wherever in the exception's chain that stands; never by matching
text. (What pyserial and the kernel raise when was measured: see the table of failures in the documentation.)
"""

import errno
import os
import stat

from cnxman import ports
from cnxman._connection import ConnectionException, find_errno

IN_USE = {errno.EBUSY, errno.EAGAIN, errno.EWOULDBLOCK}

_GONE = {
    errno.EIO: "the device is gone; was it unplugged?",
    errno.ENXIO: "the device is gone; was it unplugged?",
    errno.ENODEV: "the device is gone; was it unplugged?",
    errno.ENOENT: "the device is gone; was it unplugged?",
    errno.EBADF: "its port was closed by another part of this program",
    errno.ECONNRESET: "the other end closed the connection",
    errno.EPIPE: "the other end closed the connection",
    errno.ETIMEDOUT: "nothing came from it for too long",
}

_CLOSED_UNDER_IT = (TypeError, AttributeError)
"""What pyserial's methods stumble over when their port was closed under them; some, over a ValueError."""

_NOT_OPENED = {
    errno.ENOENT: "there is no such port (yet); is it plugged in?",
    errno.ENODEV: "the device is not there; is it plugged in?",
    errno.ENXIO: "the device is not there; is it plugged in?",
    errno.EIO: "the device went away while the port was opened",
    errno.ENOTTY: "this is no serial port",
    errno.EINVAL: "this is no serial port, or one that cannot be set up so",
    errno.EISDIR: "this is a folder, no serial port",
    errno.ECONNREFUSED: "nobody listens there",
    errno.EHOSTUNREACH: "the host cannot be reached",
    errno.ENETUNREACH: "the host cannot be reached",
    errno.ETIMEDOUT: "the host does not answer",
    errno.ECONNRESET: "the other end closed the connection",
    errno.EPIPE: "the other end closed the connection",
    errno.EMFILE: "this process has too many files open",
    errno.ENFILE: "this system has too many files open",
}


class FarEndClosed(ConnectionResetError):
    """The other end of a network port hung up."""


class HungUp(OSError):
    """The tty reports a hang-up: on a USB adapter, that it was pulled out."""


class SomebodyElseReads(OSError):
    """The port says that there is something to read, and then there is nothing."""


class Silent(TimeoutError):
    """The line was open but nothing came."""


def lost(port: str, error: Exception) -> ConnectionException:
    """Why a line that was up is no more."""
    if isinstance(error, ConnectionException):
        return error
    if isinstance(error, SomebodyElseReads):
        words = "it was ready to be read but gave no data; was it unplugged, or does another program read from it?"
    elif isinstance(error, Silent):
        words = str(error.strerror)
    elif isinstance(error, (*_CLOSED_UNDER_IT, ValueError)):
        words = _GONE[errno.EBADF]
    else:
        words = _GONE.get(find_errno(error) or 0) or f"the device is gone, or cannot be read ({_text(error)})"
    return ConnectionException(f"{port} was lost: {words}", error)


def not_opened(port: str, error: Exception) -> ConnectionException:
    """Why a port could not be opened, with a hint what to do."""
    if isinstance(error, ConnectionException):
        return error
    number = find_errno(error)
    if number in (errno.EACCES, errno.EPERM):
        words = _forbidden(ports.node_of(port))
    elif number in IN_USE:
        words = _in_use(ports.node_of(port))
    else:
        if ports.scheme_of(port) == "usb":  # find_usb's own words say more
            words = getattr(error, "strerror", None) or _text(error)
        else:
            words = _NOT_OPENED.get(number or 0) or _text(error)
        if number is None and ports.scheme_of(port) == "rfc2217" and "ign_set_control" not in port:
            words += "; if the server acknowledges no modem lines, add ign_set_control to the URL"
    return ConnectionException(f"cannot open {port}: {words}", error)


def not_done(port: str, error: Exception) -> ConnectionException:
    """Why a port could not be set, or asked for the level of a line."""
    number = find_errno(error)
    if number in (errno.ENOTTY, errno.EINVAL):
        words = f"the port has no such thing ({_text(error)})"
    elif isinstance(error, _CLOSED_UNDER_IT):
        words = _GONE[errno.EBADF]
    else:
        words = _GONE.get(number or 0) or _text(error)
    return ConnectionException(f"{port}: {words}", error)


def not_written(port: str, written: int, size: int, error: Exception) -> ConnectionException:
    """Why a message did not go out, or only in part."""
    reason = _GONE.get(find_errno(error) or 0) if not isinstance(error, TimeoutError) else None
    failure = ConnectionException(f"{written} of {size} bytes were written to {port}: {reason or _text(error)}", error)
    failure.written = written
    return failure


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _forbidden(port: str) -> str:
    try:
        node = os.stat(port)
    except (OSError, ValueError):
        return "permission denied"
    group = _group_name(node.st_gid)
    if not node.st_mode & stat.S_IWGRP:
        return f"permission denied: only its owner may (mode {stat.filemode(node.st_mode)}); udev may still be at work"
    return (
        f"permission denied: it belongs to the group {group};"
        f" `sudo usermod -a -G {group} $USER`, then log out and in again"
    )


def _group_name(number: int) -> str:
    try:
        import grp  # noqa: PLC0415 (POSIX only)

        return grp.getgrgid(number).gr_name
    except (ImportError, KeyError):
        return str(number)


def _in_use(port: str) -> str:
    held_by = ", ".join(str(holder) for holder in ports.holders(port))
    return f"it is in use by {held_by}" if held_by else "it is in use by another program"
