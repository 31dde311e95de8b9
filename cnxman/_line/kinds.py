"""Which kind of line serves an open port: chosen once for each opening."""

import serial

from cnxman._line.port import Line, ReadableLine, Source
from cnxman._line.posix import PosixLine, has_descriptor
from cnxman._line.receive_buffer import ReceiveBuffer
from cnxman._line.url import url_line
from cnxman._line.windows import is_windows_port, windows_line


def make_line(port: serial.Serial, idle_timeout: float | None, buffer_size: int) -> tuple[Line, Source]:
    """Take an open port into service.

    Args:
        port: an open port.
        idle_timeout: take the line for lost when nothing came for so many seconds; None waits for ever.
        buffer_size: how many bytes may wait for a receiver that is busy.

    Returns:
        The line, for writing and control, and the source of its data for the thread that reads.
    """
    line: ReadableLine
    if has_descriptor(port):
        line = PosixLine(port, idle_timeout)
    elif is_windows_port(port):
        line = windows_line(port, idle_timeout)
    else:
        line = url_line(port, idle_timeout)
    return line, ReceiveBuffer(line, buffer_size)
