"""Clients that come by a socket, of the file system or of the network; and where they come in."""

import contextlib
import errno
import os
import socket
import struct
import sys

from cnxman.cli.sharing.names import bind_socket, give_to, remove_socket
from cnxman.cli.sharing.places import Place, address_in_words, check_host, is_loopback

MOST = 64 * 1024
"""Bytes read at once."""

_WAITING = 128
"""Clients that may wait to be accepted."""


class SocketClient:
    """A client at the other end of a socket. What isn't told of its reads and writes is the hub's.

    Args:
        sock: the connection.
        name: what to call it.
        read_only: whether what it sends is ignored.
    """

    def __init__(self, sock: socket.socket, name: str, *, read_only: bool) -> None:
        self._sock = sock
        self.name = name
        self.read_only = read_only
        self.position = 0
        """In the device's stream: what stands before it was given to the client."""
        self.interest = 0
        """The events that the hub waits for, of `selectors`; 0 for none."""
        self.is_blocked = False
        """Whether it took less than it was given, and hasn't been ready since."""
        self.ended_at: float | None = None
        """When it said its last. It may be waiting for an answer, or be gone: that can't be told."""
        self.came_at = 0.0
        self.bytes_to = self.bytes_from = 0
        sock.setblocking(False)
        if sock.family != getattr(socket, "AF_UNIX", None):
            with contextlib.suppress(OSError):  # gone already: reading tells
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._sock.fileno()

    def read(self) -> bytes | None:
        """What it said; None if there is nothing, b"" if it will say no more."""
        try:
            return self._sock.recv(MOST)
        except BlockingIOError:
            return None
        except OSError:  # reset, timed out, unreachable: whichever, it is gone
            return b""

    def write(self, data: memoryview) -> int:
        """Give it what it takes at once; returns how many bytes that was. Raises OSError if it is gone."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def __str__(self) -> str:
        return self.name


class Server:
    """A place where clients come in by a socket; a host name may mean several addresses, each with one of these.

    Args:
        place: where.
        sock: bound, not listening yet.
    """

    def __init__(self, place: Place, sock: socket.socket) -> None:
        self.place = place
        self._sock = sock
        self._path = place.path if place.kind == "unix" else ""
        self._inode = (0, 0)
        try:
            if self._path:
                self._own()
            sock.setblocking(False)
            sock.listen(_WAITING)
        except BaseException:
            self.close()
            raise
        self.name = f"unix:{place.path}" if self._path else address_in_words(*sock.getsockname()[:2])
        self.is_open_to_others = not self._path and not is_loopback(str(sock.getsockname()[0]))

    def _own(self) -> None:
        found = os.lstat(self._path)
        self._inode = (found.st_dev, found.st_ino)
        access = self.place.access
        give_to(self._path, 0o600 if access.mode is None else access.mode, access.group)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._sock.fileno()

    def accept(self) -> SocketClient | None:
        """The next client, or None if there is none.

        Raises:
            OSError: the system gives no descriptor for it.
        """
        try:
            sock, address = self._sock.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            return None  # none there, or gone again
        name = f"{self.name}{_pid(sock)}" if self._path else address_in_words(*address[:2])
        return SocketClient(sock, name, read_only=self.place.access.read_only)

    def close(self) -> None:
        """Listen no more; a socket's file is removed, if it is still ours."""
        self._sock.close()
        if self._path:
            remove_socket(self._path, self._inode)


def _pid(sock: socket.socket) -> str:
    """Which process it is, for a message, where the system tells."""
    if sys.platform != "linux":
        return ""
    pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return f" (pid {pid})"


def open_servers(place: Place) -> list[Server]:
    """Listen at a place.

    Raises:
        OSError: that can't be; it says why, and nothing is left.
    """
    if place.kind == "unix":
        if not hasattr(socket, "AF_UNIX"):
            raise OSError(errno.EAFNOSUPPORT, f"{place}: this system has no such sockets")
        return [Server(place, bind_socket(place.path))]
    servers: list[Server] = []
    try:
        _listen(place, servers)
    except OSError as error:
        for server in servers:
            server.close()
        raise OSError(error.errno, f"can't listen on {place}: {error.strerror or error}") from None
    return servers


def _listen(place: Place, servers: list[Server]) -> None:
    """Listen on each address that a host name means, and that this machine has; at the same port of each."""
    port, missing = place.port, None
    for family, address in check_host(place.host, place.port):
        try:
            server = Server(place, _bind(family, (address[0], port, *address[2:])))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
            missing = error  # "localhost" means ::1 too, where there is no IPv6
        else:
            servers.append(server)
            port = int(server.name.rpartition(":")[2])
    if missing is not None and not servers:
        raise missing


def _bind(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "nt":
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_EXCLUSIVEADDRUSE", 0), 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock
