"""Hostile names: port strings that do more than open a port, and texts from devices and other processes.

What is opened, connected to or written is told by Python's own audit events, in a process of its own.
"""

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serial.tools.list_ports_common import ListPortInfo

from cnxman import ports
from cnxman.cli import portlist
from cnxman.logging import printable
from cnxman.serial import SerialConnection
from tests.kit.lines import BOUND, Pty, run_script

ROOT = Path(__file__).parents[2]

AUDIT = """
import io, json, logging, os, sys
from cnxman import SerialConnection

told = None
DANGEROUS = ("subprocess", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.remove", "os.rename", "os.mkdir",
             "os.symlink", "os.link", "os.chmod", "os.truncate", "shutil", "tempfile", "ctypes", "webbrowser", "urllib")

def audit(event, arguments):
    if told is None:
        return
    if event == "open":
        path, mode, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR)
        creates = flags & (os.O_CREAT | os.O_TRUNC)
        if creates:
            told.append("overwrites %s" % path)
        elif writes:
            told.append("opens %s" % path)
        elif not str(path).endswith((".py", ".pyc")) and not str(path).startswith(("/proc", "/sys")):
            told.append("reads %s" % path)
    elif event == "socket.connect":
        told.append("connects to %s:%s" % arguments[1][:2])
    elif event in ("socket.bind", "socket.sendto") or event.startswith(DANGEROUS):
        told.append(event)

sys.addaudithook(audit)

def told_by(call):
    global told
    told = []
    handlers, stderr, sys.stderr = len(logging.getLogger().handlers), sys.stderr, io.StringIO()
    try:
        call()
        found = list(dict.fromkeys(told))
        if len(logging.getLogger().handlers) > handlers:
            found.append("sets up logging")
            logging.getLogger().handlers.clear()
        elif sys.stderr.getvalue():
            found.append("writes to stderr")
        return found
    finally:
        told, sys.stderr = None, stderr
"""


# -- what each scheme does ------------------------------------------------------------------------------------

EFFECTS = (
    AUDIT
    + """
import serial.tools.list_ports, types, warnings
warnings.simplefilter("ignore")  # of pyserial's
pty = sys.argv[2]

class Device:
    "What the library of cp2110:// gives."
    def open_path(self, path):
        told.append("opens %s" % path.decode())
        raise OSError(2, "no such device")

sys.modules["hid"] = types.SimpleNamespace(device=Device)
serial.tools.list_ports.grep = lambda pattern: [(pty, "a pump", "USB")] if pattern == "pump" else []
connections = []
made = told_by(lambda: connections.append(SerialConnection(sys.argv[1], 4_000_000, write_timeout=None)))

def attempt():
    if connections[0].try_connect():
        connections[0].write(b"some traffic")
    connections[0].teardown()

print(json.dumps({"made": made, "attempt": told_by(attempt), "error": str(connections[0].last_error)}))
"""
)


@pytest.fixture
def pty() -> Iterator[Pty]:
    with Pty() as pty:
        yield pty


