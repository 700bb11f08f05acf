"""Sampling on the host: iterations of QDE without a compiled transition, for runs of few operations.

Compiling the transition costs seconds, a batch of evaluations asked for by the host a fraction of a
millisecond. For a run of few batches the host is sooner done. Both draw from the same law, by other random
numbers.
"""

from typing import Any

import jax
import numpy as np

from qdesampler.infer.model.fingerprint import is_typed_key
from qdesampler.infer.model.raveling import unraveler
from qdesampler.infer.qde.coordinates.host import HostCoordinates
from qdesampler.infer.qde.state import Frozen, QDEState
from qdesampler.kernels.mcmc.host_mixture import HostMixture, Schedule, walk
from qdesampler.kernels.mcmc.host_trajectories import Chains, HostDynamics
from qdesampler.kernels.mcmc.integrators import Integrator
from qdesampler.numerics.host_trial import HostTrial
from qdesampler.numerics.numpy_metric import HostMetric

__all__ = ["HostSampler", "is_soon_done"]

# Batches of a run, at about .2 ms each: more take longer than compiling (results/seconds.md). One in the
# coordinates of a map counts for as many as it takes the time of.
_MOST_BATCHES, _IN_MAP = 15_000, 3
_MOST_NUMBERS = 4096  # coordinates of all chains together: more are moved faster by a compiled program


def is_soon_done(state: QDEState, iterations: int, stages: int) -> bool:
    """Whether the host makes so many iterations sooner than a transition is compiled; decided by counts.

    Args:
        state: of the chains, before the first iteration.
        iterations: of the whole run, warm-up included.
        stages: gradients of a step.
    """
    shared = state.adapt_state.shared
    if not isinstance(shared, Frozen) or np.any(np.asarray(shared.centredness) != 1):
        return False
    mixture = shared.mixture
    resting = max(int(shared.num_warmup) - int(shared.burn_in), 0)
    steps = max(float(mixture.length) / float(mixture.step_size), 1.0) * stages
    moves = (iterations - resting) * int(mixture.moves)
    batches = moves * (1 + (1 - float(mixture.probability)) * steps) * (1 if shared.law is None else _IN_MAP)
    chains = int(np.size(state.potential_energy))
    return batches <= _MOST_BATCHES and chains * shared.centredness.size <= _MOST_NUMBERS


