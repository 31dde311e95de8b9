"""Waits of callers, which Ctrl-C can end on Windows too."""

import threading
import time

import pytest

from cnxman import _threads
from cnxman._threads import wait_for


@pytest.fixture(params=[None, 0.01], ids=["in one piece", "in slices"], autouse=True)
def wait_slice(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, "WAIT_SLICE", request.param)


def test_wait_ends_when_its_condition_holds() -> None:
    change, told = threading.Condition(), []

    def tell() -> None:
        with change:
            told.append(True)
            change.notify_all()

    with change:
        threading.Timer(0.05, tell).start()
        assert wait_for(change, lambda: told)
        assert wait_for(change, lambda: told, 0)


def test_wait_ends_with_its_time() -> None:
    change = threading.Condition()
    began = time.monotonic()
    with change:
        assert not wait_for(change, lambda: False, 0.05)
    assert time.monotonic() - began >= 0.03  # Windows' clock is coarse
