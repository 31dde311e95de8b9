r"""For your own tests: a serial port without hardware, with faults on demand, and a clock that tests move.

A test of what a program does when the cable is pulled:

    with SimulatedDevice({b"*IDN?\n": b"ACME,1000\n"}) as device:
        program = Program(device.port)  # under test: opens the port, and asks
        assert device.receive(until=b"\n") == b"*IDN?\n"
        device.unplug()  # the line is lost
        device.plug()  # back, under the same path
        assert device.receive(until=b"\n") == b"*IDN?\n"  # asked again

With pytest, a test with the argument `serial_device` gets a device that is plugged in. It is closed after the test.

`ManualClock` makes long outages short: the waits of a manager's recovery use it instead of the system's clock.

The port is a pseudo-terminal, which any program can open. It has no modem lines, carries no break, and works at
whatever baud rate, parity and size the host sets; bytes stay whole. (With parity or 7 bits, a host that sets the same
again within a few milliseconds may be refused: EINVAL.) On Windows, which has none, it is a URL that this process alone
can open.
"""

from cnxman.testing.device import SimulatedDevice
from cnxman.testing.manual_clock import ManualClock

__all__ = ["ManualClock", "SimulatedDevice"]
