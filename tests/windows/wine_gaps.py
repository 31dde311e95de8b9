"""What Wine 8 lacks of Windows; in the guest's Python this is `sitecustomize`.

`serial.tools.list_ports` looks up one function of cfgmgr32 when it is imported. It calls it for adapters only, and
there is none here: any other function will do.
"""

import ctypes

_lookup = ctypes.CDLL.__getattr__


def _lookup_for_pyserial(library, name):  # type: ignore[no-untyped-def]
    return _lookup(library, "CM_Get_Parent" if name == "CM_MapCrToWin32Err" else name)


ctypes.CDLL.__getattr__ = _lookup_for_pyserial  # type: ignore[method-assign]
