"""What the documentation shows is run: each page's code, from top to bottom, before a simulated device.

`/dev/ttyUSB0` in a page's code becomes the simulated device's port. What a page needs besides, such as a device that
sends something, or the clearing up in the end, stands in its blocks that readers don't see (`invisible-code-block`).
Those have the device as `device`. Commands in shell blocks are not run: their arguments are parsed.
"""

import builtins
import doctest
import importlib
import importlib.util
import pkgutil
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers import markdown, rest
from sybil.typing import Parser

import cnxman
from cnxman.cli import make_parser
from cnxman.testing import SimulatedDevice

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.rst"), *ROOT.glob("*.md")])

ANSWERS = {b"*IDN?\n": b"ACME,1000\n", b"MEASURE?\n": b"21.5\n", b"RESET\n": b"OK\n", b"PING\n": b"PONG\n"}

PUBLIC = [
    name
    for name in ["cnxman", *(f"cnxman.{found.name}" for found in pkgutil.iter_modules(cnxman.__path__))]
    if not any(part.startswith("_") for part in name.split("."))
]

python_block = PythonEvaluator()


def check_commands(example: Example) -> None:
    """The `cnxman` commands in a shell block have arguments that the command understands."""
    for line in str(example.parsed).splitlines():
        words = shlex.split(line.removeprefix("$ ").split("|")[0], comments=True)
        if words and words[0] == ".venv/bin/pip":
            continue
        for at, word in enumerate(words):
            if word.rsplit("/", 1)[-1] == "cnxman":
                understood(words[at + 1 :])
                break


def understood(arguments: list[str]) -> None:
    try:
        make_parser().parse_args(arguments)
    except SystemExit as end:
        if end.code:
            pytest.fail(f"cnxman {shlex.join(arguments)}")


def parsers(page: Path) -> list[Parser]:
    if page.suffix == ".md":
        return [
            markdown.CodeBlockParser("python", python_block),
            markdown.CodeBlockParser("sh", check_commands),
        ]
    return [
        rest.DocTestParser(),
        rest.SkipParser(),
        rest.CodeBlockParser("python", python_block),
        rest.CodeBlockParser("console", check_commands),
    ]


def read(page: Path, port: str) -> Document:
    """The page, with a port that is there."""
    document = Document(page.read_text(encoding="utf-8").replace("/dev/ttyUSB0", port), str(page))
    for parser in parsers(page):
        for region in parser(document):
            document.add(region)
    return document


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_on_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(builtins, "input", lambda _prompt="": "")
    monkeypatch.chdir(tmp_path)
    with SimulatedDevice(ANSWERS) as device:
        document = read(page, device.port)
        document.namespace |= {"__name__": "page", "device": device, "request": request}
        for example in document.examples():
            example.evaluate()


@pytest.mark.parametrize("name", PUBLIC)
def test_the_examples_in_docstrings_run(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.failed == 0


def test_every_public_name_is_on_an_api_page() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.rst"))
    for name in PUBLIC:
        for public in getattr(importlib.import_module(name), "__all__", ()):
            assert re.search(rf"\b{public}\b", pages), f"{name}.{public}"


@pytest.fixture
def state_chart() -> ModuleType:
    spec = importlib.util.spec_from_file_location("state_chart", DOCS / "_ext" / "state_chart.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readmes_state_chart_is_that_of_the_machine(state_chart: ModuleType) -> None:
    drawn = state_chart.PICTURE.read_text(encoding="utf-8")
    assert drawn == state_chart.chart(alone=True), "run: python docs/_ext/state_chart.py"


def test_the_table_of_transitions_has_every_one(state_chart: ModuleType) -> None:
    cells: Callable[[str], str] = lambda row: " ".join(next(r for r in state_chart.table() if row in r[0]))  # noqa: E731
    assert len(state_chart.table()) == 1 + len(cnxman.ConnectionState)
    for each in state_chart.transitions():
        assert ("stays" if each.before == each.after else f"→ {each.after}") in cells(each.before)
    assert "``disconnect``, ``teardown``" in cells("connected")


def test_what_the_readme_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link
