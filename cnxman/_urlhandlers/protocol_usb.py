"""`usb://VID:PID[/SERIAL][?location=...]`: the adapter itself, whatever its node is called today.

This module follows pyserial's convention for URL handlers: its name, and `serial_class_for_url`.
"""

from cnxman import ports
from cnxman._line.port import PYSERIAL


class Serial(PYSERIAL):  # type: ignore[misc, valid-type]
    """pyserial's own port, which looks for its adapter anew at each opening."""

    def open(self) -> None:
        """Find the adapter, and open it under the name it has now.

        Raises:
            serial.SerialException: if it is not there, if several adapters match, or as `serial.Serial.open`.
        """
        url = str(self.port)
        self.portstr = self.name = ports.find_usb(url)  # what is opened: on POSIX the first, on Windows the second
        try:
            super().open()
        finally:
            self.name = url


def serial_class_for_url(url: str) -> tuple[str, type[Serial]]:
    """What `serial.serial_for_url` asks a handler: the port to set, and the class to use.

    Raises:
        ValueError: if the URL is malformed.
    """
    ports.parse_usb(url)
    return url, Serial
