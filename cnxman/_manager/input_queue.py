"""Runs a manager's inputs one at a time, to completion, in the order they came.

Theory of operation. Inputs are in one queue. Each has an owner: the thread that called and waits for it, or
nobody. The owner runs its own input when it is at the head of the queue; one that nobody waits for is run by the
manager's *worker*, a thread that lives while the manager has something to keep up. So an attempt asked for
by a caller runs on that caller's thread (where a KeyboardInterrupt reaches it), and everything that happens
by itself, alarms and retries, runs on the worker.

Who waits and who doesn't:

* A thread of the user's waits until its input is done.
* A call from inside (on the thread that is running an input, so from a receiver or from `try_connect`; or from a signal
  handler, on a thread that waits for its input) is queued and returns at once; the outermost call on that
  thread runs it before it returns.
* A call on a thread of the library's (a listener, another manager's worker), or from inside another manager's input,
  that would have to wait is queued for the worker and returns at once: the input that runs now may be waiting for that
  very thread.

`InputQueue.lock` guards the queue and is never held while an input, a receiver or a connection's method runs.

Ctrl-C may come anywhere in a call of the main thread's. The call ends with it; what it was doing is either undone or
completed, so that the next caller finds no queue blocked (`tests/manager/test_interrupts.py` tries each place).
"""

import logging
import threading
from collections import deque
from collections.abc import Callable

from cnxman import _fork, signals
from cnxman._manager import clock as clocks
from cnxman._manager.recovery import Wait
from cnxman._threads import library_thread, on_library_thread, wait_for

_logger = logging.getLogger(__name__)

JOIN_TIMEOUT = 5.0
"""How long, in seconds, a caller waits for the worker to finish what others left to it."""


class _Inside(threading.local):
    depth = 0
    """How many inputs, of whatever managers, are running on this thread."""


_inside = _Inside()


def may_be_awaited() -> bool:
    """Whether an input that runs on another thread may be waiting for this one."""
    return signals.is_delivering() or on_library_thread() or _inside.depth > 0


class Input:
    """One input in the queue.

    Args:
        name: "connect", "disconnect", "teardown", "alarm" or "retry".
        run: feeds it to the machine.
        owner: the thread that waits for it and runs it; None for the worker.
    """

    def __init__(self, name: str, run: Callable[[], None], owner: threading.Thread | None) -> None:
        self.name = name
        self.run = run
        self.owner = owner


_wanted: "set[InputQueue]" = set()
"""Those with something to keep up: so they, and what they retain, stay alive while no thread of theirs runs."""


