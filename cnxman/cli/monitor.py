"""The command `cnxman monitor`: shows what a device sends, and sends what is typed, through every outage.

Which thread does what:

* The main thread waits for the end, and for nothing else: so Ctrl-C works whatever hangs.
* The listener's thread writes data to standard output, and so goes no faster than that is read.
* The manager's thread tells what happens.
* Threads of this module's own: one makes the first attempt, one reads standard input, one sends what was
  read, and each command from the keyboard has one. All are daemons, which the end of the process ends.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cnxman import ConnectionException, ConnectionManager, ConnectionState, RetryPolicy, SerialConnection
from cnxman.cli.ending import Ending
from cnxman.cli.events import Events, seconds
from cnxman.cli.keys import HELP, HINT, Command, Keys, LineEnds
from cnxman.cli.outbox import Outbox
from cnxman.cli.output import Output
from cnxman.cli.shapes import shape
from cnxman.cli.stdio import STDERR, STDIN, STDOUT, read_some
from cnxman.cli.terminal import RawTerminal, is_ours, read_keys

_LONGEST_FAREWELL = 0.5
"""Seconds that hanging up may take at the end: an attempt that hangs would hold it up for longer."""

_NOTICE = 0.05
"""Seconds to wait after a write that failed: the manager will know in a moment that the line is lost."""


@dataclass(frozen=True)
class Options:
    """How to show and send; see the command's help."""

    title: str
    """The port and its settings, in words."""
    quiet: bool = False
    hexadecimal: bool = False
    timestamps: bool = False
    log: int | None = None
    eol: bytes | None = None
    onlcr: bool = False
    discard: bool = False
    wait: bool = True


def run(connection: SerialConnection, options: Options) -> int:
    """Monitor until something ends it.

    Args:
        connection: to what; it isn't connected yet.
        options: how.

    Returns:
        The exit status.
    """
    typed = is_ours(STDIN)
    as_it_is = not (options.hexadecimal or options.timestamps or options.onlcr)
    with Ending(STDOUT) as ending, RawTerminal(keys=typed, as_it_is=as_it_is):
        return Monitor(connection, options, ending, typed=typed).run()


