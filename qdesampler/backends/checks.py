"""The arguments of `sample`, checked in one place, and the schedules of annealers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.backends.problem import IsingProblem, ProblemTooLargeError, check_problem
from qdesampler.equation.schedule import Schedule, schedule_table
from qdesampler.validation import as_positive_int, as_positive_scalar, check_key, is_traced

__all__ = ["annealing_table", "check_call", "refuse", "refuse_traced"]


def check_call(
    name: str,
    problem: IsingProblem,
    num_reads: int,
    beta: ArrayLike,
    max_variables: int | None = None,
    *,
    key: jax.Array | None = None,
) -> tuple[IsingProblem, int, Any]:
    """Return the checked problem, the number of reads and `beta` as an array of the problem's dtype.

    Raises:
        TypeError: an argument is not of its kind.
        ValueError: a number out of range.
        ProblemTooLargeError: more variables than `max_variables`.
    """
    if key is not None:
        check_key("key", key)
    problem = check_problem(problem)
    if max_variables is not None and problem.num_variables > max_variables:
        raise ProblemTooLargeError(
            f"{name} takes {max_variables} variables at most, the problem has {problem.num_variables}; "
            "condition on some of them, or use another backend."
        )
    scale = as_positive_scalar("beta", beta, allow_zero=True)
    if is_traced(scale) or is_traced(problem.h):
        scale = jnp.asarray(scale, jax.dtypes.canonicalize_dtype(problem.h.dtype))
    else:  # a number of the host keeps its digits
        scale = np.asarray(scale, problem.h.dtype)
    return problem, as_positive_int("num_reads", num_reads), scale


def refuse(name: str, **given: Any) -> None:
    """Refuse arguments that the backend cannot honour.

    Raises:
        ValueError: one of them is not None.
    """
    for argument, value in given.items():
        if value is not None:
            raise ValueError(f"{name} takes no {argument}; see its capabilities for what it takes.")


def refuse_traced(message: str, *arguments: Any) -> None:
    """Refuse a call of a backend on the host while JAX traces it.

    Args:
        message: the text of the error.
        *arguments: pytrees; a traced leaf in any of them is refused.

    Raises:
        TypeError: one of the leaves is traced.
    """
    if any(map(is_traced, jax.tree.leaves(arguments))):
        raise TypeError(message)


def annealing_table(
    schedule: Any, num_steps: int, energy_scale: Schedule, transverse_field: Schedule
) -> jax.Array:
    """Return the schedule of a run, shape `(T, 2)`: energy scale and transverse field at every step.

    The energy scale multiplies `beta`: step `k` has the inverse temperature `beta scale_k`, so that a scale
    of 1 gives the inverse temperature `beta`. The transverse field is in the units of the energy.

    Args:
        schedule: None for the backend's own two curves over `num_steps`; a table `(T, 2)`; a `Schedule` of
            the energy scale; or a pair of them, energy scale and transverse field.
        num_steps: steps of curves; a table brings its own.
        energy_scale: the backend's own energy scale.
        transverse_field: the backend's own transverse field.

    Raises:
        TypeError: not one of these.
        ValueError: a table of another shape, or with numbers that are negative or not finite.
    """
    if schedule is None:
        return schedule_table(num_steps, energy_scale, transverse_field)
    if isinstance(schedule, Schedule):
        return schedule_table(num_steps, schedule, transverse_field)
    if isinstance(schedule, tuple) and any(isinstance(column, Schedule) for column in schedule):
        if len(schedule) != 2:
            raise ValueError(f"a schedule has two columns, energy scale and field, got {len(schedule)}.")
        return schedule_table(num_steps, *schedule)
    table = jnp.asarray(schedule, jnp.result_type(float))
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] != 2:
        raise ValueError(
            "a schedule must be a table (T, 2) of energy scale and transverse field, got shape "
            f"{table.shape}; see qdesampler.equation.schedule.schedule_table."
        )
    if not is_traced(table):
        numbers = np.asarray(table)
        if not np.all(np.isfinite(numbers)) or numbers.min() < 0:
            raise ValueError("a schedule must be finite and not negative.")
    return table
