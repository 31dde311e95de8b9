"""`pytest -p tests.kit.no_proc`: as on systems other than Linux, the library finds no /proc, and no names by udev."""

import os
from collections.abc import Callable
from typing import Any

from cnxman import ports

HIDDEN = ("/proc", "/dev/serial")


class HidingOs:
    """The module `os`, to which some folders are not there."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def listdir(self, path: str) -> list[str]:
        return _unless_hidden(os.listdir, path)

    def readlink(self, path: str) -> str:
        return _unless_hidden(os.readlink, path)


def _unless_hidden(function: Callable[[str], Any], path: str) -> Any:
    if path.startswith(HIDDEN):
        raise FileNotFoundError(path)
    return function(path)


ports.os = HidingOs()  # type: ignore[attr-defined]
