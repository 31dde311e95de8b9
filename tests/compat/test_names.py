"""All names that pyserial's `Serial` has on Linux, macOS and Windows, read in its sources: only one can be imported."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial

from cnxman.compat import Serial

SOURCES = Path(serial.__file__).parent
NUMBERS = "a number of the system's, for pyserial's own calls"
LEFT_OUT = {
    "BAUDRATE_CONSTANTS": NUMBERS,
    "TIOCSBRK": NUMBERS,
    "TIOCCBRK": NUMBERS,
    "osx_version": "for pyserial's own choice between two of macOS's calls",
    "fd": "the port under it comes and goes, and so does its descriptor: fileno() says so",
    "pipe_abort_read_r": "how pyserial wakes its own read",
    "pipe_abort_read_w": "how pyserial wakes its own read",
    "pipe_abort_write_r": "how pyserial wakes its own write",
    "pipe_abort_write_w": "how pyserial wakes its own write",
}
"""The names that are not there, and why."""

FILES = ["serialutil.py", "serialposix.py", "serialwin32.py"]
OTHER_CLASSES = {"VTIMESerial", "PosixPollSerial", "Timeout", "ReturnBaudrate"}


def classes(file: str) -> Iterator[ast.ClassDef]:
    """Those of which pyserial makes a `Serial`, those for other systems included."""
    for node in ast.walk(ast.parse((SOURCES / file).read_text())):
        if isinstance(node, ast.ClassDef) and node.name not in OTHER_CLASSES and not node.name.endswith("Exception"):
            yield node


def public_names(of: ast.ClassDef) -> set[str]:
    names = set()
    for node in ast.walk(of):
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            names.add(node.attr)
    for node in of.body:
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def functions(file: str) -> Iterator[ast.FunctionDef]:
    for each in classes(file):
        yield from (node for node in each.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"))


@pytest.mark.parametrize("file", FILES)
def test_every_name_of_pyserials_is_there_or_listed(file: str) -> None:
    wanted = set().union(*(public_names(each) for each in classes(file)))
    assert len(wanted) > 10
    instance = Serial()
    missing = {name for name in wanted if not hasattr(type(instance), name) and name not in vars(instance)}
    assert missing <= set(LEFT_OUT)


def test_no_name_is_listed_that_pyserial_has_not() -> None:
    known = set().union(*(public_names(each) for file in FILES for each in classes(file)))
    assert set(LEFT_OUT) <= known


@pytest.mark.parametrize("file", FILES)
def test_arguments_have_the_names_pyserial_gives_them(file: str) -> None:
    for function in functions(file):
        ours = inspect.getattr_static(Serial, function.name, None)
        if not inspect.isfunction(ours):
            continue  # a property, or left out
        named = [argument.arg for argument in function.args.args]
        assert list(inspect.signature(ours).parameters)[: len(named)] == named, function.name


def test_constructor_takes_pyserials_arguments_in_its_order() -> None:
    theirs = inspect.signature(serial.SerialBase.__init__).parameters
    ours = inspect.signature(Serial.__init__).parameters
    given = [name for name in theirs if name != "kwargs"]
    assert list(ours)[: len(given)] == given
    assert all(ours[name].default == theirs[name].default for name in given)
    assert Serial(writeTimeout=3).write_timeout == 3
    assert Serial(interCharTimeout=2).inter_byte_timeout == 2


def test_unknown_keyword_is_refused() -> None:
    with pytest.raises((TypeError, ValueError), match="bogus"):
        Serial(None, bogus=3)


def test_it_is_a_serialbase() -> None:
    assert isinstance(Serial(), serial.SerialBase)