@pytest.fixture
def server() -> Iterator[str]:
    """Somebody who listens, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


ALL = [
    ("{pty}", ["opens {pty}"]),
    ("alt://{pty}", ["opens {pty}"]),
    ("alt://{pty}?class=VTIMESerial", ["opens {pty}"]),
    ("alt://{pty}?class=sys", []),
    ("alt://{pty}?class=serial_for_url", []),
    ("alt://{pty}?class=__builtins__", []),
    ("hwgrep://pump", ["opens {pty}"]),
    ("hwgrep://pump&skip_busy", ["opens {pty}"]),
    ("hwgrep://nothing&skip_busy", []),
    ("loop://", []),
    ("loop://?logging=debug", ["sets up logging"]),
    ("socket://{server}", ["connects to {server}"]),
    ("socket://{server}?logging=debug", ["connects to {server}", "sets up logging"]),
    ("rfc2217://{server}?timeout=0.1", ["connects to {server}"]),
    ("rfc2217://{server}?timeout=0.1&logging=debug", ["connects to {server}", "sets up logging"]),
    ("spy://{pty}?file={victim}", ["overwrites {victim}", "opens {pty}"]),
    ("spy:///dev/none?file={victim}", ["overwrites {victim}", "opens /dev/none"]),
    ("spy://{pty}?color", ["opens {pty}", "writes to stderr"]),
    ("spy://{pty}?dev={victim}", []),
    ("usb://0403:6001/NONE", []),
    ("cp2110:///dev/hidraw9", ["opens /dev/hidraw9"]),
    # One scheme within another is never looked at: it is a name.
    ("spy://socket://{server}", ["opens socket://{server}"]),
    ("alt://spy://{pty}?file={victim}", []),
    ("alt://spy://{pty}", ["opens spy://{pty}"]),
    ("spy://usb://0403:6001?file={victim}", ["overwrites {victim}", "opens usb://0403:6001"]),
    ("hwgrep://spy://{pty}?file={victim}", []),
    # A path that is no tty is opened as one, and neither made nor changed.
    ("{victim}", ["opens {victim}"]),
    ("/nonexistent/{{}}", ["opens /nonexistent/{{}}"]),
]


@pytest.mark.parametrize(("url", "effects"), ALL)
def test_what_a_port_string_does(url: str, effects: list[str], pty: Pty, server: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("dear to somebody")
    names = {"pty": pty.path, "server": server, "victim": str(victim)}
    found = run_script(EFFECTS, url.format(**names), pty.path)
    assert found["made"] == [], "making a connection does nothing"
    assert found["attempt"] == [effect.format(**names) for effect in effects]
    overwritten = f"overwrites {victim}" in found["attempt"]
    assert (victim.read_text() == "dear to somebody") is not overwritten


def test_spy_overwrites_any_file_at_every_attempt_even_if_there_is_no_device(tmp_path: Path) -> None:
    """Through links as well: so it is not for strings that others may write."""
    victim, link = tmp_path / "victim", tmp_path / "link"
    link.symlink_to(victim)
    for _ in range(2):
        victim.write_text("dear to somebody")
        found = run_script(EFFECTS, f"spy:///dev/none?file={link}", "")
        assert "cannot open" in found["error"]
        assert victim.read_text() == ""


@pytest.mark.parametrize("allowed", [["", "usb"], [""], ["usb"]])
@pytest.mark.parametrize("url", sorted({url for url, _ in ALL if "://" in url and not url.startswith("usb")}))
def test_the_allow_list_refuses_all_that_do_more(url: str, allowed: list[str]) -> None:
    with pytest.raises(ValueError, match="is not allowed here"):
        SerialConnection(url, schemes=allowed)


@pytest.mark.parametrize(
    "port",
    [
        "SPY:///x",
        "sPy:///x",
        " spy:///x",
        "\tspy:///x",
        "spy\n:///x",
        "spy ://x",
        "spy\u200b:///x",
        "\ufeffspy:///x",
        "\uff33\uff30\uff39:///x",  # full width
        "\u017fpy:///x",  # a long s
        "soc\u212aet://x:1",  # the sign of kelvin, whose lower case is k
        "usb.spy:///x",
        "usb\0spy:///x",
        "spy://usb://0403:6001",
        "usb+spy://x",
        "://x",
    ],
)
def test_no_spelling_gets_past_it(port: str) -> None:
    with pytest.raises(ValueError, match="port"):
        SerialConnection(port, schemes=["", "usb"])


@pytest.mark.parametrize("scheme", sorted({url.split("://")[0] for url, _ in ALL if "://" in url}))
def test_the_documents_say_what_each_scheme_does(scheme: str) -> None:
    assert f"`{scheme}://`" in (ROOT / "SECURITY.md").read_text()
    assert f"``{scheme}://``" in (ROOT / "docs/promise/security.rst").read_text()


# -- any string at all --------------------------------------------------------------------------------------

FUZZ = (
    AUDIT
    + """
import string
from hypothesis import given, settings, strategies as st
from cnxman import ports

schemes = ["spy", "alt", "socket", "rfc2217", "loop", "hwgrep", "usb", "cp2110", "", "s", "os", "..", "__init__"]
cases = [str.lower, str.upper, str.title, lambda s: " " + s, lambda s: s + "\\t", lambda s: s + "." + s]
scheme = st.builds(lambda s, case: case(s), st.sampled_from(schemes), st.sampled_from(cases)) | st.text(max_size=6)
piece = st.sampled_from([
    "://", "?", "&", "=", "/", "%", "%2e", "..", ":", "#", "@", "[", "]", "\\n", "\\x1b", "127.0.0.1", "1",
    "kept", "new", "file=kept", "class=Serial", "logging=debug", "0403:6001", "location=1-1", "skip_busy", "n=2",
])
rest = st.lists(piece | scheme | st.text(max_size=3), max_size=6).map("".join)
port = rest | st.builds("{}://{}".format, scheme, rest) | st.text()
with open("kept", "w") as file:
    file.write("as it was")
