r"""THRML, the simulator of thermodynamic sampling hardware, as a backend; the only file that imports it.

THRML samples factor graphs by block Gibbs updates and writes `p ~ exp(beta (b.s + sum w s s))`, the signs of
ours turned round. It keeps one order of the blocks; a second program in the opposite order makes the pair of
sweeps a palindrome, which is reversible with respect to `exp(-beta E)` (see `gibbs_surrogate`).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qdesampler.backends.checks import check_call, refuse
from qdesampler.backends.problem import IsingProblem, bits_to_spins, check_states
from qdesampler.backends.protocol import Capabilities, LocalBackend, Samples
from qdesampler.backends.sweeps import color_graph
from qdesampler.validation import as_positive_int, is_traced

__all__ = ["ThrmlBackend"]


def _thrml() -> Any:
    try:
        import thrml
        import thrml.models
    except ImportError as error:
        raise ImportError("this needs thrml: pip install 'qdesampler[thrml]'") from error
    return thrml


@dataclasses.dataclass(frozen=True)
class ThrmlBackend(LocalBackend):
    """`num_sweeps` pairs of THRML's block Gibbs sweeps, forwards and then backwards, at constant `beta`.

    Programs are built anew for every problem: fill pools with it, call nothing inside a chain.

    Attributes:
        num_sweeps: pairs of sweeps of a read.

    Raises:
        ImportError: thrml is not installed.
        ValueError: `num_sweeps` is not a positive integer.
    """

    num_sweeps: int = 10

    def __post_init__(self):
        as_positive_int("num_sweeps", self.num_sweeps)
        _thrml()

    @property
    def capabilities(self) -> Capabilities:
        """A kernel from the initial states, reversible with respect to `exp(-beta E)`; on the host."""
        return Capabilities(law="reversible", jittable=False, initial_states=True)

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
        """Return where the sweeps lead from `initial_states`, `(num_reads, n)` or `(n,)`; else random ones.

        Raises:
            TypeError: the call is traced, or an argument is not of its kind.
            ValueError: a number out of range, states of another shape, or a `schedule`.
        """
        if any(map(is_traced, (*jax.tree.leaves(problem), key, beta))):
            raise TypeError("ThrmlBackend builds its programs on the host: fill a pool before (build_pool).")
        problem, num_reads, beta = check_call("ThrmlBackend", problem, num_reads, beta, key=key)
        refuse("ThrmlBackend", schedule=schedule)
        n = problem.num_variables
        key_start, key_run = jax.random.split(key)
        if initial_states is None:
            bits = jax.random.bernoulli(key_start, 0.5, (num_reads, n))
        else:
            bits = check_states("initial_states", initial_states, num_reads, n) > 0
        sparse = problem.sparse()
        colors = color_graph(n, np.asarray(sparse.edges))
        blocks = [np.flatnonzero(colors == color) for color in range(colors.max() + 1)]
        pair = _palindrome(sparse, beta, blocks)

        def read(key, bits):
            state = [bits[block] for block in blocks]
            state, _ = jax.lax.scan(pair, state, jax.random.split(key, self.num_sweeps))
            return jnp.zeros((n,), bool).at[np.concatenate(blocks)].set(jnp.concatenate(state))

        found = jax.jit(jax.vmap(read))(jax.random.split(key_run, num_reads), bits)
        states = bits_to_spins(found.astype(jnp.int8))
        return Samples(states, problem.energies(states))


def _palindrome(problem: IsingProblem, beta: jax.Array, blocks: list[np.ndarray]):
    """Return one pair of sweeps as the body of a scan over keys; the state is a list of blocks of bits."""
    thrml = _thrml()
    n = problem.num_variables
    # A node that is coupled by 0 keeps THRML from an empty list of pairs, which it does not take.
    nodes = [thrml.SpinNode() for _ in range(n + 1)]
    pairs = [*map(tuple, np.asarray(problem.edges).tolist()), (0, n)]
    model = thrml.models.IsingEBM(
        nodes,
        [(nodes[i], nodes[j]) for i, j in pairs],
        -jnp.append(problem.h, 0),
        -jnp.append(problem.J, 0),
        beta,
    )
    free = [thrml.Block([nodes[i] for i in block]) for block in blocks]
    idle = thrml.Block([nodes[n]])
    forwards = thrml.models.IsingSamplingProgram(model, free, [idle])
    backwards = thrml.models.IsingSamplingProgram(model, free[::-1], [idle])
    clamped, nothing = [jnp.zeros((1,), bool)], [None] * len(blocks)

    def pair(state, key):
        first, second = jax.random.split(key)
        state, _ = thrml.sample_blocks(first, list(state), clamped, forwards, list(nothing))
        state, _ = thrml.sample_blocks(second, state[::-1], clamped, backwards, list(nothing))
        return state[::-1], None

    return pair
