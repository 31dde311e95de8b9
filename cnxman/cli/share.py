"""The command `cnxman share`: one owner of a port, kept up, for programs in any language.

Which thread does what:

* The main thread waits for the end, and for nothing else: so Ctrl-C works whatever hangs.
* The hub's thread serves all clients, in one loop; see `cnxman.cli.sharing.hub`.
* The sender's thread writes to the device what clients said: that may wait for flow control.
* The teller's thread writes events to standard error; see `cnxman.cli.sharing.teller`.
* The listener hands data to the hub, and the manager tells what happens; one more thread makes the first attempt.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from cnxman import ConnectionException, ConnectionManager, ConnectionState, RetryPolicy, SerialConnection
from cnxman.cli.ending import Ending
from cnxman.cli.events import Events
from cnxman.cli.lineevents import LineEvents
from cnxman.cli.sharing.hub import Hub
from cnxman.cli.sharing.places import LineSettings, Place
from cnxman.cli.sharing.pty import HAVE_PTYS, Pty
from cnxman.cli.sharing.sockets import Server, open_servers
from cnxman.cli.sharing.teller import Teller
from cnxman.cli.stdio import STDERR, write_all

_LONGEST_FAREWELL = 0.5
"""Seconds that hanging up may take at the end: an attempt that hangs would hold it up for longer."""

_NOTICE = 0.1
"""Seconds to wait after a write that failed: the manager will know in a moment that the line is lost."""


@dataclass(frozen=True)
class Options:
    """How to share; see the command's help."""

    title: str
    """The port and its settings, in words."""
    places: Sequence[Place]
    settings: LineSettings
    """The port's, as far as a pseudo-terminal has such."""
    limit: int
    """How many bytes a client may lag behind."""
    quiet: bool = False
    discard: bool = False
    follow: bool = False


def run(connection: SerialConnection, options: Options) -> int:
    """Share until something ends it.

    Args:
        connection: what to share; it isn't connected yet.
        options: how, and with whom.

    Returns:
        The exit status.
    """
    teller = Teller(Events(STDERR, quiet=options.quiet))
    try:
        with Ending(None) as ending:
            return Share(connection, options, ending, teller).run()
    except OSError as error:
        write_all(STDERR, f"cnxman share: {error.strerror or error}\n".encode(errors="replace"))
        return 1
    finally:
        teller.finish(_LONGEST_FAREWELL)


class Share:
    """One run of the command.

    Args:
        connection: what to share.
        options: how, and with whom.
        ending: what to wait for.
        teller: takes events.

    Raises:
        OSError: a place can't be made; nothing is left of the others.
    """

    def __init__(self, connection: SerialConnection, options: Options, ending: Ending, teller: Teller) -> None:
        self._connection = connection
        self._options = options
        self._ending = ending
        self._teller = teller
        self._settings = options.settings
        self._told: set[tuple[str, LineSettings]] = set()
        policy = RetryPolicy()
        self._manager = ConnectionManager(connection, retry=policy)
        self._hub = Hub(teller.tell, limit=options.limit, follow=self._on_settings, discard=options.discard)
        with ExitStack() as undo:
            undo.callback(self._hub.close)
            for place in options.places:
                self._open(place)
            undo.pop_all()
        self._line_events = LineEvents(policy, options.title, teller.tell)

    def run(self) -> int:
        """Begin, and wait for the end.

        Returns:
            The exit status.
        """
        hub, manager = self._hub, self._manager
        self._teller.tell("connecting", self._options.title)
        self._connection.subscribe(hub.receive)
        manager.subscribe(self._on_state)
        manager.subscribe(self._line_events.retry, ConnectionManager.Signals.RETRY_SCHEDULED)
        loop = self._start("hub", hub.run)
        self._start("opener", manager.connect)
        self._start("sender", self._send)
        status = self._ending.wait()
        hub.outbox.close()
        hub.stop()
        loop.join(_LONGEST_FAREWELL)
        hub.close()
        self._start("farewell", manager.teardown).join(_LONGEST_FAREWELL)
        self._teller.tell("ended", self._statistics())
        return status

    def _open(self, place: Place) -> None:
        if place.kind == "pty":
            if not HAVE_PTYS:
                raise OSError(f"{place}: this system has no pseudo-terminals; use --listen")
            pty = Pty(place)
            self._hub.add_pty(pty)
            self._teller.tell("listening", f"{pty}, a link to {pty.device}{_rights(place)}")
            return
        for server in open_servers(place):
            self._hub.add_server(server)
            self._teller.tell("listening", f"{server.name}{_rights(place)}{_warning(server)}")

    def _start(self, name: str, work: Callable[[], None]) -> threading.Thread:
        def work_or_end() -> None:
            try:
                work()
            except Exception as error:
                self._teller.tell("error", f"{type(error).__name__}: {error}")
                self._ending.end(1)

        thread = threading.Thread(target=work_or_end, name=f"cnxman share: {name}", daemon=True)
        thread.start()
        return thread

    def _on_state(self, state: ConnectionState) -> None:
        if state is ConnectionState.CONNECTED:
            self._line_events.connected()
            self._hub.outbox.line_up()
        elif state is ConnectionState.RECOVERING:
            self._hub.outbox.line_down()

    def _send(self) -> None:
        outbox = self._hub.outbox
        while (taken := outbox.take()) is not None:
            message, opening = taken
            try:
                written = self._connection.write(message)
            except ConnectionException as error:
                written = error.written
            outbox.taken(message, written, opening, _NOTICE)

    def _on_settings(self, client: str, wanted: LineSettings) -> None:
        """A client has set its pseudo-terminal: ignore it, or follow. On the hub's thread."""
        if wanted == self._settings:
            return
        if not self._options.follow:
            if (client, wanted) not in self._told:
                self._told.add((client, wanted))
                self._teller.tell("settings", f"{client} wants {wanted}: ignored, the port has {self._settings}")
            return
        try:
            self._connection.configure(**vars(wanted))
        except ConnectionException as error:
            self._teller.tell("settings", f"{client} wants {wanted}: kept for the next opening ({error})")
        except ValueError as error:
            self._teller.tell("settings", f"{client} wants {wanted}: ignored ({error})")
            return
        else:
            self._teller.tell("settings", f"{client} has set {wanted}")
        self._settings = wanted

    def _statistics(self) -> str:
        counts, losses = self._connection.statistics, self._manager.statistics.losses
        return f"{counts.bytes_in} bytes received, {counts.bytes_out} sent, {losses} outage{'' if losses == 1 else 's'}"


def _rights(place: Place) -> str:
    return ", read-only" if place.access.read_only else ""


def _warning(server: Server) -> str:
    return "; whoever reaches it can use the device, there is no password" if server.is_open_to_others else ""
