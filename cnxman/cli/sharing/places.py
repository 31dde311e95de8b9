"""Where clients come in: what the command line says of it."""

import argparse
import ipaddress
import re
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Access:
    """What clients of one place may do, and who may be one."""

    read_only: bool = False
    mode: int | None = None
    """Permissions of the pseudo-terminal or the socket's file; None: its owner's alone."""
    group: str | None = None
    """The group that it is given to: a name or a number."""


@dataclass(frozen=True)
class Place:
    """One place where clients come in.

    Attributes:
        kind: "pty", "unix" or "tcp".
        path: of the link or the socket's file; "" for tcp.
        host: for tcp: a name or an address.
        port: for tcp: 0 for any that is free.
    """

    kind: str
    path: str = ""
    host: str = ""
    port: int = 0
    access: Access = Access()

    def __str__(self) -> str:
        if self.kind == "tcp":
            return address_in_words(self.host, self.port)
        return self.path if self.kind == "pty" else f"unix:{self.path}"


@dataclass(frozen=True)
class LineSettings:
    """What a client has set. A pseudo-terminal has 8 bits and no parity, whatever a client asks for."""

    baudrate: int
    stopbits: int
    rtscts: bool
    xonxoff: bool

    def __str__(self) -> str:
        flow = f"{' rtscts' if self.rtscts else ''}{' xonxoff' if self.xonxoff else ''}"
        return f"{self.baudrate} baud, {self.stopbits} stop bit{'s' if self.stopbits > 1 else ''}{flow}"


def address_in_words(host: str, port: int) -> str:
    """A TCP address, as the command line takes it."""
    return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"


def is_loopback(address: str) -> bool:
    """Whether nobody but this machine can reach an address."""
    try:
        return ipaddress.ip_address(address.split("%", maxsplit=1)[0]).is_loopback
    except ValueError:
        return False


def parse_listen(text: str) -> Place:
    """Read an ADDRESS of the command line.

    Raises:
        argparse.ArgumentTypeError: if it is none.
    """
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest and "\0" not in rest:
        return Place("unix", path=rest)
    if kind == "tcp":
        found = re.fullmatch(r"(?:(?P<host>\[[^\[\]]+\]|[^:\[\]]*):)?(?P<port>[0-9]{1,5})", rest)
        if found and int(found["port"]) <= 65535:
            return Place("tcp", host=(found["host"] or "localhost").strip("[]"), port=int(found["port"]))
    raise argparse.ArgumentTypeError(
        f"{text!r} is no address: give unix:PATH, tcp:PORT for this machine alone, or tcp:HOST:PORT"
    )


def parse_link(text: str) -> Place:
    """Read a LINK of the command line."""
    if not text or "\0" in text or text.endswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is no name for a link: give a path, such as /run/cnxman/meter")
    return Place("pty", path=text)


def parse_mode(text: str) -> int:
    """Read permissions, in octal."""
    if not re.fullmatch("0?[0-7]{3}", text):
        raise argparse.ArgumentTypeError(f"{text!r} are no permissions: give them in octal, such as 660")
    return stat.S_IMODE(int(text, 8))


class InOrder(argparse.Action):
    """Collects places and what is said of those after them, in the order of the command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Note one of them."""
        del parser, option_string
        collected = [
            *(getattr(namespace, "places", None) or ()),
            values if isinstance(values, Place) else self.found(values),
        ]
        namespace.places = collected

    def found(self, value: object) -> tuple[str, object]:
        """What it says of the places after it."""
        return self.dest, True if self.nargs == 0 else value


def places_of(collected: Sequence[Place | tuple[str, object]]) -> list[Place]:
    """The places, each with what was said before it."""
    access, places = Access(), []
    for each in collected:
        if isinstance(each, Place):
            places.append(Place(each.kind, each.path, each.host, each.port, access))
        else:
            name, value = each
            access = Access(**{**vars(access), name: value})
    return places


def check_host(host: str, port: int) -> list[tuple[int, tuple[object, ...]]]:
    """The addresses that a host name and port mean, as families and socket addresses.

    Raises:
        OSError: if the name means none.
    """
    host = "0.0.0.0" if host == "*" else host  # noqa: S104 (it was asked for)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))
