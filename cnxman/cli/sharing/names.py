"""Names in the file system that are ours while we run: made without taking another's, removed at the end.

A link of ours says `/dev/./pts/3`: the same as `/dev/pts/3`, and by that spelling the next run knows it. One whose
owner has ended without removing it is replaced.
"""

import contextlib
import errno
import os
import re
import shutil
import socket
import stat
import sys
from hashlib import sha256


class Lock:
    """Tells other runs of the command that a name is taken, for as long as this process lives (on Linux).

    It is a socket in the abstract name space: it needs no file, and none is left behind.

    Args:
        path: the name.

    Raises:
        OSError: another run has it.
    """

    def __init__(self, path: str) -> None:
        self._socket: socket.socket | None = None
        if sys.platform != "linux":
            return
        folder, name = os.path.split(os.path.abspath(path))
        try:
            found = os.stat(folder)
        except OSError:
            return  # making the name will tell
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.bind(b"\0cnxman share " + sha256(f"{found.st_dev}:{found.st_ino}/{name}".encode()).digest())
        except OSError as error:
            self.release()
            if error.errno == errno.EADDRINUSE:
                raise OSError(error.errno, f"{path} belongs to another cnxman share that is running") from None
            raise

    def release(self) -> None:
        """Let others have it."""
        if self._socket is not None:
            self._socket.close()


def link_to(device: str, path: str) -> str:
    """Make a link to a pseudo-terminal.

    Returns:
        What it says.

    Raises:
        OSError: there is something of that name, or it can't be made.
    """
    text = device.replace("/dev/", "/dev/./", 1)
    with contextlib.suppress(OSError):
        if _is_stale(path):
            os.unlink(path)
    try:
        os.symlink(text, path)
    except OSError as error:
        raise _refusal(path, error) from None
    return text


def _is_stale(path: str) -> bool:
    """Whether it is a link that was left behind: that no other run has it now, `Lock` has told."""
    text = os.readlink(path)
    if re.fullmatch(r"/dev/pts/\d+", text):  # whoever made it
        return not os.path.exists(text)
    return bool(re.fullmatch(r"/dev/\./(pts/\d+|tty\w+)", text))


def remove_link(path: str, text: str) -> None:
    """Remove a link, if it still says what we made it say."""
    with contextlib.suppress(OSError):
        if os.readlink(path) == text:
            os.unlink(path)


def bind_socket(path: str) -> socket.socket:
    """Make a socket's file, which nobody but its owner can connect to yet.

    Raises:
        OSError: there is something of that name, or it can't be made.
    """
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(OSError):
            if _is_dead_socket(path):
                os.unlink(path)
        server.bind(path)
    except OSError as error:
        server.close()
        raise _refusal(path, error) from None
    return server


def _is_dead_socket(path: str) -> bool:
    """Whether it is a socket that nobody listens on any more."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        return probe.connect_ex(path) == errno.ECONNREFUSED


def remove_socket(path: str, inode: tuple[int, int]) -> None:
    """Remove a socket's file, if it is still the one with these numbers (device and inode)."""
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) == inode:
            os.unlink(path)


def give_to(path: str, mode: int, group: str | None) -> None:
    """Set permissions and group.

    Raises:
        OSError: there is no such group, or we may not.
    """
    try:
        if group is not None:
            shutil.chown(path, group=int(group) if group.isdecimal() else group)
        os.chmod(path, mode)
    except (LookupError, OverflowError):
        raise OSError(errno.EINVAL, f"there is no group {group!r}") from None
    except OSError as error:
        raise OSError(
            error.errno, f"{path} can't be given to group {group} with mode {mode:o}: {error.strerror}"
        ) from None


def _refusal(path: str, error: OSError) -> OSError:
    """The same error, in words that name the path and what to do."""
    if error.errno in (errno.EEXIST, errno.EADDRINUSE):
        if os.path.isdir(path):
            why = "it is a directory; give the name of a file in it that doesn't exist yet"
        elif os.path.islink(path):
            why = f"it is a link to {os.readlink(path)} that somebody else made; remove it if nobody needs it"
        else:
            why = "it exists, and is somebody else's; remove it if nobody needs it"
    elif error.errno in (errno.ENOENT, errno.ENOTDIR):
        why = f"there is no directory {os.path.dirname(path) or '.'}"
    elif error.errno is None:  # Python's own: a unix socket's path is too long
        why = str(error)
    else:
        why = os.strerror(error.errno)
    return OSError(error.errno or errno.EINVAL, f"{path} can't be made: {why}")
