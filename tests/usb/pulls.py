"""An adapter is pulled out and put back. The functions run in the guest."""

import itertools
import re
import threading
import time

from .guest import (
    NODE,
    Line,
    appeared,
    bounce,
    check,
    figure,
    flood,
    nodes,
    outage,
    process,
    read_line,
    replug,
    resources,
    take,
    unplug,
    wait_for,
    wait_for_nodes,
)
from .registry import scenario

# Looks for a node to vanish and to come back, as fast as it can.
WATCH = """
import os, sys, time
print("ready", flush=True)
while os.path.exists(sys.argv[1]): pass
while not os.path.exists(sys.argv[1]): pass
print(time.monotonic(), flush=True)
"""


@scenario()
def rig_itself() -> None:
    """The rig by itself, with plain pyserial: a pull, a return, and whether the return is timed rightly."""
    import serial

    with process(WATCH, NODE) as watch:
        with serial.Serial(NODE, 115200, timeout=5) as port:
            port.write(b"out of the guest")
            wait_for(lambda: "out of the guest" in take(), "data out of the adapter")
            pulled = unplug()
            try:
                port.read(1)
            except serial.SerialException:
                figure("pyserial notices the loss", time.monotonic() - pulled)
        time.sleep(0.3)
        replug()
        early = float(read_line(watch)) - appeared(NODE)
    check("the node's own time is right within 10 ms", -0.001 < early < 0.01, early=early)
    check("the adapter is back under its own name", nodes() == [NODE], nodes=nodes())


@scenario()
def pull_idle() -> None:
    """The adapter is pulled out of an idle line, and is back 0.3 s later."""
    with Line() as line:
        line.exchange()
        before = resources()
        for _ in range(5):
            outage(line)
        check("5 times: back by itself, under its own name, data both ways")
        check(
            "connected again: descriptors and threads as before the pulls",
            resources() == before,
            before=before,
            now=resources(),
        )


@scenario()
def pull_and_plug_at_once() -> None:
    """The adapter is out and in again before anybody can notice."""
    with Line() as line:
        for _ in range(5):
            line.returns(bounce())
        check("5 times: back by itself, under its own name, data both ways")


@scenario()
def outage_of_2_seconds() -> None:
    """The adapter is away for 2 s, twice."""
    with Line() as line:
        for _ in range(2):
            outage(line, 2)
        check("twice: back by itself, under its own name, data both ways")


@scenario(limit=60, long=True)
def outage_of_30_seconds() -> None:
    """The adapter is away for 30 s; what waiting for it costs is measured."""
    with Line() as line:
        pulled = unplug()
        line.when("recovering", pulled)
        time.sleep(2)
        used = time.process_time()
        time.sleep(26)
        figure("processor time, in each second of waiting", (time.process_time() - used) / 26)
        replug()
        line.returns(pulled)
        check("back by itself, under its own name, data both ways")


@scenario()
def pull_under_flood() -> None:
    """The adapter is pulled out while data pours in as fast as the line takes it."""
    with Line() as line:
        for _ in range(3):
            line.received.clear()
            flood()
            wait_for(lambda: len(line.received) > 20_000, "20 kB of the flood")
            pulled = unplug()
            line.when("recovering", pulled)
            came = bytes(line.received)
            wanted = b"".join(b"%07d\n" % number for number in range(len(came) // 8 + 1))
            assert wanted.startswith(came), f"{len(came)} bytes came, not all of them as they were sent"
            replug()
            line.returns(pulled)
        check("3 times: nothing lost or twice before the pull; back by itself, data both ways")


@scenario()
def pull_under_writes() -> None:
    """The adapter is pulled out while four threads write as fast as they can, and go on over the outage."""
    from cnxman.basics import ConnectionException

    stop, refused, wrong = threading.Event(), itertools.count(), list[BaseException]()

    def write(writer: int) -> None:
        for number in itertools.count():
            message = f"<{writer} {number:06d} {'x' * 40}>\n".encode()
            try:
                assert line.connection.write(message) == len(message)
            except ConnectionException:
                next(refused)
                time.sleep(0.002)  # what a user would do: not hammer a line that is down
            except BaseException as error:
                wrong.append(error)
                return
            if stop.is_set():
                return

    with Line() as line:
        writers = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
        for writer in writers:
            writer.start()
        try:
            for _ in range(3):
                time.sleep(0.3)
                pulled = unplug()
                line.when("recovering", pulled)
                torn = [text for text in take().split("\n")[:-1] if not re.fullmatch(r"<\d \d+ x+>", text)]
                assert not torn[1:], f"torn messages: {torn[:5]}"  # the first may have been taken half by exchange()
                time.sleep(0.2)
                replug()
                line.returns(pulled)
        finally:
            stop.set()
            for writer in writers:
                writer.join(15)
        check("3 times: whole messages up to the pull; back by itself, data both ways")
        check("a write that could not be made was refused as such", next(refused) > 0 and not wrong, wrong=wrong)
        check("no write hangs", not any(writer.is_alive() for writer in writers))


@scenario(limit=60)
def pull_during_connect() -> None:
    """The adapter is pulled out at any moment of try_connect, and within it."""
    from cnxman.serial import SerialConnection

    with Line() as line:
        for turn in range(6):
            puller = threading.Timer(0.05 + 0.013 * turn, unplug)
            puller.start()
            while puller.is_alive() or nodes():
                line.manager.disconnect()
                line.manager.connect()
            wait_for(lambda: not line.manager.is_connected, "the loss")
            replug()
            up_again(line)
        check("6 times, at different moments: back by itself, under its own name, data both ways")

    pulls: list[float] = []

    class Pulled(SerialConnection):
        def prepare(self) -> bool:
            if not pulls:
                pulls.append(unplug())
                time.sleep(0.5)
            return True

    with Line(kind=Pulled, wait=False) as line:
        wait_for(lambda: pulls and line.manager.state == "recovering", "the loss")
        replug()
        up_again(line)
        check("within prepare(): back by itself, under its own name, data both ways")


def up_again(line: Line) -> None:
    """After the adapter's return: the line is back by itself, on its own node, with data both ways."""
    wait_for_nodes(1)
    assert nodes() == [NODE], f"there: {nodes()}"
    returned = appeared(NODE)
    figure("return", line.when("connected", returned) - returned)
    line.exchange()