class InputQueue:
    """The queue of inputs, and the worker that runs those that nobody waits for.

    Args:
        name: what to call the worker's thread.
    """

    def __init__(self, name: str) -> None:
        self.clock = clocks.current
        self._make_lock()
        self._name = name
        self._queue: deque[Input] = deque()
        self._running: Input | None = None
        self._runner: threading.Thread | None = None
        self._retained: object = None  # kept alive while something is to be kept up
        self._is_wanted = False
        self.keeps_worker = True
        """Whether the worker stands by while there is something to keep up; otherwise it ends when all is done."""
        self._worker: threading.Thread | None = None
        self._ending: list[threading.Thread] = []  # workers that have run their last input
        self._wait: Wait | None = None
        _fork.after_in_child(self, InputQueue.abandon)

    def _make_lock(self) -> None:
        self.lock = threading.RLock()  # by itself, for Ctrl-C may come between a Condition's steps of taking its lock
        self._change = threading.Condition(self.lock)

    # -- submitting inputs --------------------------------------------------------------------------------

    def submit(self, name: str, run: Callable[[], None]) -> None:
        """Queue an input; return when it is done, or at once where the caller must not wait.

        Raises:
            Exception: what the input raised, if the caller waited for it; otherwise that is logged.
        """
        me = threading.current_thread()
        submitted = Input(name, run, me)
        is_mine = False
        try:
            with self.lock:
                is_mine = not self._is_left_to_others(submitted)
                if is_mine:
                    self._queue.append(submitted)
            if is_mine:
                self._run_in_turn(submitted)
        except BaseException:
            self._withdraw(submitted)
            raise
        finally:
            if is_mine:
                self._finish(me)

    def _is_left_to_others(self, submitted: Input) -> bool:
        """Whether the caller goes on at once; another thread will run the input then. The lock is held."""
        me, name = submitted.owner, submitted.name
        if self._runner is me or any(each.owner is me for each in self._queue):
            submitted.owner = None if me is self._worker else me
            self._queue.append(submitted)
            return True
        if not may_be_awaited() or not (self._running or self._queue):
            return False
        if not (self._queue and self._queue[-1].name == name and self._queue[-1].owner is None):
            self._leave_to_worker(submitted)
        return True  # skipped if the same input is already the last in the queue

    def post(self, name: str, run: Callable[[], None], *, if_retained: bool) -> None:
        """Leave an input to the worker, and return at once. Skipped after another such input.

        Args:
            name: the input's name.
            run: feeds it to the machine.
            if_retained: whether to ignore it while nothing is kept up.
        """
        with self.lock:
            if if_retained and not self._is_wanted:
                return
            if not (self._queue and self._queue[-1].name == name and self._queue[-1].owner is None):
                self._leave_to_worker(Input(name, run, None))

    def await_current(self, is_right: Callable[[], bool], unless_queued: tuple[str, ...]) -> bool:
        """Take the outcome of the input under way instead of submitting one of one's own.

        Args:
            is_right: whether that input is (still) the one to wait for; asked with the lock held.
            unless_queued: names of inputs that must not be in the queue.

        Returns:
            Whether it was awaited; if so it is over now, unless the caller is one that must not wait.
        """
        with self.lock:
            awaited = self._running
            if awaited is None or not is_right() or any(each.name in unless_queued for each in self._queue):
                return False
            if not may_be_awaited():
                wait_for(self._change, lambda: self._running is not awaited)
            return True

    def must_not_wait(self) -> bool:
        """Whether the caller is inside an input, or on a thread that an input may be waiting for."""
        return self._runner is threading.current_thread() or signals.is_delivering() or on_library_thread()

    def notify(self) -> None:
        """Have `wait_for` ask again."""
        with self.lock:
            self._change.notify_all()

    def wait_for(self, is_reached: Callable[[], bool], timeout: float | None) -> None:
        """Wait until `is_reached` is true after a `notify`, for `timeout` seconds at most."""
        with self.lock:
            wait_for(self._change, is_reached, timeout)

    # -- the worker's life --------------------------------------------------------------------------------

    def retain(self, retained: object) -> None:
        """Have a worker from now on, and keep `retained` alive.

        Raises:
            RuntimeError: if the system gives us no thread.
        """
        with self.lock:
            self._wake_worker()
            self._retained = retained
            self._is_wanted = True
            _wanted.add(self)

    def release(self) -> None:
        """Nothing is to be kept up any more: no wait, and soon no worker."""
        with self.lock:
            self._is_wanted = False
            self._retained = None
            _wanted.discard(self)
            self._forget_wait()
            self._change.notify_all()

    def schedule(self, wait: Wait) -> None:
        """Have the worker run an input later. There is one such wait at a time."""
        with self.lock:
            self._wait = wait
            self._change.notify_all()

    def cancel_wait(self) -> None:
        """Forget what `schedule` asked for, also if its time has just come."""
        with self.lock:
            self._forget_wait()

    def _forget_wait(self) -> None:
        self._wait = None
        for stale in [each for each in self._queue if each.name == "retry"]:
            self._queue.remove(stale)

    def abandon(self) -> None:
        """In a forked child: there is no worker here, and nobody will ever release a lock that was held."""
        self._make_lock()
        self._queue.clear()
        self._ending.clear()
        self._running = self._runner = self._worker = self._wait = self._retained = None
        self._is_wanted = False
        _wanted.discard(self)

    # -- running inputs -----------------------------------------------------------------------------------

    def _run_in_turn(self, submitted: Input) -> None:
        try:
            with self.lock:
                try:
                    wait_for(self._change, lambda: self._running is None and self._queue[0] is submitted)
                    self._running, self._runner = submitted, threading.current_thread()
                finally:
                    self._queue.remove(submitted)  # also when Ctrl-C ended the waiting
                    self._change.notify_all()
            _inside.depth += 1
            try:
                submitted.run()
            finally:
                _inside.depth -= 1
        finally:
            with self.lock:
                self._note_done(submitted)

    def _note_done(self, submitted: Input) -> None:
        if self._running is submitted:
            self._running = self._runner = None
            self._change.notify_all()

    def _withdraw(self, submitted: Input) -> None:
        """It was interrupted: complete whatever Ctrl-C has left undone of its coming and going."""
        with self.lock:
            if submitted in self._queue:
                self._queue.remove(submitted)
            self._note_done(submitted)
            self._change.notify_all()

    def _finish(self, me: threading.Thread) -> None:
        """After an input of this thread's own: run what was submitted inside it, and join a worker that ends."""
        try:
            self._run_submitted_inside(me)
        finally:
            with self.lock:
                after_interrupt = [each for each in self._queue if each.owner is me]
                self._leave_to_worker(*after_interrupt)
            self._join_workers()

    def _run_logged(self, submitted: Input) -> BaseException | None:
        """Run an input whose caller has gone on: what it raises can only be logged.

        Returns:
            A KeyboardInterrupt or SystemExit that belongs to a thread of the user's, to be raised once all is done. (A
            worker must outlive whatever it runs.)
        """
        try:
            self._run_in_turn(submitted)
        except BaseException as error:
            if not isinstance(error, Exception) and not on_library_thread():
                return error
            _logger.exception("%s() raised; its caller has not waited for it", submitted.name)
        return None

    def _run_submitted_inside(self, me: threading.Thread) -> None:
        interrupt = None
        while (submitted := self._next_of(me)) is not None:
            interrupt = self._run_logged(submitted) or interrupt
        if interrupt is not None:
            raise interrupt

    def _next_of(self, me: threading.Thread) -> Input | None:
        with self.lock:
            mine = [each for each in self._queue if each.owner is me]
            if mine and may_be_awaited() and (self._running or self._queue[0] is not mine[0]):
                self._leave_to_worker(*mine)  # it would have to wait
                return None
            return mine[0] if mine else None

    # -- the worker ---------------------------------------------------------------------------------------

    def _leave_to_worker(self, *inputs: Input) -> None:
        """Have the worker run them; what isn't in the queue yet is put there. The lock is held."""
        for submitted in inputs:
            self._wake_worker()
            submitted.owner = None
            if submitted not in self._queue:
                self._queue.append(submitted)

    def _wake_worker(self) -> None:
        """Start the worker if need be. The lock is held."""
        worker = self._worker
        if worker is None or not worker.is_alive():  # one whose start failed, or was interrupted by Ctrl-C, is none
            worker = self._worker = library_thread(self._name, self._work)
            self.clock.follow(worker)
            worker.start()
        self._change.notify_all()

    def _join_workers(self) -> None:
        """When a caller's disconnect() or teardown() returns, no thread is left."""
        if signals.is_delivering() or on_library_thread():
            return
        with self.lock:
            if self._is_wanted:
                return
            worker = self._worker
            if worker is not None and worker.is_alive():
                self._change.wait_for(lambda: self._is_wanted or self._worker is not worker, JOIN_TIMEOUT)
            ending = list(self._ending)
        for each in ending:
            each.join(JOIN_TIMEOUT)

    def _work(self) -> None:
        me = threading.current_thread()
        while True:
            with self.lock:
                if self._worker is not me:
                    return  # Ctrl-C interrupted its start, so another one was started
                submitted, wait = self._next_of_worker(), self._wait
                if submitted is None and not self._is_standing_by() and not any(i.owner is None for i in self._queue):
                    self._worker = None
                    self._ending = [each for each in self._ending if each.is_alive()] + [me]
                    self._change.notify_all()
                    return
                if submitted is None:
                    self.clock.wait(self._change, wait.longest_sleep(self.clock) if wait else None)
            if submitted is not None:
                self._run_logged(submitted)
            elif wait is not None:
                self._check(wait)

    def _is_standing_by(self) -> bool:
        """Whether something may be left to the worker that it has to be there for: the input under way may fail."""
        return self._is_wanted and (self.keeps_worker or self._wait is not None or self._running is not None)

    def _next_of_worker(self) -> Input | None:
        first = self._queue[0] if self._queue and self._running is None else None
        return first if first is not None and first.owner is None else None

    def _check(self, wait: Wait) -> None:
        """Queue the retry if its time has come."""
        is_over = wait.is_over(self.clock)
        with self.lock:
            if is_over and self._wait is wait:
                self._wait = None
                self._queue.append(Input("retry", wait.run, None))
