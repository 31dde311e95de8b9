"""What the site needs besides Sphinx's own: the machine's chart and table, pictures that follow the theme, soft links.

The directives `state-chart` and `transition-table` are made from the machine at build time; `picture` puts an SVG file
into the page itself, so that it takes the page's colours; `benchmark-figures` shows what a run has measured. A word in
single backticks is a link if it names something documented, and code if not: so docstrings can say `connect()`.
"""

import inspect
import json
import re
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import state_chart
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

from benchmarks import report

MODULES = (
    "basics",
    "serial",
    "retry",
    "ports",
    "framing",
    "protocols",
    "aio",
    "compat",
    "reading",
    "testing",
    "signals",
    "logging",
)
"""Where a bare name may be from."""


def in_page(svg: str) -> nodes.Node:
    """An SVG picture in the page, which scrolls by itself where the page is too narrow for it.

    Its own style sheet would hold for the whole page.
    """
    drawing = re.sub(r"<style>.*?</style>", "", svg, flags=re.DOTALL)
    return nodes.raw("", f'<div class="picture">{drawing}</div>', format="html")


class StateChart(Directive):
    """The state chart, drawn."""

    def run(self) -> list[nodes.Node]:
        """Draw it."""
        return [in_page(state_chart.chart(alone=False))]


class TransitionTable(Directive):
    """The table of transitions."""

    def run(self) -> list[nodes.Node]:
        """Write it as a list-table, and have that read."""
        lines = [".. list-table::", "   :header-rows: 1", "   :class: transitions", ""]
        for row in state_chart.table():
            for index, cell in enumerate(row):
                first, *rest = cell.split("\n")
                lines += [f"   {'* -' if index == 0 else '  -'} {first}", *(f"       {line}" for line in rest)]
        parent = nodes.container()
        self.state.nested_parse(StringList(lines, source=state_chart.__file__), self.content_offset, parent)
        return parent.children


class Picture(Directive):
    """An SVG file from `docs/`, put into the page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Read it."""
        environment = self.state.document.settings.env
        relative, path = environment.relfn2path(self.arguments[0])
        environment.note_dependency(relative)
        return [in_page(Path(path).read_text(encoding="utf-8"))]


class BenchmarkFigures(Directive):
    """The table and the picture of what `python -m benchmarks` has left in `docs/benchmarks.json`."""

    def run(self) -> list[nodes.Node]:
        """Make a table and a picture of the samples."""
        environment = self.state.document.settings.env
        found = Path(environment.srcdir) / "benchmarks.json"
        environment.note_dependency(str(found))
        if not found.exists():
            return [nodes.note("", nodes.paragraph("", "No run's figures are here: run the command below."))]
        run = json.loads(found.read_text(encoding="utf-8"))
        measured = dict.fromkeys(peer for each in run["samples"].values() for peer in each)
        peers = [peer for peer in report.OUR_OWN if peer in measured]
        peers += [peer for peer in measured if peer not in report.OUR_OWN]
        where = re.sub(r"(Linux \d+\.\d+)[^,]*", r"\1", run["where"])
        lines = ["", f"{where}.", "", ".. list-table::", "   :header-rows: 1", "   :class: figures", ""]
        for row in report.table(run["samples"], peers).splitlines():
            cells = [cell.strip() if cell != " - " else "none" for cell in row[1:-1].split("|")]
            if cells[0] != "---":
                lines += [f"   {'* -' if index == 0 else '  -'} {cell}" for index, cell in enumerate(cells)]
        return [*self.parsed(lines, found), in_page(report.svg(run["samples"], peers)), *self.below(run, found)]

    def below(self, run: dict[str, Any], found: Path) -> list[nodes.Node]:
        """What stands under the picture: sharing, and the goals."""
        lines = []
        if run.get("share"):
            lines += ["``cnxman share`` with ten clients, beside socat with one:", "", ".. code-block:: text", ""]
            lines += [f"   {line}" for line in run["share"].splitlines()]
        lines += [
            "",
            "The goals it was built for, and what this run reached (less is better, but for MB/s and lines):",
            "",
        ]
        for line in run["bounds"]:
            goal = line.replace("(<= ", "(goal: at most ").replace("(>= ", "(goal: at least ")
            lines.append(f"* {goal.replace(' NOT HELD', ' **missed**')}")
        return self.parsed(lines, found)

    def parsed(self, lines: list[str], source: Path) -> list[nodes.Node]:
        """These lines of reStructuredText, as part of the page."""
        parent = nodes.container()
        self.state.nested_parse(StringList(lines, source=str(source)), self.content_offset, parent)
        return parent.children


