"""RetryPolicy: what it refuses, and how its waits grow."""

import copy
import math
import pickle
from dataclasses import FrozenInstanceError, fields
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnxman import retry
from cnxman.retry import RetryPolicy

seconds = st.floats(1e-6, 1e6)


def test_defaults() -> None:
    assert {field.name: field.default for field in fields(RetryPolicy)} == {
        "initial": 0.1,
        "factor": 2.0,
        "maximum": 5.0,
        "jitter": 0.1,
        "attempts": None,
        "reset_after": 10.0,
    }
    RetryPolicy()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"initial": -0.001}, "initial must be 0 seconds or more, not -0.001"),
        ({"factor": 0.999}, "factor must be 1 or more, not 0.999"),
        ({"factor": -2}, "factor must be 1 or more, not -2"),
        ({"initial": 6}, r"maximum must be at least initial \(6 seconds\), not 5.0"),
        ({"maximum": 0}, r"maximum must be at least initial \(0.1 seconds\), not 0"),
        ({"jitter": -0.1}, "jitter must be from 0 to 1, not -0.1"),
        ({"jitter": 1.001}, "jitter must be from 0 to 1, not 1.001"),
        ({"reset_after": -1}, "reset_after must be 0 seconds or more, not -1"),
        ({"reset_after": -math.inf}, "reset_after must be finite, not -inf"),
        ({"attempts": 0}, "attempts must be 1 or more, not 0"),
        ({"attempts": -1}, "attempts must be 1 or more, not -1"),
        *[({name: math.nan}, f"{name} must be finite, not nan") for name in ("initial", "factor", "reset_after")],
        *[({name: math.inf}, f"{name} must be finite, not inf") for name in ("initial", "factor", "maximum", "jitter")],
        ({"maximum": 10**400}, "maximum must be finite, not 1000"),
    ],
)
def test_what_makes_no_sense(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetryPolicy(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["1", None, True, 1j, Fraction(1, 2)])
@pytest.mark.parametrize("name", ["initial", "factor", "maximum", "jitter", "reset_after"])
def test_what_is_no_number(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a number, not "):
        RetryPolicy(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [1.0, "3", True])
def test_attempts_are_counted(value: object) -> None:
    with pytest.raises(TypeError, match="attempts must be a whole number, not "):
        RetryPolicy(attempts=value)  # type: ignore[arg-type]


def test_what_is_allowed() -> None:
    RetryPolicy(0, 1, 0, 0, attempts=1, reset_after=0)
    RetryPolicy(5, 1, 5, 1, reset_after=math.inf)
    RetryPolicy(reset_after=10**400)


def test_it_is_frozen_and_a_value() -> None:
    policy = RetryPolicy(attempts=3)
    with pytest.raises(FrozenInstanceError):
        policy.initial = 1  # type: ignore[misc]
    assert policy == copy.deepcopy(policy) == pickle.loads(pickle.dumps(policy)) != RetryPolicy()
    assert hash(policy) == hash(RetryPolicy(attempts=3))


def test_fixed_waits() -> None:
    policy = RetryPolicy(5, 1, 5, 0)
    assert {policy.delay(count) for count in (1, 2, 3, 100, 10**6, 10**400)} == {5.0}


def test_growing_waits() -> None:
    policy = RetryPolicy(1, 3, 20, 0)
    assert [policy.delay(count) for count in range(1, 6)] == [1, 3, 9, 20, 20]


def test_no_wait() -> None:
    policy = RetryPolicy(0, 2, 5, 1)
    assert [policy.delay(count) for count in (1, 2, 10**6)] == [0, 0, 0]


@pytest.mark.parametrize("count", [1024, 1025, 10**6, 10**400])
def test_no_count_overflows(count: int) -> None:
    assert RetryPolicy(1, 2, 5, 0).delay(count) == 5.0
    assert RetryPolicy(1e300, 1e300, 1.7e308, 0).delay(count) == 1.7e308


@pytest.mark.parametrize("count", [0, -1])
def test_failures_are_counted_from_1(count: int) -> None:
    with pytest.raises(ValueError, match=f"failures must be 1 or more, not {count}"):
        RetryPolicy().delay(count)


@pytest.mark.parametrize("count", [1.0, True, "1", None])
def test_failures_are_whole_numbers(count: object) -> None:
    with pytest.raises(TypeError, match="failures must be a whole number, not "):
        RetryPolicy().delay(count)  # type: ignore[arg-type]


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 10), (0.25, 9), (0.5, 8), (1 - 2**-53, 6)])
def test_jitter_lies_inside_the_cap(monkeypatch: pytest.MonkeyPatch, chance: float, expected: float) -> None:
    monkeypatch.setattr(retry.random, "random", lambda: chance)
    assert RetryPolicy(10, 1, 10, 0.4).delay(1) == pytest.approx(expected)
    assert RetryPolicy(2, 5, 10, 0.4).delay(3) == pytest.approx(expected)


def test_waits_differ() -> None:
    """Many lines lost at once do not come back in step."""
    assert len({RetryPolicy().delay(5) for _ in range(50)}) > 40


@settings(max_examples=300)
@given(initial=seconds, more=seconds, factor=st.floats(1, 100), jitter=st.floats(0, 1), count=st.integers(1, 10**6))
def test_waits_lie_between_their_bounds(initial: float, more: float, factor: float, jitter: float, count: int) -> None:
    policy = RetryPolicy(initial, factor, initial + more, jitter)
    full = RetryPolicy(initial, factor, initial + more, 0)
    whole = full.delay(count)
    wait = policy.delay(count)
    assert (1 - jitter) * whole <= wait <= whole <= initial + more
    assert initial <= whole <= full.delay(count + 1)
    if count < 50:
        exact = min(Fraction(initial) * Fraction(factor) ** (count - 1), Fraction(initial + more))
        assert whole == pytest.approx(float(exact))


def test_a_fixed_policy_always_waits_the_same() -> None:
    assert RetryPolicy.fixed(5) == RetryPolicy(5, 1, 5, 0)
    assert [RetryPolicy.fixed(5, attempts=3).delay(n) for n in (1, 2, 100)] == [5, 5, 5]
    assert RetryPolicy.fixed(0, attempts=3).attempts == 3
    with pytest.raises(ValueError, match="initial must be 0 seconds or more"):
        RetryPolicy.fixed(-1)
