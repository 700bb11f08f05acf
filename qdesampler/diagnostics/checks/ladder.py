"""Findings of a ladder of replicas: whether it joins the reference and the posterior."""

from typing import Any

import numpy as np

from qdesampler.diagnostics.checks.finding import Finding
from qdesampler.diagnostics.statistics.ladder import evidence_report, ladder_summary
from qdesampler.infer.model.kernel_reports import EvidenceReport, LadderSummary

__all__ = ["ladder_findings"]

FEW_ROUND_TRIPS = 5.0  # round trips of a chain; with fewer the masses of modes are arbitrary
LEAST_SWAP = 0.05  # acceptance of a pair below which the ladder is practically cut
PEAK = 20.0  # variance of the work of a pair, and its ratio to the median of all pairs, that counts as a peak
MOST_SURPRISING = (
    0.06  # of the draws of a population, see `few_particles` (results/evidence.md: "Modes lost")
)
SIGMAS = 3.0  # standard errors by which two estimates of the evidence may differ
_WIDE_SANDWICH = 0.5  # nats by which the two stepping stones may differ in any case


def ladder_findings(run: Any) -> list[Finding]:
    """Reasons not to trust the modes and the evidence of a run; an empty list if there are none.

    Codes: "no_round_trips" (too few round trips, so that the masses of modes are arbitrary), "first_order" (a
    pair of rungs that hardly swaps, or a peak of the specific heat: the path jumps to the posterior),
    "missed_mode" (descents found a mode that particles missed), "few_particles" (a population has draws where
    the others have hardly any: modes may be lost in all of them), "particles_disagree" (the ladder and the
    particles find different evidence), "chains_disagree" (chains find different evidence), "sandwich"
    (stepping stones upwards and downwards differ by more than the error).

    Args:
        run: as for `ladder_summary`.
    """
    summary, report = ladder_summary(run), evidence_report(run)
    checks = (
        _round_trips(summary),
        _first_order(summary),
        _missed_mode(summary),
        _few_particles(summary),
        _particles(report),
        _chains(report),
        _sandwich(report),
    )
    return [finding for finding in checks if finding is not None]


def _round_trips(summary: LadderSummary) -> Finding | None:
    least = summary.round_trips.min()
    if least >= FEW_ROUND_TRIPS:
        return None
    return Finding(
        "no_round_trips",
        f"Replicas made {summary.round_trips.tolist()} round trips in {summary.iterations} iterations of "
        "each chain: masses of modes and the evidence depend on where particles started.",
        "Draw for longer (twice the `num_samples`), use `AnnealedQDE(model, num_particles=1024)`, or give a "
        "reference closer to the posterior.",
    )


def _first_order(summary: LadderSummary) -> Finding | None:
    worst = summary.swap_rates.min()
    pair = int(np.argmin(summary.swap_rates.min(axis=0)))
    # After tuning all pairs have about the same barrier, so heat concentrated in one pair is a transition.
    heat = summary.specific_heat * np.diff(summary.betas, axis=1) ** 2
    typical = np.median(heat, axis=1, keepdims=True)
    peak = float(np.max(heat / np.maximum(typical, 1e-12))) if heat.shape[1] > 3 else 0.0
    hot = peak > PEAK and float(heat.max()) > PEAK
    if worst >= LEAST_SWAP and not hot:
        return None
    where = summary.betas[:, pair].mean()
    return Finding(
        "first_order",
        f"The path has a jump (a first-order transition): the pair of rungs at beta = {where:.3g} swaps "
        f"with rate {worst:.2g}, and the largest variance of its work is {float(heat.max()):.3g}. Phases "
        "on either side hardly mix, and a narrow one may be missing.",
        "Start at suspected modes, give a closer reference, raise num_rungs, or check with nested sampling.",
    )


def _missed_mode(summary: LadderSummary) -> Finding | None:
    mass = float(summary.missed_mass.max())
    if mass <= summary.missed_mass_limit:
        return None
    # A pilot of few particles sometimes misses a small mode; draws visit it if the reference has it.
    if summary.missed_in_reference:
        place = "It is part of the reference of every chain, so that draws come there."
    else:
        place = "It is not part of every chain's reference: draws may leave it out."
    return Finding(
        "missed_mode",
        f"Descents found a mass of {mass:.2g} (by Laplace's approximation) in modes of which particles "
        f"showed less than a quarter: the thermal path does not lead there. {place}",
        "Believe the evidence only if `AnnealedQDE(model, num_particles=1024, search_seed=1)` and other "
        "seeds agree; there may be more such modes.",
    )


def _few_particles(summary: LadderSummary) -> Finding | None:
    share = float(summary.surprising.max())
    if share <= MOST_SURPRISING:
        return None
    return Finding(
        "few_particles",
        f"{share:.0%} of the draws of one population of particles lie where the others have hardly any mass. "
        "If populations lose modes of one another, all of them may have lost some.",
        "Compare `AnnealedQDE(model, num_particles=1024, search_seed=1)` with other seeds.",
    )


def _particles(report: EvidenceReport) -> Finding | None:
    error = np.hypot(report.standard_error, report.by_particles_error)
    gap = report.value - report.by_particles
    if not np.isfinite(error) or abs(gap) <= SIGMAS * error + 0.1:
        return None
    missed = "The particles missed what the ladder has"
    lower = missed if gap > 0 else "The ladder lacks what the particles had"
    return Finding(
        "particles_disagree",
        f"The ladder's log evidence {report.value:.3f} and the particles' {report.by_particles:.3f} differ "
        f"by {abs(gap):.2g}, more than their errors ({error:.2g}): one of them sees a mode that the other "
        f"does not. {lower}, or few particles lost a mode on the way.",
        "Compare `AnnealedQDE(model, num_particles=1024, search_seed=1)` with other seeds; with a fitted "
        "reference try `reference_kind='prior'`.",
    )


def _chains(report: EvidenceReport) -> Finding | None:
    values = report.by_chain
    if values.size > 1 and np.all(np.isfinite(values)) and values.std(ddof=1) < 0.5:
        return None
    if values.size == 1 and np.isfinite(values[0]):
        return None
    return Finding(
        "chains_disagree",
        f"The chains' log evidences are {np.round(values, 2).tolist()}: they do not see the same posterior.",
        "Warm up and draw for longer; use `AnnealedQDE(model, num_particles=1024)`.",
    )


def _sandwich(report: EvidenceReport) -> Finding | None:
    width = report.upper - report.lower
    if width <= max(SIGMAS * report.standard_error, _WIDE_SANDWICH):
        return None
    return Finding(
        "sandwich",
        f"Stepping stones upwards give {report.lower:.3f} and downwards {report.upper:.3f}: {width:.2g} "
        f"apart, more than the error {report.standard_error:.2g} allows.",
        "Draw for longer: twice the `num_samples` halves the variance.",
    )
