"""The manager's state chart and its table of transitions, made from the machine itself.

`python docs/_ext/state_chart.py` writes `docs/images/state-chart.svg`, which the README shows; a test tells when that
is out of date. The site's pages have theirs made while they are built. Nothing here says which transitions there are:
only where the states stand in the picture, and how the machine's inputs are called in words.
"""

from collections import defaultdict
from dataclasses import dataclass
from html import escape
from math import hypot
from pathlib import Path

from cnxman import ConnectionManager

PICTURE = Path(__file__).parent.parent / "images" / "state-chart.svg"

WIDTH, HEIGHT = 900, 490
BOX_WIDTH, BOX_HEIGHT = 122, 40

PLACES = {
    "ready": (80, 50),
    "connecting": (350, 50),
    "connected": (760, 50),
    "recovering": (555, 210),
    "disconnected": (350, 370),
    "torndown": (760, 370),
}
"""The middle of each state's box."""

WAYS = {
    ("ready", "torndown"): "M 80 70 V 440 Q 80 460 100 460 H 740 Q 760 460 760 440 V 390",
    ("connected", "disconnected"): "M 728 70 C 718 260, 590 345, 411 362",
}
"""Arrows that are not straight."""

LABELS = {
    ("ready", "connecting"): (215, 40, "middle"),
    ("ready", "torndown"): (90, 240, "start"),
    ("connecting", "connected"): (555, 40, "middle"),
    ("connecting", "disconnected"): (366, 240, "start"),
    ("disconnected", "connecting"): (334, 240, "end"),
    ("connecting", "recovering"): (470, 128, "start"),
    ("recovering", "connecting"): (460, 152, "end"),
    ("connected", "recovering"): (652, 128, "end"),
    ("connected", "disconnected"): (588, 326, "start"),
    ("connected", "torndown"): (768, 215, "start"),
    ("recovering", "disconnected"): (448, 262, "end"),
    ("recovering", "torndown"): (678, 296, "start"),
    ("disconnected", "torndown"): (555, 388, "middle"),
}
"""Where an arrow's label stands; without a place here, beside the middle of the arrow."""

CALLS = {"_connect": "connect()", "_disconnect": "disconnect()", "_teardown": "teardown()", "_alarm": "the alarm"}
"""Inputs from outside, as the columns of the table have them."""

EVENTS = {
    "_retry": "wait over, or device back",
    "_succeeded": "it succeeds",
    "_failed": "it fails",
    "_gave_up": "the last one fails",
    "_interrupted": "Ctrl-C",
}
"""Inputs that come by themselves, as the chart has them."""

DEEDS = {"_attempt": "try_connect", "_close": "disconnect", "_release": "teardown"}
"""Outputs that call the connection, and the method that each calls; the others only keep books and tell."""


@dataclass(frozen=True)
class Transition:
    """One line of the machine."""

    before: str
    given: str
    after: str
    deeds: tuple[str, ...]


def states() -> dict[str, str]:
    """The states with what their docstrings say, in the order in which they are declared."""
    found = {name: getattr(ConnectionManager, name, None) for name in vars(ConnectionManager)}
    return {name: part.method.__doc__ for name, part in found.items() if type(part).__name__ == "MethodicalState"}


def transitions() -> list[Transition]:
    """All transitions of the machine, in a fixed order.

    Automat's public way, `asDigraph`, gives a drawing; we want what is drawn.
    """
    found = [
        Transition(
            before.method.__name__,
            given.method.__name__,
            after.method.__name__,
            tuple(DEEDS[each.method.__name__] for each in outputs if each.method.__name__ in DEEDS),
        )
        for before, given, after, outputs in ConnectionManager.machine._automaton.allTransitions()
    ]
    known = [*CALLS, *EVENTS]
    order = list(states())
    return sorted(found, key=lambda t: (order.index(t.before), order.index(t.after), known.index(t.given)))


# -- the picture ------------------------------------------------------------------------------------------

INK, PAPER, BOX, EDGE = "#1f2328", "#ffffff", "#eef4fb", "#4b6584"

FONT = 'font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif"'

DARK = """
@media (prefers-color-scheme: dark) {
  .chart rect { fill: #1b2838; stroke: #8fb0d3 }
  .chart rect.paper { fill: #0d1117; stroke: none }
  .chart path { stroke: #8fb0d3 }
  .chart marker path { fill: #8fb0d3; stroke: none }
  .chart text { fill: #d7dde4 }
}
"""
"""For the picture by itself, where the viewer knows of a dark scheme. Each element has its own colours, so that viewers
that read no style sheet show the picture too. On the site's pages, the site's style sheet gives it the page's."""