for name in schemes:
    ports._is_known(name)  # now it is imported, if there is such a thing
seen = {"refused": 0, "tried": 0, "made": 0}

@settings(max_examples=int(sys.argv[1]), derandomize=True, database=None, deadline=None)
@given(port)
def any_string(port):
    def make():
        try:
            made.append(SerialConnection(port))
        except ValueError:
            pass
    made = []
    assert told_by(make) == [], "making it opens nothing"
    seen["made"] += len(made)
    def use():
        try:
            connection = SerialConnection(port, schemes=["", "usb"])
        except ValueError:
            seen["refused"] += 1
            return
        assert ports.scheme_of(port) in ("", "usb")
        seen["tried"] += 1
        connection.try_connect()
        connection.teardown()
    did = told_by(use)
    assert did in ([], ["opens " + port]), did
    assert did == [] or "://" not in port

any_string()
with open("kept") as file:
    seen["kept"] = file.read()
seen["files"] = sorted(name for name in os.listdir(".") if name != ".hypothesis")
print(json.dumps(seen))
"""
)


def test_any_string_does_nothing_but_open_a_port_or_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = run_script(FUZZ, "700", timeout=120)
    assert found["kept"] == "as it was"
    assert found["files"] == ["kept"]
    assert min(found["refused"], found["tried"], found["made"]) > 100, found


# -- texts for logs and terminals ---------------------------------------------------------------------------


@pytest.mark.parametrize("control", ["\n", "\r", "\x1b", "\x7f", "\x85", "\x9b", "\t"])
def test_a_port_name_with_control_characters_is_refused_and_shown_harmlessly(control: str) -> None:
    for port in (f"/dev/ttyUSB0{control}ERROR all is lost", f"socket://host{control}:1"):
        with pytest.raises(ValueError, match="port") as caught:
            SerialConnection(port)
        assert control not in str(caught.value)


@given(st.text())
def test_what_is_shown_is_printable_and_short(text: str) -> None:
    shown = printable(text, 20)
    assert shown.isprintable()
    assert len(shown) <= 20 * 10 + 3
    assert shown == text or not text.isprintable() or len(text) > 20


def test_another_process_cannot_forge_a_line_of_the_log(pty: Pty) -> None:
    """By the arguments it has, when it holds the port."""
    script = (
        "import os, sys; held = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY); print(1, flush=True); sys.stdin.read()"
    )
    forged = "\nERROR all is lost \x1b[2J" + "x" * 5000
    command = [sys.executable, "-c", script, pty.path, forged]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline()
        text = next(str(each) for each in ports.holders(pty.path) if each.pid == holder.pid)
        holder.stdin.close()
        holder.wait(BOUND)
    assert text.isprintable()
    assert len(text) < 1000
    assert re.search(r"\(pid \d+\)$", text)


def test_an_adapter_cannot_send_escape_sequences_to_the_terminal_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its strings are whatever its maker, or whoever made it look so, has put there."""
    evil = ListPortInfo("/dev/ttyEVIL0")
    evil.vid, evil.pid, evil.location = 0x403, 0x6001, "1-1\n"
    evil.serial_number = "A\x1b]0;pwned\x07\nB"
    evil.product = evil.description = "pump\x1b[2J\r\n/dev/ttyUSB9  another"
    evil.manufacturer = "\x9b31m\u202e"
    monkeypatch.setattr(ports, "available", lambda: [evil])
    found = portlist.look()
    portlist._tell_all(found, as_json=False, watch=False)
    portlist._tell_all(found, as_json=True, watch=False)
    shown = capfd.readouterr().out
    assert "pump" in shown
    assert re.sub(r"[ -~\n]", "", shown) == ""
    assert not any(line.startswith("/dev/ttyUSB9") for line in shown.splitlines())
    assert evil.device in shown
