"""The seconds that a manager counts as spent down."""

import pytest

from cnxman import ConnectionException, ConnectionManager, basics
from cnxman.basics import ManagerStatistics
from tests.kit.managers import NEVER, Script


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock of the statistics, in the test's hand."""
    clock = [100.0]
    monkeypatch.setattr(basics.time, "monotonic", lambda: clock[0])
    return clock


LOST = ConnectionException("lost", OSError("lost"))


def test_each_outage_counts_from_the_loss_to_the_return(now: list[float]) -> None:
    counted = ManagerStatistics()
    counted.count_connect()
    for length in (1.5, 2.0):
        now[0] += 10
        counted.count_loss(LOST)
        now[0] += length / 2
        counted.count_failure(LOST)
        now[0] += length / 2
        counted.count_connect()
    assert counted.snapshot().down_seconds == 3.5


def test_an_outage_under_way_counts_up_to_the_snapshot(now: list[float]) -> None:
    counted = ManagerStatistics()
    counted.count_failure(LOST)
    now[0] += 4
    first = counted.snapshot()
    now[0] += 4
    assert (first.down_seconds, counted.snapshot().down_seconds) == (4.0, 8.0)


def test_what_was_disconnected_is_not_down(now: list[float]) -> None:
    counted = ManagerStatistics()
    counted.count_failure(LOST)
    now[0] += 1
    counted.count_end()
    now[0] += 1000
    assert counted.snapshot().down_seconds == 1.0


def test_a_manager_counts_them(now: list[float]) -> None:
    connection = Script(False, True)
    manager = ConnectionManager(connection, retry=NEVER)
    manager.connect()
    now[0] += 2
    manager.connect()
    now[0] += 5
    assert manager.statistics.down_seconds == 2.0
    connection.raise_alarm(LOST)
    manager.disconnect()
    assert manager.statistics.down_seconds == 2.0
    manager.teardown()
