"""pyserial's first example of `serial.threaded`, over a line that stays up.

The class is as it stands in pyserial. Below it, what was

    ser = serial.serial_for_url(PORT, baudrate=115200, timeout=1)
    with ReaderThread(ser, PrintLines) as protocol:

is now a `SerialConnection`, a `ConnectionManager` and `attach`. Run it as it is: the device is simulated, sends back
each line, and is unplugged in between. (Its `print_exc(exc)` raises, under Python 3; cnxman logs that, and goes on.)
"""
# Working with threading and pySerial
#
# This file is part of pySerial. https://github.com/pyserial/pyserial
# (C) 2015-2016 Chris Liechti <cliechti@gmx.net>
#
# SPDX-License-Identifier:    BSD-3-Clause
# ruff: noqa
# fmt: off

import sys
import time
import traceback

from serial.threaded import LineReader

from cnxman import ConnectionManager, RetryPolicy, SerialConnection
from cnxman.protocols import attach
from cnxman.testing import SimulatedDevice

device = SimulatedDevice(lambda line: line)
PORT = device.port


class PrintLines(LineReader):
    def connection_made(self, transport):
        super(PrintLines, self).connection_made(transport)
        sys.stdout.write('port opened\n')
        self.write_line('hello world')

    def handle_line(self, data):
        sys.stdout.write('line received: {!r}\n'.format(data))

    def connection_lost(self, exc):
        if exc:
            traceback.print_exc(exc)
        sys.stdout.write('port closed\n')

ser = SerialConnection(PORT, baudrate=115200)
with ConnectionManager(ser, retry=RetryPolicy(0.1)) as manager, attach(manager, PrintLines) as protocol:
    protocol.write_line('hello')
    time.sleep(0.5)

# alternative usage
ser = SerialConnection(PORT, baudrate=115200)
manager = ConnectionManager(ser, retry=RetryPolicy(0.1))
t = attach(manager, PrintLines)
manager.connect()
transport, protocol = t.connect()
protocol.write_line('hello')
time.sleep(0.5)

# and through an outage
device.unplug()
device.plug()
device.wait_opened()
transport, protocol = t.connect()
protocol.write_line('hello again')
time.sleep(0.5)
t.stop()
manager.teardown()
device.close()
