"""What the device said, for as long as a client has yet to be given it: one copy for all clients.

Each client has a position in it, so a slow client costs a number, not a buffer, and the whole is bounded once.
"""

from collections import deque

BLOCK = 64 * 1024
"""Bytes in a block: the unit in which memory is given back."""


class DeviceStream:
    """The device's bytes, addressed by how many came before them. For one thread."""

    def __init__(self) -> None:
        self._blocks: deque[bytearray] = deque()
        self.start = 0
        """The position of the first byte that is kept."""
        self.end = 0
        """The position of the next byte that comes."""

    def append(self, data: bytes) -> None:
        """Add what came."""
        rest = memoryview(data)
        while rest:
            if not self._blocks or len(self._blocks[-1]) == BLOCK:
                self._blocks.append(bytearray())
            room = BLOCK - len(self._blocks[-1])
            self._blocks[-1] += rest[:room]
            rest = rest[room:]
        self.end += len(data)

    def view(self, position: int) -> memoryview:
        """The bytes from a position on, up to the end of their block. Release it before the next `append`."""
        at, offset = divmod(position - self.start, BLOCK)
        return memoryview(self._blocks[at])[offset:]

    def trim(self, position: int) -> None:
        """Forget what stands before a position, a block at a time."""
        if position >= self.end:
            self._blocks.clear()
            self.start = self.end
        while position - self.start >= BLOCK:
            self._blocks.popleft()
            self.start += BLOCK
