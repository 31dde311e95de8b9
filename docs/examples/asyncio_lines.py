r"""A line that is kept up, in asyncio: what the device says, through an outage.

Run it as it is: the device is simulated. For one of yours, put its port in place of `device.port`.
"""

import asyncio

from cnxman import ConnectionManager, ConnectionState, RetryPolicy, SerialConnection
from cnxman.aio import AsyncManager
from cnxman.framing import Lines
from cnxman.testing import SimulatedDevice


async def print_states(line: AsyncManager) -> None:
    """Print when the line is lost, and when it is back."""
    while True:
        back = line.next_connect()  # listens from here on, so nothing is overlooked
        await line.wait_for(ConnectionState.RECOVERING)
        print("-- lost:", line.manager.last_error)
        await back
        print("-- back")


async def main() -> None:
    with SimulatedDevice() as device:
        manager = ConnectionManager(SerialConnection(device.port, 115200), retry=RetryPolicy(initial=0.05))
        async with asyncio.timeout(30), AsyncManager(manager) as line:
            states = asyncio.create_task(print_states(line))
            device_says = asyncio.create_task(asyncio.to_thread(play, device))

            await line.write(b"START\n")
            async for sentence in line.frames(Lines()):  # goes on after an outage
                print(sentence.decode())
                if sentence == b"goodbye":
                    break

            await device_says
            states.cancel()


def play(device: SimulatedDevice) -> None:
    """What happens at the other end of the cable."""
    device.receive(until=b"START\n")
    device.send(b"hello\nhalf a sen")
    device.drain()
    device.unplug()
    device.plug()
    device.wait_opened()
    device.send(b"I am back\ngoodbye\n")


if __name__ == "__main__":
    asyncio.run(main())
