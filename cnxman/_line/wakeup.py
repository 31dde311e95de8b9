"""A descriptor that ends a wait: the self-pipe, as one counter where the system has `eventfd`."""

import os


class WakeUp:
    """A descriptor that becomes readable, for every waiter and for good, when it is set."""

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._read = self._write = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:
            self._read, self._write = os.pipe()

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._read

    def set(self) -> None:
        """End all waits, those to come too."""
        os.write(self._write, (1).to_bytes(8, "little"))

    def close(self) -> None:
        """Close the descriptors. Nobody may wait for them any more."""
        for number in {self._read, self._write}:
            os.close(number)
