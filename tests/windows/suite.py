"""The ordinary tests, as far as they can run on Windows, run there by pytest."""

import os
import re
import subprocess
import threading
from collections.abc import Iterator

from .lender import Lender
from .rig import Windows, in_windows

LIMIT = 600.0

PARTS = {
    "1": (
        "tests/test_framing.py",
        "tests/test_retry.py",
        "tests/test_signals.py",
        "tests/test_aio.py",
        "tests/test_port_watch.py",
        "tests/test_ports.py",
        "tests/test_ports_on_windows.py",
        "tests/basics",
        "tests/compat/test_names.py",
        "tests/compat/test_serial.py",
        "tests/compat/test_url.py",
        "tests/line/test_windows_errors.py",
        "tests/manager",
        "tests/system/test_documentation.py",  # the code on each page
    ),
    "2": (
        "tests/test_logging.py",
        "tests/test_protocols.py",
        "tests/compat/test_outages.py",
        "tests/serial",
        "tests/testing/test_manual_clock.py",
        "tests/testing/test_simulated_url.py",
    ),
}
"""Each part runs on a machine of its own; both take about the same time."""

LEFT_OUT = {
    "takes long, and is about no system": (
        "test_any_cutting_gives_the_same_frames_and_errors",
        "test_hostile_bytes_raise_nothing_and_no_frame_is_longer_than_the_limit",
        "test_memory_is_bounded",
        "test_the_time_it_takes_grows",
        "test_any_cutting_logs_the_same",
        "test_an_interrupt_at_any_place",
        "test_teardown_while_everybody_connects",
        "test_thousands_of_failures",
        "test_subscriptions_are_never_lost",  # 15,000 turns with a change of threads at each step
        "test_after_a_return_attempts_follow_each_other_quickly_for_a_while",
        "test_the_manager_does_as_the_model",
        "test_any_text_is_read_or_refused_and_nothing_else",
        "test_statistics_may_be_asked_for_at_any_moment",
        "test_eight_threads_at_once",
        "(test_waits and test_wait_ends_with_its_time)",  # its clock goes by 16 ms there
        "test_200_listeners_leave_nothing_behind",
        "test_200_pulls_are_200_read_errors",  # as the rig's own scenario
        "(test_threads and test_a_script_that_ends_without_tearing_down)",
        "test_everything_at_once_ends_and_leaves_nothing",
        "(test_each_pair_of_calls_ends and unplug and read and not reset)",
    ),
    "is about descriptors, /proc or a node": (
        "test_a_descriptor_that_became_somebody_elses_is_left_alone",
        "test_nor_does_it_read_a_port_that_was_opened_in_place_of_its_own",
        "test_a_port_that_is_just_being_closed_by_its_owner_is_not_waited_for_again",
        "test_cancel_read_is_nothing_to_the_listener",
        "test_a_port_that_is_ready_and_has_nothing_again_and_again_is_lost",
        "test_a_port_that_has_nothing_now_and_then_is_not_lost",
        "test_a_program_that_inherited_the_descriptor_keeps_nobody_out",
        "test_a_port_that_is_kept_by_tiocexcl_is_busy_to_those_who_are_not_root",
        "test_a_connection_keeps_others_out_until_it_is_closed",
        "test_a_line_that_takes_nothing_for_once_is_asked_again",
        "test_a_port_that_has_nothing_to_read_after_all_is_waited_for_again",
        "test_without_eventfd_a_pipe_does",
        "test_an_idle_line_costs_no_wake_up",  # the rig's own scenario says it of Windows
        "test_beyond_1024_descriptors_the_line_reads_and_writes",
        "test_a_full_descriptor_table_is_a_failed_attempt",
        "test_the_drivers_counters_are_given_under_their_names",
        "test_it_is_read_as_fast_as_a_plain_port",
        "test_holders_of_an_adapter_are_found_by_its_url_too",
        "test_the_hint_for_a_forbidden_adapter_is_that_of_its_node",
        "test_the_link_that_udev_named_after_the_adapter",
        "(test_what_cannot_be_opened_is_false and (make_folder or make_null))",
        "test_the_presence_of_a_node",  # of a port in Windows' registry: test_ports_on_windows
        "test_an_adapter_is_looked_up_only_after_dev_has_changed",
        "test_a_time_stamp_that_is_young_is_not_relied_on",
        "test_holders_are_named_by_pid_and_command",
        "test_processes_that_end_or_are_anothers_are_passed_over",
        "test_without_ptys_the_port_is_a_url",
        "test_device_works_where_there_is_no_termios_and_no_poll",
        "test_when_all_that_came_was_delivered",
        "test_a_line_that_is_closed_between_two_parts_of_a_write",
    ),
    "looks at the far end by `select`": (
        "test_a_write_to_a_stalled_line_fails_after_write_timeout_and_says",  # the rig's own scenario says it
        "test_a_write_is_not_sent_again_after_an_outage",
    ),
    "is about POSIX signals": (
        "test_ctrl_c_while_waiting_for_ones_turn",
        "test_a_signal_handler_may_call_the_manager_while_its_thread_waits",
        "test_signal_handler_may_cancel_and_close_a_read",
    ),
    "is about asyncio's loop, which reads by itself on POSIX": (
        "test_a_connected_manager_has_no_thread_and_few_descriptors",
        "test_receivers_are_called_on_the_thread_of_the_loop",
        "test_waiting_for_data_on_the_thread_of_the_loop_is_refused",
        "test_thirty_lines_in_one_loop_have_no_thread",
    ),
    "is what pyserial can do on POSIX alone": (
        "test_break_and_flow_control",
        "test_what_only_another_system_has_says_so",
        "test_setting_that_the_port_has_not_is_a_valueerror_at_opening",
        "test_what_is_no_port_raises_though_it_need_not_exist",
    ),
    "is what Wine, or a pseudo-terminal under it, cannot show": (
        "test_a_port_that_another_process_holds_is_false",
        "test_two_connections_of_one_process_keep_each_other_out",
        "test_two_that_read_the_same_port_share_its_bytes",
        "test_exclusive_set_while_open_is_kept_over_an_outage",
        "test_a_line_without_modem_lines_says_so",
        "test_modem_lines_a_pty_has_not_raise_with_errno",
        "test_reset_input_buffer",  # a read robbed by a purge: "broken pipe"
        "test_read_with_timeout_0_takes_what_has_arrived",  # to be asked is not enough for what waits in Linux' kernel
        "test_in_waiting_counts_what_has_arrived",
    ),
    "closes a port under a read, which crashes the interpreter on Windows": (
        "test_a_port_that_its_owner_closes_is_a_read_error",
        "test_a_port_that_is_closed_under_a_busy_receiver",
    ),
    "needs what a write on Windows does not tell: that certainly nothing went out": (
        "test_write_that_finds_the_line_lost_goes_out_on_the_next_one",
        "test_program_that_opens_by_url_gets_a_kept_up_line",
        "test_setting_that_the_port_refuses_is_taken_back",
        "test_readerthread_of_pyserial_runs_and_stops",
    ),
}
"""Why tests do not run there, and which; those that use what Windows' modules lack are skipped by themselves."""

