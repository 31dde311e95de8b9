"""What went wrong with a port, in words that a person can use.

The kind of a failure is found by its error number, never by matching text. Whoever calls these functions hands the
number over, from wherever in the exception's chain it stands, or None. (What pyserial and the kernel raise when was
measured: see the table of failures in the documentation.)
"""

import errno
import os
import stat

from cnxman import ports
from cnxman._line.windows_errors import WindowsPortError

_IN_USE = {errno.EBUSY, errno.EAGAIN, errno.EWOULDBLOCK}

_LOSSES = {
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
"""Raised by pyserial when the port is closed during a call. (A read raises ValueError too.)"""

_OPEN_FAILURES = {
    errno.ENOENT: "there is no such port (yet); is it plugged in?",
    errno.EPERM: "permission denied, and not by its mode; in a container: is there a --device-cgroup-rule for it?",
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


class PeerClosedError(ConnectionResetError):
    """The other end of a network port closed the connection."""


class HangUpError(OSError):
    """The tty reports a hang-up: on a USB adapter, that it was pulled out."""


class MultipleReadersError(OSError):
    """The port says that there is something to read, and then there is nothing."""


class SilenceError(TimeoutError):
    """The line was open but nothing came."""


def loss_message(port: str, error: Exception, number: int | None) -> str:
    """Why a line that was up is lost."""
    if isinstance(error, WindowsPortError):
        words = str(error.strerror)
    elif isinstance(error, MultipleReadersError):
        words = "it was ready to be read but gave no data; was it unplugged, or does another program read from it?"
    elif isinstance(error, SilenceError):
        words = str(error.strerror)
    elif isinstance(error, (*_CLOSED_UNDER_IT, ValueError)):
        words = _LOSSES[errno.EBADF]
    else:
        words = _LOSSES.get(number or 0) or f"the device is gone, or cannot be read ({_text(error)})"
    return f"{port} was lost: {words}"


def open_message(port: str, error: Exception, number: int | None) -> str:
    """Why a port could not be opened, with a hint what to do."""
    if isinstance(error, WindowsPortError):
        words = str(error.strerror)
    elif number == errno.EACCES:
        words = _forbidden(ports.node_of(port))
    elif number in _IN_USE:
        words = _in_use(ports.node_of(port))
    else:
        if ports.scheme_of(port) == "usb" or isinstance(error, PeerClosedError):  # whose own words say more
            words = getattr(error, "strerror", None) or _text(error)
        else:
            words = _OPEN_FAILURES.get(number or 0) or _text(error)
        if number is None and ports.scheme_of(port) == "rfc2217" and "ign_set_control" not in port:
            words += "; if the server acknowledges no modem lines, add ign_set_control to the URL"
    return f"cannot open {port}: {words}"


def control_message(port: str, error: Exception, number: int | None) -> str:
    """Why a port could not be configured, or asked for the level of a modem line."""
    if isinstance(error, WindowsPortError):
        words = str(error.strerror)
    elif number in (errno.ENOTTY, errno.EINVAL):
        words = f"the port has no such thing ({_text(error)})"
    elif isinstance(error, _CLOSED_UNDER_IT):
        words = _LOSSES[errno.EBADF]
    else:
        words = _LOSSES.get(number or 0) or _text(error)
    return f"{port}: {words}"


def write_message(port: str, error: Exception, number: int | None, written: int, size: int) -> str:
    """Why a message did not go out, or only in part."""
    reason = _LOSSES.get(number or 0) if not isinstance(error, TimeoutError) else None
    return f"{written} of {size} bytes were written to {port}: {reason or _text(error)}"


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _forbidden(port: str) -> str:
    try:
        node = os.stat(port)
    except (OSError, ValueError):
        return "permission denied"
    if not node.st_mode & stat.S_IWGRP:
        return f"permission denied: only its owner may (mode {stat.filemode(node.st_mode)}); udev may still be at work"
    if node.st_gid == 0:  # whoever joins the group root may do more than open a port
        return (
            "permission denied: only root may open it; a udev rule can give it to the group that your distribution has"
            " for serial ports (dialout or uucp)"
        )
    group = _group_name(node.st_gid)
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
