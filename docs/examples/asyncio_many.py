r"""Many lines in one loop: eight instruments are asked in turn, and one that is unplugged holds up none of the others.

Run it as it is: the instruments are simulated. For yours, put their ports in place of `device.port`.
"""

import asyncio
from contextlib import ExitStack

from cnxman import ConnectionException, ConnectionManager, RetryPolicy, SerialConnection
from cnxman.aio import AsyncManager
from cnxman.testing import SimulatedDevice

READINGS = 5


async def measure(name: int, port: str) -> list[str]:
    """Take so many readings, however often the line is lost meanwhile."""
    readings: list[str] = []
    manager = ConnectionManager(SerialConnection(port, 115200), retry=RetryPolicy(initial=0.05))
    async with AsyncManager(manager) as line:
        while len(readings) < READINGS:
            back = asyncio.ensure_future(line.next_connect())
            try:
                readings.append((await line.query(b"TEMP?\n")).decode().strip())
                await asyncio.sleep(0.1)
            except (ConnectionException, TimeoutError) as error:
                print(f"instrument {name}: {error}")
                await asyncio.wait([back], timeout=0.5)
            back.cancel()
    return readings


async def main() -> None:
    with ExitStack() as stack:
        devices = [stack.enter_context(SimulatedDevice({b"TEMP?\n": b"2%d.5\n" % n})) for n in range(8)]
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            tasks = [group.create_task(measure(n, device.port)) for n, device in enumerate(devices)]
            await asyncio.sleep(0.25)
            await asyncio.to_thread(devices[3].unplug)
            await asyncio.sleep(0.25)
            devices[3].plug()
        for n, task in enumerate(tasks):
            print(f"instrument {n}:", *task.result())


if __name__ == "__main__":
    asyncio.run(main())
