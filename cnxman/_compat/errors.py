"""Errors as pyserial's users expect them: each one a `serial.SerialException`, with an errno and a reason in words."""

import errno

import serial
from serial.serialutil import PortNotOpenError

from cnxman.basics import ConnectionException

_LOST = {errno.EIO, errno.ENXIO, errno.ENODEV, errno.EBADF, errno.ENOTCONN, errno.EPIPE, errno.ECONNRESET}


def is_loss(error: ConnectionException) -> bool:
    """Whether the line is lost, though nobody may have noticed yet."""
    return error.errno in _LOST


def was_not_open(error: ConnectionException) -> bool:
    """Whether a write found no line to go out on, so that certainly nothing of it went out."""
    return isinstance(error.inner, ConnectionException) or type(error.inner) is ConnectionError


def failed(error: ConnectionException) -> serial.SerialException:
    """What a call raises because of a `ConnectionException`; raise it from that."""
    return serial.SerialException(error.errno or errno.EIO, error.message)


def timed_out(message: str) -> serial.SerialTimeoutException:
    """What a write or a flush raises that took too long."""
    return serial.SerialTimeoutException(errno.ETIMEDOUT, message)


def not_open() -> PortNotOpenError:
    """What a call raises between `close()` and `open()`."""
    error = PortNotOpenError()
    error.errno = errno.EBADF
    return error


def closed_meanwhile(port: str) -> serial.SerialException:
    """What a call raises when another thread has called `close()`."""
    return serial.SerialException(errno.EBADF, f"{port} was closed meanwhile")


def never_comes(port: str) -> serial.SerialException:
    """What a call raises that would wait on the very thread that brings what it waits for."""
    words = f"a receiver can't wait for {port} on the library's own thread, which serves it: use another thread"
    return serial.SerialException(errno.EDEADLK, words)


def refused_setting(port: str, error: ConnectionException) -> ValueError | None:
    """The ValueError in an error's chain: then not the device is absent, but a setting or the URL makes no sense."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ValueError):
        seen = seen.__cause__ or seen.__context__
    return ValueError(f"{port}: {seen}") if seen is not None else None
