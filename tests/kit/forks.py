"""What the tests of forks share: the beginning of a script that forks, in a process of its own."""

PREAMBLE = """
import json, os, signal, sys, threading, time, warnings
from tests.kit import lines as line_kit
from cnxman import Connection, ConnectionException, ConnectionManager, RetryPolicy, SerialConnection, SerialListener
warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads: that is what is tested

def in_child(function):
    "Fork; the child's result, and the child left running until it is told to end."
    result_r, result_w = os.pipe()
    end_r, end_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)  # ends a child that hangs
        try:
            found = function()
        except BaseException as error:
            found = {"raised": repr(error)}
        os.write(result_w, json.dumps(found).encode())
        os.close(end_w)
        os.read(end_r, 1)
        os._exit(0)
    os.close(result_w)
    os.close(end_r)
    found = json.loads(os.read(result_r, 65536) or '{"raised": "it hung"}')
    os.close(result_r)
    def end():
        os.close(end_w)
        assert os.waitpid(pid, 0)[1] == 0
    return found, end

def links():
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink("/proc/self/fd/" + number))
        except OSError:
            pass
    return found

def said(call):
    try:
        return call()
    except ConnectionException as error:
        return str(error)

def write(connection):
    return said(lambda: connection.write(b"from the child"))

pty = line_kit.Pty()
connection = SerialConnection(pty.path)
hearer = line_kit.Hearer(connection)
"""

BELONGS = "belongs to the process that this one was forked from"
