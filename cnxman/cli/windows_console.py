"""The console and the pipes of Windows, where they differ from a terminal and pipes elsewhere."""

import os
from importlib import import_module
from typing import Any

_VT_OUTPUT = 0x0004
_NO_AUTO_RETURN = 0x0008
_UTF8 = 65001

_KEYS = {
    "H": b"\x1b[A",
    "P": b"\x1b[B",
    "M": b"\x1b[C",
    "K": b"\x1b[D",
    "G": b"\x1b[H",
    "O": b"\x1b[F",
    "R": b"\x1b[2~",
    "S": b"\x1b[3~",
    "I": b"\x1b[5~",
    "Q": b"\x1b[6~",
}
"""The second code of a key that is no character, and what a terminal elsewhere sends for that key: the arrows (up,
down, right, left), Home, End, Insert, Delete, Page up, Page down."""

_END_OF_INPUT = "\uffff"


class WindowsConsole:
    """What Windows is asked for.

    Args:
        kernel32: its calls, as ctypes loads them.
        msvcrt: Python's module of that name.
    """

    def __init__(self, kernel32: Any, msvcrt: Any) -> None:
        # Loaded only here: libffi keeps its file open under the lowest free number, which may be that of a standard
        # input that the caller closed (see `open_the_missing`).
        self._ctypes = import_module("ctypes")
        self._kernel32 = kernel32
        self._msvcrt = msvcrt
        self._before: list[tuple[int, int]] = []
        self._code_page: int | None = None

    def is_console(self, descriptor: int) -> bool:
        """Whether this is a console, which `isatty` says of NUL, too."""
        return self._mode(descriptor) is not None

    def read_keys(self) -> bytes:
        """Wait for a key: what a terminal elsewhere would send for it, in UTF-8; b"" if no console is there."""
        while True:
            typed = self._read_text()
            if typed is not None:
                return typed

    def _read_text(self) -> bytes | None:
        """The next key; None for one that means nothing to a device."""
        key: str = self._msvcrt.getwch()
        if key == _END_OF_INPUT:
            return b""
        if key in "\0\xe0" and self._msvcrt.kbhit():  # "à" alone has no second code
            return _KEYS.get(self._msvcrt.getwch())
        if "\ud800" <= key < "\udc00":
            key += self._msvcrt.getwch()
        return key.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()

    def show_colours(self, descriptor: int) -> bool:
        """Have the console take colours, from now on; whether it does."""
        mode = self._mode(descriptor)
        return mode is not None and bool(self._set_mode(descriptor, mode | _VT_OUTPUT))

    def make_binary(self, descriptor: int) -> None:
        """Let line feeds be line feeds, instead of making each a carriage return and a line feed."""
        self._msvcrt.setmode(descriptor, 0x8000)

    def show_raw(self, descriptor: int) -> None:
        """Have the console take what is written as a terminal elsewhere does: UTF-8, a line feed goes straight down."""
        mode = self._mode(descriptor)
        if mode is None:
            return
        self._before.append((descriptor, mode))
        self._set_mode(descriptor, mode | _VT_OUTPUT | _NO_AUTO_RETURN)
        if self._code_page is None:
            self._code_page = self._kernel32.GetConsoleOutputCP()
            self._kernel32.SetConsoleOutputCP(_UTF8)

    def restore(self) -> None:
        """Take `show_raw` back."""
        for descriptor, mode in self._before:
            self._set_mode(descriptor, mode)
        self._before.clear()
        if self._code_page is not None:
            self._kernel32.SetConsoleOutputCP(self._code_page)
            self._code_page = None

    def is_abandoned(self, pipe: int) -> bool:
        """Whether nobody reads this pipe any more: then even writing nothing fails."""
        written = self._ctypes.c_ulong()
        handle = self._ctypes.c_void_p(self._msvcrt.get_osfhandle(pipe))
        return not self._kernel32.WriteFile(handle, b"", 0, self._ctypes.byref(written), None)

    def _mode(self, descriptor: int) -> int | None:
        mode = self._ctypes.c_ulong()
        try:
            handle = self._ctypes.c_void_p(self._msvcrt.get_osfhandle(descriptor))
        except OSError:
            return None
        return mode.value if self._kernel32.GetConsoleMode(handle, self._ctypes.byref(mode)) else None

    def _set_mode(self, descriptor: int, mode: int) -> int:
        handle = self._ctypes.c_void_p(self._msvcrt.get_osfhandle(descriptor))
        return int(self._kernel32.SetConsoleMode(handle, self._ctypes.c_ulong(mode)))


def find_console() -> WindowsConsole | None:
    """Windows' console; None on other systems."""
    if os.name != "nt":
        return None
    return WindowsConsole(import_module("ctypes").WinDLL("kernel32"), import_module("msvcrt"))


console = find_console()
"""The console of this process; None on other systems than Windows."""
