"""The library's own threads, as tests see and play them."""

import threading
from collections.abc import Callable

from cnxman._threads import NAME, library_thread


def is_library_thread(thread: threading.Thread) -> bool:
    """Whether it is one of those that every line and manager has to end: all but the simulated device's."""
    mine = thread.name.startswith(f"{NAME} ")
    return mine and not thread.name.startswith((f"{NAME} device", f"{NAME} aio", f"{NAME} answers", f"{NAME} monitor"))


class OnLibraryThread:
    """Calls something on one of the library's own threads, as most receivers are called."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self.error: BaseException | None = None
        self.thread = library_thread("listener of a test", self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._function()
        except BaseException as error:
            self.error = error

    def join(self, timeout: float) -> None:
        """Wait for its end."""
        self.thread.join(timeout)
        assert not self.thread.is_alive()
