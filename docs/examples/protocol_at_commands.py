"""pyserial's example of an AT command protocol, over a line that stays up.

`ATProtocol` is as it stands in pyserial. Run it as it is: the modem is simulated. Two threads print here, so each line is
printed by one call (`print` with several words makes several, and two lines may mix).

https://en.wikipedia.org/wiki/Hayes_command_set
http://www.itu.int/rec/T-REC-V.250-200307-I/en
"""

# (C) 2015-2016 Chris Liechti <cliechti@gmx.net>
#
# SPDX-License-Identifier:    BSD-3-Clause
# ruff: noqa
# fmt: off
from __future__ import print_function

import logging
import serial
import serial.threaded
import threading

try:
    import queue
except ImportError:
    import Queue as queue


class ATException(Exception):
    pass


class ATProtocol(serial.threaded.LineReader):

    TERMINATOR = b'\r\n'

    def __init__(self):
        super(ATProtocol, self).__init__()
        self.alive = True
        self.responses = queue.Queue()
        self.events = queue.Queue()
        self._event_thread = threading.Thread(target=self._run_event)
        self._event_thread.daemon = True
        self._event_thread.name = 'at-event'
        self._event_thread.start()
        self.lock = threading.Lock()

    def stop(self):
        """
        Stop the event processing thread, abort pending commands, if any.
        """
        self.alive = False
        self.events.put(None)
        self.responses.put('<exit>')

    def _run_event(self):
        """
        Process events in a separate thread so that input thread is not
        blocked.
        """
        while self.alive:
            try:
                self.handle_event(self.events.get())
            except:
                logging.exception('_run_event')

    def handle_line(self, line):
        """
        Handle input from serial port, check for events.
        """
        if line.startswith('+'):
            self.events.put(line)
        else:
            self.responses.put(line)

    def handle_event(self, event):
        """
        Spontaneous message received.
        """
        print('event received:', event)

    def command(self, command, response='OK', timeout=5):
        """
        Set an AT command and wait for the response.
        """
        with self.lock:  # ensure that just one thread is sending commands at once
            self.write_line(command)
            lines = []
            while True:
                try:
                    line = self.responses.get(timeout=timeout)
                    #~ print("%s -> %r" % (command, line))
                    if line == response:
                        return lines
                    else:
                        lines.append(line)
                except queue.Empty:
                    raise ATException('AT command timeout ({!r})'.format(command))


# test
if __name__ == '__main__':
    import sys

    from cnxman import ConnectionManager, RetryPolicy, SerialConnection
    from cnxman.protocols import attach
    from cnxman.testing import SimulatedDevice

    def say(what, *words):
        sys.stdout.write(' '.join([what, *map(str, words)]) + '\n')

    class Modem(ATProtocol):
        def handle_event(self, event):
            say('event received:', event)

    answers = {
        b'ATZ\r\n': b'OK\r\n',
        b'ATI\r\n': b'Simulated modem\r\nRevision 1\r\nOK\r\n',
        b'AT+CSQ\r\n': b'+CSQ: 20,99\r\nOK\r\n',
    }
    with SimulatedDevice(answers) as device:
        ser = SerialConnection(device.port, baudrate=115200)
        manager = ConnectionManager(ser, retry=RetryPolicy(0.1))
        with manager, attach(manager, Modem) as modem:
            say('reset:', modem.command('ATZ'))
            say('identity:', modem.command('ATI'))
            say('signal:', modem.command('AT+CSQ'))
            try:
                modem.command('AT+NONSENSE', timeout=0.2)
            except ATException as error:
                say(str(error))