class SoftLink(SphinxRole):
    """A link if the target is documented, code otherwise. `~` before it shows its last part only."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Leave the target to be looked up when all is read."""
        text = self.text
        shown = text.lstrip("~").rsplit(".", 1)[-1] if text.startswith("~") else text
        target = text.lstrip("~").removesuffix("()")
        literal = nodes.literal(text, shown, classes=["xref"])
        if not all(part.isidentifier() for part in target.split(".")):
            return [nodes.literal(text, text)], []
        node = pending_xref(
            "",
            literal,
            refdomain="py",
            reftype="obj",
            reftarget=target,
            refexplicit=False,
            refwarn=False,
            refdoc=self.env.current_document.docname,
            soft=True,
        )
        node.update_basic_atts({"py:module": self.env.ref_context.get("py:module")})
        node["py:module"] = self.env.ref_context.get("py:module")
        node["py:class"] = self.env.ref_context.get("py:class")
        self.set_source_info(node)
        return [node], []


def find_soft_link(app: Sphinx, env: Any, node: pending_xref, contnode: nodes.Element) -> nodes.Element | None:
    """Look a soft link up in the modules where a bare name may be from; code if it is nowhere."""
    if not node.get("soft"):
        return None
    domain = env.domains["py"]
    target = node["reftarget"].removeprefix("cnxman.")
    for module in MODULES:
        for name in (f"cnxman.{module}.{target}", f"cnxman.{target}"):
            if name in domain.objects:
                found = domain.objects[name]
                reference = nodes.reference("", "", contnode, internal=True)
                reference["refuri"] = app.builder.get_relative_uri(node["refdoc"], found.docname) + "#" + found.node_id
                return reference
    return contnode


LITERAL = re.compile(r"""(?<![\w`])(?:b"[^"]*"|b'[^']*'|"[^"]*\\[^"]*"|"")(?![\w`])""")
"""What is a literal of Python's beyond doubt: bytes, a string with a backslash, the empty string."""


def plain_docstrings(_app: Sphinx, what: str, _name: str, _obj: object, _options: Any, lines: list[str]) -> None:
    """Before napoleon: our docstrings are text for `help()`, and say less than reStructuredText wants.

    An indented block after a paragraph is code, and so are literals in the text. And napoleon takes what stands before
    a colon in an attribute's docstring for its type; an empty comment before it has none.
    """
    found: list[str] = ["..", ""] if what in ("attribute", "property") else []
    before = ""
    in_code = in_example = False
    for line in lines:
        begins_code = line.startswith("    ") and found and not found[-1] and before and not before.startswith(" ")
        in_code = bool(begins_code) or (in_code and (not line or line.startswith("    ")))
        in_example = bool(line) and (in_example or line.lstrip().startswith(">>>"))
        if begins_code and not line.lstrip().startswith(">>>") and not before.startswith(("*", "-")):
            found += ["::", ""]
        found.append(line if in_code or in_example else with_literals_marked(line))
        before = line or before
    lines[:] = found


def with_literals_marked(line: str) -> str:
    """The line, with double backticks around the literals that stand outside of backticks."""
    parts = re.split(r"(``.*?``|`.*?`)", line)
    return "".join(part if part.startswith("`") else LITERAL.sub(r"``\g<0>``", part) for part in parts)


def plain_signatures(
    _app: Sphinx, _what: str, _name: str, obj: object, _options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """A default that is a constant's name, often a private one, is shown by its value. An enumeration isn't called."""
    if inspect.isclass(obj) and issubclass(obj, Enum):
        return "", None
    names = vars(sys.modules.get(getattr(obj, "__module__", None) or "", sys))
    if inspect.isclass(obj):
        names = getattr(obj.__init__, "__globals__", names)

    def value(match: re.Match[str]) -> str:
        found = names.get(match[1])
        return f"= {found!r}" if isinstance(found, (int, float, str, bytes)) else match[0]

    return signature and re.sub(r"= (_?[A-Z][A-Z_]+)\b", value, signature), returns


def public_bases(_app: Sphinx, _name: str, _obj: type, _options: Any, bases: list[Any]) -> None:
    """Show the nearest public base class instead of private ones."""
    for index, base in enumerate(bases):
        if inspect.isclass(base) and base.__module__.startswith("cnxman._"):
            public = [each for each in base.__mro__[1:] if not each.__module__.startswith("cnxman._")]
            bases[index] = public[0]


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx."""
    app.add_directive("state-chart", StateChart)
    app.add_directive("transition-table", TransitionTable)
    app.add_directive("picture", Picture)
    app.add_directive("benchmark-figures", BenchmarkFigures)
    app.add_role("soft", SoftLink())
    app.connect("missing-reference", find_soft_link)
    app.connect("autodoc-process-docstring", plain_docstrings, priority=100)
    app.connect("autodoc-process-signature", plain_signatures)
    app.connect("autodoc-process-bases", public_bases)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
