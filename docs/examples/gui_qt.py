"""A window by Qt that shows what a device says, and sends what is typed; run it with a port as argument.

Receivers are called on cnxman's threads, and Qt's widgets belong to the thread of its event loop. So receivers only
emit Qt's own signals: Qt puts them into its event queue, and calls the window's methods on its thread.

It works with PySide6 and with PyQt5.
"""

import sys

from cnxman import ConnectionException, ConnectionManager, ConnectionState, SerialConnection
from cnxman.framing import Lines

try:
    from PySide6.QtCore import Signal
    from PySide6.QtWidgets import QApplication, QLabel, QLineEdit, QPlainTextEdit, QVBoxLayout, QWidget
except ImportError:
    from PyQt5.QtCore import pyqtSignal as Signal
    from PyQt5.QtWidgets import QApplication, QLabel, QLineEdit, QPlainTextEdit, QVBoxLayout, QWidget

MOST_LINES = 1000  # that are kept in the window


class Window(QWidget):
    """The window, and the line that it shows."""

    line_came = Signal(str)
    state_changed = Signal(str)

    def __init__(self, port, baudrate=115200):
        super().__init__()
        self.setWindowTitle(port)
        self.state, self.lines, self.entry = QLabel(), QPlainTextEdit(), QLineEdit()
        self.lines.setReadOnly(True)
        self.lines.setMaximumBlockCount(MOST_LINES)
        layout = QVBoxLayout(self)
        for widget in (self.state, self.lines, self.entry):
            layout.addWidget(widget)
        # Connected to methods of widgets: so Qt knows on which thread to call them. (With a lambda it wouldn't.)
        self.line_came.connect(self.lines.appendPlainText)
        self.state_changed.connect(self.state.setText)
        self.entry.returnPressed.connect(self.send)

        self.connection = SerialConnection(port, baudrate)
        self.connection.add_framer(Lines())
        self.connection.subscribe(self.on_frame, SerialConnection.Signals.FRAME_RECEIVED)
        self.manager = ConnectionManager(self.connection)
        self.manager.subscribe(self.on_state)
        self.manager.connect(wait=False)  # an attempt may take a while, above all with a network port

    # Receivers: on cnxman's threads. They touch no widget, and wait for nothing.

    def on_frame(self, frame: bytes) -> None:
        self.line_came.emit(frame.decode(errors="replace"))

    def on_state(self, state: ConnectionState, error: ConnectionException | None) -> None:
        self.state_changed.emit(f"{state}: {error}" if error else str(state))

    # All the rest: on the event loop's thread.

    def send(self) -> None:
        try:
            self.connection.write(self.entry.text().encode() + b"\n")
        except ConnectionException as error:
            self.state.setText(str(error))
        else:
            self.entry.clear()

    def closeEvent(self, event) -> None:  # noqa: N802 (Qt names it)
        self.manager.teardown()  # returns at once: no receiver waits for this thread
        event.accept()


if __name__ == "__main__":
    application = QApplication(sys.argv)
    window = Window(sys.argv[1] if len(sys.argv) > 1 else "/dev/ttyUSB0")
    window.show()
    sys.exit(application.exec())
