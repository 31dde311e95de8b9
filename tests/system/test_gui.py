"""The windows of `docs/examples`, each in a display of its own, before a simulated device that is pulled out.

Each window runs in a process of its own, under Xvfb, by the first Python that has its toolkit: this one, or Debian's.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"

DRIVER = """
import sys, threading, time
from cnxman.testing import SimulatedDevice

sys.path.insert(0, sys.argv[1])


def story(device, state, lines, type_and_send, close):
    "What happens, and what the window must show then: each step is waited for, by the window's own loop."
    yield lambda: state() == "connected"
    device.send(b"temperature 21.5\\n")
    yield lambda: "temperature 21.5" in lines()
    device.unplug()
    yield lambda: state().startswith("recovering: ")
    type_and_send("lost")
    yield lambda: "is not connected" in state() or state().startswith("recovering")
    device.plug()
    yield lambda: state() == "connected"
    type_and_send("hello")
    yield lambda: device.received.endswith(b"hello\\n")
    stop = threading.Event()

    def flood():
        while not stop.is_set():
            try:
                device.send(b"x\\n" * 100, timeout=1)
            except (TimeoutError, ConnectionError):
                return

    flooding = threading.Thread(target=flood)
    flooding.start()
    yield lambda: lines().count("x") >= 500
    began = time.monotonic()
    close()
    took = time.monotonic() - began
    stop.set()
    flooding.join()
    assert took < 4, f"closing took {took} s"
    print("closed in", took)


class Told:
    "Asks again and again, on the window's thread, until all has come true."

    def __init__(self, steps):
        self.steps = steps
        self.condition = next(steps)
        self.until = time.monotonic() + 20

    def look(self):
        "Whether there is more to come."
        if self.condition():
            try:
                self.condition = next(self.steps)
            except StopIteration:
                return False
            self.until = time.monotonic() + 20
        assert time.monotonic() < self.until, "the window doesn't show it"
        return True
"""

TKINTER = """
import os, traceback
from gui_tkinter import Window

with SimulatedDevice() as device:
    window = Window(device.port)

    def send(text):
        window.entry.insert(0, text)
        window.send()
        window.entry.delete(0, "end")

    told = Told(story(device, lambda: window.state["text"], lambda: window.lines.get(0, "end"), send, window.close))

    def look():
        try:
            more = told.look()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        if more:
            window.root.after(5, look)

    window.root.after(5, look)
    window.run()
"""

QT = """
import os, traceback
import gui_qt
from gui_qt import QApplication, Window

try:
    from PySide6.QtCore import QTimer
except ImportError:
    from PyQt5.QtCore import QTimer

with SimulatedDevice() as device:
    application = QApplication([])
    window = Window(device.port)
    window.show()

    def send(text):
        window.entry.setText(text)
        window.send()
        window.entry.clear()

    lines = lambda: window.lines.toPlainText().split("\\n")
    told = Told(story(device, window.state.text, lines, send, window.close))

    def look():
        try:
            more = told.look()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        if not more:
            timer.stop()

    timer = QTimer()
    timer.timeout.connect(look)
    timer.start(5)
    application.exec()
"""

ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")]),
    "QT_QPA_PLATFORM": "xcb",
}


def python_with(*modules: str) -> str:
    """The first Python that can import one of these."""
    line = "import importlib.util, sys; sys.exit(not any(map(importlib.util.find_spec, sys.argv[1:])))"
    for python in (sys.executable, "/usr/bin/python3"):
        if subprocess.run([python, "-c", line, *modules], check=False).returncode == 0:
            return python
    pytest.fail(f"no Python here has {' or '.join(modules)}: apt-get install python3-tk python3-pyqt5")


@pytest.mark.parametrize(
    ("example", "modules", "driver"),
    [("gui_tkinter.py", ["_tkinter"], TKINTER), ("gui_qt.py", ["PySide6", "PyQt5"], QT)],
)
def test_a_window_shows_an_outage_and_closes_at_once(example: str, modules: list[str], driver: str) -> None:
    assert (EXAMPLES / example).exists()
    assert shutil.which("xvfb-run"), "apt-get install xvfb xauth"
    line = ["xvfb-run", "-a", python_with(*modules), "-c", DRIVER + driver, str(EXAMPLES)]
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "closed in" in done.stdout
