"""Writes initramfs archives (newc cpio), so that no cpio program is needed.

python3 cpio.py OUT ROOT packs the folder ROOT.
"""

import os
import stat
import sys
from typing import BinaryIO


class Cpio:
    """An archive under way. Archives may follow one another in a file: the kernel unpacks each in turn."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._entries = 0

    def entry(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        """Adds one entry of any kind; `mode` holds its type and permissions, `device` its numbers."""
        self._entries += 1
        raw = os.fsencode(name) + b"\0"
        fields = (self._entries, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(raw), 0)
        for part in (b"070701" + b"".join(b"%08x" % field for field in fields) + raw, data):
            self._out.write(part + b"\0" * (-len(part) % 4))

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Adds a file, after the folders it is in."""
        folders = name.split("/")[:-1]
        for depth in range(len(folders)):
            self.entry("/".join(folders[: depth + 1]), stat.S_IFDIR | 0o755)
        self.entry(name, stat.S_IFREG | mode, data)

    def tree(self, root: str) -> None:
        """Adds all that is in the folder `root`."""
        for base, folders, files in os.walk(root):
            folders.sort()
            for name in (*folders, *sorted(files)):
                full = os.path.join(base, name)
                mode, path = os.lstat(full).st_mode, os.path.relpath(full, root)
                if stat.S_ISLNK(mode):
                    self.entry(path, mode, os.fsencode(os.readlink(full)))
                elif stat.S_ISDIR(mode):
                    self.entry(path, mode)
                else:
                    with open(full, "rb") as file:
                        self.entry(path, mode, file.read())

    def close(self) -> None:
        """Ends the archive; the file stays open."""
        self.entry("TRAILER!!!", 0)
        self._out.write(b"\0" * (-self._out.tell() % 512))


if __name__ == "__main__":
    with open(sys.argv[1], "wb") as target:
        archive = Cpio(target)
        archive.entry("dev", stat.S_IFDIR | 0o755)
        archive.entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
        archive.tree(sys.argv[2])
        archive.close()
