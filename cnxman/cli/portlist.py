"""The command `cnxman ports`: which ports there are, what they are, and who holds them."""

import json
import os
import time
from dataclasses import asdict, dataclass, field

from cnxman import ports
from cnxman.cli.events import time_of_day
from cnxman.cli.stdio import STDERR, STDOUT, is_abandoned, write_all
from cnxman.logging import printable

_LOOK_EVERY = 0.2
"""Seconds between two looks whether anything in /dev has changed, which cost next to nothing."""

_LIST_EVERY = 2.0
"""Seconds between two listings though nothing seems to have changed, or where that can't be told."""

_SETTLED = 0.1
"""Seconds after which a second listing has to say the same: an adapter has no numbers yet just after it came, and none
any more just before it goes."""


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
        known = look()
        _tell_all(known, as_json=as_json, watch=watch)
        while watch:
            changes, known = wait_for_changes(known)
            for what, port in changes:
                _tell(what, port, as_json=as_json)
    except (KeyboardInterrupt, BrokenPipeError):
        return 0
    except OSError as error:
        write_all(STDERR, f"standard output can't be written: {error}\n".encode())
        return 1
    return 0


def look() -> list[Port]:
    """The ports there are now."""
    found = ports.available()
    names = [ports.usb_name(info) for info in found]
    return [
        Port(
            device=info.device,
            # Cheap twins share a serial number: then where they are plugged in tells them apart.
            url=ports.usb_name(info, with_location=names.count(name) > 1),
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
        for info, name in zip(found, names, strict=True)
    ]


def wait_for_changes(known: list[Port]) -> tuple[list[tuple[str, Port]], list[Port]]:
    """Wait for a change, or for a while.

    Args:
        known: the ports there were.

    Returns:
        What departed and arrived, each as ("departed" or "arrived", the port); and the ports there are.
    """
    _wait_for_change()
    now = _settled()
    departed = [("departed", port) for port in known if port not in now]
    arrived = [("arrived", port) for port in now if port not in known]
    return departed + arrived, now


def _wait_for_change() -> None:
    """Wait until something in /dev has changed, or for a while.

    Raises:
        BrokenPipeError: if nobody reads standard output any more.
    """
    until = time.monotonic() + _LIST_EVERY
    stamp = _stamp()
    while _stamp() == stamp and time.monotonic() < until:
        if is_abandoned(STDOUT):
            raise BrokenPipeError
        time.sleep(_LOOK_EVERY)


def _stamp() -> int | None:
    try:
        return os.stat("/dev").st_mtime_ns
    except OSError:
        return None


def _settled() -> list[Port]:
    """The ports there are, once two listings in a row say the same."""
    now = look()
    while True:
        time.sleep(_SETTLED)
        before, now = now, look()
        if before == now:
            return now


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
