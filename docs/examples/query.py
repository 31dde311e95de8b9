r"""Ask an instrument, in a script: a question, its answer, and what goes wrong.

Run it as it is: the instrument is simulated. For one of yours, put its port in place of `device.port`.
"""

from threading import Event

from cnxman import ConnectionException, ConnectionManager, ConnectionState, RetryPolicy, SerialConnection
from cnxman.framing import Lines
from cnxman.testing import SimulatedDevice


class Instrument(SerialConnection):
    """An instrument that has to be the right one, and is set up anew each time it is plugged in."""

    def prepare(self) -> bool:
        return self.query(b"*IDN?\n").startswith(b"ACME") and self.query(b"UNIT C\n") == b"OK\n"


def main() -> None:
    answers = {
        b"*IDN?\n": b"ACME,1000\n",
        b"UNIT C\n": b"OK\n",
        b"TEMP?\n": b"21.5\n",
        b"LOG?\n": b"20.9\n21.1\n21.5\n",
    }
    with SimulatedDevice(answers) as device:
        instrument = Instrument(device.port, 115200)
        with ConnectionManager(instrument, retry=RetryPolicy(initial=0.05)) as manager:
            print("temperature:", instrument.query(b"TEMP?\n").decode().strip())

            with instrument.reader() as reader:  # an answer of several lines
                instrument.write(b"LOG?\n")
                lines = reader.frames(Lines(), timeout=1.0)
                print("log:", [float(next(lines)) for _ in range(3)])

            try:
                instrument.query(b"HUMIDITY?\n", timeout=0.2)
            except TimeoutError as error:
                print(error)

            lost = Event()
            manager.subscribe(lambda state: lost.set() if state is ConnectionState.RECOVERING else None)
            device.unplug()
            try:
                while True:
                    instrument.query(b"TEMP?\n")  # the loss is noticed within milliseconds
            except ConnectionException as error:
                print(error)

            lost.wait(timeout=5)
            device.plug()
            manager.wait_until_connected(timeout=5)
            print("temperature:", instrument.query(b"TEMP?\n").decode().strip())


if __name__ == "__main__":
    main()
