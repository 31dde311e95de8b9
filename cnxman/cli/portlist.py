"""The command `cnxman ports`: which ports there are, what they are, and who holds them."""

import json
import queue
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, field

from serial.tools.list_ports_common import ListPortInfo

from cnxman import ports
from cnxman.cli.events import time_of_day
from cnxman.cli.stdio import STDERR, STDOUT, is_abandoned, write_all
from cnxman.logging import printable

_LOOK_EVERY = 0.2
"""Seconds between two looks whether anybody still reads standard output."""


@dataclass(frozen=True)
class Port:
    """A port, as it is listed."""

    device: str
    url: str | None
    by_id: str | None
    description: str | None
    manufacturer: str | None
    product: str | None
    serial_number: str | None
    location: str | None
    vid: int | None
    pid: int | None
    holders: tuple[ports.Holder, ...] = field(default=(), compare=False)


def run(*, as_json: bool, watch: bool) -> int:
    """List the ports, on standard output.

    Args:
        as_json: one JSON array, or with `watch` one JSON object a line.
        watch: go on, and tell arrivals and departures as they happen, until Ctrl-C.

    Returns:
        The exit status.
    """
    try:
        if watch:
            _watch(as_json=as_json)
        else:
            _tell_all(look(), as_json=as_json, watch=False)
    except (KeyboardInterrupt, BrokenPipeError):
        return 0
    except OSError as error:
        write_all(STDERR, f"standard output can't be written: {error}\n".encode())
        return 1
    return 0


def look() -> list[Port]:
    """The ports there are now."""
    found = ports.available()
    return [_port(info, found) for info in found]


def _watch(*, as_json: bool) -> None:
    """Tell arrivals and departures until nobody reads them any more."""
    changes: queue.SimpleQueue[tuple[ports.PortEvent, ListPortInfo]] = queue.SimpleQueue()
    with ports.watch(lambda event, info: changes.put((event, info))) as watch:
        _tell_all([_port(info, watch.at_start) for info in watch.at_start], as_json=as_json, watch=True)
        known = {info.device: info for info in watch.at_start}
        while not is_abandoned(STDOUT):
            try:
                event, info = changes.get(timeout=_LOOK_EVERY)
            except queue.Empty:
                continue
            known[info.device] = info
            _tell(event, _port(info, known.values()), as_json=as_json)
            if event is ports.PortEvent.DEPARTED:
                del known[info.device]


def _port(info: ListPortInfo, others: Collection[ListPortInfo]) -> Port:
    name = ports.usb_name(info)
    # Cheap twins share a serial number: then where they are plugged in tells them apart.
    is_twin = [ports.usb_name(other) for other in others].count(name) > 1
    return Port(
        device=info.device,
        url=ports.usb_name(info, with_location=is_twin),
        by_id=ports.by_id(info.device),
        description=_known(info.description),
        manufacturer=info.manufacturer,
        product=info.product,
        serial_number=info.serial_number,
        location=info.location,
        vid=info.vid,
        pid=info.pid,
        holders=tuple(ports.holders(info.device)),
    )


def _known(text: str | None) -> str | None:
    """What is known; pyserial says "n/a" for what isn't."""
    return None if text in (None, "", "n/a") else text


def _tell_all(found: list[Port], *, as_json: bool, watch: bool) -> None:
    if as_json and not watch:
        _write(json.dumps([asdict(port) for port in found], indent=2))
    elif found:
        for port in found:
            _tell("present" if watch else "", port, as_json=as_json)
    else:
        write_all(STDERR, b"there is no serial port\n")


def _tell(what: str, port: Port, *, as_json: bool) -> None:
    if as_json:
        _write(json.dumps({"event": what, "time": time.time(), **asdict(port)}))
    elif what:
        head, *rest = _in_words(port)
        _write(f"{time_of_day()}  {what:8}  {head}" + "".join(f"\n{'':24}{line}" for line in rest))
    else:
        head, *rest = _in_words(port)
        _write(head + "".join(f"\n    {line}" for line in rest))


def _in_words(port: Port) -> list[str]:
    """A line with path and what it is, then one for each name, then who holds it."""
    held_by = ", ".join(str(holder) for holder in port.holders)
    return [
        f"{port.device:14}  {printable(_what(port))}".rstrip(),
        *filter(None, (port.url, port.by_id)),
        *([f"in use by {held_by}"] if held_by else []),
    ]


def _what(port: Port) -> str:
    maker = f" ({port.manufacturer})" if port.manufacturer else ""
    return f"{port.product or port.description or ''}{maker}".strip()


def _write(text: str) -> None:
    write_all(STDOUT, f"{text}\n".encode(errors="replace"))
