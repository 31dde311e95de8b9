"""The serial ports that Windows lists in its registry: cheap enough to be asked twenty times a second."""

import contextlib
import os
from collections.abc import Hashable
from importlib import import_module
from typing import Any

_winreg: Any = import_module("winreg") if os.name == "nt" else None

_KEY = r"HARDWARE\DEVICEMAP\SERIALCOMM"
"""A driver enters its port here when the port is ready, and takes it out when the device is gone."""

_EPOCH = 11_644_473_600
"""Seconds from 1601, where Windows' time stamps begin, to 1970."""


def is_windows() -> bool:
    """Whether the system has a registry."""
    return _winreg is not None


def last_change() -> tuple[Hashable, float] | None:
    """When a port was last entered or taken out: the exact time stamp, and the same in seconds since 1970.

    Returns:
        None where there is no such list.
    """
    with _opened() as key:
        if key is None:
            return None
        stamp: int = _winreg.QueryInfoKey(key)[2]
        return stamp, stamp / 1e7 - _EPOCH


def identity(name: str) -> Hashable:
    """What tells a port from the next one of the same name.

    That is the driver's name for it, and when the list was last changed, since the same device may be back.

    Args:
        name: such as "COM5", also in the form that ports above 9 need, with a prefix.

    Returns:
        False if it is not listed.
    """
    wanted = name.removeprefix("\\\\.\\").strip().upper()
    with _opened() as key:
        if key is None:
            return False
        _, count, stamp = _winreg.QueryInfoKey(key)
        for number in range(count):
            try:
                device, port, _ = _winreg.EnumValue(key, number)
            except OSError:  # one was taken out meanwhile
                return False
            if str(port).upper() == wanted:
                return (device, stamp)
    return False


def _opened() -> contextlib.AbstractContextManager[Any]:
    """The list; None where there is none, as on a machine that never had a port."""
    try:
        key: contextlib.AbstractContextManager[Any] = _winreg.OpenKey(_winreg.HKEY_LOCAL_MACHINE, _KEY)
    except OSError:
        return contextlib.nullcontext()
    return key
