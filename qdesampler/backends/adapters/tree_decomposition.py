"""Exact draws and partition functions at low treewidth; the only file that imports dwave-samplers."""

import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.backends.adapters.dimod_adapter import seed_from_key, to_bqm
from qdesampler.backends.checks import check_call, refuse_traced
from qdesampler.backends.problem import IsingProblem
from qdesampler.backends.protocol import BackendError, Capabilities, CheckedBackend, SampleCall, Samples

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


class TreeDecomposition(CheckedBackend):
    """Independent exact draws from `exp(-beta E) / Z` by tree decomposition (dwave-samplers), on the host.

    Cost grows as `2^treewidth`: chains and trees of any length, grids up to about 20 wide. `sample` returns
    the log probability of every state; it takes no `schedule` and no `initial_states`. A treewidth that is
    too large is a `ValueError` with the sampler's own message.
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

    def _check_ready(self, problem: IsingProblem, key: jax.Array | None, beta: ArrayLike) -> None:
        if self._closed:
            raise BackendError("this backend is closed; make another one.")
        refuse_traced(
            "TreeDecomposition runs on the host and cannot be traced: draw before the chain.",
            *(problem, key, beta),
        )

    def _draw(self, call: SampleCall) -> Samples:
        problem = call.problem
        answer = self._solve(problem, seed_from_key(call.key), call.num_reads, call.beta)
        columns = [answer.variables.index(i) for i in range(problem.num_variables)]
        rows = np.repeat(answer.record.sample[:, columns], answer.record.num_occurrences, 0)
        states = jnp.asarray(rows, jnp.int8)
        energies = problem.energies(states)
        log_prob = -np.float64(call.beta) * energies - answer.info["log_partition_function"]
        return Samples(states, energies, None, log_prob)

    def log_partition(self, problem: IsingProblem, *, beta: ArrayLike = 1.0) -> float:
        """Return `log Z = log sum_s exp(-beta E(s))`, in double precision.

        Raises:
            TypeError: the call is traced, or an argument is not of its kind.
            ValueError: a treewidth that is too large, or a number out of range.
            BackendError: the backend is closed.
        """
        self._check_ready(problem, None, beta)
        problem, _, scale = check_call("TreeDecomposition", problem, 1, beta)
        return self._log_partition(problem, scale) - float(scale) * float(problem.offset)

    def log_prob(self, problem: IsingProblem, states: ArrayLike, *, beta: ArrayLike = 1.0) -> np.ndarray:
        """Return the log probability of states, -1 and +1, shape `(..., n)`, in double precision.

        Raises:
            TypeError, ValueError, BackendError: as `log_partition`.
        """
        self._check_ready(problem, None, beta)
        problem, _, scale = check_call("TreeDecomposition", problem, 1, beta)
        energies = np.asarray(problem.without_offset().energies(states))
        return -float(scale) * energies - self._log_partition(problem, scale)

    def close(self) -> None:
        """Refuse calls from now on."""
        self._closed = True

    def _log_partition(self, problem: IsingProblem, beta: Any) -> float:
        """`log Z` of the problem without its constant."""
        answer = self._solve(problem.without_offset(), 0, 1, beta)
        return float(answer.info["log_partition_function"])

    def _solve(self, problem: IsingProblem, seed: int, num_reads: int, beta: Any) -> Any:
        return self._sampler.sample(
            to_bqm(problem), num_reads=num_reads, beta=float(beta), seed=seed, marginals=False
        )
