"""The pytest plugin: the fixture `serial_device`."""

from collections.abc import Iterator

import pytest

from cnxman.testing.device import SimulatedDevice


@pytest.fixture
def serial_device() -> Iterator[SimulatedDevice]:
    """Give a `cnxman.testing.SimulatedDevice` that is plugged in, and close it after the test."""
    with SimulatedDevice() as device:
        yield device
