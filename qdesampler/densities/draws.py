"""The run: the warm-up of QDE, and then its frozen mixture, in blocks of iterations.

Every random number comes from the seed and the index of its iteration, so that neither blocks nor
interruptions change a draw. Candidates of global moves do not depend on the chains: those of a block are one
batch. Each step of a trajectory is a batch of all chains.
"""

from typing import NamedTuple

import numpy as np

from qdesampler.densities.errors import BudgetError
from qdesampler.densities.evaluator import SpaceEvaluator
from qdesampler.densities.progress import Meter
from qdesampler.driver.stopping import Until, check_convergence, draws_at_checks
from qdesampler.infer.qde.coordinates.rows import RowCoordinates
from qdesampler.infer.qde.nuts_arguments import block_rank, correlated_blocks
from qdesampler.infer.qde.prepared import Prepared, WarmupSettings
from qdesampler.infer.qde.warmup import prepare
from qdesampler.kernels.adaptation.walk import LocalSettings
from qdesampler.kernels.mcmc.host_mixture import HostMixture, Iterations, Schedule, walk
from qdesampler.kernels.mcmc.host_trajectories import DYNAMICS, Chains
from qdesampler.kernels.mcmc.integrators import INTEGRATORS
from qdesampler.numerics.numpy_metric import identity

__all__ = ["HostChains", "Plan", "draw", "warm_up"]

_TARGET_ACCEPTANCE = 0.9  # of local moves: that of the kernel QDE
_MOST_STEPS = 1023  # of a trajectory, as NUTS's
_WARMUP = 1000  # iterations that the warm-up is allowed to take; local adaptation takes 350 at most
_BLOCK = 512  # evaluations of a block that is one batch: many for many workers, few enough to watch


class Plan(NamedTuple):
    """What is to be drawn.

    Attributes:
        num_samples: draws of each chain, at most.
        num_chains: number of chains.
        seed: of all random numbers of the draws.
        until: criteria that end a run early, or None.
    """

    num_samples: int
    num_chains: int
    seed: int
    until: Until | None


def warm_up(coordinates: RowCoordinates, starts: np.ndarray, meter: Meter) -> Prepared:
    """The warm-up of QDE with its usual settings, but every move is a draw.

    An evaluation is expensive here, and of correlated draws all together say more than every second one
    (MacEachern and Berliner, The American Statistician 48 (1994) 188).

    Args:
        coordinates: where the target is evaluated.
        starts: unconstrained points of finite density, shape `(n, dim)`.
        meter: of the progress.
    """
    prototype = np.zeros(coordinates.dim)
    blocks, forced = correlated_blocks(None, None, prototype)
    local = LocalSettings(
        step_size=1.0,
        length=None,
        target_accept_prob=_TARGET_ACCEPTANCE,
        most_steps=_MOST_STEPS,
        adapt_step_size=True,
        adapt_metric=True,
        search_step_size=False,
        regularize=True,
        blocks=blocks,
        rank=block_rank(None, prototype, forced=forced),
        force_blocks=forced,
        dynamics=DYNAMICS["canonical"],
        integrator=INTEGRATORS["leapfrog"],
    )
    metric = identity(coordinates.dim, local.directions)
    settings = WarmupSettings(_WARMUP, True, local)
    found = prepare(coordinates, starts, metric, settings, lambda words: meter.phase(f"warm-up: {words}"))
    return found._replace(moves=1, burn_in=found.burn_in * found.moves)


def _mixture(prepared: Prepared) -> HostMixture:
    return HostMixture(
        prepared.trial,
        prepared.step_size,
        prepared.length,
        prepared.probability,
        prepared.candidates,
        prepared.moves,
        _MOST_STEPS,
        DYNAMICS["canonical"],
        INTEGRATORS["leapfrog"],
        prepared.short_fraction,
    )


def _cost(mixture: HostMixture, evaluator: SpaceEvaluator) -> float:
    """Evaluations of one iteration of one chain, in expectation."""
    steps = max(mixture.length / mixture.step_size, 1.0) * mixture.integrator.stages
    local = (1 - mixture.probability) * steps * evaluator.score_cost
    return mixture.moves * (mixture.probability * mixture.candidates + local)


