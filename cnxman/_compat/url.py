"""`managed://PORT[?must_exist]`: a port that is kept up, for programs that open by `serial.serial_for_url`."""

from cnxman import ports

SCHEME = "managed"
_EXPECTED = "expected managed://PORT or managed://PORT?must_exist, such as managed:///dev/ttyUSB0 or managed://COM5"


def target(port: str) -> tuple[str, bool]:
    """The port that is to be kept up, and whether it must exist when it is opened.

    Args:
        port: a device name or URL; or a managed:// URL that has one behind the scheme.

    Raises:
        ValueError: if it is malformed, or names no port that could ever be opened.
    """
    if ports.scheme_of(port) != SCHEME:
        ports.check(port)
        return port, False
    device, mark, query = port.split("://", 1)[1].partition("?")
    options = query.split("&") if mark else []
    ours = [option for option in options if option.split("=", 1)[0] == "must_exist"]
    others = [option for option in options if option not in ours]
    if f"{SCHEME}://" in device.lower():
        raise ValueError(f"{_EXPECTED}; a port is managed once, not {port!r}")
    if ours not in ([], ["must_exist"]):
        raise ValueError(f"{_EXPECTED}; must_exist is given once, and without a value, not {port!r}")
    if "" in options or (others and "://" not in device):
        raise ValueError(f"{_EXPECTED}; must_exist is the only option, not {port!r}")
    if not device:
        raise ValueError(f"{_EXPECTED}; {port!r} names no port")
    if others:
        device += "?" + "&".join(others)  # they are the port's own, as in rfc2217://host:4001?ign_set_control
    ports.check(device)
    return device, bool(ours)
