"""From samples to medians and ratios: the table, what must hold, and the picture."""

import statistics
from collections.abc import Mapping, Sequence

Samples = Mapping[str, Mapping[str, Sequence[Mapping[str, float] | None]]]  # by metric, reader, round

FAST = "pyserial-asyncio-fast"
OUR_OWN = ("cnxman", "cnxman asyncio", "cnxman attach", "cnxman.compat")
Bounds = Sequence[tuple[str, str, str, str | None, str, float]]
BOUNDS_IN_LOOP: Bounds = (  # the same of its asyncio face
    ("asyncio: packet CPU vs pyserial-asyncio-fast", "packets", "CPU us", FAST, "<=", 1.15),
    ("asyncio: packet CPU vs serialx", "packets", "CPU us", "serialx asyncio", "<=", 1),
    ("asyncio: flood CPU/MB vs pyserial-asyncio-fast", "flood", "CPU ms/MB", FAST, "<=", 0.5),
    ("asyncio: flood MB/s vs pyserial-asyncio-fast", "flood", "MB/s", FAST, ">=", 2),
    ("asyncio: 300 KB/s CPU vs pyserial-asyncio-fast", "300 KB/s", "CPU ms/s", FAST, "<=", 1.15),
    ("asyncio: latency p99 vs pyserial-asyncio-fast", "latency", "p99 us", FAST, "<=", 1),
    ("asyncio: threads a line", "a line", "threads", None, "<=", 0.01),
    ("asyncio: KiB a line", "a line", "KiB", None, "<=", 12),
    ("asyncio: most lines", "most", "lines", None, ">=", 1500),
)
BOUNDS: Bounds = (  # a figure of cnxman's (of cnxman.compat's, for read), or its ratio to another's, and its limit
    ("flood CPU/MB vs ReaderThread", "flood", "CPU ms/MB", "pyserial ReaderThread", "<=", 0.5),
    ("flood MB/s vs ReaderThread", "flood", "MB/s", "pyserial ReaderThread", ">=", 1.2),
    ("packet CPU vs floor", "packets", "CPU us", "floor", "<=", 1.05),
    ("300 KB/s CPU vs ReaderThread", "300 KB/s", "CPU ms/s", "pyserial ReaderThread", "<=", 1.1),
    ("300 KB/s callbacks vs ReaderThread", "300 KB/s", "calls/s", "pyserial ReaderThread", "<=", 0.5),
    ("read(1) CPU vs pyserial's", "read(1)", "CPU us", "pyserial ReaderThread", "<=", 1.5),
    ("read(4096) CPU vs pyserial's", "read(4096)", "CPU us", "pyserial ReaderThread", "<=", 1),
    ("latency p50 vs floor", "latency", "p50 us", "floor", "<=", 1.1),
    ("latency p99 vs floor", "latency", "p99 us", "floor", "<=", 1.5),
    ("idle wake-ups/s", "idle", "wake-ups/s", None, "<=", 0),
    ("most lines", "most", "lines", None, ">=", 1500),
    ("slowest stop, ms", "stop", "ms", None, "<=", 5),
    ("stalled receiver, KB dropped", "stall", "KB dropped", None, "<=", 0),
    ("stalled receiver, 256 KiB buffer, MB grown", "bounded", "MB grown", None, "<=", 6),
)
PANELS = {"flood": "CPU ms/MB", "packets": "CPU us", "300 KB/s": "CPU ms/s", "latency": "p99 us"}
PANELS |= {"1000 lines": "CPU ms/s", "idle": "wake-ups/s", "stall": "KB dropped"}
INK, PAPER, OTHER, OURS = "#1f2328", "#ffffff", "#9aa4af", "#1f77b4"
DARK = """<style>
@media (prefers-color-scheme: dark) {
  .chart text { fill: #d7dde4 }
  .chart .paper { fill: #0d1117 }
  .chart .other { fill: #57606a }
  .chart .cnxman { fill: #58a6ff }
}
</style>"""  # on top of the elements' own colours, which every viewer knows


def median(samples: Samples, metric: str, key: str, peer: str, to: str | None = None) -> float | None:
    """Return a median, or that of the ratios in each round: what slows a whole round falls out of them."""
    runs = samples.get(metric, {})
    rounds = zip(runs.get(peer, ()), runs.get(to or peer, ()), strict=False)
    pairs = [(run[key], base[key]) for run, base in rounds if run and base]
    values = [value / base if to else value for value, base in pairs if base or not to]
    return statistics.median(values) if values else None


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(samples: Samples, peers: Sequence[str]) -> str:
    """Return a row a figure, a column a reader; in brackets, how many times the floor's it is."""

    def cell(metric: str, key: str, peer: str) -> str:
        times = median(samples, metric, key, peer, "floor") if peer != "floor" else None
        return number(median(samples, metric, key, peer)) + (f" ({number(times)})" if times else "")

    rows = [["", *peers], ["---"] * (len(peers) + 1)]
    for metric, runs in samples.items():
        keys = next((list(run) for each in runs.values() for run in each if run), [])
        rows += [[f"{metric}: {key}", *(cell(metric, key, peer) for peer in peers)] for key in keys]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def bounds(samples: Samples) -> list[str]:
    """Return a line for each thing that must hold and was measured."""
    lines = []
    rows = [("cnxman.compat" if row[1].startswith("read(") else "cnxman", row) for row in BOUNDS]
    rows += [("cnxman asyncio", row) for row in BOUNDS_IN_LOOP]
    for ours, (title, metric, key, to, sign, limit) in rows:
        value = median(samples, metric, key, ours, to)
        if value is not None:
            rounded = round(value, 2)  # 4,679 calls a second are half of 9,356
            holds = rounded <= limit if sign == "<=" else rounded >= limit
            lines.append(f"{title} {number(value)} ({sign} {limit:g}){'' if holds else ' NOT HELD'}")
    return lines


def svg(samples: Samples, peers: Sequence[str]) -> str:
    """Return bars, a panel a figure; those beyond four times the floor's and ours are cut off, with an arrow."""
    parts, y = [DARK, f'<rect class="paper" width="100%" height="100%" fill="{PAPER}"/>'], 0
    for metric, key in PANELS.items():
        shown = {peer: value for peer in peers if (value := median(samples, metric, key, peer)) is not None}
        most = max(shown.values(), default=0)
        full = min(most, 4 * max(shown.get("floor", 0), shown.get("cnxman", 0)) or most) or 1
        y += 30
        parts.append(f'<text x="10" y="{y}" fill="{INK}" font-weight="bold">{metric}: {key} (less is better)</text>')
        for peer, value in shown.items():
            y += 20
            width = max(1, 480 * min(value / full, 1))
            kind, colour = ("cnxman", OURS) if peer in OUR_OWN else ("other", OTHER)
            arrow = " →" if value > full else ""
            parts += [
                f'<text x="172" y="{y}" fill="{INK}" text-anchor="end">{peer}</text>',
                f'<rect class="{kind}" x="180" y="{y - 11}" width="{width:.0f}" height="14" fill="{colour}"/>',
                f'<text x="{186 + width:.0f}" y="{y}" fill="{INK}">{number(value)}{arrow}</text>',
            ]
    about = 'role="img" aria-label="Figures of cnxman and other readers, as bars"'
    font = 'font-family="sans-serif" font-size="13"'
    parts.insert(0, f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 760 {y + 15}" {about} {font}>')
    return "\n".join([*parts, "</svg>\n"])
