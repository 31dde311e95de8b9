"""`managed://PORT[?must_exist]`: any port of pyserial's, kept up.

This module follows pyserial's convention for URL handlers: its name, and `serial_class_for_url`.
"""

from cnxman._compat.url import target
from cnxman.compat import Serial


def serial_class_for_url(url: str) -> tuple[str, type[Serial]]:
    """What `serial.serial_for_url` asks a handler: the port to set, and the class to use.

    Raises:
        ValueError: if the URL is malformed.
    """
    target(url)
    return url, Serial
