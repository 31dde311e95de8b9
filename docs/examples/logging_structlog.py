"""What cnxman logs, taken over by structlog: one JSON object a line, with `port` and `state` among its keys.

Run it as it is: the device is simulated, and is unplugged for a moment.
"""

import logging
import sys

import structlog

from cnxman import ConnectionManager, RetryPolicy, SerialConnection
from cnxman.testing import SimulatedDevice


def set_up_logging() -> None:
    """Your own events by structlog, and those of libraries, which use `logging`, in the same form."""
    shared = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    of_libraries = [*shared, structlog.stdlib.ExtraAdder(allow=["port", "state"])]
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=of_libraries,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("cnxman.basics").setLevel(logging.DEBUG)  # each change of a manager's state
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def main() -> None:
    set_up_logging()
    log = structlog.get_logger("my program")
    with (
        SimulatedDevice() as device,
        ConnectionManager(SerialConnection(device.port), retry=RetryPolicy(initial=0.1)),
    ):
        device.wait_opened()
        log.info("at work", port=device.port)
        device.unplug()
        device.plug()
        device.wait_opened()


if __name__ == "__main__":
    main()
