"""The command `cnxman monitor`: shows what a device sends, and sends what is typed, through every outage.

Which thread does what:

* The main thread waits for the end, and for nothing else: so Ctrl-C works whatever hangs.
* The listener's thread writes data to standard output, and so goes no faster than that is read.
* The manager's thread tells what happens.
* Threads of this module's own: one for each port makes the first attempt, one reads standard input, one sends what was
  read, one shows it, and each command from the keyboard has one. All are daemons, which the end of the process ends.

Several ports are only read. Their lines share the screen, each marked with the name of its port.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle

from cnxman import ConnectionException
from cnxman.cli.ending import Ending
from cnxman.cli.events import Events
from cnxman.cli.keys import HELP, HINT, Command, Keys, LineEnds, Unknown, echo_of
from cnxman.cli.line import Line, Port
from cnxman.cli.mapping import mappings
from cnxman.cli.outbox import Outbox
from cnxman.cli.output import Log, Output, Screen
from cnxman.cli.shapes import STAMPS, Shape, shape
from cnxman.cli.stdio import STDERR, STDIN, STDOUT, read_some
from cnxman.cli.terminal import RawTerminal, is_ours, read_keys

_LONGEST_FAREWELL = 0.5
"""Seconds that hanging up may take at the end: an attempt that hangs would hold it up for longer."""

_NOTICE = 0.05
"""Seconds to wait after a write that failed: the manager will know in a moment that the line is lost."""

_COLOURS = (36, 33, 35, 32, 34, 31)
"""Of the names of several ports, in their order, as SGR numbers."""

_ONE_PORT = {Command.BREAK, Command.DTR, Command.RTS, Command.ECHO, Command.CLOSE}
"""Commands that need one port to be meant."""


@dataclass(frozen=True)
class Options:
    """How to show and send; see the command's help."""

    quiet: bool = False
    hexadecimal: bool = False
    timestamps: str | None = None
    """The form, one of `shapes.STAMPS`."""
    log: int | None = None
    eol: bytes | None = None
    mapped: Sequence[str] = ()
    """Flags of `--map`."""
    echo: bool = False
    onlcr: bool = False
    discard: bool = False
    wait: bool = True


def run(watched: Sequence[Port], options: Options) -> int:
    """Monitor until something ends it.

    Args:
        watched: which ports; several are only read.
        options: how.

    Returns:
        The exit status.
    """
    typed = is_ours(STDIN)
    with Ending(STDOUT) as ending, RawTerminal(keys=typed, as_it_is=True):
        return Monitor(watched, options, ending, typed=typed).run()


