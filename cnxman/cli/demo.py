"""The command `cnxman demo`: a line that is lost and comes back, without any hardware.

The device is simulated, on a pseudo-terminal or in memory. The manager, the connection and the receivers are those that
a program of one's own would use.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

from cnxman import ConnectionException, ConnectionManager, ConnectionState, RetryPolicy, SerialConnection
from cnxman.cli.ending import Ending
from cnxman.cli.events import Events, reason, seconds
from cnxman.cli.stdio import STDOUT
from cnxman.testing import SimulatedDevice

_EARLY = 0.05
"""An attempt that comes so many seconds before its time comes because the device is back."""

_RETRY = RetryPolicy(initial=0.1, factor=3, jitter=0)
"""Attempts after 0.1, 0.4, 1.3 and 4 seconds: none is due just when the device is put back, after 3."""

_READINGS = (b"temperature 21.4\n", b"temperature 21.5 humidity 40\n", b"ok\n", b"temperature 21.5\n")


def run(pace: float = 1.0) -> int:
    """Show an outage, on standard output.

    Args:
        pace: how long a second of the story lasts, in seconds.

    Returns:
        The exit status.
    """
    events = Events(STDOUT)
    with Ending(STDOUT) as ending, SimulatedDevice() as device:
        connection = SerialConnection(device.port, 115200)
        manager = ConnectionManager(connection, retry=_RETRY)

        retry_at = 0.0

        def on_state(state: ConnectionState, previous: ConnectionState, error: ConnectionException | None) -> None:
            is_retry = (previous, state) == (ConnectionState.RECOVERING, ConnectionState.CONNECTING)
            if is_retry and time.monotonic() < retry_at - _EARLY:
                events.tell("retry", "the device is back: trying at once")
            events.tell(state, reason(error))

        def on_retry(delay: float) -> None:
            nonlocal retry_at
            retry_at = time.monotonic() + delay
            events.tell("retry", f"next attempt in {seconds(delay)}")

        connection.subscribe(lambda data: events.tell("data", f"{len(data):3} bytes  {data!r}"))
        manager.subscribe(on_state)
        manager.subscribe(on_retry, ConnectionManager.Signals.RETRY_SCHEDULED)
        with manager:
            for pause, act in _story(device, events):
                act()
                if ending.comes_within(pause * pace):
                    break
    return 0


def _story(device: SimulatedDevice, events: Events) -> Iterator[tuple[float, Callable[[], object]]]:
    """What happens, each with the pause after it, in seconds."""
    yield from _talk(device)
    yield 0, lambda: events.tell("cable", "pulled out, for 3 seconds")
    yield 3, device.unplug
    yield 0, lambda: events.tell("cable", "put back")
    yield 0, device.plug
    yield 0, device.wait_opened
    yield from _talk(device)


def _talk(device: SimulatedDevice) -> Iterator[tuple[float, Callable[[], object]]]:
    yield 0.4, lambda: None
    for reading in _READINGS:
        yield 0.4, partial(device.send, reading)
    yield 0.2, device.drain
