"""Which kind of line serves an open port: chosen once for each opening."""

import serial

from cnxman._line.port import Line, Source
from cnxman._line.posix import PosixLine, has_descriptor
from cnxman._line.receive_buffer import ReceiveBuffer
from cnxman._line.url import UrlLine


def make_line(port: serial.Serial, idle_timeout: float | None, buffer_size: int) -> tuple[Line, Source]:
    """Take an open port into service.

    Args:
        port: an open port.
        idle_timeout: take the line for lost when nothing came for so many seconds; None waits for ever.
        buffer_size: how many bytes may wait for a receiver that is busy.

    Returns:
        The line, for writing and control, and the source of its data for the thread that reads.
    """
    if has_descriptor(port):
        line = PosixLine(port, idle_timeout)
        return line, ReceiveBuffer(line, buffer_size)
    url_line = UrlLine(port, idle_timeout)
    return url_line, url_line
