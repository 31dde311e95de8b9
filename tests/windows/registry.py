"""The scenarios there are, by name."""

from collections.abc import Callable
from typing import NamedTuple


class Scenario(NamedTuple):
    """`limit` is how long a scenario may take, in seconds; `alone` whether nothing may run beside it."""

    body: Callable[[], None]
    limit: float
    alone: bool


SCENARIOS: dict[str, Scenario] = {}


def scenario(limit: float = 60, alone: bool = False) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Enters the function that it decorates among the scenarios, under the function's name."""

    def enter(body: Callable[[], None]) -> Callable[[], None]:
        SCENARIOS[body.__name__] = Scenario(body, limit, alone)
        return body

    return enter