class HostChains:
    """Chains under way: where they are, and how many iterations they have made."""

    def __init__(
        self, coordinates: RowCoordinates, evaluator: SpaceEvaluator, prepared: Prepared, plan: Plan
    ):
        self._coordinates, self._evaluator = coordinates, evaluator
        self.mixture: HostMixture = _mixture(prepared)
        self._words = np.random.SeedSequence(plan.seed).generate_state(2, np.uint64)
        rows = np.arange(plan.num_chains) % len(prepared.starts)
        starts = Chains(prepared.starts[rows], prepared.log_densities[rows], prepared.scores[rows])
        self._here = coordinates.inside(starts)
        self._made = 0

    def _generator(self, index: int, move: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=self._words, counter=[0, 0, move, index]))

    def advance(self, count: int, *, forget: bool = False) -> Iterations:
        """Iterations, in the coordinates of the moves; nothing has happened if an evaluation fails.

        Args:
            count: their number.
            forget: whether the first candidate of the first one is accepted unconditionally.
        """
        alone = self._evaluator.calls.has_scores is False
        made = walk(
            self._coordinates.evaluate,
            self._evaluator.rounded,
            self._here,
            self.mixture,
            Schedule(self._made, count, lambda index: True, self._generator),
            forget=forget,
            log_densities=self._log_densities if alone else None,
        )
        self._here = Chains(made.positions[-1], made.log_densities[-1], made.scores[-1])
        self._made += count
        return made

    def _log_densities(self, points: np.ndarray) -> np.ndarray:
        law = self._coordinates.law
        if law is None:
            return self._evaluator.log_densities(points)
        nothing = np.zeros_like(points)
        sites = self._coordinates.outside(Chains(points, np.zeros(len(points)), nothing))
        return self._evaluator.log_densities(sites.positions) - sites.log_densities


def draw(
    coordinates: RowCoordinates,
    evaluator: SpaceEvaluator,
    prepared: Prepared,
    plan: Plan,
    meter: Meter,
) -> tuple[Iterations, int, str]:
    """The kept iterations at the sites, the evaluations before them, and why the run ended.

    Raises:
        BudgetError: the budget ended before the first draw.
    """
    chains = HostChains(coordinates, evaluator, prepared, plan)
    cost = _cost(chains.mixture, evaluator) * plan.num_chains
    block = max(int(_BLOCK / max(cost, 1e-9)), 1)
    meter.phase("burn-in", 0, cost * (prepared.burn_in + plan.num_samples))
    for first in range(0, prepared.burn_in, block):
        chains.advance(min(block, prepared.burn_in - first), forget=first == 0)
    before, parts, drawn, ended_by = evaluator.num_evals, [], 0, "num_samples"
    checks = draws_at_checks()
    check = next(checks)
    needs_draws = plan.until is not None and plan.until.needs_draws
    try:
        while drawn < plan.num_samples:
            count = min(block, plan.num_samples - drawn)
            if needs_draws:
                count = min(count, check - drawn)
            try:
                parts.append(_outside(coordinates, chains.advance(count)))
            except BudgetError:
                if block == 1:
                    ended_by = "max_evals"
                    break
                block = max(min(block, count) // 2, 1)
                continue
            drawn += count
            meter.phase(f"draw {drawn} of {plan.num_samples}", drawn, cost * (plan.num_samples - drawn))
            if needs_draws and drawn == check:
                check = next(checks)
                positions = np.swapaxes(np.concatenate([part.positions for part in parts]), 0, 1)
                if plan.until is not None and plan.until.is_met(check_convergence(positions, drawn)):
                    ended_by = "until"
                    break
    except KeyboardInterrupt:
        if not parts:
            raise
        ended_by = "interrupt"
    if not parts:
        raise BudgetError("There is no draw yet.")
    return Iterations(*(np.concatenate(column) for column in zip(*parts, strict=True))), before, ended_by


def _outside(coordinates: RowCoordinates, made: Iterations) -> Iterations:
    """Iterations at the sites."""
    count, chains, dim = made.positions.shape
    rows = Chains(made.positions.reshape(-1, dim), made.log_densities.ravel(), made.scores.reshape(-1, dim))
    sites = coordinates.outside(rows)
    values = sites.log_densities.reshape(count, chains)
    return made._replace(
        positions=sites.positions.reshape(count, chains, dim),
        log_densities=values,
        scores=sites.scores.reshape(count, chains, dim),
        energies=made.energies + made.log_densities - values,
    )
