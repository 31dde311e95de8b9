"""What cnxman logs, with Python's own `logging`: each record has its port, and a manager's has its state, too.

Run it as it is: the device is simulated, and is unplugged for a moment.
"""

import logging
import sys

from cnxman import ConnectionManager, RetryPolicy, SerialConnection
from cnxman.testing import SimulatedDevice


def main() -> None:
    handler = logging.StreamHandler(sys.stdout)
    style = "%(asctime)s %(levelname)-7s port=%(port)s state=%(state)s %(message)s"
    handler.setFormatter(logging.Formatter(style, defaults={"port": "-", "state": "-"}))  # for records without
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("cnxman.basics").setLevel(logging.DEBUG)  # each change of a manager's state

    with (
        SimulatedDevice() as device,
        ConnectionManager(SerialConnection(device.port), retry=RetryPolicy(initial=0.1)),
    ):
        device.wait_opened()
        logging.getLogger("my program").info("at work")
        device.unplug()
        device.plug()
        device.wait_opened()


if __name__ == "__main__":
    main()
