"""Waiting for descriptors, where there is `poll`, where there is none, and where it lies."""

import os
import select
from collections.abc import Iterator

import pytest

from cnxman._line import waiting
from cnxman._line.waiting import POLLIN, POLLNVAL, POLLOUT, Poller, SelectPoller, new_poller


class LyingPoll:
    """`select.poll` as macOS has it for some devices: no descriptor is valid."""

    def register(self, fd: int, events: int) -> None:
        self.fd = fd

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        return [(self.fd, POLLNVAL)]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture(params=["poll", "select"])
def poller(request: pytest.FixtureRequest, pipe: tuple[int, int]) -> Poller:
    return new_poller(pipe[0]) if request.param == "poll" else SelectPoller()


def test_poller_reports_what_can_be_read_and_written(poller: Poller, pipe: tuple[int, int]) -> None:
    out, in_ = pipe
    poller.register(out, POLLIN)
    assert poller.poll(0) == []
    poller.register(in_, POLLOUT)
    assert poller.poll(0) == [(in_, POLLOUT)]
    os.write(in_, b"x")
    assert dict(poller.poll(None)) == {out: POLLIN, in_: POLLOUT}
    poller.unregister(in_)
    assert poller.poll(1000) == [(out, POLLIN)]


def test_poller_without_events_of_a_descriptor_ignores_its_data(poller: Poller, pipe: tuple[int, int]) -> None:
    poller.register(pipe[0], 0)
    os.write(pipe[1], b"x")
    assert poller.poll(0) == []


def test_poller_reports_both_events_of_one_descriptor() -> None:
    left, right = os.openpty()
    poller = SelectPoller()
    poller.register(left, POLLIN | POLLOUT)
    os.write(right, b"x\n")
    assert poller.poll(1000) == [(left, POLLIN | POLLOUT)]
    os.close(left)
    os.close(right)


def test_poller_reports_a_closed_descriptor(poller: Poller) -> None:
    out, in_ = os.pipe()
    poller.register(out, POLLIN)
    os.close(out)
    os.close(in_)
    assert poller.poll(0) == [(out, POLLNVAL)]


@pytest.mark.parametrize("missing", [True, False])
def test_select_stands_in_where_poll_is_missing_or_lies(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[int, int], missing: bool
) -> None:
    if missing:
        monkeypatch.delattr(select, "poll")
    else:
        monkeypatch.setattr(select, "poll", LyingPoll)
    assert isinstance(new_poller(pipe[0]), SelectPoller)


def test_poll_is_used_where_it_is_right(pipe: tuple[int, int]) -> None:
    poller = new_poller(pipe[0])
    assert not isinstance(poller, SelectPoller)
    os.write(pipe[1], b"x")
    assert poller.poll(0) == [], "nothing is registered yet"


def test_closed_descriptor_is_no_lie_of_poll() -> None:
    out, in_ = os.pipe()
    os.close(out)
    os.close(in_)
    assert not isinstance(waiting.new_poller(out), SelectPoller)
