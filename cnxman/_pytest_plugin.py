"""The pytest plugin: gives tests the fixture `serial_device`.

It is loaded in every run of pytest where cnxman is installed: so it imports the rest only when a test asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnxman.testing import SimulatedDevice


@pytest.fixture
def serial_device() -> Iterator[SimulatedDevice]:
    """A simulated device, plugged in; closed after the test. See `cnxman.testing.SimulatedDevice`."""
    from cnxman.testing import SimulatedDevice  # noqa: PLC0415

    with SimulatedDevice() as device:
        yield device
