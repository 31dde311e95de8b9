"""Which adapter is meant, who holds it, how it is set. The functions run in the guest."""

import array
import contextlib
import fcntl
import io
import os
import subprocess
import termios
import time
from collections.abc import Iterator

from .guest import (
    NODE,
    Line,
    check,
    end,
    figure,
    outage,
    process,
    read_line,
    replug,
    settings_reach,
    unplug,
    wait_for_nodes,
)
from .registry import scenario

NOBODY = 65534

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


@scenario()
def counters() -> None:
    """The driver's own counters come through: bytes both ways, no errors, and none while it is out."""
    with Line() as line:
        before, counted_before = line.connection.statistics.driver, line.connection.statistics
        line.exchange()
        after, counted = line.connection.statistics.driver, line.connection.statistics
        both = before is not None and after is not None
        check("ftdi_sio has counters", both, before=before, after=after)
        if before is not None and after is not None:
            came, went = after.received - before.received, after.sent - before.sent
            told = (counted.bytes_in - counted_before.bytes_in, counted.bytes_out - counted_before.bytes_out)
            check("they agree with what was told and written", (came, went) == told, driver=(came, went), told=told)
            errors = (after.framing, after.overrun, after.parity, after.break_, after.buffer_overrun)
            check("no errors", errors == (0, 0, 0, 0, 0), errors=errors)
        pulled = unplug()
        line.when("recovering", pulled)
        check("none while it is out", line.connection.statistics.driver is None)
        replug()
        line.returns(pulled)
        anew = line.connection.statistics.driver
        check("they begin anew when it is back", anew is not None and 0 < anew.received < 100, anew=anew)


@scenario()
def low_latency() -> None:
    """The driver's flag and timer are set at each opening, if that is asked for."""

    def timer() -> int:
        with open(f"/sys/class/tty/{os.path.basename(NODE)}/device/latency_timer") as file:
            return int(file.read())

    def beside(path: str, _flags: int) -> int:
        return os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)  # root may, though others are kept out

    def flag(port: io.FileIO) -> bool:
        settings = array.array("i", [0] * 32)
        fcntl.ioctl(port.fileno(), termios.TIOCGSERIAL, settings)
        return bool(settings[4] & 1 << 13)

    with Line():
        check("not asked for: the timer is as QEMU's adapter has it, at 0", timer() == 0, timer=timer())
    with Line(low_latency=True) as line:
        for when in ("asked for", "and again after a pull"):
            with open(NODE, "rb", buffering=0, opener=beside) as port:
                check(f"{when}: the flag is set", flag(port))
            check(f"{when}: the timer is at 1 ms", timer() == 1, timer=timer())
            line.exchange()
            outage(line)
