"""Runs a manager's inputs one at a time, to completion, in the order they came.

Theory of operation. Inputs stand in one line. Each has an owner: the thread that called and waits for it, or
nobody. The owner runs its own input when it comes to the head of the line; one that nobody waits for is run by the
manager's *worker*, a thread that lives while the manager has something to keep up. So an attempt asked for
by a caller runs on that caller's thread (where a KeyboardInterrupt reaches it), and everything that happens
by itself, alarms and retries, runs on the worker.

Who waits and who doesn't:

* A thread of the user's waits until its input is done.
* A call from inside (on the thread that is running an input, so from a receiver or from `try_connect`; or from a signal
  handler, on a thread that waits for its turn) is put in line and returns at once; the outermost call on that
  thread runs it before it returns.
* A call on a thread of the library's (a listener, another manager's worker), or from inside another manager's input,
  that would have to wait is put in line for the worker and returns at once: what runs now may be waiting for that
  very thread.

`Inputs.lock` guards the line and is never held while an input, a receiver or a connection's method runs.

Ctrl-C may come anywhere in a call of the main thread's. The call ends with it; what it was doing is either undone or
brought to its end, so that whoever calls next finds no line blocked (`tests/test_interrupts.py` tries each place).
"""

import logging
import threading
from collections import deque
from collections.abc import Callable

from cnxman._manager import clock as _clock
from cnxman._manager.wait import Wait
from cnxman._threads import LibraryThread, inside, may_be_awaited, on_library_thread

_logger = logging.getLogger(__name__)

LONGEST_FAREWELL = 5.0
"""How long, in seconds, a caller waits for the worker to finish what others left to it."""


class Input:
    """One input in the line."""

    def __init__(self, name: str, run: Callable[[], None], owner: threading.Thread | None) -> None:
        self.name = name
        self.run = run
        self.owner = owner


class Alarm(Input):
    """An input that nobody waits for and that says nothing new while the last one in line is another such."""


class Retry(Input):
    """The input that a `Wait` ends in."""


