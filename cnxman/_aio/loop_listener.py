"""Reads and writes a line in an asyncio loop, without a thread: a `cnxman.serial.Listener`.

Everything here runs on the loop's thread, but for what says otherwise. What may block, which is closing the port, is
done by a thread that lives for that long. The order of an end:

    terminate(), or a loss  ->  `_end` in the loop  ->  `_close` on a thread  ->  `_finish` in the loop

A loop that was closed, or has stopped, runs nothing any more: then whoever wants the end does all of it.
"""

import asyncio
import threading
from collections.abc import Callable

import serial

from cnxman import _fork, reading, signals
from cnxman._aio.threads import LoopDispatch, call_in_loop, runs_here
from cnxman._line import errors
from cnxman._line.port import IncompleteWriteError, closed_error, stalled_error
from cnxman._line.posix import PosixLine, close_unused, has_descriptor, silence_error
from cnxman._threads import library_thread
from cnxman.basics import ConnectionException
from cnxman.serial import Listener, Sink, port_error


def can_read(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a loop can wait for descriptors; that of Windows can't."""
    return type(loop).add_reader is not asyncio.AbstractEventLoop.add_reader


def make_listener(
    loop: asyncio.AbstractEventLoop, port: serial.Serial, sink: Sink, idle_timeout: float | None
) -> Listener | None:
    """Make a listener that reads in a loop; None if it has to be a thread. A `cnxman.serial.ListenerFactory`."""
    return None if loop.is_closed() or not has_descriptor(port) else LoopListener(loop, port, sink, idle_timeout)


class Write:
    """A message on its way out.

    Args:
        message: the message.
        future: whoever waits for it; if it is cancelled before the message has begun, the message is skipped.
        settle: called once, with how many bytes went out, and an error unless that is all.
    """

    def __init__(
        self,
        message: bytes,
        future: "asyncio.Future[int]",
        settle: Callable[[int, IncompleteWriteError | None], object],
    ) -> None:
        self.message = message
        self.future = future
        self.settle = settle
        self.sent = 0


class LoopListener:
    """Reads one opening of a port in a loop.

    Args:
        loop: where.
        port: the port, which is open, and has a descriptor.
        sink: what is notified of everything.
        idle_timeout: take the line for lost when nothing came for this many seconds; None waits for ever.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, port: serial.Serial, sink: Sink, idle_timeout: float | None
    ) -> None:
        self.loop = loop
        self.line: PosixLine | None = None
        self.error: ConnectionException | None = None
        self.dispatch = LoopDispatch(loop, self._pause)
        self._afterwards, self._takers = self.dispatch.afterwards, self.dispatch.takers
        self._port = port
        self._fd: int = port.fileno()
        self._sink = sink
        self._idle_timeout = idle_timeout
        self._came = 0.0  # when the last data came, by the loop's time
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        self._is_busy = False  # from before a read until after its delivery, and in all other calls of the sink's
        self._terminated = False
        self._has_begun = False
        self._is_ending = False
        self._closed, self._over = _Once(), _Once()
        self._holds: list[Callable[[], bool]] = []  # what says that nothing more may be delivered
        self._has_hung_up = False
        self._writes: list[Write] = []
        _fork.after_in_child(self.dispatch, signals.Dispatch.cancel)

    # -- what an opening asks, from any thread; see `cnxman.serial.Listener` ------------------------------

    @property
    def is_listening(self) -> bool:
        """See `Listener`."""
        return self.line is not None and self.line.is_open and not self.dispatch.is_ending

    @property
    def is_calling_here(self) -> bool:
        """See `Listener`."""
        return self._is_busy and runs_here(self.loop)

    @property
    def delivers_here(self) -> bool:
        """See `Listener`."""
        return runs_here(self.loop)

    def start(self) -> None:
        """See `Listener`."""
        try:
            self.line = PosixLine(self._port, self._idle_timeout)
        except Exception as error:
            self.error = port_error(errors.open_message, str(self._port.port), error)
            return
        self.loop.call_soon_threadsafe(self._begin)
        if self._terminated:
            self.terminate()

    def proceed(self) -> None:
        """See `Listener`."""
        if self.line is not None and not self._has_begun:
            call_in_loop(self.loop, self._begin)

    def terminate(self) -> None:
        """See `Listener`."""
        self._terminated = True  # before a look at the line, which `start` makes before a look at this
        self.dispatch.is_ending = True
        if self.line is not None:
            self.line.stop()
            call_in_loop(self.loop, self._end)

    def close_now(self) -> None:
        """See `Listener`."""
        if self.line is not None:
            self._leave_loop()
            self.line.close()

    def wait_for_end(self, timeout: float) -> bool:
        """See `Listener`."""
        if self.line is None:
            close_unused(self._port)
            return True
        if runs_here(self.loop) or not self.loop.is_running():  # then nobody but the caller can do the loop's part
            self._end()
            if self._closed.wait(timeout):
                self._finish()
        return self._over.wait(timeout)

    def abandon(self) -> None:
        """See `Listener`. The loop is stuck in something, so it doesn't touch the line."""
        if self.line is not None:
            self.line.close()

    def is_drained(self) -> bool:
        """See `Listener`."""
        line = self.line
        if line is None:
            return True
        with line.lock:  # each read is within it, and makes us busy before
            return not (self._is_busy or (line.is_open and line.port.in_waiting))

    # -- reading ------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Send OPENED, unless the opening before has yet to send its CLOSED, and begin to read."""
        if self._has_begun or self._is_ending or self._terminated or not self._sink.may_send:
            return
        self._has_begun = True
        self._call(self._sink.on_opened)
        if self.is_listening:
            self._came = self.loop.time()
            if self._idle_timeout is not None:
                self._call_later(self._idle_timeout, self._check_silence)
            self.loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        """Read what there is, 64 KB at most, and deliver it. The loop calls this when there is something."""
        line = self.line
        assert line is not None
        self._is_busy = True
        data = b""
        previous, signals.here.dispatch = signals.here.dispatch, self.dispatch
        try:
            with line.lock:
                data = b"" if line.stopped else line.read_available(0)
            if data:
                if self._idle_timeout is not None:
                    self._came = self.loop.time()
                self._sink.on_data(data)
            elif not line.stopped:
                self._check_hang_up(line)
        except Exception as error:  # of the line's: what receivers raise is logged
            self._lose(error)
        finally:
            signals.here.dispatch = previous
            self._is_busy = False
            while self._takers:
                self._takers.pop(0)(data)
            while self._afterwards:
                self._afterwards.pop(0)()

    def _check_hang_up(self, line: PosixLine) -> None:
        """There was nothing to read: has the line hung up? Raises what its loss does."""
        events = line.poll_hang_up(line.poller_for_loss(), 0)
        with line.lock:
            if events and not line.stopped:
                line.read_available(events)

    def _check_silence(self) -> None:
        assert self._idle_timeout is not None
        left = self._came + self._idle_timeout - self.loop.time()
        if left > 0 or self._holds:
            self._call_later(max(left, reading.FULL_INTERVAL), self._check_silence)
        else:
            self._lose(silence_error(self._idle_timeout))

    def _lose(self, error: Exception) -> None:
        if not (self._is_ending or self._terminated):
            self.error = port_error(errors.loss_message, str(self._port.port), error)
            self._end()

    # -- pauses -------------------------------------------------------------------------------------------

    def _pause(self, is_full: Callable[[], bool]) -> Callable[[], None]:
        """Read nothing while `is_full`; see `cnxman.signals.Pause`."""
        if not self._has_hung_up:
            self._holds.append(is_full)
            self.loop.remove_reader(self._fd)
            self._call_later(reading.FULL_INTERVAL, self._look_at_pause)
        return self._ask_again_soon

    def _ask_again_soon(self) -> None:
        """From any thread."""
        call_in_loop(self.loop, self._ask_again)

    def _ask_again(self) -> None:
        """Go on reading if there is room."""
        if self._holds and not self._is_ending:
            self._holds = [is_full for is_full in self._holds if is_full()]
            if not self._holds:
                self._cancel(self._look_at_pause)
                self.loop.add_reader(self._fd, self._read)

    def _look_at_pause(self) -> None:
        """Look whether the line has hung up meanwhile: then the little that is left is read beyond all bounds."""
        line = self.line
        if line is not None and line.is_open:
            self._has_hung_up = bool(line.poll_hang_up(line.poller_for_loss(), 0))
            if self._has_hung_up:
                self._holds = [lambda: False]
            self._ask_again()  # some of those who were full may be garbage by now
            if self._holds:
                self._call_later(reading.FULL_INTERVAL, self._look_at_pause)

    # -- writing ------------------------------------------------------------------------------------------

    def write(self, write: Write) -> bool:
        """Write a message: at once what the line takes, after those before it, and the rest when it takes more.

        Returns:
            False if another thread is writing just now, so that nothing was done.
        """
        line = self.line
        assert line is not None
        if not self._writes and not line.try_begin_write():
            return False
        self._writes.append(write)
        if len(self._writes) == 1:
            self._write_on()
            if self._writes:
                self._expect_progress()
                self.loop.add_writer(self._fd, self._write_more)
        return True

    def _write_more(self) -> None:
        """The line takes something. The loop calls this."""
        self._write_on()
        if self._writes:
            self._expect_progress()
        else:
            self.loop.remove_writer(self._fd)
            self._cancel(self._stall)

    def _write_on(self) -> None:
        """Write what the line takes. When all is written, others may write."""
        line = self.line
        assert line is not None
        while self._writes:
            write = self._writes[0]
            if write.sent or not write.future.cancelled():
                try:
                    write.sent += line.write_some(write.message, write.sent)
                except OSError as error:
                    self._fail_write(error)
                    continue
                if write.sent < len(write.message):
                    return
                write.settle(write.sent, None)
            self._writes.pop(0)
        line.end_write()

    def _fail_write(self, error: OSError) -> None:
        write = self._writes.pop(0)
        if write.sent or not write.future.cancelled():
            write.settle(write.sent, IncompleteWriteError(write.sent, error))

    def _expect_progress(self) -> None:
        timeout = self._port.write_timeout
        if timeout is not None:
            self._call_later(timeout, self._stall)

    def _stall(self) -> None:
        self._fail_write(stalled_error(self._port.write_timeout))
        self._write_more()

    # -- the end ------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Leave the loop, and have the port closed."""
        if self._is_ending:
            return
        self._is_ending = True
        self.dispatch.is_ending = True
        assert self.line is not None
        self.line.stop()
        self._leave_loop()
        if self._writes:
            while self._writes:
                self._fail_write(closed_error())
            self.line.end_write()
        try:
            library_thread(f"closing {self._port.port}", self._close).start()
        except RuntimeError:  # the system gives no more threads
            self._close()

    def _leave_loop(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if not self.loop.is_closed():
            self.loop.remove_reader(self._fd)
            self.loop.remove_writer(self._fd)

    def _close(self) -> None:
        """Close the port. On a thread, for that may block."""
        assert self.line is not None
        self.line.close()
        self._closed.happen()
        if not call_in_loop(self.loop, self._finish):
            self._finish()

    def _finish(self) -> None:
        """Send CLOSED and the alarm."""
        if not self._over.begin():
            return
        try:
            if not self.dispatch.cancelled:
                self._call(self._sink.on_closed, None if self._terminated else self.error)
            self._call(self._sink.on_finished)
        finally:
            self._over.happen()

    # -- how ----------------------------------------------------------------------------------------------

    def _call(self, call: Callable[..., None], *arguments: object) -> None:
        """Call the sink; not within the call that may be under way, of another listener in this loop."""
        self._is_busy = True
        previous, signals.here.dispatch = signals.here.dispatch, self.dispatch
        try:
            call(*arguments)
        finally:
            signals.here.dispatch = previous
            self._is_busy = False
            while self._afterwards:
                call_in_loop(self.loop, self._afterwards.pop(0))

    def _call_later(self, delay: float, call: Callable[[], None]) -> None:
        self._cancel(call)
        self._timers[call] = self.loop.call_later(delay, call)

    def _cancel(self, call: Callable[[], None]) -> None:
        timer = self._timers.pop(call, None)
        if timer is not None:
            timer.cancel()


class _Once:
    """Something that happens once, to be waited for on threads: a `threading.Event` that takes little memory."""

    def __init__(self) -> None:
        self._begun, self._happened = threading.Lock(), threading.Lock()  # held until it happens
        self._happened.acquire()

    def begin(self) -> bool:
        """Whether it is the caller who makes it happen: whoever asks first."""
        return self._begun.acquire(blocking=False)

    def happen(self) -> None:
        """It has happened."""
        self._happened.release()

    def wait(self, timeout: float) -> bool:
        """Wait for it, for so many seconds at most; whether it has happened."""
        if not self._happened.acquire(timeout=timeout):
            return False
        self._happened.release()
        return True
