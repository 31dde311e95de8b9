"""One line of `cnxman monitor` to a device: kept up by a manager, and what happens to it told."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cnxman import ConnectionException, ConnectionManager, ConnectionState, RetryPolicy, SerialConnection, ports
from cnxman.cli.events import Events, seconds
from cnxman.cli.lineevents import LineEvents
from cnxman.cli.outbox import Outbox
from cnxman.cli.output import Log, Output

_LOOK_EVERY = 0.5
"""Seconds between two looks at who has the port, while it is given away."""


@dataclass(frozen=True)
class Port:
    """A port that is monitored."""

    connection: SerialConnection
    """It isn't connected yet."""

    name: str
    """As it was given: a device or a URL."""

    settings: str = ""
    """In words."""

    @property
    def title(self) -> str:
        """The port and its settings, in words."""
        return f"{self.name}, {self.settings}" if self.settings else self.name


class Line:
    """Keeps one line up, and tells what happens to it.

    Args:
        port: to where.
        output: for what the device sends.
        log: where outages are marked.
        events: where to tell.
        outbox: told when the line is up and when it is down.
        label: what stands before each event, to tell it from those of other ports.
        wait: whether to wait for a port that isn't there at the beginning.
        on_first: called when it is connected for the first time.
        on_failed: called, with why, when it isn't there at the beginning and is not to be waited for.
    """

    def __init__(
        self,
        port: Port,
        output: Output,
        log: Log,
        events: Events,
        outbox: Outbox,
        *,
        label: str,
        wait: bool,
        on_first: Callable[[], None],
        on_failed: Callable[[str], None],
    ) -> None:
        self.port = port
        self.connection = port.connection
        policy = RetryPolicy()
        self.manager = ConnectionManager(port.connection, retry=policy)
        self._line_events = LineEvents(policy, port.title, self.tell)
        self._output = output
        self._log = log
        self._events = events
        self._outbox = outbox
        self._label = label
        self._wait = wait
        self._on_first = on_first
        self._on_failed = on_failed
        self._gap_from: float | None = None  # since when the log has a gap
        self.ever_up = False
        self._lending = threading.Lock()
        self._taken_back: threading.Event | None = None  # while it is given away

    def start(self) -> None:
        """Make the first attempt; returns when that is over."""
        connection, manager = self.connection, self.manager
        connection.subscribe(self._output.receive)
        connection.subscribe(self._on_opened, SerialConnection.Signals.OPENED)
        connection.subscribe(self._on_closed, SerialConnection.Signals.CLOSED)
        manager.subscribe(self._on_state)
        manager.subscribe(self._on_retry, ConnectionManager.Signals.RETRY_SCHEDULED)
        manager.connect()

    def tell(self, what: str, text: str) -> None:
        """Tell an event of this line."""
        self._events.tell(what, f"{self._label}{text}")

    def answer(self, what: str, text: str) -> None:
        """Tell what was asked for about this line."""
        self._events.answer(what, f"{self._label}{text}")

    # -- what happens -------------------------------------------------------------------------------------

    def _on_opened(self) -> None:
        """The end of a gap in the log: this comes in order with the data."""
        if self._gap_from is not None:
            self._log.mark(f"{self.port.name} is back, after {seconds(time.monotonic() - self._gap_from)}")
            self._gap_from = None

    def _on_closed(self, error: ConnectionException | None) -> None:
        self._output.finish()
        if error is not None:
            self._begin_gap(str(error))

    def _begin_gap(self, why: str) -> None:
        if self._gap_from is None:
            self._gap_from = time.monotonic()
            self._log.mark(why)

    def _on_state(self, state: ConnectionState) -> None:
        if state is not ConnectionState.CONNECTED:
            return
        self._line_events.connected()
        if not self.ever_up:
            self.ever_up = True
            self._on_first()
        self._outbox.line_up()

    def _on_retry(self, delay: float, error: ConnectionException) -> None:
        reason = str(error)
        if not (self.ever_up or self._wait):
            self._on_failed(reason)
            return
        self._begin_gap(reason)
        self._line_events.retry(delay, error)
        self._outbox.line_down()

    def statistics(self) -> str:
        """What was counted, in words."""
        counts, losses = self.connection.statistics, self.manager.statistics.losses
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

    # -- given away ---------------------------------------------------------------------------------------

    def give_away_or_take_back(self) -> None:
        """Close the port, so that another program can have it; or open it again."""
        with self._lending:
            if self._taken_back is None:
                self._give_away()
            else:
                self._taken_back.set()
                self._taken_back = None
                self._take_back()

    def _give_away(self) -> None:
        self.manager.disconnect()
        self._outbox.line_down()
        self._line_events.forget()
        self._begin_gap(f"{self.port.name} is closed, for others to use")
        self.answer("closed", f"{self.port.name} is free for others; Ctrl-T p takes it back")
        self._taken_back = threading.Event()
        threading.Thread(
            target=self._watch_holders, args=[self._taken_back], name="cnxman monitor: holders", daemon=True
        ).start()

    def _take_back(self) -> None:
        self.answer("connecting", self.port.title)
        self.manager.connect()

    def _watch_holders(self, taken_back: threading.Event) -> None:
        """Tell who has the port while it is given away."""
        before = ""
        while not taken_back.wait(_LOOK_EVERY):
            now = ", ".join(map(str, ports.holders(ports.node_of(self.port.name))))
            if now != before and not taken_back.is_set():
                self.tell("closed", f"in use by {now}" if now else "nobody uses it any more")
            before = now
