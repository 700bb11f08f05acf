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

from qdesampler.backends.checks import refuse_traced
from qdesampler.backends.problem import IsingProblem, bits_to_spins
from qdesampler.backends.protocol import Capabilities, LocalBackend, SampleCall, Samples
from qdesampler.backends.sweeps import color_graph
from qdesampler.validation import as_positive_int

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

    Programs are built anew for every problem: use it to fill pools, not inside a chain. A read is where the
    sweeps end that start from its initial state, a random one if none is given. `sample` takes no `schedule`.

    Attributes:
        num_sweeps: pairs of sweeps for each read.

    Raises:
        ImportError: thrml is not installed.
        ValueError: `num_sweeps` is not a positive integer.
    """

    num_sweeps: int = 10

    def __post_init__(self) -> None:
        as_positive_int("num_sweeps", self.num_sweeps)
        _thrml()

    @property
    def capabilities(self) -> Capabilities:
        """A kernel from the initial states, reversible with respect to `exp(-beta E)`; on the host."""
        return Capabilities(law="reversible", jittable=False, initial_states=True)

    def _check_ready(self, problem: IsingProblem, key: jax.Array, beta: ArrayLike) -> None:
        refuse_traced(
            "ThrmlBackend builds its programs on the host: fill a pool before (build_pool).",
            *(problem, key, beta),
        )

    def _draw(self, call: SampleCall) -> Samples:
        problem, n = call.problem, call.problem.num_variables
        key_start, key_run = jax.random.split(call.key)
        if call.initial_states is None:
            bits = jax.random.bernoulli(key_start, 0.5, (call.num_reads, n))
        else:
            bits = call.initial_states > 0
        sparse = problem.sparse()
        colors = color_graph(n, np.asarray(sparse.edges))
        blocks = [np.flatnonzero(colors == color) for color in range(colors.max() + 1)]
        pair = _palindrome(sparse, call.beta, blocks)

        def read(key, bits):
            state = [bits[block] for block in blocks]
            state, _ = jax.lax.scan(pair, state, jax.random.split(key, self.num_sweeps))
            return jnp.zeros((n,), bool).at[np.concatenate(blocks)].set(jnp.concatenate(state))

        found = jax.jit(jax.vmap(read))(jax.random.split(key_run, call.num_reads), bits)
        states = bits_to_spins(found.astype(jnp.int8))
        return Samples(states, problem.energies(states))


def _palindrome(problem: IsingProblem, beta: ArrayLike, blocks: list[np.ndarray]):
    """Return one pair of sweeps as the body of a scan over keys; the state is a list of blocks of bits."""
    thrml = _thrml()
    n = problem.num_variables
    # THRML refuses an empty list of pairs: an extra node with the coupling 0 makes sure that there is one.
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
