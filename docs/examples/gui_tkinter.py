"""A window by Tkinter that shows what a device says, and sends what is typed; run it with a port as argument.

Receivers are called on cnxman's threads, and Tkinter's widgets belong to the thread of its main loop. So receivers only
put what they got into a queue, and the main loop looks into that 20 times a second.
"""

import queue
import sys
import tkinter

from cnxman import ConnectionException, ConnectionManager, ConnectionState, SerialConnection
from cnxman.framing import Lines

LOOK_EVERY = 50  # milliseconds
MOST_LINES = 1000  # that are kept in the window


class Window:
    """The window, and the line that it shows."""

    def __init__(self, port: str, baudrate: int = 115200) -> None:
        self.events: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()

        self.connection = SerialConnection(port, baudrate)
        self.connection.add_framer(Lines())
        self.connection.subscribe(self.on_frame, SerialConnection.Signals.FRAME_RECEIVED)
        self.manager = ConnectionManager(self.connection)
        self.manager.subscribe(self.on_state)

        self.root = tkinter.Tk()
        self.root.title(port)
        self.state = tkinter.Label(self.root, anchor="w", text=self.manager.state)
        self.state.pack(fill="x")
        self.lines = tkinter.Listbox(self.root, width=80, height=24)
        self.lines.pack(fill="both", expand=True)
        self.entry = tkinter.Entry(self.root)
        self.entry.pack(fill="x")
        self.entry.bind("<Return>", self.send)
        self.root.protocol("WM_DELETE_WINDOW", self.close)

    # Receivers: on cnxman's threads. They touch no widget, and wait for nothing.

    def on_frame(self, frame: bytes) -> None:
        self.events.put(("line", frame.decode(errors="replace")))

    def on_state(self, state: ConnectionState, error: ConnectionException | None) -> None:
        self.events.put(("state", f"{state}: {error}" if error else state))

    # All the rest: on the main loop's thread.

    def run(self) -> None:
        self.manager.connect(wait=False)  # an attempt may take a while, above all with a network port
        self.show_events()
        self.root.mainloop()

    def show_events(self) -> None:
        for _ in range(self.events.qsize()):
            kind, text = self.events.get()
            if kind == "state":
                self.state["text"] = text
            else:
                self.lines.insert("end", text)
        if self.lines.size() > MOST_LINES:
            self.lines.delete(0, self.lines.size() - MOST_LINES - 1)
        self.lines.see("end")
        self.looking = self.root.after(LOOK_EVERY, self.show_events)

    def send(self, _event: object = None) -> None:
        try:
            self.connection.write(self.entry.get().encode() + b"\n")
        except ConnectionException as error:
            self.state["text"] = str(error)
        else:
            self.entry.delete(0, "end")

    def close(self) -> None:
        self.manager.teardown()  # returns at once: no receiver waits for this thread
        self.root.after_cancel(self.looking)
        self.root.destroy()


if __name__ == "__main__":
    Window(sys.argv[1] if len(sys.argv) > 1 else "/dev/ttyUSB0").run()
