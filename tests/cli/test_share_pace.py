"""How often `cnxman share` reads its device."""

import pytest

from cnxman.cli.sharing import pace as pace_module
from cnxman.cli.sharing.pace import GATHERED, LONGEST_REST, Pace


class Clock:
    """A clock that is set by hand, and by sleeping."""

    def __init__(self):
        self.now = 100.0
        self.rests = []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.rests.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pace_module, "time", clock)
    return clock


def said(pace, clock, rate, size, count=100):
    """The device says so many bytes a second, in pieces, which gather during a rest; it is read so many times."""
    since = clock.now
    for _ in range(count):
        clock.now = max(clock.now, since + size / rate)
        came = max(1, int((clock.now - since) * rate / size)) * size
        since += came / rate
        pace.rest(came)
    return clock.rests


def test_a_line_of_921600_baud_is_read_at_once(clock):
    assert said(Pace(), clock, 92_160, 64) == []


def test_one_long_message_after_silence_is_no_flood(clock):
    pace = Pace()
    clock.now += 10
    for _ in range(4):
        pace.rest(4095)
    assert clock.rests == []
    assert not pace.is_flood


@pytest.mark.parametrize(
    ("rate", "rest"), [(250_000, LONGEST_REST), (1_000_000, GATHERED / 1e6), (4e6, GATHERED / 4e6)]
)
def test_no_more_gathers_in_a_flood_than_a_terminal_holds(clock, rate, rest):
    pace = Pace()
    rests = said(pace, clock, rate, 100, count=1000)
    assert pace.is_flood
    assert rests[-1] == pytest.approx(rest, rel=0.2)
    assert rests[-1] * rate < 4095


def test_after_a_flood_it_reads_at_once_again(clock):
    pace = Pace()
    assert said(pace, clock, 1_000_000, 1000)
    clock.now += 0.1
    clock.rests.clear()
    assert said(pace, clock, 50_000, 64) == []
