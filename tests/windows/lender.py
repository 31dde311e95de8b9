"""On the host: simulated devices and pseudo-terminals that tests in the guest use, each as a COM port."""

import contextlib
import itertools
import os
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, Listener
from typing import Any

from cnxman.testing import SimulatedDevice
from tests.kit.lines import Pty

KINDS: dict[str, Callable[..., Any]] = {"SimulatedDevice": SimulatedDevice, "Pty": Pty}
METHOD = "a method"


class Lender:
    """Lends devices over loopback. A context: all of them are closed on leaving.

    Args:
        ports: Wine's folder of device names.
    """

    def __init__(self, ports: str) -> None:
        self._ports = ports
        self._numbers = itertools.count(20)
        self._lent: dict[int, tuple[Any, str]] = {}
        self._key = os.urandom(16)
        self._listener = Listener(("127.0.0.1", 0), authkey=self._key)
        self._over = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """What the guest has to know: port and key, in words for an environment variable."""
        return f"{self._listener.address[1]} {self._key.hex()}"

    def __enter__(self) -> "Lender":
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._listener.close()
        for number in list(self._lent):
            self._close(number)

    def _accept(self) -> None:
        while not self._over:
            with contextlib.suppress(Exception):  # a guest that was killed; or the end
                connection = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: "Connection[Any, Any]") -> None:
        """One thread of the guest's: what it asks for, one after another."""
        with contextlib.suppress(EOFError, OSError), connection:
            while True:
                what, *details = connection.recv()
                try:
                    answer = (True, getattr(self, f"_do_{what}")(*details))
                except Exception as error:
                    answer = (False, error)
                try:
                    connection.send(answer)
                except Exception as error:  # it can't be pickled
                    connection.send((False, RuntimeError(repr(error))))

    def _do_make(self, kind: str, arguments: Any, named: Any) -> tuple[int, str]:
        made = KINDS[kind](*arguments, **named)
        number = next(self._numbers)
        link = os.path.join(self._ports, f"com{number}")
        os.symlink(made.port if isinstance(made, SimulatedDevice) else made.path, link)
        self._lent[number] = made, link
        return number, f"COM{number}"

    def _do_get(self, number: int, name: str) -> Any:
        value = getattr(self._lent[number][0], name)
        return METHOD if callable(value) else value

    def _do_call(self, number: int, name: str, arguments: Any, named: Any) -> Any:
        return getattr(self._lent[number][0], name)(*arguments, **named)

    def _do_close(self, number: int) -> None:
        self._close(number)

    def _close(self, number: int) -> None:
        lent, link = self._lent.pop(number, (None, ""))
        if lent is not None:
            os.unlink(link)
            lent.close()
