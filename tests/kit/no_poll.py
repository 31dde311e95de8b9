"""`pytest -p tests.kit.no_poll`: as in some builds of Python for macOS, the library finds no `select.poll`."""

import select
from types import SimpleNamespace

from cnxman._line import waiting
from tests.kit.poll_alone import pytest_collection_modifyitems

__all__ = ["pytest_collection_modifyitems"]

waiting.select = SimpleNamespace(select=select.select)  # type: ignore[attr-defined]