class HostSampler:
    """Iterations of all chains of a state.

    Args:
        coordinates: where the target is evaluated; they get the map of the moves.
        prototype: position of one chain.
        dynamics: how velocities are drawn and kicked.
        integrator: the splitting of a step.
        most_steps: of a trajectory, in warm-up and in sampling.
    """

    def __init__(
        self,
        coordinates: HostCoordinates,
        prototype: Any,
        dynamics: HostDynamics,
        integrator: Integrator,
        most_steps: tuple[int, int],
    ):
        self._coordinates = coordinates
        self._unravel = unraveler(prototype)
        self._dynamics, self._integrator, self._most_steps = dynamics, integrator, most_steps

    def advance(self, state: QDEState, count: int) -> tuple[QDEState, QDEState]:
        """Make iterations.

        Returns:
            The new state, and the states after every iteration, stacked on a leading axis; NumPy arrays.
        """
        batched = np.ndim(state.potential_energy) == 1
        shared = state.adapt_state.shared
        assert isinstance(shared, Frozen)
        first = int(np.ravel(state.i)[0])
        num_warmup, burn_in = int(shared.num_warmup), int(shared.burn_in)
        words, coordinates = _words(state.rng_key), self._coordinates
        coordinates.centredness = np.ones(coordinates.dim)
        coordinates.law = None if shared.law is None else jax.tree.map(_on_host, shared.law)
        made = walk(
            coordinates.evaluate,
            coordinates.evaluator.rounded,
            coordinates.inside(self._chains(state)),
            self._mixture(shared, most_steps=self._most_steps[0 if first < num_warmup else 1]),
            Schedule(
                first,
                count,
                lambda index: index >= num_warmup or index < burn_in,
                lambda index, move: np.random.Generator(
                    np.random.Philox(key=words, counter=[0, 0, move, index])
                ),
            ),
            forget=first == 0 and num_warmup > 0,
            kept=None if coordinates.law is None else self._kept,
        )
        index = np.arange(first, first + count)
        stacked = self._states(state, made, index, num_warmup, batched=batched)
        last = jax.tree.map(lambda leaf: leaf[-1], stacked)
        adapt = state.adapt_state
        step_sizes, lengths = (np.repeat(np.asarray(leaf)[None], count, 0) for leaf in adapt[:2])
        every: Any = adapt._replace(step_size=step_sizes, trajectory_length=lengths, shared=())
        return last._replace(adapt_state=adapt, rng_key=state.rng_key), stacked._replace(adapt_state=every)

    def _chains(self, state: QDEState) -> Chains:
        values = np.asarray(state.potential_energy, float)
        chains = max(values.size, 1)
        positions, scores = (
            np.concatenate([np.asarray(leaf, float).reshape(chains, -1) for leaf in jax.tree.leaves(tree)], 1)
            for tree in (state.z, state.z_grad)
        )
        return Chains(positions, -values.reshape(chains), -scores)

    def _kept(self, chains: Chains) -> tuple[Chains, Chains]:
        """Sites in the precision of a state, and the chains there.

        A run in two parts goes on from a state, so the same run in one part has to as well.
        """
        dtype = self._coordinates.evaluator.dtype
        sites = Chains(*(part.astype(dtype).astype(float) for part in self._coordinates.outside(chains)))
        return sites, self._coordinates.inside(sites)

    def _mixture(self, shared: Frozen, most_steps: int) -> HostMixture:
        mixture, trial = shared.mixture, shared.mixture.trial
        metric = HostMetric(*(np.asarray(part, float) for part in trial.metric))
        centre, shift, width, skew = (
            np.asarray(part, float) for part in (trial.centre, trial.shift, trial.width, trial.skew)
        )
        host = HostTrial(centre, metric, shift, width, skew, float(trial.defensive_weight))
        return HostMixture(
            host,
            float(mixture.step_size),
            float(mixture.length),
            float(mixture.probability),
            int(mixture.candidates),
            int(mixture.moves),
            most_steps,
            self._dynamics,
            self._integrator,
            float(mixture.short_fraction),
        )

    def _states(self, state, made, index, num_warmup, *, batched) -> QDEState:
        """The states after all iterations, on a leading axis."""
        count, chains = made.accept_probs.shape
        like = np.asarray(state.potential_energy).dtype
        whole = np.asarray(state.i).dtype

        def own(values, dtype=like) -> Any:
            values = np.broadcast_to(values, (count, chains)).astype(dtype)
            return values if batched else values[:, 0]

        def tree(values):
            values = values.astype(like)
            return self._unravel(values if batched else values[:, 0])

        warming = index < num_warmup
        evals = np.broadcast_to(made.num_evals[:, None], (count, chains)).astype(whole).copy()
        evals[0] += np.ravel(state.pending_evals)
        spent = np.ravel(state.warmup_evals) + np.cumsum(np.where(warming[:, None], evals, 0), 0)
        counted = index + 1 - np.where(warming, 0, num_warmup)
        mean, means = np.ravel(state.mean_accept_prob).astype(float), []
        for number, prob in zip(counted, made.accept_probs, strict=True):
            mean = mean + (prob - mean) / number
            means.append(mean)
        no_key: Any = ()
        return QDEState(
            i=own((index + 1)[:, None], whole),
            z=tree(made.positions),
            z_grad=tree(-made.scores),
            potential_energy=own(-made.log_densities),
            energy=own(made.energies),
            num_evals=own(evals, whole),
            warmup_evals=own(spent, whole),
            pending_evals=own(0, whole),
            accept_prob=own(made.accept_probs),
            mean_accept_prob=own(np.stack(means)),
            diverging=own(made.diverging | ~np.isfinite(made.log_densities), bool),
            adapt_state=state.adapt_state._replace(step_size=(), trajectory_length=(), shared=()),
            rng_key=no_key,
        )


def _on_host(part: Any) -> np.ndarray:
    """An array of a map in the precision of the host."""
    part = np.asarray(part)
    return part if part.dtype.kind == "i" else part.astype(float)


def _words(keys: Any) -> np.ndarray:
    """Two words of 64 bits from the keys of all chains."""
    data = np.asarray(jax.random.key_data(keys) if is_typed_key(keys) else keys, np.uint32)
    return np.random.SeedSequence(data.ravel().tolist()).generate_state(2, np.uint64)
