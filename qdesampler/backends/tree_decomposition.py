"""Exact draws and partition functions at low treewidth; the only file that imports dwave-samplers."""

import types
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.backends.checks import check_call, refuse
from qdesampler.backends.dimod_adapter import seed_from_key, to_bqm
from qdesampler.backends.problem import IsingProblem
from qdesampler.backends.protocol import BackendError, Capabilities, Samples
from qdesampler.validation import is_traced

__all__ = ["TreeDecomposition", "ocean_sampler"]


def ocean_sampler(name: str) -> Any:
    """Return a new sampler of dwave-samplers by its class name, such as `"SimulatedAnnealingSampler"`.

    Raises:
        ImportError: dwave-samplers is not installed.
        ValueError: it has no such sampler.
    """
    try:
        import dwave.samplers as samplers
    except ImportError as error:
        raise ImportError("this needs dwave-samplers: pip install 'qdesampler[dimod]'") from error
    if not hasattr(samplers, name):
        raise ValueError(f"dwave-samplers has no {name!r}.")
    return getattr(samplers, name)()


class TreeDecomposition:
    """Independent exact draws from `exp(-beta E) / Z` by tree decomposition (dwave-samplers), on the host.

    Cost grows as `2^treewidth`: chains and trees of any length, grids up to about 20 wide.
    """

    def __init__(self):
        self._sampler = ocean_sampler("TreeDecompositionSampler")
        self._closed = False

    @property
    def capabilities(self) -> Capabilities:
        """Exact independent draws with their log probability."""
        return Capabilities(law="density", jittable=False)

    @property
    def properties(self) -> Mapping[str, Any]:
        """The sampler's own properties."""
        return types.MappingProxyType(dict(self._sampler.properties))

    def sample(
        self,
        problem: IsingProblem,
        *,
        key: jax.Array,
        num_reads: int = 1,
        beta: ArrayLike = 1.0,
        schedule: Any = None,
        initial_states: ArrayLike | None = None,
    ) -> Samples:
        """Return independent exact draws with their log probabilities.

        Raises:
            TypeError: the call is traced, or an argument is not of its kind.
            ValueError: a treewidth that is too large (the sampler's own message), a number out of range, or a
                `schedule` or `initial_states`.
            BackendError: the backend is closed.
        """
        refuse("TreeDecomposition", schedule=schedule, initial_states=initial_states)
        answer = self._call(problem, seed_from_key, num_reads, beta, key)
        columns = [answer.variables.index(i) for i in range(problem.num_variables)]
        rows = np.repeat(answer.record.sample[:, columns], answer.record.num_occurrences, 0)
        states = jnp.asarray(rows, jnp.int8)
        energies = problem.energies(states)
        log_prob = -jnp.asarray(beta) * energies - answer.info["log_partition_function"]
        return Samples(states, energies, None, log_prob)

    def log_partition(self, problem: IsingProblem, *, beta: ArrayLike = 1.0) -> float:
        """Return `log Z = log sum_s exp(-beta E(s))`, in double precision.

        Raises:
            TypeError: the call is traced, or an argument is not of its kind.
            ValueError: a treewidth that is too large, or a number out of range.
            BackendError: the backend is closed.
        """
        return float(self._call(problem, lambda key: 0, 1, beta, None).info["log_partition_function"])

    def log_prob(self, problem: IsingProblem, states: ArrayLike, *, beta: ArrayLike = 1.0) -> jax.Array:
        """Return the log probability of states, -1 and +1, shape `(..., n)`."""
        return -jnp.asarray(beta) * problem.energies(states) - self.log_partition(problem, beta=beta)

    def close(self) -> None:
        """Refuse calls from now on."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _call(self, problem: IsingProblem, seed: Any, num_reads: int, beta: ArrayLike, key: Any) -> Any:
        if self._closed:
            raise BackendError("this backend is closed; make another one.")
        if any(map(is_traced, (*jax.tree.leaves(problem), beta, key))):
            raise TypeError("TreeDecomposition runs on the host and cannot be traced: draw before the chain.")
        problem, num_reads, checked = check_call("TreeDecomposition", problem, num_reads, beta, key=key)
        return self._sampler.sample(
            to_bqm(problem), num_reads=num_reads, beta=float(checked), seed=seed(key), marginals=False
        )
