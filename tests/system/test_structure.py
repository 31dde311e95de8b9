"""The house: which module imports which, whose names are whose, and the bases that the API page gives."""

import ast
import enum
import pickle
import re
import threading
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import cnxman
from cnxman import Connection, ConnectionException, ConnectionManager, ConnectionState, SerialConnection, SerialListener
from cnxman.testing import ManualClock, SimulatedDevice

HOUSE = Path(cnxman.__file__).parent
MODULES = {".".join(("cnxman", *path.relative_to(HOUSE).with_suffix("").parts)): path for path in HOUSE.rglob("*.py")}

GROUND = {"_fork", "_threads", "_validation", "framing", "logging", "retry", "signals"}
MAY_IMPORT = {
    "_manager": GROUND,
    "basics": GROUND | {"_manager"},
    "_line": GROUND | {"ports"},
    "reading": GROUND | {"basics"},
    "serial": GROUND | {"basics", "ports", "reading", "_line"},
}
"""What the rooms of the core may know. The faces above them may know all of it."""


def imports(path: Path) -> set[str]:
    """The modules of the house that a file imports, wherever in it: in a function, or for type checkers alone."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {member if member in MODULES else node.module for member in members}
    return {name if name in MODULES else f"{name}.__init__" for name in found} & MODULES.keys()


def room(module: str) -> str:
    return module.split(".")[1]


def test_no_module_imports_itself_by_way_of_others() -> None:
    try:
        TopologicalSorter({name: imports(path) - {name} for name, path in MODULES.items()}).prepare()
    except CycleError as circle:
        pytest.fail(f"a circle of imports: {' <- '.join(circle.args[1])}")


def test_rooms_import_one_way() -> None:
    for name, path in MODULES.items():
        allowed = MAY_IMPORT.get(room(name))
        if allowed is not None:
            known = {room(other) for other in imports(path)} - {room(name)}
            assert known <= allowed, f"{name} knows {known - allowed}"


def test_no_class_forges_its_module() -> None:
    forged = [name for name, path in MODULES.items() if re.search(r"__module__ = ", path.read_text(encoding="utf-8"))]
    assert forged == []


def test_bases_are_those_of_the_api_page() -> None:
    assert Connection.__bases__ == ConnectionManager.__bases__ == (object,)
    assert SerialConnection.__bases__ == (Connection,)
    assert SerialListener.__bases__ == (threading.Thread,)
    assert ConnectionException.__bases__ == (Exception,)
    for owner in (Connection, ConnectionManager, SerialConnection, SerialListener):
        assert owner.Signals.__bases__ == (enum.Enum,)


@pytest.mark.parametrize(
    "public", [Connection, ConnectionException, ConnectionManager, ConnectionState, SerialConnection, SerialListener]
)
def test_public_classes_live_where_the_api_page_has_them(public: type) -> None:
    home = "cnxman.serial" if public.__name__.startswith("Serial") else "cnxman.basics"
    assert public.__module__ == home


def test_nothing_pickled_names_a_private_module() -> None:
    members = [member for owner in (Connection, ConnectionManager, SerialConnection) for member in owner.Signals]
    for each in (*members, ConnectionState.READY, SimulatedDevice, ManualClock):
        assert b"._" not in pickle.dumps(each)
        assert pickle.loads(pickle.dumps(each)) is each
