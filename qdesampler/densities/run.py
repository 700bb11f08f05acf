"""The result of `sample`: draws that `summary`, `diagnose`, `report`, `zero_variance` and `to_datatree` take.

It has the face of a finished run of `numpyro.infer.MCMC`, by which diagnostics read all runs. What they ask a
NumPyro run to compute with JAX, the scores of its draws, this run already knows.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qdesampler.densities.named import Names
from qdesampler.infer.model.kernel_reports import TrialReport
from qdesampler.infer.model.scores import NoScoresError, RunScores
from qdesampler.infer.qde.facts import solve_facts, trial_report
from qdesampler.infer.qde.prepared import Prepared
from qdesampler.infer.qde.site_blocks import SiteBlocks
from qdesampler.infer.qde.state import QDEAdaptState, QDEState
from qdesampler.infer.qde.transitions import frozen
from qdesampler.kernels.mcmc.host_mixture import Iterations

__all__ = ["RunCosts", "DensityRun", "HostQDE"]


class RunCosts(NamedTuple):
    """What a run has cost.

    Attributes:
        evaluations: points evaluated, those of earlier calls with the same checkpoint included.
        of_warmup: those before the first kept draw.
        made: those of this call.
        failures: exceptions that were taken for a density of zero.
        undefined: points at which the log density was NaN or +inf; they were rejected.
        lost: chunks that workers lost by kind of failure, and executors that were replaced.
    """

    evaluations: int
    of_warmup: int
    made: int
    failures: int
    undefined: int
    lost: Mapping[str, int]


class HostQDE:
    """QDE on the host, as diagnostics see it: a kernel that answers their questions and has no model."""

    model = None
    sample_field = "z"

    def __init__(self, facts: Mapping[str, str | int | float]):
        self._facts = dict(facts)

    def facts(self, last_state: QDEState) -> dict[str, str | int | float]:
        """The result of the solve (`qdesampler.infer.qde.facts.solve_facts`), and the evaluations."""
        return {**solve_facts(last_state), **self._facts}

    def trial_report(self, last_state: QDEState) -> TrialReport | None:
        """The trial of global moves."""
        return trial_report(last_state)

    def get_potential_fn(self, model_args: Any = (), model_kwargs: Any = None) -> Any:
        """No function of JAX.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a user's function is not evaluated again after the run.")


class DensityRun:
    """Draws of a density and what is known about them.

    Attributes:
        ended_by: "num_samples", "until", "max_evals" or "interrupt".
        costs: the evaluations, and what went wrong with them.
        num_samples: kept draws of each chain.
        num_chains: number of chains.
        num_warmup: iterations that were discarded.
        dims: names of axes of the parameters.
        coords: labels of these axes.
    """

    thinning = 1
    chain_method = "host"
    post_warmup_state = None
    ended_by: str
    costs: RunCosts
    num_samples: int
    num_chains: int
    dims: dict[str, tuple[str, ...]]
    coords: dict[str, Sequence[Any]]
    _args = ()
    _kwargs: Mapping[str, Any] = {}

    def __init__(self, names: Names, kept: Iterations, prepared: Prepared, costs: RunCosts, ended_by: str):
        """Collect draws.

        Args:
            names: of the density and its parameters.
            kept: the kept iterations, in unconstrained space.
            prepared: the warm-up.
            costs: the evaluations.
            ended_by: why the run ended.
        """
        self.ended_by, self.costs = ended_by, costs
        self.num_samples, self.num_chains, dim = kept.positions.shape
        self.num_warmup: int = prepared.burn_in
        self.dims, self.coords = dict(names.dims), dict(names.coords)
        self._labels, self._kept = names.labels, kept
        rows = np.swapaxes(kept.positions, 0, 1).reshape(-1, dim)
        self._draws = {
            name: value.reshape(self.num_chains, self.num_samples, *value.shape[1:])
            for name, value in names.values(rows).items()
        }
        self.sampler: HostQDE = HostQDE(
            {
                "model": names.name,
                "warmup_evals": costs.of_warmup,
                "sampling_evals": costs.evaluations - costs.of_warmup,
                "sampling_evals_exact": 1,
                "ended_by": ended_by,
                "failed_evals": costs.failures,
                "undefined_evals": costs.undefined,
                "lost_chunks": sum(costs.lost.values()),
            }
        )
        self.last_state: QDEState = _state(kept, prepared, costs)

    def __repr__(self) -> str:
        """The size of the run and what it has cost."""
        outcome = self.sampler.facts(self.last_state)["solve_outcome"]
        return (
            f"DensityRun({self.num_chains} chains of {self.num_samples} draws, {self.costs.evaluations} "
            f"evaluations, {self.costs.of_warmup} of them for the warm-up; solve: {outcome}; ended by "
            f"{self.ended_by})"
        )

    def get_samples(self, group_by_chain: bool = False) -> dict[str, np.ndarray]:
        """Draws by name, shapes `(chains, draws, ...)`, or `(chains draws, ...)` without groups."""
        return {name: _grouped(value, group_by_chain) for name, value in self._draws.items()}

    def get_extra_fields(self, group_by_chain: bool = False) -> dict[str, np.ndarray]:
        """Statistics of the draws by NumPyro's names: energies, acceptance, divergences."""
        fields = {
            "potential_energy": -self._kept.log_densities,
            "energy": self._kept.energies,
            "accept_prob": self._kept.accept_probs,
            "diverging": self._kept.diverging,
        }
        return {name: _grouped(np.swapaxes(value, 0, 1), group_by_chain) for name, value in fields.items()}

    def known_scores(self) -> RunScores:
        """Unconstrained draws and their scores, which cost nothing more.

        Raises:
            NoScoresError: the function returns log densities only.
        """
        scores = np.swapaxes(self._kept.scores, 0, 1)
        if not np.all(np.isfinite(scores)):
            raise NoScoresError("The function returns no scores, and most draws needed none.")
        return RunScores(np.swapaxes(self._kept.positions, 0, 1), scores, 0, self._labels)


def _grouped(values: np.ndarray, group_by_chain: bool) -> np.ndarray:
    return values if group_by_chain else values.reshape(-1, *values.shape[2:])


def _state(kept: Iterations, prepared: Prepared, costs: RunCosts) -> QDEState:
    """The last state of all chains, of NumPy arrays."""
    chains = kept.log_densities.shape[1]
    every = np.ones(chains)
    adapt: Any = QDEAdaptState(
        prepared.step_size * every,  # pyright: ignore[reportArgumentType]
        prepared.length * every,  # pyright: ignore[reportArgumentType]
        frozen(prepared, prepared.burn_in),
        SiteBlocks((), ((("z",), True),)),
    )
    none: Any = ()
    fields: dict[str, Any] = {
        "i": np.full(chains, prepared.burn_in + len(kept.log_densities)),
        "z": kept.positions[-1],
        "z_grad": -kept.scores[-1],
        "potential_energy": -kept.log_densities[-1],
        "energy": kept.energies[-1],
        "num_evals": np.zeros(chains, int),
        "warmup_evals": np.array([costs.of_warmup] + [0] * (chains - 1)),
        "pending_evals": np.zeros(chains, int),
        "accept_prob": kept.accept_probs[-1],
        "mean_accept_prob": np.mean(kept.accept_probs, 0),
        "diverging": kept.diverging[-1],
        "adapt_state": adapt,
        "rng_key": none,
    }
    return QDEState(**fields)
