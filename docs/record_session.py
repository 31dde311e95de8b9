"""Makes docs/images/session.svg: what `cnxman monitor` really shows in a terminal while a device is pulled out.

    python docs/record_session.py

The device is simulated; the command, the terminal, the times and the colours are real.
"""

import contextlib
import fcntl
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from html import escape
from pathlib import Path

from cnxman.testing import SimulatedDevice

PICTURE = Path(__file__).parent / "images" / "session.svg"
COLUMNS = 122
COMMAND = "cnxman monitor ttyUSB0 -b 115200"
ANSWERS = {b"status\r": b"> status\r\nok, up for 3 days\r\n", b"lamp on\r": b"> lamp on\r\nthe lamp is on\r\n"}

COLOURS = {"31": "#ff7b72", "32": "#7ee787", "33": "#e3b341", "36": "#79c0ff", "2": "#8b949e"}
FONT, LINE, MARGIN = 13, 19, 16  # pixels
CHARACTER = 0.602 * FONT


class Recorder(threading.Thread):
    """Reads what is shown in a terminal, until it is closed."""

    def __init__(self, master: int) -> None:
        super().__init__(daemon=True)
        self._master = master
        self.shown = b""

    def run(self) -> None:
        with contextlib.suppress(OSError):  # the terminal was closed
            while data := os.read(self._master, 4096):
                self.shown += data


def record() -> list[str]:
    """Play a session, and return its lines."""
    command = shutil.which("cnxman", path=str(Path(sys.executable).parent)) or "cnxman"
    with tempfile.TemporaryDirectory() as folder, SimulatedDevice(ANSWERS) as device:
        os.symlink(device.port, f"{folder}/ttyUSB0")
        master, terminal = os.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 40, COLUMNS, 0, 0))
        recorder = Recorder(master)
        recorder.start()
        with subprocess.Popen(
            [command, *COMMAND.split()[1:]],
            cwd=folder,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm", "NO_COLOR": ""},
        ) as process:
            play(device, master)
            process.wait(10)
        os.close(terminal)
        recorder.join(5)
        os.close(master)
    return recorder.shown.decode().splitlines()


def play(device: SimulatedDevice, keyboard: int) -> None:
    """The session: what the device sends, what is typed, and an outage."""
    device.wait_opened()
    for reading in (b"temperature 21.4\r\n", b"temperature 21.5\r\n"):
        time.sleep(0.7)
        device.send(reading)
    type_in(keyboard, b"status\r")
    device.wait_received(b"status\r")
    time.sleep(0.7)
    device.unplug()
    time.sleep(1.0)
    type_in(keyboard, b"lamp on\r")
    time.sleep(1.5)
    device.plug()
    device.wait_received(b"lamp on\r")
    time.sleep(0.7)
    device.send(b"temperature 21.7\r\n")
    time.sleep(0.7)
    type_in(keyboard, b"\x03")


def type_in(keyboard: int, keys: bytes) -> None:
    """Type as a person does."""
    for key in keys:
        os.write(keyboard, bytes([key]))
        time.sleep(0.06)


def draw(lines: list[str]) -> str:
    """The lines as a picture."""
    width = round(2 * MARGIN + COLUMNS * CHARACTER)
    height = 2 * MARGIN + LINE * (len(lines) + 1)
    rows = "\n".join(
        f'<text y="{MARGIN + FONT + LINE * row}">{spans(line)}</text>'
        for row, line in enumerate([f"$ {COMMAND}", *lines])
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"
 xml:space="preserve">
<title>{escape(COMMAND)}: a session with an outage</title>
<style>
text {{ font: {FONT}px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #e6edf3;
  white-space: pre }}
</style>
<rect width="100%" height="100%" rx="8" fill="#0d1117"/>
<g transform="translate({MARGIN})">
{rows}
</g>
</svg>
"""


def spans(line: str) -> str:
    """A line of the terminal's, with its colours."""
    return re.sub(
        r"\x1b\[(\d+)m(.*?)\x1b\[0m",
        lambda found: f'<tspan fill="{COLOURS[found[1]]}">{found[2]}</tspan>',
        escape(line, quote=False),
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(record()))