class Inputs:
    """The line of inputs, and the worker that runs those that nobody waits for.

    Args:
        name: what to call the worker's thread.
    """

    def __init__(self, name: str) -> None:
        self.clock = _clock.current
        self._make_lock()
        self._name = name
        self._line: deque[Input] = deque()
        self._running: Input | None = None
        self._runner: threading.Thread | None = None
        self._wanted = False
        self._worker: Worker | None = None
        self._wait: Wait | None = None

    def _make_lock(self) -> None:
        self.lock = threading.RLock()  # by itself, for Ctrl-C may come between a Condition's steps of taking its lock
        self._change = threading.Condition(self.lock)

    # -- giving inputs ------------------------------------------------------------------------------------

    def give(self, name: str, run: Callable[[], None]) -> None:
        """Put an input in line; return when it is done, or at once where the caller must not wait.

        Raises:
            Exception: what the input raised, if the caller waited for it; otherwise that is logged.
        """
        me = threading.current_thread()
        given = Input(name, run, me)
        is_mine = False
        try:
            with self.lock:
                is_mine = not self._is_left_to_others(given)
                if is_mine:
                    self._line.append(given)
            if is_mine:
                self._run_in_turn(given)
        except BaseException:
            self._forget(given)
            raise
        finally:
            if is_mine:
                self._finish(me)

    def _is_left_to_others(self, given: Input) -> bool:
        """Whether the caller goes on at once; somebody will run the input then. The lock is held."""
        me, name = given.owner, given.name
        if self._runner is me or any(i.owner is me for i in self._line):
            given.owner = None if me is self._worker else me
            self._line.append(given)
            return True
        if not may_be_awaited() or not (self._running or self._line):
            return False
        if not (self._line and self._line[-1].name == name and self._line[-1].owner is None):
            self._leave_to_worker(given)  # else the one in front of it does all that it could do
        return True

    def post(self, alarm: Alarm) -> None:
        """Leave an alarm to the worker; ignored while nothing is kept up."""
        with self.lock:
            if self._wanted and not (self._line and isinstance(self._line[-1], Alarm)):
                self._leave_to_worker(alarm)

    def join(self, running: Callable[[], bool], barred_by: tuple[str, ...]) -> bool:
        """Take the outcome of the input under way instead of giving one of one's own.

        Args:
            running: whether that input is (still) one to be joined; asked with the lock held.
            barred_by: names of inputs that must not stand in line before the caller.

        Returns:
            Whether it was joined; if so it is over now, unless the caller is one that must not wait.
        """
        with self.lock:
            joined = self._running
            if joined is None or not running() or any(i.name in barred_by for i in self._line):
                return False
            if not may_be_awaited():
                self._change.wait_for(lambda: self._running is not joined)
            return True

    def must_not_wait(self) -> bool:
        """Whether the caller is inside an input, or on a thread that an input may be waiting for."""
        return self._runner is threading.current_thread() or on_library_thread()

    # -- the worker's life --------------------------------------------------------------------------------

    def keep_up(self, kept: object) -> None:
        """Have a worker from now on, which holds `kept` alive.

        Raises:
            RuntimeError: if the system gives us no thread.
        """
        with self.lock:
            self._wake_worker().kept = kept
            self._wanted = True

    def let_go(self) -> None:
        """Nothing is to be kept up any more: no wait, and soon no worker."""
        with self.lock:
            self._wanted = False
            self._forget_wait()
            self._change.notify_all()

    def wait_then_run(self, wait: Wait) -> None:
        """Have the worker run an input later. There is one such wait at a time."""
        with self.lock:
            self._wait = wait
            self._change.notify_all()

    def stop_waiting(self) -> None:
        """Forget what `wait_then_run` asked for, also if its time has just come."""
        with self.lock:
            self._forget_wait()

    def _forget_wait(self) -> None:
        self._wait = None
        for stale in [i for i in self._line if isinstance(i, Retry)]:
            self._line.remove(stale)

    def leave_to_parent(self) -> None:
        """In a forked child: there is no worker here, and nobody will ever release a lock that was held."""
        self._make_lock()
        self._line.clear()
        self._running = self._runner = self._worker = self._wait = None
        self._wanted = False

    @property
    def is_busy(self) -> bool:
        """Whether anything runs, waits, or is kept up."""
        return self._wanted or self._running is not None or bool(self._line)

    # -- running them -------------------------------------------------------------------------------------

    def _run_in_turn(self, given: Input) -> None:
        try:
            with self.lock:
                try:
                    self._change.wait_for(lambda: self._running is None and self._line[0] is given)
                    self._running, self._runner = given, threading.current_thread()
                finally:
                    self._line.remove(given)  # also when Ctrl-C ended the waiting
                    self._change.notify_all()
            inside.depth += 1
            try:
                given.run()
            finally:
                inside.depth -= 1
        finally:
            with self.lock:
                self._is_over(given)

    def _is_over(self, given: Input) -> None:
        if self._running is given:
            self._running = self._runner = None
            self._change.notify_all()

    def _forget(self, given: Input) -> None:
        """It was broken off: whatever Ctrl-C has left undone of its coming and going is done now."""
        with self.lock:
            if given in self._line:
                self._line.remove(given)
            self._is_over(given)
            self._change.notify_all()

    def _finish(self, me: threading.Thread) -> None:
        """What is left to do after an input of this thread's own: what came from inside it, and a farewell."""
        try:
            self._run_what_came_from_inside(me)
        finally:
            with self.lock:
                after_interrupt = [i for i in self._line if i.owner is me]
                self._leave_to_worker(*after_interrupt)
            self._see_the_worker_off()

    def _run_logged(self, given: Input) -> BaseException | None:
        """Run an input whose caller has gone on: what it raises can only be logged.

        Returns:
            A KeyboardInterrupt or SystemExit that belongs to a thread of the user's, to be raised once all is done. (A
            worker must outlive whatever it runs.)
        """
        try:
            self._run_in_turn(given)
        except BaseException as error:
            if not isinstance(error, Exception) and not on_library_thread():
                return error
            _logger.exception("%s() raised; whoever called it has not waited for it", given.name)
        return None

    def _run_what_came_from_inside(self, me: threading.Thread) -> None:
        stop = None
        while (given := self._next_of(me)) is not None:
            stop = self._run_logged(given) or stop
        if stop is not None:
            raise stop

    def _next_of(self, me: threading.Thread) -> Input | None:
        with self.lock:
            mine = [i for i in self._line if i.owner is me]
            if mine and may_be_awaited() and (self._running or self._line[0] is not mine[0]):
                self._leave_to_worker(*mine)  # it would have to wait
                return None
            return mine[0] if mine else None

    # -- the worker ---------------------------------------------------------------------------------------

    def _leave_to_worker(self, *inputs: Input) -> None:
        """Have the worker run them; what isn't in line yet is put there. The lock is held."""
        for given in inputs:
            self._wake_worker()
            given.owner = None
            if given not in self._line:
                self._line.append(given)

    def _wake_worker(self) -> "Worker":
        """The worker, started if need be. The lock is held."""
        worker = self._worker
        if worker is None or not worker.is_alive():  # one whose start failed, or was broken off by Ctrl-C, is none
            worker = self._worker = Worker(self._name, self._work, self.clock)
            worker.start()
        self._change.notify_all()
        return worker

    def _see_the_worker_off(self) -> None:
        """When a caller's disconnect() or teardown() returns, no thread is left."""
        if on_library_thread():
            return
        with self.lock:
            ending = self._worker
            if ending is None or self._wanted or not ending.is_alive():
                return
            self._change.wait_for(lambda: self._wanted or self._worker is not ending, LONGEST_FAREWELL)
            if self._worker is ending:
                return
        ending.join(LONGEST_FAREWELL)

    def _work(self) -> None:
        while True:
            with self.lock:
                if self._worker is not threading.current_thread():
                    return  # Ctrl-C broke off its start, so another one was started
                given, wait = self._next_of_worker(), self._wait
                if given is None and not self._wanted and not any(i.owner is None for i in self._line):
                    self._worker = None
                    self._change.notify_all()
                    return
                if given is None:
                    self.clock.wait(self._change, wait.longest_nap(self.clock) if wait else None)
            if given is not None:
                self._run_logged(given)
            elif wait is not None:
                self._look_up_from(wait)

    def _next_of_worker(self) -> Input | None:
        first = self._line[0] if self._line and self._running is None else None
        return first if first is not None and first.owner is None else None

    def _look_up_from(self, wait: Wait) -> None:
        """Put the retry in line if its time has come."""
        is_over = wait.is_over(self.clock)
        with self.lock:
            if is_over and self._wait is wait:
                self._wait = None
                self._line.append(Retry("retry", wait.run, None))


class Worker(LibraryThread):
    """The manager's own thread."""

    def __init__(self, name: str, work: Callable[[], None], clock: _clock.Clock) -> None:
        super().__init__(name)
        self._work = work
        self.clock = clock
        """What its waits go by."""
        self.kept: object = None
        """What lives at least as long as this thread."""

    def run(self) -> None:
        """Run until nothing is to be kept up."""
        self._work()