def chart(*, alone: bool) -> str:
    """The state chart as SVG.

    Args:
        alone: whether it brings its own colours, as a file of its own must.
    """
    arrows = defaultdict(list)
    for each in transitions():
        if each.before != each.after:
            arrows[each.before, each.after].append((CALLS | EVENTS)[each.given])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" {FONT}',
        '  aria-label="The states of a ConnectionManager, and what leads from one to another">',
        *([f"<style>{DARK}</style>"] if alone else []),
        *([f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>'] if alone else []),
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8"',
        f'  orient="auto"><path d="M 0 1 L 10 5 L 0 9 z" fill="{EDGE}"/></marker></defs>',
    ]
    for (before, after), labels in arrows.items():
        parts.append(
            f'<path d="{_way(before, after, arrows)}" fill="none" stroke="{EDGE}" stroke-width="1.4"'
            ' marker-end="url(#tip)"/>'
        )
        parts += _label(before, after, labels)
    for name in states():
        x, y = PLACES[name]
        parts.append(
            f'<rect x="{x - BOX_WIDTH // 2}" y="{y - BOX_HEIGHT // 2}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}"'
            f' rx="8" fill="{BOX}" stroke="{EDGE}" stroke-width="1.5"/>'
            f'<text x="{x}" y="{y + 5}" fill="{INK}" font-size="15" font-weight="600"'
            f' text-anchor="middle">{name}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _way(before: str, after: str, arrows: dict[tuple[str, str], list[str]]) -> str:
    """A straight arrow from box to box, a little to its left where there is one in the other direction."""
    if (before, after) in WAYS:
        return WAYS[before, after]
    (x0, y0), (x1, y1) = PLACES[before], PLACES[after]
    if (after, before) in arrows:
        aside = 7 / hypot(x1 - x0, y1 - y0)
        x0, y0, x1, y1 = (
            x0 + (y1 - y0) * aside, y0 - (x1 - x0) * aside, x1 + (y1 - y0) * aside, y1 - (x1 - x0) * aside
        )  # fmt: skip
    start, end = _border(PLACES[before], (x0, y0), (x1, y1)), _border(PLACES[after], (x1, y1), (x0, y0))
    return f"M {start[0]:.0f} {start[1]:.0f} L {end[0]:.0f} {end[1]:.0f}"


def _border(box: tuple[float, float], inside: tuple[float, float], outside: tuple[float, float]) -> tuple[float, float]:
    """Where the line from a point within a box to one outside it leaves the box."""
    shares = []
    for middle, half, start, end in zip(box, (BOX_WIDTH / 2, BOX_HEIGHT / 2), inside, outside, strict=True):
        if end != start:
            shares.append((middle + (half if end > start else -half) - start) / (end - start))
    share = min(shares)
    return inside[0] + (outside[0] - inside[0]) * share, inside[1] + (outside[1] - inside[1]) * share


def _label(before: str, after: str, lines: list[str]) -> list[str]:
    (x0, y0), (x1, y1) = PLACES[before], PLACES[after]
    lines = [part for line in lines for part in line.replace(", or ", ",|or ").split("|")]
    x, y, anchor = LABELS.get((before, after), ((x0 + x1) / 2, (y0 + y1) / 2 - 6, "middle"))
    return [
        f'<text x="{x:.0f}" y="{y + 16 * i:.0f}" fill="{INK}" font-size="13" text-anchor="{anchor}">'
        f"{escape(line)}</text>"
        for i, line in enumerate(lines)
    ]


# -- the table --------------------------------------------------------------------------------------------


def table() -> list[list[str]]:
    """The transitions in words: a heading, then a row for each state. For reStructuredText."""
    found = {(each.before, each.given): each for each in transitions()}
    rows = [["state", *(f"``{name}``" if "(" in name else name for name in CALLS.values()), "by itself"]]
    for state in states():
        takes_calls = any((state, given) in found for given in CALLS)
        by_itself = [f"{EVENTS[name]} {_outcome(found[state, name])}" for name in EVENTS if (state, name) in found]
        rows.append(
            [
                f"**{state}**",
                *(_outcome(found.get((state, given))) if takes_calls else "waits its turn" for given in CALLS),
                "\n\n".join(by_itself) or "nothing",
            ]
        )
    return rows


def _outcome(transition: Transition | None) -> str:
    if transition is None:
        return "``NoTransition``"
    if transition.before == transition.after:
        return "stays"
    deeds = ", ".join(f"``{deed}``" for deed in transition.deeds)
    return f"→ {transition.after}" + (f" ({deeds})" if deeds else "")


if __name__ == "__main__":
    PICTURE.write_text(chart(alone=True), encoding="utf-8")
    print(f"written: {PICTURE}")
