"""What `select.poll` alone can do, so that without it these tests can't hold. Used by `no_poll` and `lying_poll`."""

import pytest

TESTS = {
    "test_wait": "fails poll's own call",
    "test_poll_is_used_where_it_is_right": "asks for it",
    "test_closed_descriptor_is_no_lie_of_poll": "asks for it",
    "test_a_descriptor_that_became_somebody_elses_is_left_alone": "select tells no hang-up of pyserial's pipe",
    "test_a_loss_with_a_full_buffer_gives_the_alarm_after_the_data": "select tells no hang-up while nobody reads",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    gone = [item for item in items if getattr(item, "originalname", item.name) in TESTS]
    items[:] = [item for item in items if item not in gone]
    config.hook.pytest_deselected(items=gone)
