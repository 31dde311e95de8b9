"""The serial ports that Windows lists in its registry: cheap enough to be asked twenty times a second."""

import contextlib
import os
import time
from collections.abc import Hashable
from importlib import import_module
from typing import Any

_winreg: Any = import_module("winreg") if os.name == "nt" else None

_KEY = r"HARDWARE\DEVICEMAP\SERIALCOMM"
"""A driver enters its port here when the port is ready, and takes it out when the device is gone."""

_UNSETTLED = 1.0
"""A time stamp is coarse: a list younger than this, in seconds, may change again under the same one."""

_cached: tuple[int, dict[str, str]] | None = None

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
    stamp, devices = _listed()
    device = devices.get(name.removeprefix("\\\\.\\").strip().upper())
    return (device, stamp) if device is not None else False


def _listed() -> tuple[int, dict[str, str]]:
    """When the list was last changed, and the driver's name for each port."""
    global _cached  # noqa: PLW0603 (one for the process)
    with _opened() as key:
        if key is None:
            return 0, {}
        _, count, stamp = _winreg.QueryInfoKey(key)
        if _cached is not None and _cached[0] == stamp:
            return _cached
        devices = {}
        for number in range(count):
            try:
                device, port, _ = _winreg.EnumValue(key, number)
            except OSError:  # one was taken out meanwhile
                break
            devices[str(port).upper()] = str(device)
    if abs(time.time() - (stamp / 1e7 - _EPOCH)) > _UNSETTLED:
        _cached = stamp, devices
    return stamp, devices


def _opened() -> contextlib.AbstractContextManager[Any]:
    """The list; None where there is none, as on a machine that never had a port."""
    try:
        key: contextlib.AbstractContextManager[Any] = _winreg.OpenKey(_winreg.HKEY_LOCAL_MACHINE, _KEY)
    except OSError:
        return contextlib.nullcontext()
    return key
