"""The search before a ladder, on the host: what the reference is, and how many rungs it takes.

In this order:

1. **Solve.** Where one certified trial is all there is (`pilot.py`), it is the reference.
2. **Anneal** populations of particles from the prior reference to the target, and **fit** a reference to
   them.
3. **Look for overlooked modes** by descents; they become part of the reference.
4. **Settle**: anneal again from the fitted reference, until two passes agree on the evidence. What the first
   pass missed (the neck of a funnel, a posterior far narrower than the prior) is at the edge of its
   reference, so that particles which start there reach it for a few evaluations.
5. **Place the rungs** and tune them (`qdesampler.kernels.tempering.host_ladder`).

It depends on the target, the settings and a seed alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from qdesampler.infer.annealed.evidence import error_of_populations
from qdesampler.infer.annealed.mode_search import LARGE_MISSED_MASS
from qdesampler.infer.annealed.pilot import PilotReference, solve_single_mode
from qdesampler.infer.annealed.reference_fit import KINDS, FittedReference, fit_reference
from qdesampler.kernels.references.path import TemperingPath
from qdesampler.kernels.references.reference import Reference, log_density
from qdesampler.kernels.smc.persistent_sampling import Annealed, ParticleSettings, anneal
from qdesampler.kernels.tempering.host_ladder import LadderSettings, TunedLadder, tune_ladder
from qdesampler.kernels.tempering.schedule import (
    num_rungs_for,
    place_rungs,
    predicted_rejections,
    probe_betas,
    reference_acceptance,
)
from qdesampler.numerics.evaluator import Evaluator

__all__ = ["PARTS", "PreparedLadder", "SearchSettings", "check_arrival", "prepare_ladder"]

PARTS = ("pilot", "descents", "settle", "local-steps", "mixture", "refit", "product", "map")
MAX_PASSES = 8  # passes of annealing
# Nats of log Z between two passes, and of the error of the last one, that count as settled
# (results/evidence.md: "in all 70 runs within .05").
_SETTLED, _SMALL_ERROR = 0.15, 0.1
_LEAST_GAIN = 0.8  # barrier from the fitted reference over that from the prior one, below which it is taken
_ACCEPTANCE_DRAWS = 128  # draws of the reference that measure its acceptance
# The pass from the trial of a solve: particles of a population, moves a stage, most steps of a trajectory,
# and stages after which the trial is given up (results/evidence.md: "One mode").
_PILOT = {"num_particles": 32, "moves": 1, "max_steps": 1, "stages": 3, "least_ess": 0.6}
# Acceptance in the pass from a trial below which whole populations are annealed, which cost many thousand
# evaluations before a draw is made (results/evidence.md: ionosphere-35).
_PILOT_ACCEPTANCE = 0.12
_PILOT_ERROR = 0.4  # nats of error of that pass, above which whole populations are annealed
# Acceptance of the reference's draws from which two rungs cost less than three: with four steps a trajectory,
# a new draw costs about 5 / acceptance evaluations, and 30 with three rungs (results/evidence.md).
_TWO_RUNGS = 0.2
_TUNED, _TUNED_TWO = 96, 24  # iterations that tune a ladder, and one of two rungs that swap often


class SearchSettings(NamedTuple):
    """What the search depends on besides the target.

    Attributes:
        particles: sizes of the populations.
        reference_kind: "auto", "fitted" or "prior".
        pilot: whether to begin with a solve.
        num_rungs: number of rungs, or None.
        max_rungs: most rungs that None may choose.
        num_warmup: iterations that the user allows.
        target_accept_prob: acceptance probability that step sizes aim at.
        without: those of `PARTS` that are left out, for measurements.
    """

    particles: ParticleSettings
    reference_kind: str
    pilot: bool
    num_rungs: int | None
    max_rungs: int
    num_warmup: int
    target_accept_prob: float
    without: tuple[str, ...] = ()


class PreparedLadder(NamedTuple):
    """All that the search has found.

    Attributes:
        tuned: the ladder.
        reference: density of its lowest rung.
        kind: number of Gaussians of the reference, or one of `reference_fit.KINDS`.
        log_evidences: `log Z` by each population of the last pass.
        missed_mass: mass of modes that descents found and particles missed, over the target's mass.
        surprising: fraction of the draws of one population of the first pass that the others did not expect.
        num_evals: evaluations of everything.
    """

    tuned: TunedLadder
    reference: Reference
    kind: int
    log_evidences: np.ndarray
    missed_mass: float
    surprising: float
    num_evals: int


class _Pass(NamedTuple):
    """One pass of annealing and what was fitted to its particles."""

    annealed: Annealed
    fit: FittedReference
    acceptance: float

    @property
    def evidence(self) -> tuple[float, float]:
        """`log Z` by the particles, and its error."""
        return error_of_populations(self.annealed.log_evidence)


def prepare_ladder(
    evaluate: Evaluator,
    prior: Reference,
    path: TemperingPath,
    settings: SearchSettings,
    rng: np.random.Generator,
    report: Callable[[str], None] | None = None,
) -> PreparedLadder:
    """The search.

    Args:
        evaluate: the target; it counts the evaluations.
        prior: the prior reference.
        path: from a reference to the target.
        settings: see `SearchSettings`.
        rng: all random numbers.
        report: called with a few words on what is done.

    Raises:
        RuntimeError: particles that never saw a finite density, or did not arrive.
    """
    search = _Search(evaluate, prior, path, settings, rng, report or _silent)
    pilot = search.pilot()
    found = None if pilot is None else search.from_trial(pilot)
    return search.ladder(found or search.annealed())


def _silent(words: str) -> None:
    """Say nothing."""


class _Search:
    """The arguments of `prepare_ladder`, for its parts."""

    def __init__(self, evaluate, prior, path, settings, rng, report):
        self.evaluate: Evaluator = evaluate
        self.prior: Reference = prior
        self.path: TemperingPath = path
        self.settings: SearchSettings = settings
        self.rng: np.random.Generator = rng
        self.report: Callable[[str], None] = report

    def pilot(self) -> PilotReference | None:
        """The trial of a solve, where this is all there is."""
        settings = self.settings
        more_rungs = settings.num_rungs not in (None, 2)  # these need the score of the reference
        if (
            not settings.pilot
            or settings.reference_kind == "prior"
            or "pilot" in settings.without
            or more_rungs
        ):
            return None
        self.report("solve")
        return solve_single_mode(self.evaluate, self.prior, self.rng)

    def from_trial(self, pilot: PilotReference) -> _Pass | None:
        """A pass of few particles that begins at a trial, which stays the reference; None if it is poor."""
        few = self.settings.particles._replace(**_PILOT)
        found = anneal(self.rng, self.evaluate, pilot.reference, self.path, few)
        rate = reference_acceptance(self.rng, found, self.evaluate, pilot.reference, _ACCEPTANCE_DRAWS)
        result = _Pass(found, FittedReference(pilot.reference, pilot.kind, 0.0), rate)
        good = found.arrived and rate >= _PILOT_ACCEPTANCE and result.evidence[1] <= _PILOT_ERROR
        return result if good else None

    def annealed(self) -> _Pass:
        """Passes of whole populations, the first one from the prior reference, until they agree."""
        without = self.settings.without
        found = self.run_pass(None, search_modes="descents" not in without)
        missed, surprising = found.fit.missed_mass, found.fit.surprising
        # If the first pass missed a mode there may be more of them: the second one searches again.
        again = missed > 0
        for _ in range(1, MAX_PASSES):
            if "settle" in without or not self.is_fitted(found):
                break
            before = found.evidence[0]
            found = self.run_pass(found.fit, search_modes=again)
            again, missed = False, max(missed, found.fit.missed_mass)
            value, error = found.evidence
            if abs(value - before) <= _SETTLED and error <= _SMALL_ERROR:
                break
        return found._replace(fit=found.fit._replace(missed_mass=missed, surprising=surprising))

    def run_pass(self, last: FittedReference | None, *, search_modes: bool) -> _Pass:
        """Anneal from the reference of the last pass, or from the prior one, and fit the next."""
        self.report(f"particles, {self.evaluate.num_evals} evaluations")
        reference = self.prior if last is None else last.reference
        particles = self.settings.particles._replace(local_steps="local-steps" not in self.settings.without)
        found = anneal(self.rng, self.evaluate, reference, self.path, particles)
        check_arrival(found)
        without = self.settings.without
        fit = fit_reference(
            self.rng, found, self.prior, self.evaluate, last, search_modes=search_modes, without=without
        )
        if self.settings.reference_kind == "prior":  # what descents found is reported all the same
            return _Pass(found, FittedReference(self.prior, 0, 0.0, fit.missed_mass), 0.0)
        rate = reference_acceptance(self.rng, found, self.evaluate, fit.reference, _ACCEPTANCE_DRAWS)
        return _Pass(found, fit, rate)

    def rejections(self, found: _Pass, reference: Reference) -> tuple[np.ndarray, np.ndarray]:
        """Betas of a ladder from a reference, and the rejections predicted between them."""
        betas = probe_betas(found.annealed.betas)
        log_q = log_density(reference, found.annealed.particles.positions)
        return betas, predicted_rejections(self.rng, found.annealed, log_q, self.path, betas)

    def is_fitted(self, found: _Pass) -> bool:
        """Whether the ladder starts from the fitted reference rather than from the prior one."""
        if self.settings.reference_kind != "auto":
            return self.settings.reference_kind == "fitted"
        if not (found.fit.covers or found.fit.missed_mass > LARGE_MISSED_MASS):
            return False
        if found.acceptance >= _TWO_RUNGS or found.fit.kind == KINDS["trial"]:
            return True
        fitted, prior = (
            np.sum(self.rejections(found, reference)[1]) for reference in (found.fit.reference, self.prior)
        )
        return bool(fitted < _LEAST_GAIN * prior)

    def ladder(self, found: _Pass) -> PreparedLadder:
        """Place the rungs and tune them."""
        settings = self.settings
        fitted = self.is_fitted(found)
        reference, kind = (found.fit.reference, found.fit.kind) if fitted else (self.prior, 0)
        two = fitted and (found.acceptance >= _TWO_RUNGS or kind == KINDS["trial"])
        rungs = settings.num_rungs or (2 if two else None)
        if rungs == 2:
            betas = np.array([0.0, 1.0])
        else:
            probes, rejections = self.rejections(found, reference)
            rungs = rungs or num_rungs_for(float(np.sum(rejections)), settings.max_rungs)
            betas = place_rungs(probes, rejections, rungs)
        self.report(f"ladder of {rungs} rungs, {self.evaluate.num_evals} evaluations")
        most = _TUNED_TWO if two and rungs == 2 else _TUNED
        tuned = tune_ladder(
            self.rng,
            found.annealed,
            reference,
            self.path,
            betas,
            self.evaluate,
            LadderSettings(
                min(settings.num_warmup, most), settings.particles.max_steps, settings.target_accept_prob
            ),
            found.acceptance if two else 0.0,
        )
        return PreparedLadder(
            tuned,
            reference,
            kind,
            found.annealed.log_evidence,
            found.fit.missed_mass,
            found.fit.surprising if fitted else 0.0,
            self.evaluate.num_evals,
        )


def check_arrival(annealed: Annealed) -> None:
    """Refuse particles that never saw a density or did not reach the target.

    Raises:
        RuntimeError: with what to change.
    """
    if not np.all(np.isfinite(annealed.log_evidence)):
        raise RuntimeError(
            "No particle drawn from the prior reference saw a finite log density, so that there is nothing "
            "to anneal: give reference=(centre, scale) where the density is positive, or raise num_particles."
        )
    if not annealed.arrived:
        raise RuntimeError(
            f"The particles reached only beta = {annealed.betas[-1]:.3g} of the path in "
            f"{len(annealed.betas)} stages: the reference lies too far from the posterior. Give a closer "
            "reference=(centre, scale), or raise num_particles."
        )
