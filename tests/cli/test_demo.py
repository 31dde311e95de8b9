"""`cnxman demo`, `cnxman --version`, `python -m cnxman`: the installed command, and the module."""

import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

import cnxman
from cnxman.cli import demo
from cnxman.testing import device as device_module
from tests.kit.ordinary import AS_ORDINARY

COMMAND = shutil.which("cnxman", path=f"{sys.prefix}/bin") or "cnxman"
STORY = 7  # seconds that it takes at least, from its first line on
LINE = re.compile(r"\d\d:\d\d:\d\d\.\d{3}  (\w+) *(.*)")


@pytest.fixture(scope="module")
def story():
    """How the demo ended; and what it said, line by line: (what, text)."""
    done = subprocess.run([*AS_ORDINARY, COMMAND, "demo"], capture_output=True, text=True, timeout=60, check=False)
    found = [LINE.fullmatch(line) for line in done.stdout.splitlines()]
    assert all(found), done.stdout
    return done, [match.groups() for match in found if match]


def test_ends_by_itself_with_status_0_and_nothing_on_stderr(story):
    done, _ = story
    assert (done.returncode, done.stderr) == (0, "")


def test_prints_each_state_as_it_changes(story):
    words = [what for what, _ in story[1]]
    states = [what for what in words if what in set(cnxman.ConnectionState)]
    assert states[:3] == ["connecting", "connected", "recovering"]
    assert states[-3:] == ["connecting", "connected", "torndown"]
    assert states.count("connected") == 2
    assert words.index("cable") < words.index("recovering")


def test_prints_why_and_the_delay_of_each_retry(story):
    lines = story[1]
    assert "was lost" in next(text for what, text in lines if what == "recovering")
    retries = [text for what, text in lines if what == "retry"]
    assert len(retries) >= 3
    back = "the device is back: trying at once"
    assert all(re.fullmatch(rf"next attempt in \d+\.\d+ s|{back}", text) for text in retries)


def test_prints_once_that_the_return_of_the_device_was_noticed(story):
    lines = story[1]
    at = lines.index(("retry", "the device is back: trying at once"))
    assert lines.count(lines[at]) == 1
    assert ("cable", "put back") in lines[:at]
    assert [what for what, _ in lines[at + 1 : at + 3]] == ["connecting", "connected"]


def test_prints_data_with_its_size_before_and_after_the_outage(story):
    lines = story[1]
    outage = next(at for at, (what, _) in enumerate(lines) if what == "recovering")
    sizes = [(at, int(text.split()[0]), text) for at, (what, text) in enumerate(lines) if what == "data"]
    assert sum(size for at, size, _ in sizes if at < outage) == sum(map(len, demo._READINGS))
    assert sum(size for at, size, _ in sizes if at > outage) == sum(map(len, demo._READINGS))
    assert "17 bytes  b'temperature 21.4\\n'" in lines[2][1]


def test_ctrl_c_ends_it_quietly():
    with subprocess.Popen([COMMAND, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as demo:
        assert demo.stdout is not None
        demo.stdout.readline()
        demo.send_signal(signal.SIGINT)
        begin = time.monotonic()
        _, said = demo.communicate(timeout=60)
    assert (demo.returncode, said) == (0, b"")
    assert time.monotonic() - begin < STORY


def test_a_closed_pipe_ends_it_quietly_and_early():
    with subprocess.Popen([COMMAND, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as demo:
        assert demo.stdout is not None
        demo.stdout.readline()
        demo.stdout.close()
        begin = time.monotonic()
        assert demo.stderr is not None
        assert demo.stderr.read() == b""
        assert demo.wait(60) == 0
    assert time.monotonic() - begin < STORY


def test_runs_where_there_are_no_pseudo_terminals(monkeypatch, capfd):
    monkeypatch.setattr(device_module, "HAVE_PTYS", False)
    assert demo.run(0.05) == 0
    told = capfd.readouterr().out
    assert "simulated://" in told
    assert told.count("temperature 21.4") == 2


@pytest.mark.parametrize("command", [[COMMAND], [sys.executable, "-m", "cnxman"]])
def test_version(command):
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"cnxman {cnxman.__version__}\n"
