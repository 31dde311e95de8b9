"""The command `cnxman demo`: a line that is lost and comes back, without any hardware.

The device is simulated, on a pseudo-terminal. The manager, the connection and the receivers are those that a program
of one's own would use.
"""

import threading

from cnxman import ConnectionException, ConnectionManager, ConnectionState, SerialConnection
from cnxman._command.events import Events, reason, seconds
from cnxman._command.stdio import STDOUT
from cnxman.testing import SimulatedDevice

_READINGS = (b"temperature 21.4\n", b"temperature 21.5 humidity 40\n", b"ok\n", b"temperature 21.5\n")


def run(pace: float = 1.0) -> int:
    """Show an outage, on standard output.

    Args:
        pace: how long a second of the story lasts, in seconds.

    Returns:
        The exit status: 0, or 1 where there are no pseudo-terminals.
    """
    events = Events(STDOUT)
    try:
        device = SimulatedDevice()
    except NotImplementedError as error:
        events.tell("error", str(error))
        return 1
    with device:
        connection = SerialConnection(device.port, 115200)
        manager = ConnectionManager(connection)

        def on_state(state: ConnectionState, error: ConnectionException | None) -> None:
            events.tell(state, reason(error))

        def on_retry(delay: float) -> None:
            events.tell("retry", f"next attempt in {seconds(delay)}")

        connection.subscribe(lambda data: events.tell("data", f"{len(data):3} bytes  {data!r}"))
        manager.subscribe(on_state)
        manager.subscribe(on_retry, ConnectionManager.Signals.RETRY_SCHEDULED)
        with manager:
            _tell_the_story(device, events, pace)
    return 0


def _tell_the_story(device: SimulatedDevice, events: Events, pace: float) -> None:
    _talk(device, events, pace)
    events.tell("cable", "pulled out, for 3 seconds")
    device.unplug()
    _pause(3 * pace, events)
    events.tell("cable", "put back")
    device.plug()
    device.wait_opened()
    _talk(device, events, pace)


def _talk(device: SimulatedDevice, events: Events, pace: float) -> None:
    for reading in _READINGS:
        _pause(0.4 * pace, events)
        device.send(reading)
    device.drain()
    _pause(0.2 * pace, events)


def _pause(duration: float, events: Events) -> None:
    """Sleep, unless nobody looks on any more, as in `cnxman demo | head`."""
    if not events.closed:
        threading.Event().wait(duration)
