"""Schedules: laws of the curve, tables, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdesampler.equation import Schedule, schedule_table

ALL = {
    "constant": Schedule.constant(2.0),
    "linear": Schedule.linear(3.0, 0.0),
    "geometric": Schedule.geometric(1e-2, 10.0),
    "points": Schedule((0, 0.25, 1), (1, 4, 2)),
    "geometric points": Schedule((0.0, 0.5, 1.0), (1.0, 0.1, 0.4), "geometric"),
}


@pytest.mark.parametrize("name", ALL)
def test_curve_passes_through_its_points_and_reverses(name, x64):
    schedule = ALL[name]
    fractions = np.array(schedule.fractions)
    np.testing.assert_allclose(schedule(fractions), schedule.values, rtol=1e-13)
    between = np.linspace(0, 1, 21).reshape(3, 7)
    values = jax.jit(schedule)(between)
    assert values.shape == (3, 7)
    assert np.min(values) >= min(schedule.values) * (1 - 1e-12)
    assert np.max(values) <= max(schedule.values) * (1 + 1e-12)
    np.testing.assert_allclose(schedule.reversed()(between), schedule(1 - between), rtol=1e-12)
    assert schedule.reversed().reversed() == schedule


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(0, 1))
def test_geometric_has_a_constant_ratio_and_linear_a_constant_difference(start, stop, s):
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            Schedule.geometric(start, stop)(s), start * (stop / start) ** s, rtol=1e-12
        )
        np.testing.assert_allclose(Schedule.linear(start, stop)(s), start + (stop - start) * s, rtol=1e-11)


def test_steps_and_tables():
    schedule = Schedule.linear(4.0, 0.0)
    np.testing.assert_allclose(schedule.table(5), [4, 3, 2, 1, 0], atol=1e-6)
    np.testing.assert_allclose(schedule.at_step(3, 5), 1.0)
    np.testing.assert_allclose(schedule.table(1), [0.0])  # a single step stands at the end
    np.testing.assert_allclose(Schedule.geometric(1.0, 16.0).table(5), [1, 2, 4, 8, 16], rtol=1e-5)
    both = schedule_table(5, Schedule.linear(0.0, 1.0), Schedule.geometric(8.0, 0.5))
    np.testing.assert_allclose(both, np.stack([np.linspace(0, 1, 5), [8, 4, 2, 1, 0.5]], axis=1), rtol=1e-5)
    assert both.dtype == jnp.float32
    # A step number may be traced, as in a scan over the steps.
    _, scanned = jax.lax.scan(lambda carry, i: (carry, schedule.at_step(i, 5)), 0, jnp.arange(5))
    np.testing.assert_allclose(scanned, schedule.table(5))


def test_every_step_of_a_long_float32_run_is_inside():
    table = Schedule.geometric(1.0, 1e-3).table(9973)
    assert np.all(np.isfinite(table))
    assert np.all(np.diff(table) < 0)
    np.testing.assert_allclose(table[jnp.array([0, -1])], [1.0, 1e-3], rtol=1e-6)


def test_properties():
    assert [ALL[name].direction for name in ALL] == ["constant", "decreasing", "increasing", "mixed", "mixed"]
    assert Schedule((0, 0.5, 1), (1, 1, 2)).direction == "increasing"
    assert ALL["geometric"].positive
    assert not ALL["linear"].positive
    assert len({Schedule.linear(0, 1), Schedule.linear(0.0, 1.0), Schedule.linear(0, 2)}) == 2  # hashable
    static = jax.jit(lambda schedule, s: schedule(s), static_argnums=0)
    assert static(Schedule.linear(0, 2), 0.5) == 1.0


BAD = {
    "short": (
        lambda: Schedule((0,), (1,)),
        ValueError,
        "two points or more, .* got 1 fractions and 1 values",
    ),
    "unequal": (lambda: Schedule((0, 1), (1, 2, 3)), ValueError, "got 2 fractions and 3 values"),
    "start": (lambda: Schedule((0.1, 1), (1, 2)), ValueError, "must run from 0 to 1, got 0.1 to 1.0"),
    "order": (
        lambda: Schedule((0, 0.6, 0.6, 1), (1, 2, 3, 4)),
        ValueError,
        "fractions must increase strictly",
    ),
    "negative": (lambda: Schedule.linear(1, -1), ValueError, "values must not be negative"),
    "nan": (lambda: Schedule.constant(float("nan")), ValueError, "values must be finite"),
    "inf": (lambda: Schedule.linear(1, float("inf")), ValueError, "values must be finite"),
    "zero": (
        lambda: Schedule.geometric(1, 0),
        ValueError,
        "geometric schedule must stay positive, got .* linear",
    ),
    "kind": (lambda: Schedule((0, 1), (1, 2), "cubic"), ValueError, "'linear' or 'geometric', got 'cubic'"),
    "type": (lambda: Schedule((0, 1), 3), TypeError, "values must be a sequence of real numbers, got 3"),
    "fraction": (lambda: Schedule.constant(1)(7), ValueError, r"must lie in \[0, 1\], got 7; see at_step"),
    "step": (lambda: Schedule.constant(1).at_step(5, 5), ValueError, r"step must lie in \[0, 4\], got 5"),
    "steps": (
        lambda: Schedule.constant(1).table(0),
        ValueError,
        "num_steps must be a positive integer, got 0",
    ),
    "no columns": (lambda: schedule_table(3), ValueError, "at least one schedule"),
    "column": (lambda: schedule_table(3, 1.0), TypeError, "each column must be a Schedule, got 1.0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()


def test_outside_under_jit_is_nan():
    schedule = Schedule.linear(1, 2)
    assert np.isnan(jax.jit(schedule)(1.1))
    assert np.isnan(jax.jit(lambda i: schedule.at_step(i, 3))(3))
