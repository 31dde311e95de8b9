"""20 MB through `cnxman monitor`: all of it, for less of the processor's time than pyserial's miniterm takes."""

import hashlib
import os
import subprocess
import sys
import threading
import time
import tty

import pytest

from tests.kit.command import COMMAND

SIZE = 20_000_000
PACKET = 64  # bytes: what a USB adapter hands over at once
OURS = (COMMAND, "monitor")
THEIRS = (sys.executable, "-m", "serial.tools.miniterm", "--raw")


def processor_time(pid):
    """What the threads of a process have used so far, in seconds."""
    threads = os.listdir(f"/proc/{pid}/task")
    used = 0
    for thread in threads:
        with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
            used += int(file.read().split()[0])
    return used / 1e9


def pass_through(command, ready):
    """Send 20 MB through a command; returns their digests at both ends, and the processor's time it took."""
    device, port = os.openpty()
    keyboard, terminal = os.openpty()
    tty.setraw(port)
    sent, shown = hashlib.sha256(), hashlib.sha256()

    def send():
        left = SIZE
        packet = bytes(range(32, 32 + PACKET))
        while left:
            count = os.write(device, packet[:left])
            sent.update(packet[:count])
            left -= count

    with subprocess.Popen(
        [*command, os.ttyname(port), "115200"][: len(command) + (2 if command is THEIRS else 1)],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")},
    ) as process:
        try:
            while ready not in process.stderr.readline():
                assert process.poll() is None
            time.sleep(0.2)  # until what it does besides at its beginning is done
            before = processor_time(process.pid)
            sender = threading.Thread(target=send)
            sender.start()
            left = SIZE
            while left:
                data = os.read(process.stdout.fileno(), min(left, 65536))
                shown.update(data)
                left -= len(data)
            used = processor_time(process.pid) - before
            sender.join()
        finally:
            process.kill()
    for descriptor in (device, port, keyboard, terminal):
        os.close(descriptor)
    return sent.digest(), shown.digest(), used


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="tells no processor time of a process")
def test_20_mb_pass_whole_for_less_processor_time_than_miniterm_needs():
    ours, theirs = [], []
    for _ in range(2):
        sent, shown, used = pass_through(OURS, b"connected")
        assert sent == shown
        ours.append(used)
        theirs.append(pass_through(THEIRS, b"Quit")[2])
    assert min(ours) < min(theirs), f"cnxman {ours}, miniterm {theirs} seconds"
