"""The ordinary tests, as far as they can run on Windows, run there by pytest."""

import os
import re
import subprocess
import threading

from .lender import Lender
from .rig import Windows

LIMIT = 300.0

FILES = (
    "tests/test_framing.py",
    "tests/test_retry.py",
    "tests/test_logging.py",
    "tests/test_ports_on_windows.py",
    "tests/basics/test_connection.py",
    "tests/basics/test_manager_table.py",
    "tests/line/test_windows_errors.py",
    "tests/testing/test_manual_clock.py",
    "tests/testing/test_simulated_url.py",
    "tests/serial/test_frames.py",
    "tests/serial/test_reader.py",
    "tests/test_protocols.py",
    "tests/test_signals.py",
    "tests/test_aio.py",
)

LEFT_OUT = (
    "test_any_cutting_gives_the_same_frames_and_tells_the_same",  # these take long, and are about no system
    "test_hostile_bytes_raise_nothing_and_no_frame_is_longer_than_the_limit",
    "test_memory_is_bounded",
    "test_the_time_it_takes_grows",
    "test_subscriptions_are_never_lost",
    "test_without_ptys_the_port_is_a_url",  # the guest's devices are lent
    "test_device_works_where_there_is_no_termios_and_no_poll",
    "test_when_all_that_came_was_told",  # makes a POSIX line
    "test_a_connected_manager_has_no_thread_and_few_descriptors",  # a thread reads there, not the loop
    "test_receivers_are_called_on_the_thread_of_the_loop",
    "test_waiting_for_data_on_the_thread_of_the_loop_is_refused",
    "test_thirty_lines_in_one_loop_have_no_thread",
)
CHOSEN = " and ".join(f"not {name}" for name in LEFT_OUT)


def run_suite(windows: Windows, log: str) -> tuple[bool, str]:
    """Runs the tests; returns whether they passed, and pytest's last line."""
    with Lender(windows.devices) as lender:
        windows.environment["LENDER"] = lender.address
        plugins = ("-p", "tests.windows.lent", "-p", "no:cacheprovider")
        options = ("-q", "-o", "addopts=--strict-markers", "--timeout=60", "-k", CHOSEN)
        process = windows.python("-m", "pytest", *options, *plugins, *FILES)
        killer = threading.Timer(LIMIT, process.kill)
        killer.start()
        assert process.stdout is not None
        said = b""
        with open(log, "wb") as file:
            while data := os.read(process.stdout.fileno(), 65536):
                file.write(data)
                file.flush()
                said = (said + data)[-4000:]
        killer.cancel()
        try:
            status = process.wait(10)
        except subprocess.TimeoutExpired:
            return False, "pytest does not end"
    lines = said.decode(errors="replace").splitlines() or [""]
    last = next((line for line in reversed(lines) if re.search(r"\d+ (passed|failed|error)", line)), lines[-1])
    return status == 0 and "passed" in last, last.strip("= \r")