CHOSEN = " and ".join(f"not {name}" for names in LEFT_OUT.values() for name in names)


def run_part(cache: str, version: str, part: str, log: str) -> tuple[bool, str]:
    """Runs a part of the tests; returns whether they passed, and what pytest says in the end."""
    with Windows(cache, version, f"suite-{part}") as windows, Lender(windows.devices) as lender:
        windows.environment["LENDER"] = lender.address
        plugins = ("-p", "tests.windows.lent", "-p", "no:cacheprovider")
        folder = f"--basetemp={in_windows(windows.temporary)}"
        options = (
            "-q",
            "-rfEs",
            "-o",
            "addopts=--strict-markers",
            "--timeout=180",
            "--durations=25",
            folder,
            "-k",
            CHOSEN,
        )
        process = windows.python("-m", "pytest", *options, *plugins, *PARTS[part])
        killer = threading.Timer(LIMIT, process.kill)
        killer.start()
        assert process.stdout is not None
        said = b""
        with open(log, "wb") as file:
            while data := os.read(process.stdout.fileno(), 65536):
                file.write(data)
                file.flush()
                said = (said + data)[-50_000:]
        killer.cancel()
        try:
            status = process.wait(10)
        except subprocess.TimeoutExpired:
            return False, "pytest does not end"
    lines = said.decode(errors="replace").splitlines() or [""]
    told = [line for line in lines if re.match(r"(FAILED|ERROR) |=* *\d+ (passed|failed|error)", line)] or lines[-1:]
    return status == 0 and "passed" in told[-1], "\n".join(line.strip("= \r") for line in told)


class Suite:
    """The tests, running beside whatever else does. All ends with the process."""

    def __init__(self, cache: str, version: str, logs: str) -> None:
        self._results: dict[str, tuple[bool, str, str]] = {}
        self._threads = []
        for part in PARTS:
            log = os.path.join(logs, f"{version}-suite-{part}.log")
            self._threads.append(threading.Thread(target=self._run, args=(cache, version, part, log), daemon=True))
            self._threads[-1].start()

    def _run(self, cache: str, version: str, part: str, log: str) -> None:
        try:
            result = run_part(cache, version, part, log)
        except Exception as error:
            result = (False, f"the machine of part {part} failed: {error!r}")
        self._results[part] = (*result, log)

    def results(self) -> Iterator[tuple[bool, str, str]]:
        """Waits for each part: whether it passed, what pytest says in the end, and where all it said is."""
        for part, thread in zip(PARTS, self._threads, strict=True):
            thread.join()
            yield self._results[part]