class Monitor:
    """One run of the command.

    Args:
        watched: which ports.
        options: how.
        ending: what to wait for.
        typed: whether what is sent is typed in a terminal.
    """

    def __init__(self, watched: Sequence[Port], options: Options, ending: Ending, *, typed: bool) -> None:
        self._options = options
        self._ending = ending
        self._typed = typed
        self._hexadecimal = options.hexadecimal
        self._timestamps = options.timestamps
        self._onlcr = options.onlcr
        self._echoes = options.echo
        self._said_read_only = False
        self._reshaping = threading.Lock()
        self._is_single = len(watched) == 1
        self._received, self._sent = mappings(options.mapped)
        self._screen = Screen(self._on_output_closed, from_the_left=self._begins_at_the_left())
        self._events = Events(
            STDERR,
            line_end="\r\n" if os.isatty(STDERR) else "\n",
            before=self._screen.before_event,
            quiet=options.quiet,
        )
        self._log = Log(
            options.log,
            lambda error: self._events.tell("error", f"the log ends here: {error}"),
            marked=not options.quiet,
        )
        self._outbox = Outbox(lambda text: self._events.tell("input", text), discard=options.discard)
        self._echo: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._outputs: list[Output] = []
        self._lines = [self._make_line(*each) for each in zip(watched, _labels(watched), cycle(_COLOURS), strict=False)]
        self._line = self._lines[0]

    def _make_line(self, port: Port, label: str, colour: int) -> Line:
        output = Output(self._shape(), self._screen, self._log, mapping=self._received, name=label, colour=colour)
        self._outputs.append(output)
        return Line(
            port,
            output,
            self._log,
            self._events,
            self._outbox,
            label=f"{label.rstrip()}: " if label else "",
            wait=self._options.wait,
            on_first=self._on_first,
            on_failed=self._fail,
        )

    def run(self) -> int:
        """Begin, and wait for the end.

        Returns:
            The exit status.
        """
        if self._options.wait:
            for line in self._lines:
                line.tell("connecting", line.port.title)
            self._hint()
        for line in self._lines:
            self._start("opener", line.start)
        if self._is_single:
            self._start("sender", self._send)
        if self._typed:
            self._start("keys", self._read_keys)
            self._start("echo", self._show_echo)
        elif self._is_single and not os.isatty(STDIN):  # if it is one, we are in the background: reading would stop us
            self._start("input", self._read_pipe)
        status = self._ending.wait()
        self._say_goodbye()
        return status

    def _say_goodbye(self) -> None:
        farewells = [self._start("farewell", line.manager.teardown) for line in self._lines]
        until = time.monotonic() + _LONGEST_FAREWELL
        for farewell in farewells:
            farewell.join(max(0.0, until - time.monotonic()))
        for line in self._lines:
            if self._options.wait or line.ever_up:
                line.tell("ended", line.statistics())

    def _start(self, name: str, work: Callable[[], None]) -> threading.Thread:
        def work_or_end() -> None:
            try:
                work()
            except Exception as error:
                self._fail(f"{type(error).__name__}: {error}")

        thread = threading.Thread(target=work_or_end, name=f"cnxman monitor: {name}", daemon=True)
        thread.start()
        return thread

    def _on_first(self) -> None:
        if not self._options.wait:
            self._hint()

    def _hint(self) -> None:
        if self._typed:
            self._events.tell("keys", HINT)

    def _fail(self, why: str) -> None:
        self._events.answer("error", why)
        self._ending.end(1)

    def _on_output_closed(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            self._ending.end(0)
        else:
            self._fail(f"standard output can't be written: {error}")

    # -- how it is shown ----------------------------------------------------------------------------------

    def _shape(self) -> Shape:
        return shape(hexadecimal=self._hexadecimal, timestamps=self._timestamps, whole_lines=not self._is_single)

    def _begins_at_the_left(self) -> bool:
        """Whether a line feed starts a new line at the left: always, but where data is shown byte for byte."""
        return self._onlcr or self._hexadecimal or self._timestamps is not None or not self._is_single

    def _toggle(self, command: Command) -> str:
        """Change how it is shown; returns what holds now."""
        with self._reshaping:
            if command is Command.HEX:
                self._hexadecimal = not self._hexadecimal
                said = _on(self._hexadecimal)
            elif command is Command.TIMESTAMPS:
                forms = (None, *STAMPS)
                self._timestamps = forms[(forms.index(self._timestamps) + 1) % len(forms)]
                said = self._timestamps or "off"
            else:
                self._onlcr = not self._onlcr
                said = _on(self._onlcr)
            self._screen.from_the_left = self._begins_at_the_left()
            if command is not Command.ONLCR:
                for output in self._outputs:
                    output.reshape(self._shape())
        return said

    # -- what is sent -------------------------------------------------------------------------------------

    def _read_pipe(self) -> None:
        line_ends = LineEnds(self._options.eol)
        while data := read_some(STDIN):
            self._outbox.put(line_ends.feed(self._sent.feed(data)), wait=True)

    def _read_keys(self) -> None:
        keys, line_ends = Keys(), LineEnds(self._options.eol)
        while typed := read_keys():
            for meant in keys.feed(typed):
                if isinstance(meant, bytes):
                    self._put(line_ends.feed(self._sent.feed(meant)))
                elif meant is Command.QUIT:
                    self._ending.end()
                else:
                    self._start("command", partial(self._obey, meant))

    def _put(self, data: bytes) -> None:
        """Send what was typed."""
        if not self._is_single:
            if not self._said_read_only:
                self._said_read_only = True
                self._start("command", partial(self._events.tell, "keys", "several ports are only read"))
            return
        if self._echoes:
            self._echo.put(data)
        self._outbox.put(data, wait=False)

    def _show_echo(self) -> None:
        """Show what is typed, on a thread of its own: a screen that stands still must not keep Ctrl-C from us."""
        while True:
            data = self._echo.get()
            for output in self._outputs:
                output.before_echo()
            self._screen.echo(echo_of(data))

    def _send(self) -> None:
        connection = self._line.connection
        while True:
            data = self._outbox.take()
            try:
                connection.write(data)
            except ConnectionException as error:
                self._outbox.put_back(data[error.written :])
                time.sleep(_NOTICE)

    # -- commands -----------------------------------------------------------------------------------------

    def _obey(self, command: Command | Unknown) -> None:
        if isinstance(command, Unknown):
            self._events.answer("help", str(command))
        elif command in _ONE_PORT and not self._is_single:
            self._events.answer("error", f"{command.value}: only with one port")
        elif command is Command.HELP:
            for line in HELP:
                self._events.answer("help", line)
        elif command is Command.STATISTICS:
            for each in self._lines:
                each.answer("statistics", f"{each.manager.state}, {each.statistics()}")
        elif command is Command.CLOSE:
            self._line.give_away_or_take_back()
        elif command in (Command.BREAK, Command.DTR, Command.RTS):
            self._control(command)
        else:
            self._change_view(command)

    def _change_view(self, command: Command) -> None:
        if command is Command.CLEAR:
            self._screen.clear()
        elif command is Command.LOG:
            self._events.answer("log", self._log.toggle())
        elif command is Command.ECHO:
            self._echoes = not self._echoes
            self._events.answer("echo", _on(self._echoes))
        else:
            self._events.answer(command.name.lower(), self._toggle(command))

    def _control(self, command: Command) -> None:
        connection = self._line.connection
        try:
            if command is Command.BREAK:
                connection.send_break()
                self._events.answer("break", "sent")
            elif command is Command.DTR:
                connection.dtr = connection.dtr is False  # the driver raises it
                self._events.answer("dtr", _on(connection.dtr))
            else:
                connection.rts = connection.rts is False
                self._events.answer("rts", _on(connection.rts))
        except ConnectionException as error:
            self._events.answer("error", str(error))


def _on(level: bool | None) -> str:
    return "on" if level else "off"


def _labels(watched: Sequence[Port]) -> list[str]:
    """What tells several ports apart, as short as may be; of one width, so that their lines begin below each other."""
    if len(watched) == 1:
        return [""]
    short = [port.name if "://" in port.name else os.path.basename(port.name) for port in watched]
    names = short if len(set(short)) == len(short) else [port.name for port in watched]
    width = max(map(len, names))
    return [f"{name:{width}}" for name in names]
