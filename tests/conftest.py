"""What every test has to leave behind: no thread of the library, and no descriptor."""

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import none

from tests.kit.threads import is_library_thread

PATIENCE = 60.0

# The same examples on each run, and no bound on their time: the machine may be busy.
settings.register_profile(
    "steady", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")

# A shell that starts the tests in the background, or `nohup`, has these ignored, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish() -> None:
    """Let the tests' own collections pass over all that the modules made: many tests collect, some of them often."""
    # With this Hypothesis makes its generator. On 3.14 it looks for who holds that, and finds none that is frozen.
    given(none())(lambda _: None)()
    gc.collect()
    gc.freeze()


def held() -> tuple[set[threading.Thread], int]:
    """What is held now: the library's threads, and how many descriptors."""
    threads = {thread for thread in threading.enumerate() if is_library_thread(thread)}
    descriptors = len(os.listdir("/proc/self/fd")) if os.name == "posix" and os.path.isdir("/proc/self/fd") else 0
    return threads, descriptors


def left(before: tuple[set[threading.Thread], int]) -> list[str]:
    """What is held now and was not before."""
    threads, descriptors = held()
    more = [f"the thread {thread.name!r}" for thread in threads - before[0]]
    if descriptors > before[1]:
        more.append(f"{descriptors - before[1]} descriptors")
    return more


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves something behind. What is just ending is given its time."""
    before = held()
    yield
    if not left(before):
        return
    end = time.monotonic() + PATIENCE
    gc.collect()
    while (more := left(before)) and time.monotonic() < end:
        time.sleep(0.01)
        gc.collect()
    assert not more, f"left behind: {', '.join(more)}"
