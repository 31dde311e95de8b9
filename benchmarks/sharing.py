# mypy: disable-error-code="no-untyped-call"
"""``python -m benchmarks.sharing``: the processor time of `cnxman share` with ten clients, beside socat with one.

The device says 800 KB six times, at up to 1 MB/s, to the one and to the other in turns.
"""

import contextlib
import re
import socket
import subprocess
import threading

from cnxman.testing import SimulatedDevice
from tests.system.test_share_clients import Gateway, connected, processor_time, tool


def cost_of(device: SimulatedDevice, pid: int, clients: list[socket.socket], size: int) -> float:
    """Processor time that a server uses while the device says so much, and each client reads it."""

    def read(client: socket.socket) -> None:
        left = size
        while left:
            left -= len(client.recv(65536))

    readers = [threading.Thread(target=read, args=[client]) for client in clients]
    before = processor_time(pid)
    for reader in readers:
        reader.start()
    device.send(bytes(size), timeout=50)
    for reader in readers:
        reader.join()
    return processor_time(pid) - before


def main() -> None:
    """Measure, and print the ratio."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    with contextlib.ExitStack() as stack:
        ours, theirs = (stack.enter_context(SimulatedDevice(baudrate=10_000_000)) for _ in range(2))
        line = [tool("socat"), "-u", f"{theirs.port},raw,echo=0", f"TCP-LISTEN:{free},reuseaddr,bind=127.0.0.1"]
        socat = stack.enter_context(subprocess.Popen(line))
        stack.callback(socat.terminate)
        client = stack.enter_context(connected(free))
        theirs.wait_opened()
        gateway = stack.enter_context(Gateway(ours, "--listen", "tcp:127.0.0.1:0"))
        found = re.search(rb"listening +tcp:127.0.0.1:(\d+)", gateway.err.data)
        assert found is not None
        clients = [stack.enter_context(connected(int(found[1]))) for _ in range(10)]
        gateway.err.wait(lambda data: data.count(b"  came  ") == 10)
        ours_cost = theirs_cost = 0.0
        for _ in range(6):  # in turns, so that whatever else the machine does meets both
            theirs_cost += cost_of(theirs, socat.pid, [client], 800_000)
            ours_cost += cost_of(ours, gateway.process.pid, clients, 800_000)
    ratio = ours_cost / theirs_cost
    print(f"cnxman share to 10 clients: {ours_cost:.2f} s; socat to one: {theirs_cost:.2f} s; ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
