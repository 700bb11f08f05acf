"""Schedules: how the diffusion coefficient, the inverse temperature or a transverse field moves during a run.

The outer loop of the quantum dynamic equation lowers `D` (quantum annealing); a tempering ladder raises
`beta`; an annealer does both at once, an energy scale up and a transverse field down. Each is one `Schedule`,
a curve over the fraction `s` of the run, and `schedule_table` puts several side by side, one column each.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.validation import as_float_array, as_positive_int, is_traced

Interpolation = Literal["linear", "geometric"]
Direction = Literal["constant", "increasing", "decreasing", "mixed"]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A curve `v(s) >= 0` over the fraction `s` of a run, `0 <= s <= 1`, through given points.

    Between two points `(s_a, v_a)` and `(s_b, v_b)`, with `w = (s - s_a) / (s_b - s_a)`,

        linear:     v = (1 - w) v_a + w v_b,
        geometric:  v = v_a^(1 - w) v_b^w.

    It is immutable and hashable, so it may be a static argument of `jit`, and calling it works under `jit`
    and `vmap`.

    Attributes:
        fractions: where the curve is given, from 0 to 1, strictly increasing.
        values: the curve there, finite and not negative; positive if geometric.
        interpolation: `"linear"` or `"geometric"`.
    """

    fractions: tuple[float, ...]
    values: tuple[float, ...]
    interpolation: Interpolation = "linear"

    def __post_init__(self) -> None:
        fractions, values = _as_floats("fractions", self.fractions), _as_floats("values", self.values)
        object.__setattr__(self, "fractions", fractions)
        object.__setattr__(self, "values", values)
        if self.interpolation not in ("linear", "geometric"):
            raise ValueError(f"interpolation must be 'linear' or 'geometric', got {self.interpolation!r}.")
        if len(fractions) != len(values) or len(fractions) < 2:
            raise ValueError(
                "a schedule needs two points or more, as many values as fractions, "
                f"got {len(fractions)} fractions and {len(values)} values."
            )
        if fractions[0] != 0 or fractions[-1] != 1:
            raise ValueError(f"fractions must run from 0 to 1, got {fractions[0]} to {fractions[-1]}.")
        if any(b <= a for a, b in zip(fractions, fractions[1:], strict=False)):
            raise ValueError(f"fractions must increase strictly, got {fractions}.")
        if min(values) < 0:
            raise ValueError(f"values must not be negative, got {values}.")
        if self.interpolation == "geometric" and min(values) == 0:
            raise ValueError(
                f"a geometric schedule must stay positive, got {values}; a linear one may reach zero."
            )

    @classmethod
    def constant(cls, value: float) -> Self:
        """Return the schedule `v(s) = value`."""
        return cls((0.0, 1.0), (value, value))

    @classmethod
    def linear(cls, start: float, stop: float) -> Self:
        """Return the straight line from `start` to `stop`."""
        return cls((0.0, 1.0), (start, stop))

    @classmethod
    def geometric(cls, start: float, stop: float) -> Self:
        """Return the curve of constant ratio from `start` to `stop`, both positive."""
        return cls((0.0, 1.0), (start, stop), "geometric")

    @property
    def positive(self) -> bool:
        """Whether the schedule is nowhere zero, as a diffusion coefficient or a temperature must be."""
        return min(self.values) > 0

    @property
    def direction(self) -> Direction:
        """Whether the schedule stays, only rises, only falls (flat stretches allowed), or turns."""
        steps = [b - a for a, b in zip(self.values, self.values[1:], strict=False)]
        if not any(steps):
            return "constant"
        if min(steps) >= 0:
            return "increasing"
        return "decreasing" if max(steps) <= 0 else "mixed"

    def reversed(self) -> Self:
        """Return the schedule run backwards, `v(1 - s)`."""
        fractions = (0.0, *(1 - s for s in self.fractions[-2:0:-1]), 1.0)
        return dataclasses.replace(self, fractions=fractions, values=self.values[::-1])

    def __call__(self, fraction: ArrayLike) -> jax.Array:
        """Return `v(s)` at fractions of any shape.

        Raises:
            ValueError: a fraction is outside `[0, 1]`. Under `jit` this cannot be raised: the value is then
                NaN.
        """
        s = as_float_array(fraction)
        slack = 4 * float(np.finfo(s.dtype).eps)  # rounding in a computed fraction, no more
        inside = _within(s, -slack, 1 + slack)
        if inside is False:
            raise ValueError(
                f"a fraction of the run must lie in [0, 1], got {fraction}; see at_step for step numbers."
            )
        return jnp.where(inside, self._interpolate(s), jnp.nan)

    def at_step(self, step: ArrayLike, num_steps: int) -> jax.Array:
        """Return `v` at step number `0 <= step < num_steps`, where `s = step / (num_steps - 1)`.

        A run of a single step has it at the end, `s = 1`.

        Raises:
            TypeError: `num_steps` is not an integer.
            ValueError: `num_steps < 1`, or `step` is outside the run (under `jit` the value is then NaN).
        """
        num_steps = as_positive_int("num_steps", num_steps)
        step = as_float_array(step)
        inside = _within(step, 0, num_steps - 1)
        if inside is False:
            raise ValueError(f"step must lie in [0, {num_steps - 1}], got {step}.")
        fraction = jnp.clip(step / (num_steps - 1), 0, 1) if num_steps > 1 else jnp.ones_like(step)
        return jnp.where(inside, self._interpolate(fraction), jnp.nan)

    def table(self, num_steps: int) -> jax.Array:
        """Return `v` at every step of a run, shape `(num_steps,)`.

        Raises:
            TypeError: `num_steps` is not an integer.
            ValueError: `num_steps < 1`.
        """
        return self.at_step(jnp.arange(as_positive_int("num_steps", num_steps)), num_steps)

    def _interpolate(self, s: jax.Array) -> jax.Array:
        fractions = jnp.asarray(self.fractions, s.dtype)
        if self.interpolation == "linear":
            return jnp.interp(s, fractions, jnp.asarray(self.values, s.dtype))
        return jnp.exp(jnp.interp(s, fractions, jnp.asarray([math.log(v) for v in self.values], s.dtype)))


def schedule_table(num_steps: int, *schedules: Schedule) -> jax.Array:
    """Return several schedules side by side, shape `(num_steps, len(schedules))`.

    For an annealer: `schedule_table(num_steps, energy_scale, transverse_field)`.

    Raises:
        TypeError: `num_steps` is not an integer, or a column is not a `Schedule`.
        ValueError: `num_steps < 1`, or no schedule is given.
    """
    if not schedules:
        raise ValueError("schedule_table needs at least one schedule.")
    for schedule in schedules:
        if not isinstance(schedule, Schedule):
            raise TypeError(f"each column must be a Schedule, got {schedule!r}; see Schedule.constant.")
    return jnp.stack([schedule.table(num_steps) for schedule in schedules], axis=-1)


def _within(x: jax.Array, lower: float, upper: float) -> bool | jax.Array:
    """Return whether all of `x` lies in `[lower, upper]`; elementwise, as an array, while `x` is traced."""
    if is_traced(x):
        return (x >= lower) & (x <= upper)
    return bool(np.all((np.asarray(x) >= lower) & (np.asarray(x) <= upper)))


def _as_floats(name: str, numbers: Iterable[float]) -> tuple[float, ...]:
    try:
        out = tuple(float(number) for number in numbers)
    except TypeError as error:
        raise TypeError(f"{name} must be a sequence of real numbers, got {numbers!r}.") from error
    if not all(map(math.isfinite, out)):
        raise ValueError(f"{name} must be finite, got {out}.")
    return out
