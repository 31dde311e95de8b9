"""What is done to an adapter while cnxman has it open: functions that run in the guest."""

import contextlib
import itertools
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .guest import (
    NODE,
    Line,
    appeared,
    bounce,
    check,
    end,
    figure,
    flood,
    nodes,
    outage,
    process,
    read_line,
    replug,
    resources,
    settings_reach,
    take,
    unplug,
    wait_for,
    wait_for_nodes,
)


class Scenario(NamedTuple):
    """`limit` is how long a scenario may take, in seconds, `long` whether it is in the long form only."""

    body: Callable[[], None]
    limit: float
    long: bool


SCENARIOS: dict[str, Scenario] = {}
NOBODY = 65534


def scenario(limit: float = 30, long: bool = False) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Enters the function that it decorates among the scenarios, under the function's name."""

    def enter(body: Callable[[], None]) -> Callable[[], None]:
        SCENARIOS[body.__name__] = Scenario(body, limit, long)
        return body

    return enter


# Looks for a node to vanish and to come back, as fast as it can.
WATCH = """
import os, sys, time
print("ready", flush=True)
while os.path.exists(sys.argv[1]): pass
while not os.path.exists(sys.argv[1]): pass
print(time.monotonic(), flush=True)
"""

# Holds a port until its input ends: by flock, against exclusive openers; by TIOCEXCL, against all but root.
HOLD = """
import fcntl, os, sys, termios, time
port = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
fcntl.flock(port, fcntl.LOCK_EX)
if sys.argv[2] == "TIOCEXCL":
    fcntl.flock(port, fcntl.LOCK_UN)
    fcntl.ioctl(port, termios.TIOCEXCL)
print("ready", flush=True)
sys.stdin.read()
fcntl.ioctl(port, termios.TIOCNXCL)
os.close(port)
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


@scenario(limit=60)
def swap_by_usb() -> None:
    """Two adapters, meant by their serial numbers with usb://, come back under each other's name."""
    swap("usb://0403:6001/RIG{}")


@scenario(limit=60)
def swap_by_hwgrep() -> None:
    """Two adapters, meant by their serial numbers with hwgrep://, come back under each other's name."""
    swap("hwgrep://SER=RIG{}")


def swap(url: str) -> None:
    """Two adapters come back under each other's name, and then under their own."""
    replug("dev1")
    wait_for_nodes(2)
    with Line(url.format(0)) as first, Line(url.format(1)) as second:
        for order in (("dev1", "dev0"), ("dev0", "dev1")):
            pulls = [unplug("dev0"), unplug("dev1")]
            first.when("recovering", pulls[0])
            second.when("recovering", pulls[1])
            wait_for_nodes(0)
            for count, adapter in enumerate(order, start=1):
                replug(adapter)
                wait_for_nodes(count)
            names = (f"/dev/ttyUSB{order.index('dev0')}", f"/dev/ttyUSB{order.index('dev1')}")
            first.returns(pulls[0], names[0], "dev0")
            second.returns(pulls[1], names[1], "dev1")
            check(f"RIG0 as {names[0]}, RIG1 as {names[1]}: each line back on its own adapter, data both ways")


@scenario(limit=60)
def twins() -> None:
    """Two adapters have the same serial number."""
    from cnxman.serial import SerialConnection

    unplug()
    wait_for_nodes(0)
    for count, adapter in enumerate(("dev0", "dev1"), start=1):
        replug(adapter, "TWIN")
        wait_for_nodes(count)
    both = SerialConnection("usb://0403:6001/TWIN")
    refused = not both.try_connect()
    text = str(both.last_error)
    both.teardown()
    check(
        "usb:// refuses, and lists both",
        refused and "1-1" in text and "1-2" in text,
        refused=refused,
        text=text,
    )
    with Line("usb://0403:6001/TWIN?location=1-2") as line:
        line.exchange("dev1")
        pulled = unplug("dev1")
        time.sleep(0.3)
        replug("dev1", "TWIN")
        line.returns(pulled, "/dev/ttyUSB1", "dev1")
        check("usb:// with a location: the one meant, before and after a pull")


@scenario(limit=60)
def held() -> None:
    """Another process holds the adapter, and lets go: by flock, and by TIOCEXCL, which does not keep out root."""
    os.chmod(NODE, 0o666)  # there is no udev to give it to a group
    for how, user in (("flock", 0), ("TIOCEXCL", NOBODY)):
        with process(HOLD, NODE, how) as holder, acting_as(user), Line(wait=False) as line:
            line.when("recovering", 0)
            why = str(line.why())
            time.sleep(0.5)
            check(f"held by {how}: not connected", not line.manager.is_connected)
            check(
                f"held by {how}: told by whom where the system tells",
                user == NOBODY or str(holder.pid) in why,
                why=why,
            )
            end(holder)
            let_go = float(read_line(holder))
            figure(f"connected after {how} let go", line.when("connected", 0) - let_go)
            line.exchange()
            check("connected by itself, data both ways")
            check("nobody else can open it then", not opens_for_others())
        check("but when it is torn down", opens_for_others())


@contextlib.contextmanager
def acting_as(user: int) -> Iterator[None]:
    """This whole process has the rights of another user."""
    before = os.geteuid()
    os.seteuid(0)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.seteuid(before)


def opens_for_others() -> bool:
    """Whether a process of somebody's who isn't root can open the port."""
    command = ["/bin/busybox", "timeout", "2", "/bin/busybox", "sh", "-c", f"exec 3<>{NODE}"]
    with acting_as(0):
        done = subprocess.run(command, user=NOBODY, stderr=subprocess.DEVNULL, check=False)
    return done.returncode == 0


@scenario()
def modem_lines() -> None:
    """DTR and RTS are set before the opening, and again after a pull."""
    for dtr, rts in ((False, False), (False, True), (True, False)):
        wanted = [f"dtr {dtr:d}", f"rts {rts:d}"]

        def so_left(came: list[str], wanted: list[str] = wanted) -> bool:
            return [last_of(came, "dtr"), last_of(came, "rts")] == wanted

        with Line(dtr=dtr, rts=rts) as line:
            came = settings_reach(so_left)
            check(f"dtr={dtr}, rts={rts}: so the adapter is left", so_left(came), came=came)
            if not (dtr or rts):
                outage(line)
                came = settings_reach(so_left)
                check(f"dtr={dtr}, rts={rts}: and again after a pull", so_left(came), came=came)
        settings_reach(lambda came: False, timeout=0.3)  # what the closing sets is not meant


def last_of(settings: list[str], name: str) -> str:
    """The last setting of this name, or ""."""
    return next((setting for setting in reversed(settings) if setting.startswith(name)), "")


@scenario()
def configure() -> None:
    """The baud rate is changed on a live line, and is kept over a pull."""

    def baud_57600(came: list[str]) -> bool:
        rate = last_of(came, "baud").removeprefix("baud ")
        return bool(rate) and abs(int(rate) / 57600 - 1) < 0.01  # the adapter's divider is not exact

    with Line() as line:
        line.exchange()
        line.connection.configure(baudrate=57600)
        came = settings_reach(baud_57600)
        check("the baud rate reaches the adapter", baud_57600(came), came=came)
        line.exchange()
        check("the line stays up, data both ways", line.manager.is_connected and line.told[-1][1] == "connected")
        outage(line)
        came = settings_reach(baud_57600)
        check("after a pull: back with the new baud rate, data both ways", baud_57600(came), came=came)
