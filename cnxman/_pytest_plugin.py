"""The pytest plugin: the fixture `serial_device`.

It is loaded in every run of pytest where cnxman is installed, so it imports nothing more until a test asks
for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnxman.testing import SimulatedDevice


@pytest.fixture
def serial_device() -> Iterator[SimulatedDevice]:
    """Give a `cnxman.testing.SimulatedDevice` that is plugged in, and close it after the test."""
    from cnxman.testing import SimulatedDevice  # noqa: PLC0415 (not in every run of pytest)

    with SimulatedDevice() as device:
        yield device
