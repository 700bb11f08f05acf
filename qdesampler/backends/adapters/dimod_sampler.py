"""Our backends as Ocean's samplers."""

from collections.abc import Hashable, Iterable
from typing import Any

import jax
import numpy as np

from qdesampler.backends.adapters.dimod_adapter import from_bqm, load_dimod
from qdesampler.backends.protocol import AnnealingBackend

__all__ = ["as_dimod"]


def as_dimod(backend: AnnealingBackend) -> Any:
    """Return a `dimod.Sampler` that samples with `backend`.

    Its `sample(bqm, num_reads=1, beta=1.0, seed=None, schedule=None, initial_states=None)` works for models
    of spins and of bits; log weights and log probabilities are vectors of the sample set.

    Raises:
        ImportError: dimod is not installed.
        TypeError: not a backend.
    """
    dimod = load_dimod()
    if not isinstance(backend, AnnealingBackend):
        raise TypeError(f"as_dimod takes an annealing backend, got {type(backend).__name__}.")

    class BackendSampler(dimod.Sampler):
        """A backend with dimod's face."""

        def __init__(self):
            self.backend = backend

        @property
        def parameters(self) -> dict[str, list[str]]:
            return {name: [] for name in ("num_reads", "beta", "seed", "schedule", "initial_states")}

        @property
        def properties(self) -> dict[str, Any]:
            return dict(backend.properties, law=backend.capabilities.law)

        def close(self) -> None:
            backend.close()

        def sample(self, bqm, num_reads=1, beta=1.0, seed=None, schedule=None, initial_states=None, **kwargs):
            self.remove_unknown_kwargs(**kwargs)
            labels = tuple(bqm.variables)
            if not labels:
                return dimod.SampleSet.from_samples_bqm(np.zeros((num_reads, 0)), bqm)
            problem, _ = from_bqm(bqm)
            seed = int(np.random.default_rng(seed).integers(2**31)) if seed is None else seed
            start = None if initial_states is None else _rows(dimod, initial_states, labels, bqm.vartype)
            samples = backend.sample(
                problem,
                key=jax.random.key(seed),
                num_reads=num_reads,
                beta=beta,
                schedule=schedule,
                initial_states=start,
            )
            states = np.asarray(samples.states)
            vectors = {
                name: np.asarray(value)
                for name, value in (("log_weight", samples.log_weight), ("log_prob", samples.log_prob))
                if value is not None
            }
            if bqm.vartype is dimod.BINARY:
                states = (states + 1) // 2
            found = dimod.SampleSet.from_samples_bqm((states, labels), bqm, **vectors)
            if samples.log_scale is not None:  # what the model's constant adds to every log weight
                found.info["log_scale"] = float(samples.log_scale)
            return found

    return BackendSampler()


def _rows(dimod: Any, states: Any, labels: Iterable[Hashable], vartype: Any) -> np.ndarray:
    array, given = dimod.as_samples(states)
    rows = array[:, [list(given).index(label) for label in labels]]
    rows = 2 * rows - 1 if vartype is dimod.BINARY else rows
    return rows[0] if len(rows) == 1 else rows
