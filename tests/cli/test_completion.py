"""`cnxman completion`: what bash, zsh and fish themselves complete, after having read what it prints."""

import os
import shutil
import subprocess
import sys

import pytest

from cnxman.cli import completion
from tests.kit.command import COMMAND, Collected

BIN = os.path.dirname(COMMAND)
ENVIRONMENT = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "TERM": "dumb", "HOME": "/nonexistent"}


class Shell:
    """A shell that is typed to."""

    def __init__(self, *line):
        self.master, slave = os.openpty()
        self.process = subprocess.Popen(
            line, stdin=slave, stdout=slave, stderr=slave, env=ENVIRONMENT, start_new_session=True
        )
        os.close(slave)
        self.out = Collected(self.master)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.out.wait_end()
        os.close(self.master)

    def type(self, text):
        os.write(self.master, text.encode())


SETUP = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(cnxman completion bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'autoload -Uz compinit; compinit -D -u; eval "$(cnxman completion zsh)"'),
}


@pytest.mark.parametrize("shell", SETUP)
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("cnxman mon", "cnxman monitor "),
        ("cnxman monitor --timest", "cnxman monitor --timestamps"),
        ("cnxman monitor /dev/nul", "cnxman monitor /dev/null"),
        ("cnxman simulate --li", "cnxman simulate --link "),
    ],
)
def test_a_shell_completes_commands_options_and_ports(shell, typed, completed):
    line, setup = SETUP[shell]
    with Shell(*line) as terminal:
        # What is typed is shown too, so the answer has to differ from that.
        terminal.type(f"{setup}; echo re''ady\r")
        terminal.out.wait(b"ready")
        terminal.type(f"{typed}\t")
        terminal.out.wait(completed.encode(), timeout=60)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("cnxman mon", {"monitor"}),
        ("cnxman completion ", {"bash", "zsh", "fish"}),
        ("cnxman monitor x --parity ", set("NEOMS")),
    ],
)
def test_fish_completes_commands_and_choices(typed, completed):
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"cnxman completion fish | source; complete -C '{typed}'"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert {line.split("\t")[0].strip() for line in done.stdout.splitlines()} >= completed


def test_ports_are_offered_by_device_and_by_name(monkeypatch):
    adapter = type("Info", (), {"device": "/dev/ttyUSB7"})
    monkeypatch.setattr(completion.ports, "available", lambda: [adapter])
    monkeypatch.setattr(completion.ports, "usb_name", lambda info: "usb://0403:6001")
    assert completion._ports_and_files("/dev/ttyUSB7") == ["/dev/ttyUSB7"]
    assert completion._ports_and_files("usb") == ["usb://0403:6001"]
    assert "/dev/null" in completion._ports_and_files("/dev/nul")


def test_says_what_it_needs_where_that_is_missing(monkeypatch, capfd):
    monkeypatch.setattr(completion, "find_spec", lambda name: None)
    assert completion.run("bash") == 1
    assert "needs argcomplete: pip install argcomplete" in capfd.readouterr().err


def test_argcomplete_is_imported_only_when_a_shell_asks():
    line = "import sys; from cnxman.cli import main\ntry: main(['--version'])\nexcept SystemExit: pass\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{line}print('argcomplete' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"


def test_shells_are_there():
    assert all(map(shutil.which, completion.SHELLS))