class Monitor:
    """One run of the command.

    Args:
        connection: to what.
        options: how.
        ending: what to wait for.
        typed: whether what is sent is typed in a terminal.
    """

    def __init__(self, connection: SerialConnection, options: Options, ending: Ending, *, typed: bool) -> None:
        self._connection = connection
        self._options = options
        self._ending = ending
        self._typed = typed
        self._policy = RetryPolicy()
        self._manager = ConnectionManager(connection, retry=self._policy)
        self._output = Output(
            shape(hexadecimal=options.hexadecimal, timestamps=options.timestamps),
            options.log,
            self._on_output_closed,
            lambda error: self._events.tell("error", f"the log ends here: {error}"),
        )
        line_end = "\r\n" if os.isatty(STDERR) else "\n"
        before = self._output.before_event
        self._answers = Events(STDERR, line_end=line_end, before=before)
        self._events = Events(STDERR, line_end=line_end, before=before, quiet=options.quiet)
        self._outbox = Outbox(lambda text: self._events.tell("input", text), discard=options.discard)
        self._lost_at: float | None = None
        self._ever_up = False
        self._reason = ""  # the last that was told
        self._steady = False  # whether all that follows was told

    def run(self) -> int:
        """Begin, and wait for the end.

        Returns:
            The exit status.
        """
        connection, manager = self._connection, self._manager
        connection.subscribe(self._output.receive)
        connection.subscribe(self._output.finish, SerialConnection.Signals.CLOSED)
        manager.subscribe(self._on_state)
        manager.subscribe(self._on_retry, ConnectionManager.Signals.RETRY_SCHEDULED)
        if self._options.wait:
            self._events.tell("connecting", self._options.title)
            self._hint()
        self._start("opener", manager.connect)
        self._start("sender", self._send)
        if self._typed:
            self._start("keys", self._read_keys)
        elif not os.isatty(STDIN):  # if it is one, we are in the background, and reading would stop us
            self._start("input", self._read_pipe)
        status = self._ending.wait()
        farewell = self._start("farewell", manager.teardown)
        farewell.join(_LONGEST_FAREWELL)
        if self._options.wait or self._ever_up:
            self._events.tell("ended", self._statistics())
        return status

    def _start(self, name: str, work: Callable[[], None]) -> threading.Thread:
        def work_or_end() -> None:
            try:
                work()
            except Exception as error:
                self._fail(f"{type(error).__name__}: {error}")

        thread = threading.Thread(target=work_or_end, name=f"cnxman monitor: {name}", daemon=True)
        thread.start()
        return thread

    def _hint(self) -> None:
        if self._typed:
            self._events.tell("keys", HINT)

    def _fail(self, why: str) -> None:
        self._answers.tell("error", why)
        self._ending.end(1)

    # -- what happens -------------------------------------------------------------------------------------

    def _on_state(self, state: ConnectionState) -> None:
        if state is ConnectionState.CONNECTED:
            after = f", after {seconds(time.monotonic() - self._lost_at)}" if self._lost_at is not None else ""
            self._lost_at = None
            self._reason, self._steady = "", False
            self._events.tell(state, self._options.title + after)
            if not (self._ever_up or self._options.wait):
                self._hint()
            self._ever_up = True
            self._outbox.line_up()

    def _on_retry(self, delay: float, error: ConnectionException) -> None:
        reason = str(error)
        if not (self._ever_up or self._options.wait):
            self._fail(reason)
            return
        if self._lost_at is None:
            self._lost_at = time.monotonic()
        self._tell_retry(reason, delay)
        self._outbox.line_down()

    def _tell_retry(self, reason: str, delay: float) -> None:
        """Tell each attempt while the waits grow; then once that they go on, lest a night fills the screen."""
        if reason != self._reason:
            self._reason, self._steady = reason, False
            self._events.tell("recovering", f"{reason} (next attempt in {seconds(delay)})")
        elif delay < self._policy.maximum * (1 - self._policy.jitter):
            self._events.tell("recovering", f"next attempt in {seconds(delay)}")
        elif not self._steady:
            self._steady = True
            self._events.tell("recovering", f"next attempt in {seconds(delay)}, and so on until it is back")

    def _on_output_closed(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            self._ending.end(0)
        else:
            self._fail(f"standard output can't be written: {error}")

    def _statistics(self) -> str:
        counts, losses = self._connection.statistics, self._manager.statistics.losses
        parts = [
            f"{counts.bytes_in} bytes received",
            f"{counts.bytes_out} sent",
            f"{losses} outage{'' if losses == 1 else 's'}",
        ]
        if self._outbox.held:
            parts.append(f"{self._outbox.held} bytes wait to be sent")
        if counts.driver is not None:
            parts.append(f"{counts.driver.framing} framing errors, {counts.driver.parity} parity errors")
            parts.append(f"{counts.driver.overrun + counts.driver.buffer_overrun} overruns")
        return ", ".join(parts)

    # -- what is sent -------------------------------------------------------------------------------------

    def _read_pipe(self) -> None:
        line_ends = LineEnds(self._options.eol)
        while data := read_some(STDIN):
            self._outbox.put(line_ends.feed(data), wait=True)

    def _read_keys(self) -> None:
        keys, line_ends = Keys(), LineEnds(self._options.eol)
        while typed := read_keys():
            for meant in keys.feed(typed):
                if isinstance(meant, bytes):
                    self._outbox.put(line_ends.feed(meant), wait=False)
                elif meant is Command.QUIT:
                    self._ending.end()
                else:
                    self._start("command", partial(self._obey, meant))

    def _send(self) -> None:
        while True:
            data = self._outbox.take()
            try:
                self._connection.write(data)
            except ConnectionException as error:
                self._outbox.put_back(data[error.written :])
                time.sleep(_NOTICE)

    def _obey(self, command: Command) -> None:
        if command is Command.HELP:
            for line in HELP:
                self._answers.tell("help", line)
        elif command is Command.STATISTICS:
            self._answers.tell("statistics", f"{self._manager.state}, {self._statistics()}")
        else:
            self._control(command)

    def _control(self, command: Command) -> None:
        connection = self._connection
        try:
            if command is Command.BREAK:
                connection.send_break()
                self._answers.tell("break", "sent")
            elif command is Command.DTR:
                connection.dtr = connection.dtr is False  # the driver raises it
                self._answers.tell("dtr", _level(connection.dtr))
            else:
                connection.rts = connection.rts is False
                self._answers.tell("rts", _level(connection.rts))
        except ConnectionException as error:
            self._answers.tell("error", str(error))


def _level(level: bool | None) -> str:
    return "on" if level else "off"
