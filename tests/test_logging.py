"""loggable_class, and saying the same thing loudly only once."""

import logging
import subprocess
import sys

import pytest

from cnxman.basics import ConnectionManager
from cnxman.logging import RepeatFilter, loggable_class
from cnxman.serial import SerialConnection


@loggable_class()
class Pump:
    logger: logging.Logger

    @loggable_class()
    class Valve:
        logger: logging.Logger


def test_named_after_module_and_class() -> None:
    assert Pump.logger is logging.getLogger(f"{__name__}.Pump")
    assert Pump.Valve.logger.name == f"{__name__}.Pump.Valve"
    assert Pump().logger is Pump.logger


def test_named_otherwise() -> None:
    @loggable_class("plant.pump")
    class Named:
        logger: logging.Logger

    @loggable_class(logger_name="plant.other")
    class Other:
        logger: logging.Logger

    assert (Named.logger.name, Other.logger.name) == ("plant.pump", "plant.other")


def test_without_parentheses() -> None:
    @loggable_class
    class Bare:
        logger: logging.Logger

    assert isinstance(Bare, type)
    assert Bare.logger.name.endswith("Bare")


def test_the_class_stays_the_same_class() -> None:
    class Plain:
        pass

    assert loggable_class()(Plain) is Plain
    assert loggable_class("x")(Plain) is Plain


def test_a_subclass_has_its_parents_logger() -> None:
    assert type("Sub", (Pump,), {}).logger is Pump.logger


@pytest.mark.parametrize("wrong", [5, b"name", ["name"]])
def test_what_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match="logger_name must be a str or None, not "):
        loggable_class(wrong)  # type: ignore[call-overload]


def test_the_librarys_own_classes() -> None:
    assert SerialConnection.logger.name == "cnxman.serial.SerialConnection"
    assert ConnectionManager.logger.name == "cnxman.basics.ConnectionManager"


def test_first_then_debug() -> None:
    complaint = RepeatFilter()
    warning, debug = logging.WARNING, logging.DEBUG
    assert [complaint.level(failure) for failure in "aaabba"] == [warning, debug, debug, warning, debug, warning]
    complaint.forget()
    assert [complaint.level("a"), complaint.level("a")] == [warning, debug]


def printed_by(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert not done.stdout
    return done.stderr


def test_without_logging_warnings_and_errors_are_shown_once() -> None:
    script = (
        "import logging, cnxman\n"
        "logger = logging.getLogger('cnxman.basics')\n"
        "for number in range(3):\n"
        "    logger.info('info'); logger.warning('a warning, %d', number); logger.error('an error')\n"
    )
    assert printed_by(script) == "a warning, 0\nan error\n"


def test_what_a_receiver_raises_is_shown_without_logging() -> None:
    script = (
        "from cnxman import Connection, signals\n"
        "class Thing(Connection):\n"
        "    try_connect = disconnect = teardown = lambda self: True\n"
        "thing = Thing()\n"
        "thing.subscribe(lambda: 1 / 0)\n"
        "thing.raise_alarm(); thing.raise_alarm()\n"
    )
    shown = printed_by(script)
    assert shown.count("a receiver of Signals.RAISE_ALARM, raised") == 1
    assert "ZeroDivisionError" in shown


@pytest.mark.parametrize("name", ["cnxman", "cnxman.basics", ""])
def test_with_a_handler_of_the_programs_own_nothing_more_is_shown(name: str) -> None:
    script = (
        "import logging, cnxman\n"
        f"logging.getLogger({name!r}).addHandler(logging.NullHandler())\n"
        "logging.getLogger('cnxman.basics').error('an error')\n"
    )
    assert printed_by(script) == ""
