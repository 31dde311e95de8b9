"""How a simulated device answers: requests found in the bytes, replies from a table or a function."""

from collections.abc import Callable, Mapping
from threading import Condition, Thread

Table = Mapping[bytes, bytes]
Function = Callable[[bytes], bytes | None]


class Requests:
    """Finds the requests in what a host writes, in whatever chunks it comes."""

    def __init__(self, answers: Table | Function, terminator: bytes) -> None:
        self.answer: Function
        if callable(answers):
            self.answer = answers
            self._ends: tuple[bytes, ...] = (terminator,)
            self._is_table = False  # a request is all up to and with the terminator
        else:
            self.answer = dict(answers).get
            self._ends = tuple(answers)
            self._is_table = True  # a request is one of the table's, wherever it stands
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the requests that are complete with `data`."""
        self._buffer += data
        requests = []
        while (request := self._first()) is not None:
            requests.append(request)
        if self._is_table:  # what can't be the beginning of a request any more
            del self._buffer[: -max(map(len, self._ends), default=1)]
        return requests

    def forget(self) -> None:
        """Forget the request that has begun: the line it came by is no more."""
        self._buffer.clear()

    def _first(self) -> bytes | None:
        found = [(at + len(end), -len(end), end) for end in self._ends if (at := self._buffer.find(end)) >= 0]
        if not found:
            return None
        stop, _, end = min(found)  # what is complete first, and of two such the longer
        request = end if self._is_table else bytes(self._buffer[:stop])
        del self._buffer[:stop]
        return request


def check(answers: object, terminator: object) -> None:
    """Raise a ValueError or TypeError for answers that can't work."""
    if not isinstance(terminator, bytes):
        raise TypeError(f"terminator must be bytes, not {terminator!r}")
    if not terminator:
        raise ValueError("terminator must be at least one byte")
    if callable(answers):
        return
    if not isinstance(answers, Mapping):
        raise TypeError(f"answers must be a table or a function, not {answers!r}")
    for request, reply in answers.items():
        if not isinstance(request, bytes) or not isinstance(reply, bytes):
            raise TypeError(f"answers must be bytes for bytes, not {reply!r} for {request!r}")
        if not request:
            raise ValueError("a request must be at least one byte")
        for other in answers:
            if request in other[:-1]:
                raise ValueError(f"{other!r} could never be asked: {request!r}, within it, is answered first")


class Answering:
    """The thread on which a device's answers are made.

    Each session (from one opening or closing of the port to the next) starts again: half a request from before
    is forgotten, and a reply that comes too late is given with the session that it belongs to, for `reply` to
    judge.
    """

    def __init__(self, requests: Requests, reply: Callable[[bytes, int], None], name: str) -> None:
        self.failure: Exception | None = None
        self._requests = requests
        self._reply = reply
        self._changed = Condition()
        self._heard: list[tuple[bytes, int]] = []
        self._closed = False
        self.thread = Thread(target=self._run, name=name, daemon=True)

    def hear(self, data: bytes, session: int) -> None:
        """Take what the host wrote; never waits for an answer."""
        with self._changed:
            self._heard.append((data, session))
            self._changed.notify()

    def close(self) -> None:
        """Let the thread end: after the answer that it is making, if any."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        session = -1
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._heard)
                if self._closed:
                    return
                data, heard_in = self._heard.pop(0)
            if session != heard_in:
                session = heard_in
                self._requests.forget()
            for request in self._requests.feed(data):
                self._make_answer(request, session)

    def _make_answer(self, request: bytes, session: int) -> None:
        try:
            reply = self._requests.answer(request)
            if reply is not None:
                self._reply(bytes(memoryview(reply)), session)
        except Exception as error:
            if not self._closed:  # what a function is told that waits for a device that is being closed
                self.failure = self.failure or error
